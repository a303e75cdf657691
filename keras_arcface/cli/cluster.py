"""Groups the faces of photos by person, and writes an album.

    keras-arcface cluster photos --output album.html
    keras-arcface cluster photos --output album.html --threshold 0.55 --pairs pairs.csv

The command finds the faces in the photos of a folder and its subfolders, and writes one HTML page with a section for
each person, whose faces link to the photos. The default threshold was chosen for SFace, the default embedder. A higher
one separates people who look alike; a lower one joins more photos of the same person.

--pairs corrects the groups. Each line names two faces as the page does, and says whether they show the same person:

    summer/1.jpg,winter/7.jpg#2,same
    summer/1.jpg,summer/2.jpg,different

The embeddings of faces are personal data. Delete the page when it is no longer needed.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path

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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photos", type=Path, metavar="PHOTOS", help="folder of photos, with any subfolders")
    parser.add_argument(
        "--output", type=Path, default=Path("album.html"), metavar="FILE", help="HTML page; default album.html"
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
    check_pipeline(arguments)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.output.parent)
    if arguments.method == "hdbscan":
        from keras_arcface._optional import require

        require("sklearn", "clustering", "--method hdbscan")
    photos, skipped = list_folder(arguments.photos)
    load_tensorflow()
    import numpy as np
    from tqdm import tqdm

    from keras_arcface import gallery
    from keras_arcface.gallery.album import face_names
    from keras_arcface.gallery.constraints import ContradictoryPairs

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
    same, different = read_pairs(arguments.pairs, names) if arguments.pairs else ({}, {})
    embeddings = np.stack([face.embedding for face in found]) if found else np.zeros((0, 1), np.float32)
    try:
        clusters = gallery.cluster(
            embeddings, arguments.method, arguments.threshold, arguments.min_faces, same.values(), different.values()
        )
    except ContradictoryPairs as error:
        line = list(different)[error.number]
        first, second = (names[face] for face in different[line])
        raise ValueError(
            f"{arguments.pairs}, line {line}: expected faces that no other lines join. "
            f"Received: {first},{second},different"
        ) from error
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
    people, unsure = int(clusters.max(initial=-1)) + 1, int(np.sum(clusters == -1))
    say(
        f"{len(photos):,} photos, {len(found):,} faces: {people:,} people, and {unsure:,} faces that belong to no group"
    )
    if notes:
        say(" ".join(notes))
    say(f"Album: {arguments.output}")
    if arguments.json:
        groups = [
            [name for name, cluster in zip(names, clusters.tolist(), strict=True) if cluster == person]
            for person in range(-1, people)
        ]
        print_json(
            {
                "photos": len(photos),
                "people": groups[1:],
                "unsure": groups[0],
                "rejected": rejected,
                "errors": errors,
                "skipped": skipped,
                "album": str(arguments.output),
            }
        )


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
        "expected a face as in the album: the path of a photo relative to PHOTOS, and #1, #2, ... if it has several. "
        f"Received: {cut(name, 80)!r}"
    )
