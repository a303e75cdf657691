"""Evaluates one or more embedders on sets of pairs, of labeled images and of templates.

    keras-arcface evaluate runs/1/embedder.keras --pairs lfw.bin cfp_fp.bin
    keras-arcface evaluate ours=runs/1/embedder.keras sface theirs=model.onnx pixels --pairs lfw.bin cfp_fp.bin

A model is a published network (see `keras-arcface presets`), a `.keras` file, a folder of save_preset, weights of a
published layout (`.pth`, `.safetensors`), a SavedModel directory, an ONNX (`.onnx`), OpenVINO (`.xml`) or LiteRT
(`.tflite`) file, or `pixels`, which compares the raw images as a baseline. The prefix `NAME=` sets the name in the
tables. If a model does not expect RGB in 0..255, append its preprocessing:
`theirs=model.onnx,color=BGR,mean=127.5,std=127.5`.

Each option takes any number of evaluation sets. The prefix `NAME=` sets a name other than the file name:

    --pairs      verification pairs: .bin of InsightFace, or .npz (accuracy over folds, TAR@FAR, AUC, EER)
    --retrieval  images with labels: TFRecords, a folder of folders, a .rec file or a list (Recall@K, mAP@R, NMI)
    --market     Market-1501 or DukeMTMC-reID: a folder with query/ and bounding_box_test/ (mAP, CMC)
    --cub        CUB-200-2011, its test classes: a folder with images.txt (Recall@1, 2, 4, 8, mAP@R, NMI)
    --cars       Cars196, its test classes: a folder with cars_annos.mat (as --cub)
    --sop        Stanford Online Products: a folder with Ebay_test.txt (Recall@1, 10, 100, 1000, mAP@R, NMI)
    --in-shop    In-Shop Clothes Retrieval: a folder with list_eval_partition.txt (Recall@1, 10, 20, 30, mAP@R, NMI)
    --ijb        IJB-B or IJB-C: a folder with meta/ and loose_crop/ (TAR@FAR of pairs of templates)
    --ijb-1n     IJB-B or IJB-C 1:N: the same folder (CMC and DIR@FAR of probes in two galleries)
    --ytf        YouTube Faces: a folder with splits.txt and aligned_images_DB/, or the path of another list of pairs
                 beside it (accuracy over the splits, TAR@FAR, AUC, EER of pairs of videos)
    --megaface   MegaFace with FaceScrub: a folder with devkit/, facescrub_images/ and megaface_images/ (rank-1 and
                 TAR@FAR among distractors)
    --rfw        Racial Faces in the Wild: a folder with txts/ and data/ (accuracy and error rates of four groups)

--retrieval also takes directories that `keras-arcface embed` wrote. They need no MODEL; each given one must be that of
the embeddings:

    keras-arcface evaluate --retrieval faces_embeddings

MegaFace can also be evaluated from files of features (embeddings) in the format of its development kit, of any program,
with or without models. The folder contains `facescrub/` and `megaface/` with one file `<image><ending>` per image:

    keras-arcface evaluate --megaface MegaFace --megaface-features theirs=feature_out,ending=_r100.bin

Published figures of image retrieval use the options --resize 256 --size 224 224 --no-flip: images are resized to a
shorter side of 256, cropped to their center, and not mirrored.

The command prints tables and writes results.json and an HTML report. Results are written after each set, so an error
in a later set does not lose them.
"""

import argparse
import json
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keras_arcface._optional import require
from keras_arcface.cli.embedders import add_license_option
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import is_loaded_by_pretrained
from keras_arcface.cli.embedders import is_preset
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.cli.image_size import add_size_options
from keras_arcface.cli.image_size import check_size_options
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.startup import load_tensorflow
from keras_arcface.cli.stored_embeddings import check_is_of
from keras_arcface.cli.stored_embeddings import is_stored
from keras_arcface.pretrained import preset_files

# Option of each kind of set, and its name in results.json.
PROTOCOLS = {
    "pairs": "verification",
    "retrieval": "retrieval",
    "market": "reidentification",
    "cub": "cub200",
    "cars": "cars196",
    "sop": "online_products",
    "in-shop": "in_shop",
    "ijb": "templates",
    "ijb-1n": "identification",
    "ytf": "videos",
    "megaface": "distractors",
    "rfw": "rfw",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="[NAME=]PATH[,color=BGR][,mean=X][,std=X], a published network, or pixels",
    )
    for option in PROTOCOLS:
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="[NAME=]PATH", help="sets, see above")
    add_license_option(parser)
    parser.add_argument(
        "--output", type=Path, default=Path("evaluation"), metavar="DIR", help="output folder; default evaluation"
    )
    parser.add_argument(
        "--no-flip", dest="flip", action="store_false", help="do not add the embedding of the mirror image"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images per batch; default 64")
    add_size_options(
        parser,
        "size to which images are resized, those of --ijb, --ijb-1n and --rfw aligned; not for --pairs "
        "and stored embeddings",
    )
    parser.add_argument(
        "--folds", type=int, default=10, metavar="N", help="--pairs and --rfw: number of folds; default 10"
    )
    parser.add_argument(
        "--shuffle-seed", type=int, metavar="N", help="--pairs: shuffle the pairs before they are split into folds"
    )
    parser.add_argument(
        "--undetected",
        choices=("raise", "skip", "crop"),
        default="raise",
        help="--ijb, --ijb-1n: treatment of images without landmarks; crop uses the center of the loose crop",
    )
    parser.add_argument(
        "--no-norm", dest="norm", action="store_false", help="--ijb, --ijb-1n: do not weight images by the norm"
    )
    parser.add_argument(
        "--no-detector-score",
        dest="detector_score",
        action="store_false",
        help="--ijb, --ijb-1n: do not weight images by the detector score",
    )
    parser.add_argument(
        "--refined", action="store_true", help="--megaface: leave out the images in InsightFace's lists of noise"
    )
    parser.add_argument(
        "--megaface-features",
        nargs="+",
        default=[],
        metavar="[NAME=]PATH[,ending=X]",
        help="--megaface: folders of features, see above",
    )
    parser.add_argument(
        "--groups",
        type=Path,
        metavar="FILE",
        help="--pairs: also compare groups of people; a line per pair with its group, empty to leave out the pair",
    )
    parser.add_argument(
        "--group-far",
        type=float,
        default=0.01,
        metavar="FAR",
        help="--groups and --rfw: FAR of the common threshold on the pairs of all groups; default 0.01",
    )
    parser.add_argument(
        "--aligned", action="store_true", help="--rfw: the images are aligned faces already; do not use the landmarks"
    )
    parser.add_argument("--nmi", action="store_true", help="retrieval: also compute the NMI of a clustering (slow)")
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    sets = find_sets(arguments)
    check_size_options(arguments)
    check_combination(arguments, sets)
    given_models = [parse_model(text) for text in arguments.models]
    features = [parse_features(text) for text in arguments.megaface_features]
    unique_names([*given_models, *features], "model")
    parsed, arguments.megaface_features = dict(given_models), dict(features)
    for model, options in parsed.values():
        if model != "pixels":
            check_embedder(Path(model), arguments.accept_license, runtimes=True)
        if options and is_loaded_by_pretrained(model):
            received = ", ".join(f"{name}={value}" for name, value in options.items())
            raise ValueError(f"{model} takes RGB in 0..255 and no preprocessing. Received: {received}")
    require("matplotlib", "plots", "evaluate")
    if arguments.nmi:
        require("sklearn", "clustering", "--nmi")
    arguments.output.mkdir(parents=True, exist_ok=True)
    results_file, report_file = arguments.output / "results.json", arguments.output / "report.html"
    check_writable(arguments.output)
    load_tensorflow()
    from keras_arcface import evaluation
    from keras_arcface.cli import protocols

    say = text_printer(arguments)
    check_stored_sets(sets, [path for path, _ in parsed.values()], arguments)
    models = {name: load_model(path, options, arguments.accept_license) for name, (path, options) in parsed.items()}
    results: dict[str, dict[str, Any]] = {}
    flipped = "with the embedding of the mirror image added" if arguments.flip else "without mirror images"
    notes = [f"{', '.join(models)}: {flipped}."] if models else []
    if arguments.megaface_features:
        notes.append(f"Features from files: {', '.join(arguments.megaface_features)}.")
    report = evaluation.Report("Evaluation", " ".join(notes))
    for protocol, name, path in sets:
        say(f"\n{name}")
        evaluate = getattr(protocols, protocol)
        by_model = evaluate(name, path, models, arguments, report, say)
        results.setdefault(protocol, {})[name] = {model: evaluation.to_json(r) for model, r in by_model.items()}
        results_file.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", "utf-8")
        report.write(report_file)
    say("\nWritten:", results_file, report_file, sep="\n  ")
    if arguments.json:
        print_json(results)


def check_combination(arguments: argparse.Namespace, sets: list[tuple[str, str, Path]]) -> None:
    """Exits with an error if the options do not fit together."""
    has_aligned_faces = arguments.ijb or arguments.ijb_1n or arguments.rfw
    if has_aligned_faces and arguments.size and arguments.size[0] != arguments.size[1]:
        size = " ".join(map(str, arguments.size))
        arguments.parser.error(f"--ijb, --ijb-1n and --rfw require a square --size. Received: {size}")
    if arguments.groups and not arguments.pairs:
        arguments.parser.error("--groups requires --pairs")
    if arguments.groups and not arguments.groups.is_file():
        raise FileNotFoundError(f"--groups: expected an existing file. Received: {arguments.groups}")
    if arguments.megaface_features and not arguments.megaface:
        arguments.parser.error("--megaface-features requires --megaface, the lists of images")
    for protocol, _, path in sets:
        is_embedded = is_stored_set(protocol, path)
        if is_embedded:
            require("pyarrow", "parquet", "Reading embeddings")
        if not arguments.models and not is_embedded and not (protocol == "distractors" and arguments.megaface_features):
            arguments.parser.error(
                "expected a MODEL. Only --megaface needs none, with --megaface-features, and --retrieval of stored "
                f"embeddings. Received: {path}"
            )


def is_stored_set(protocol: str, path: Path) -> bool:
    """Returns whether a set is a directory of stored embeddings, which needs no model."""
    return protocol == "retrieval" and is_stored(path)


def check_stored_sets(sets: list[tuple[str, str, Path]], models: Iterable[str], arguments: argparse.Namespace) -> None:
    """Checks that stored embeddings are those of the models and options.

    Args:
        sets: result of `find_sets`.
        models: path or name of each model.
        arguments: arguments of the command.

    Raises:
        FileNotFoundError: if embeddings are not complete.
        ValueError: if they are of another embedder, or of mirror images with `--no-flip`.
    """
    from keras_arcface import evaluation

    for path in (path for protocol, _, path in sets if is_stored_set(protocol, path)):
        stored = evaluation.StoredEmbeddings(path)
        for model in models:
            if model == "pixels":
                raise ValueError(f"pixels cannot be evaluated on stored embeddings. Received: {path}")
            check_is_of(stored, Path(model), arguments.accept_license)
        if stored.flip and not arguments.flip:
            raise ValueError(
                f"--no-flip requires embeddings without mirror images. Received: {path}, with mirror images"
            )


def dest(option: str) -> str:
    """Returns the attribute of the arguments of an option."""
    return option.replace("-", "_")


def find_sets(arguments: argparse.Namespace) -> list[tuple[str, str, Path]]:
    """Returns (protocol, name, path) of each set. Missing files raise an error before anything is embedded."""
    sets = []
    for option, protocol in PROTOCOLS.items():
        entries = []
        for text in getattr(arguments, dest(option)):
            name, given = split_name(text)
            path = Path(given)
            if not path.exists():
                raise FileNotFoundError(f"--{option}: expected an existing path. Received: {path}")
            entries.append((name or (path.stem if path.is_file() else path.resolve().name), path))
        sets += [(protocol, name, path) for name, path in unique_names(entries, "set").items()]
    if not sets:
        arguments.parser.error("expected at least one set: " + ", ".join(f"--{option}" for option in PROTOCOLS))
    return sets


def unique_names(entries: Iterable[tuple[str, Any]], kind: str) -> dict[str, Any]:
    """Returns a dictionary of `(name, value)` entries. Duplicate names raise an error."""
    entries = list(entries)
    names = [name for name, _ in entries]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise ValueError(f"Every {kind} needs a unique name, as in NAME=PATH. Received twice: {', '.join(duplicates)}")
    return dict(entries)


def split_name(text: str) -> tuple[str | None, str]:
    """Splits `NAME=PATH`. A path alone, which may contain `=`, has the name None."""
    if Path(text).exists() or "=" not in text:
        return None, text
    name, _, path = text.partition("=")
    return name, path


def parse_model(text: str) -> tuple[str, tuple[str, dict[str, Any]]]:
    """Parses `NAME=PATH,color=BGR,mean=127.5` and returns the name, and the path with the preprocessing."""
    first, *options = text.split(",")
    name, path = split_name(first)
    known: dict[str, Callable[[str], Any]] = {"color": str, "mean": float, "std": float}
    chosen = {}
    for option in options:
        key, _, value = option.partition("=")
        try:
            chosen[key] = known[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"Expected model options: color=RGB or BGR, mean=NUMBER, std=NUMBER. Received: {option!r}, in {text}"
            ) from None
    if path != "pixels" and not is_preset(path) and not Path(path).exists():
        raise FileNotFoundError(
            f"MODEL must be an existing path, pixels, or one of {', '.join(preset_files.names())}. "
            f"Received: {path}{preset_files.suggestion(path)}"
        )
    return name or Path(path).stem, (path, chosen)


def parse_features(text: str) -> tuple[str, tuple[Path, str | None]]:
    """Parses `NAME=PATH,ending=_x.bin` and returns the name, and the folder with the ending, None if not given."""
    first, comma, option = text.partition(",")
    key, _, ending = option.partition("=")
    if comma and (key != "ending" or not ending):
        raise ValueError(f"Expected [NAME=]PATH[,ending=X] for --megaface-features. Received: {text}")
    name, path = split_name(first)
    for part in ("facescrub", "megaface"):
        if not Path(path, part).is_dir():
            raise FileNotFoundError(f"--megaface-features: expected an existing folder {Path(path, part)}")
    return name or Path(path).resolve().name, (Path(path), ending or None)


def load_model(path: str, preprocessing: dict[str, Any], accept_license: bool) -> Callable:
    """Returns a Keras model or a function from RGB images to embeddings."""
    import numpy as np

    from keras_arcface import serving

    if is_loaded_by_pretrained(path):
        return load_embedder(path, accept_license)
    if path != "pixels":
        return serving.load_embedder(path, **preprocessing)
    preprocess = serving.Preprocessing(**preprocessing)
    return lambda images: np.reshape(preprocess(images), (len(images), -1))
