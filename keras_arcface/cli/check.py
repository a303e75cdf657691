"""Checks whether a dataset, a verification set, a SavedModel or a folder of images is intact.

    keras-arcface check ms1m_tfrecord
    keras-arcface check lfw.bin
    keras-arcface check exported --json

| PATH | check |
|---|---|
| directory of TFRecords | compares all shards with the checksums in dataset.json |
| .bin or .npz file of pairs | decodes every image, and counts the pairs of each kind |
| directory of a SavedModel | runs the warm-up requests in two separate processes, and compares the outputs |
| .rec file, folder of folders, .csv or .lst file | decodes every image, and checks the labels |
| directory of a benchmark, see `convert`, with --subset | decodes every image of the subset |

The exit code is 1 if PATH is damaged. The command only reads.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from keras_arcface._messages import counted
from keras_arcface.cli.dataset_facts import dataset_facts
from keras_arcface.cli.dataset_facts import dataset_summary
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow

_FOLDS = 10  # of the published protocol


class Checked(NamedTuple):
    """Result of a check.

    Attributes:
        summary: content of the path in a few words.
        facts: content of the path for `--json`.
        errors: messages about what is damaged.
    """

    summary: str
    facts: dict[str, Any]
    errors: list[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", type=Path, metavar="PATH", help="file or directory of a kind in the table above")
    parser.add_argument("--follow-links", action="store_true", help="follow links that leave the folder of the images")
    parser.add_argument("--subset", metavar="NAME", help="subset of a benchmark, such as train")
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> int:
    path = arguments.path
    kind, check = recognize(path, arguments.follow_links, arguments.subset)
    load_tensorflow()
    try:
        summary, facts, errors = check(path)
    except ValueError as error:
        summary, facts, errors = "", {}, [str(error)]
    if arguments.json:
        print_json({"path": str(path), "kind": kind, "intact": not errors, **facts, "errors": errors})
    elif errors:
        raise ValueError("\n".join([f"{path} is not intact ({kind}{summary and ', '}{summary})", *errors]))
    else:
        print(f"{path} is intact: {kind}, {summary}")
    return 1 if errors else 0


def recognize(path: Path, follow_links: bool, subset: str | None) -> tuple[str, Callable[[Path], Checked]]:
    """Returns the kind of a path in words, and the function that checks it."""
    check_exists(path)
    if (path / "dataset.json").is_file():
        return "dataset", check_dataset
    if (path / "saved_model.pb").is_file():
        return "SavedModel", check_saved_model
    versions = sorted(str(file.parent) for file in path.glob("*/saved_model.pb"))
    if versions:
        raise ValueError(f"PATH must be one version of a model: {', '.join(versions)}. Received: {path}")
    suffix = path.suffix.lower()
    if path.is_file() and suffix in (".bin", ".npz"):
        return "verification set", check_pairs
    if path.is_dir() or suffix in (".rec", ".csv", ".lst"):
        return "source of images", lambda path: check_source(path, follow_links, subset)
    raise ValueError(
        "PATH must be a directory of TFRecords, a SavedModel or folders of images, or a .bin, .npz, .rec, .csv or .lst "
        f"file. Received: {path}"
    )


def check_dataset(path: Path) -> Checked:
    from keras_arcface import data

    info = data.check_dataset(path)
    return Checked(dataset_summary(info), dataset_facts(info), [])


def check_pairs(path: Path) -> Checked:
    import numpy as np

    from keras_arcface import data

    pairs = data.PairSet.load(path)
    found = data.check_images(pairs)
    errors = list(found.errors)
    if len(found.image_sizes) > 1:
        errors.append(f"The images must have one size. Received: {_format_sizes(found)}")
    genuine = int(np.sum(pairs.same))
    if genuine in (0, len(pairs)):
        errors.append(f"Both genuine and impostor pairs must exist. Received: {genuine} genuine of {len(pairs)} pairs")
    uniform = sum(len(set(fold.tolist())) == 1 for fold in np.array_split(pairs.same, _FOLDS))
    facts = {"num_pairs": len(pairs), "num_genuine": genuine, "uniform_folds": uniform, **_image_facts(found)}
    summary = f"{len(pairs):,} pairs, {genuine:,} of them genuine, {_format_sizes(found)}"
    if uniform and not errors:
        summary += f". Evaluate it with --shuffle-seed, because {uniform} of {_FOLDS} folds have pairs of one kind"
    return Checked(summary, facts, errors)


def check_saved_model(path: Path) -> Checked:
    from keras_arcface import serving
    from keras_arcface.serving.saved_model.metadata import read_metadata

    loaders = serving.check_saved_model(path)
    try:
        metadata = read_metadata(path)
    except FileNotFoundError:  # the export of another package
        metadata = {}
    sizes = metadata.get("warmup_batch_sizes", [])
    summary = f"loaded by {' and '.join({'python': 'Python', 'cpp': 'C++'}[name] for name in loaders)}, " + (
        f"with the expected embeddings for batches of {', '.join(map(str, sizes))}" if sizes else "without requests"
    )
    return Checked(summary, {"loaders": loaders, "metadata": metadata}, [])


def check_source(path: Path, follow_links: bool, subset: str | None) -> Checked:
    from keras_arcface import data

    source = data.open_source(path, follow_links, subset)
    found = data.check_images(source)
    facts = {"source": type(source).__name__, "num_classes": source.num_classes, **_image_facts(found)}
    images, classes = counted(found.num_images, "image"), counted(source.num_classes, "class", "classes")
    summary = f"{source}: {images} of {classes}, {_format_sizes(found)}"
    if len(found.image_sizes) > 1:
        summary += ". `convert` requires images of one size, or --size"
    return Checked(summary, facts, list(found.errors))


def _image_facts(found: Any) -> dict[str, Any]:
    sizes = [{"height": h, "width": w, "images": count} for (h, w), count in found.image_sizes.items()]
    return {"num_images": found.num_images, "image_sizes": sizes}


def _format_sizes(found: Any) -> str:
    """Returns the most frequent image sizes as text."""
    if len(found.image_sizes) == 1:
        return "{} x {}".format(*next(iter(found.image_sizes)))
    sizes = [f"{count:,} of {height} x {width}" for (height, width), count in found.image_sizes.items()]
    return "images: " + ", ".join([*sizes[:5], *(["..."] if len(sizes) > 5 else [])])
