"""Groups the faces of photos by person, and writes an album.

    keras-arcface cluster photos --output album.html
    keras-arcface cluster photos --output album.html --threshold 0.55 --pairs pairs.csv

The command finds the faces in the photos of a folder and its subfolders, and writes one HTML page with a section for
each person, whose faces link to the photos. The default threshold was chosen for SFace, the default embedder. A higher
one separates people who look alike; a lower one joins more photos of the same person.

--pairs corrects the groups. Each line names two faces as the page does, and says whether they show the same person:

    summer/1.jpg,winter/7.jpg#2,same
    summer/1.jpg,summer/2.jpg,different

Instead of photos, PHOTOS can be a directory that `keras-arcface embed` wrote. The command then groups its images, and
writes a CSV file with the name, the label and the group of each, which is -1 if it belongs to none. The embedder is not
loaded, except to compare a given --embedder.

The embeddings of faces are personal data. Delete the page when it is no longer needed.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from keras_arcface._choices import CLUSTERING_METHODS
from keras_arcface._messages import cut
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.photo_files import list_folder
from keras_arcface.cli.pipelines import add_pipeline_options
from keras_arcface.cli.pipelines import check_pipeline
from keras_arcface.cli.pipelines import make_pipeline
from keras_arcface.cli.startup import load_tensorflow
from keras_arcface.cli.stored_embeddings import check_stored
from keras_arcface.cli.stored_embeddings import is_stored
from keras_arcface.cli.stored_embeddings import open_stored

if TYPE_CHECKING:
    import numpy as np


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "photos", type=Path, metavar="PHOTOS", help="folder of photos, with any subfolders, or stored embeddings"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="HTML page, default album.html; of stored embeddings: CSV file, default clusters.csv",
    )
    parser.add_argument("--method", choices=CLUSTERING_METHODS, default="agglomerative", help="default agglomerative")
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="lowest cosine of the mean embeddings of two groups that are merged, for agglomerative; default 0.5",
    )
    parser.add_argument(
        "--min-faces",
        type=int,
        metavar="N",
        help="smallest number of faces of a group; default 2, or 5 for hdbscan",
    )
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="CSV file of face,face,same or face,face,different")
    add_pipeline_options(parser)
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_exists(arguments.photos, *([arguments.pairs] if arguments.pairs else []))
    is_of_stored = is_stored(arguments.photos)
    if arguments.output is None:
        arguments.output = Path("clusters.csv" if is_of_stored else "album.html")
    if is_of_stored:
        check_stored(arguments)
    else:
        check_pipeline(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.output.parent)
    if arguments.method == "hdbscan":
        from keras_arcface._optional import require

        require("sklearn", "clustering", "--method hdbscan")
    (cluster_stored if is_of_stored else cluster_photos)(arguments)


def cluster_photos(arguments: argparse.Namespace) -> None:
    """Groups the faces of photos, and writes an album."""
    photos, skipped = list_folder(arguments.photos)
    load_tensorflow()
    import numpy as np
    from tqdm import tqdm

    from keras_arcface import gallery
    from keras_arcface.gallery.album import face_names

    say = text_printer(arguments)
    pipeline = make_pipeline(arguments)
    found, owners, errors, rejected = [], [], {}, 0
    for result in tqdm(pipeline.stream(photos), total=len(photos), unit="photo", desc="faces"):
        found += result.faces
        owners += [result.photo] * len(result.faces)
        rejected += len(result.rejected)
        if result.error is not None:
            errors[result.photo] = result.error
    for error in errors.values():
        print(f"WARNING: {error}", file=sys.stderr)

    names = face_names([os.path.relpath(owner, arguments.photos) for owner in owners])
    embeddings = np.stack([face.embedding for face in found]) if found else np.zeros((0, 1), np.float32)
    clusters = find_clusters(embeddings, names, arguments)
    missing = [
        (skipped, "file has another type", "files have other types"),
        (len(errors), "photo could not be read", "photos could not be read"),
        (rejected, "face is outside of the limits", "faces are outside of the limits"),
    ]
    notes = [f"{number:,} {one if number == 1 else many}." for number, one, many in missing if number]
    gallery.write_album(
        arguments.output,
        zip(owners, (face.crop for face in found), clusters.tolist(), strict=True),
        arguments.photos.resolve().name,
        " ".join(notes),
        arguments.photos,
    )
    people = group_names(names, clusters)
    unsure = people.pop()
    say(
        f"{len(photos):,} photos, {len(found):,} faces: {len(people):,} people, and {len(unsure):,} faces that belong "
        "to no group"
    )
    if notes:
        say(" ".join(notes))
    say(f"Album: {arguments.output}")
    if arguments.json:
        print_json(
            {
                "photos": len(photos),
                "people": people,
                "unsure": unsure,
                "rejected": rejected,
                "errors": errors,
                "skipped": skipped,
                "album": str(arguments.output),
            }
        )


def cluster_stored(arguments: argparse.Namespace) -> None:
    """Groups stored embeddings, and writes a table."""
    stored = open_stored(arguments.photos, arguments)
    names = stored.names()
    clusters = find_clusters(stored.embeddings(), names, arguments)
    with open(arguments.output, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "label", "cluster"])
        table.writerows(zip(names, stored.labels().tolist(), clusters.tolist(), strict=True))
    people = group_names(names, clusters)
    unsure = people.pop()
    say = text_printer(arguments)
    say(f"{len(names):,} images: {len(people):,} people, and {len(unsure):,} images that belong to no group")
    say(f"Table: {arguments.output}")
    if arguments.json:
        print_json({"images": len(names), "people": people, "unsure": unsure, "table": str(arguments.output)})


def find_clusters(embeddings: np.ndarray, names: Sequence[str], arguments: argparse.Namespace) -> np.ndarray:
    """Returns the cluster of each embedding, by the options of the command.

    Raises:
        ValueError: if an option or a line of `--pairs` is not valid.
    """
    from keras_arcface import gallery
    from keras_arcface.gallery.constraints import ContradictoryPairs

    same, different = read_pairs(arguments.pairs, names) if arguments.pairs else ({}, {})
    try:
        return gallery.cluster(
            embeddings, arguments.method, arguments.threshold, arguments.min_faces, same.values(), different.values()
        )
    except ContradictoryPairs as error:
        line = list(different)[error.number]
        first, second = (names[face] for face in different[line])
        raise ValueError(
            f"{arguments.pairs}, line {line}: expected faces that no other lines join. "
            f"Received: {first},{second},different"
        ) from error


def group_names(names: Sequence[str], clusters: np.ndarray) -> list[list[str]]:
    """Returns the names in each cluster, and at last those in none."""
    groups: list[list[str]] = [[] for _ in range(int(clusters.max(initial=-1)) + 2)]
    for name, cluster in zip(names, clusters.tolist(), strict=True):
        groups[cluster].append(name)
    return groups


def read_pairs(path: Path, names: Sequence[str]) -> tuple[dict[int, tuple[int, int]], dict[int, tuple[int, int]]]:
    """Reads the pairs of faces that a user has judged.

    Args:
        path: CSV file with lines of face,face,same or face,face,different.
        names: name of each face.

    Returns:
        The pairs of indices of faces of the same person, and of different people, by the numbers of their lines.

    Raises:
        ValueError: if a line is not valid, or names a face that does not exist. The message names the line.
    """
    indices = {name: index for index, name in enumerate(names)}
    pairs: dict[str, dict[int, tuple[int, int]]] = {"same": {}, "different": {}}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file)
        try:
            for row in filter(None, reader):
                cells = [cell.strip() for cell in row]
                if len(cells) != 3 or cells[2] not in pairs:
                    raise ValueError(
                        f"{path}, line {reader.line_num}: expected face,face,same or face,face,different. "
                        f"Received: {cut(','.join(row), 80)!r}"
                    )
                for name in cells[:2]:
                    if name not in indices:
                        raise ValueError(f"{path}, line {reader.line_num}: {_unknown(name, indices)}")
                pairs[cells[2]][reader.line_num] = indices[cells[0]], indices[cells[1]]
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}, line {reader.line_num}: expected UTF-8 text. Received: {error}") from error
    return pairs["same"], pairs["different"]


def _unknown(name: str, indices: dict[str, int]) -> str:
    if f"{name}#1" in indices:
        return f"the photo has several faces. Expected: {name}#1, {name}#2, ... Received: {name}"
    return (
        "expected a face as in the album: the path of a photo relative to PHOTOS, and #1, #2, ... if it has several; "
        f"or the name of a stored embedding. Received: {cut(name, 80)!r}"
    )
