"""Evaluates one or more embedders: a table in the terminal, results.json, and a report in one HTML file.

    python examples/evaluate.py ours=runs/.../embedder.keras theirs=model.onnx pixels --pairs lfw.bin cfp_fp.bin

A model is a `.keras` file, the directory of a SavedModel, a file of ONNX (`.onnx`), OpenVINO (`.xml`) or LiteRT
(`.tflite`), or `pixels`: the image itself, the baseline that anything must beat. `NAME=` before it names it; what it
expects of its pixels, if not RGB in 0..255, stands behind it: `theirs=model.onnx,color=BGR,mean=127.5,std=127.5`.

The sets, any number of each, with `NAME=` before them if they are to be called otherwise than their files:

    --pairs      verification pairs: .bin of InsightFace, or .npz (accuracy over folds, TAR@FAR, AUC, EER)
    --retrieval  images with labels: TFRecords, a folder of folders, a .rec file or a list (Recall@K, mAP@R, NMI)
    --market     Market-1501 or DukeMTMC-reID: a folder with query/ and bounding_box_test/ (mAP, CMC)
    --ijb        IJB-B or IJB-C: a folder with meta/ and loose_crop/ (TAR@FAR of pairs of templates)

What was found is written after each set, so that nothing is lost if a later one fails.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.data.selection import labels_of
from keras_arcface.evaluation import tables

RECALL_AT = (1, 2, 4, 8, 10, 100, 1000)


def main():
    arguments = parse_arguments()
    try:
        sets = find_sets(arguments)
        check_extras(arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").touch()  # or it is told now that nothing can be written
        evaluate(named(map(parse_model, arguments.models), "model"), sets, arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


def evaluate(models, sets, arguments):
    results = {}
    flipped = "embeddings of the mirror image added" if arguments.flip else "without the mirror image"
    report = evaluation.Report("Evaluation", f"{', '.join(models)}: {flipped}.")
    written = [arguments.output / "results.json", arguments.output / "report.html"]
    for name, (protocol, path) in sets.items():
        print(f"\n{name}")
        found = protocol(name, path, models, arguments, report)
        results.setdefault(protocol.__name__, {})[name] = {model: tables.as_json(r) for model, r in found.items()}
        written[0].write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", "utf-8")
        report.write(written[1])
    print("\nWritten:", *written, sep="\n  ")


def find_sets(arguments):
    """Name -> protocol and path. What is missing is told before anything is embedded."""
    protocols = {"pairs": verification, "retrieval": retrieval, "market": reidentification, "ijb": templates}
    found = []
    for option, protocol in protocols.items():
        for text in getattr(arguments, option):
            name, path = split_name(text)
            path = Path(path)
            if not path.exists():
                raise FileNotFoundError(f"--{option}: there is nothing at {path}")
            found.append((name or (path.stem if path.is_file() else path.resolve().name), (protocol, path)))
    return named(found, "set")


def check_extras(arguments):
    needed = {"plots": "matplotlib"} | ({"clustering": "sklearn"} if arguments.nmi else {})
    for extra, module in needed.items():
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"The module {module} is absent: pip install 'keras-arcface[{extra}]'")


def named(entries, kind):
    """A dictionary, if no two have one name."""
    entries = list(entries)
    names = [name for name, _ in entries]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"Every {kind} needs a name of its own, as in NAME=PATH. Received twice: {', '.join(twice)}")
    return dict(entries)


def verification(name, path, models, arguments, report):
    pairs = data.PairSet.load(path)
    found = {}
    for model, embed in models.items():
        embeddings = evaluation.embed_pairs(embed, pairs, arguments.flip, arguments.batch_size)
        found[model] = evaluation.verify(embeddings, pairs.same, arguments.folds, shuffle_seed=arguments.shuffle_seed)
    note = "" if arguments.shuffle_seed is None else f"Pairs in random order (seed {arguments.shuffle_seed})."
    print(f"{np.sum(pairs.same):,} genuine and {np.sum(~pairs.same):,} impostor pairs. {note}")
    print(tables.verification_table(found, intervals=False))
    report.add_verification(name, found, pairs, note)
    return found


def retrieval(name, path, models, arguments, report):
    found, nmi = {}, {}
    for model, embed in models.items():
        embeddings, labels = embed_labeled(embed, path, arguments)
        found[model] = evaluation.retrieve(embeddings, labels, [k for k in RECALL_AT if k < len(labels)])
        nmi[model] = evaluation.clustering_nmi(embeddings, labels) if arguments.nmi else None
    table = evaluation.table_of(found)
    if arguments.nmi:
        rows = [[*row, f"{value:.2%}"] for row, value in zip(table.rows, nmi.values(), strict=True)]
        table = evaluation.Table([*table.columns, "NMI"], rows)
    first = next(iter(found.values()))
    alone = f" {first.skipped:,} images are alone in their class and ask nothing." if first.skipped else ""
    show(name, table, f"{first.queries:,} queries, each asking all other images.{alone}", report)
    return {model: {**tables.as_json(result), "nmi": nmi[model]} for model, result in found.items()}


def reidentification(name, path, models, arguments, report):
    query, gallery = data.CameraFolder(path / "query"), data.CameraFolder(path / "bounding_box_test")
    found = {}
    for model, embed in models.items():
        sides = []
        for folder in (query, gallery):
            embeddings = embed_all(embed, folder, arguments, lambda row, files=folder.files: str(files[row]))
            sides += [embeddings, folder.ids, folder.cameras]
        found[model] = evaluation.reidentify(*sides)
    show(name, evaluation.table_of(found), f"{len(query):,} queries, {len(gallery):,} gallery images.", report)
    return found


def templates(name, path, models, arguments, report):
    ijb = data.IjbSet(path, size=arguments.size[0] if arguments.size else 112, undetected=arguments.undetected)
    detector_scores = ijb.detector_scores if arguments.detector_score else None
    found = {}
    for model, embed in models.items():
        embeddings = embed_all(embed, ijb, arguments, ijb.names.__getitem__)
        ids, pooled = evaluation.pool_templates(embeddings, ijb.templates, ijb.media, arguments.norm, detector_scores)
        found[model] = evaluation.verify_templates(pooled, ids, ijb.pairs, ijb.same)
    weights = [word for word, on in (("norm", arguments.norm), ("detector score", arguments.detector_score)) if on]
    note = (
        f"{len(ijb.pairs):,} pairs of templates; images weighed by {' and '.join(weights) or 'nothing'}. "
        "In brackets: at the nearest FAR, as published."
    )
    if ijb.skipped:
        note += f" Skipped: {len(ijb.skipped):,} images without a detected face, and {ijb.skipped_pairs:,} pairs."
    elif not ijb.detected.all():
        note += f" Not aligned: {np.sum(~ijb.detected):,} images without a detected face."
    show(name, evaluation.table_of(found), note, report)
    return found


def embed_labeled(embed, path, arguments):
    if (path / "dataset.json").is_file():
        return evaluation.embed_dataset(embed, data.load_dataset(path, arguments.batch_size), arguments.flip)
    suffixes = {".rec": data.RecordIO, ".csv": data.ImageList, ".lst": data.ImageList}
    source = suffixes.get(path.suffix, data.ImageFolder)(path)
    return embed_all(embed, Images(source), arguments, lambda row: source[row].name), labels_of(source)


class Images:
    """The encoded images of a source, read when they are asked for."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, rows):
        return [self.source[row].image for row in range(*rows.indices(len(self)))]


def embed_all(embed, images, arguments, name_of):
    return evaluation.embed_images(
        embed, images, arguments.flip, arguments.batch_size, name_of=name_of, size=arguments.size
    )


def show(name, table, note, report):
    print(note)
    print(table)
    report.add_table(name, table, note)


def split_name(text):
    """`NAME=PATH` -> both; a path alone, which may have a `=` in it, -> None and the path."""
    if Path(text).exists() or "=" not in text:
        return None, text
    name, _, path = text.partition("=")
    return name, path


def parse_model(text):
    """`NAME=PATH,color=BGR,mean=127.5` -> name and embedder."""
    first, *options = text.split(",")
    name, path = split_name(first)
    known = {"color": str, "mean": float, "std": float}
    chosen = {}
    for option in options:
        key, _, value = option.partition("=")
        try:
            chosen[key] = known[key](value)
        except (KeyError, ValueError):
            raise ValueError(
                f"A model takes the options color=RGB or BGR, mean=NUMBER, std=NUMBER. Received: {option!r}, in {text}"
            ) from None
    if path == "pixels":
        preprocess = evaluation.Preprocessing(**chosen)
        return name or "pixels", lambda images: np.reshape(preprocess(images), (len(images), -1))
    return name or Path(path).stem, evaluation.load_embedder(path, **chosen)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="[NAME=]PATH[,color=BGR][,mean=X][,std=X], or pixels"
    )
    for option in ("pairs", "retrieval", "market", "ijb"):
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--output", type=Path, default=Path("evaluation"), help="folder to write to")
    parser.add_argument("--no-flip", dest="flip", action="store_false", help="do not add the mirror image's embedding")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="resize the images of --retrieval and --market; align those of --ijb to it",
    )
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--shuffle-seed", type=int, help="for pairs that do not stand in folds: cut in a random order")
    parser.add_argument(
        "--undetected",
        choices=("raise", "skip", "crop"),
        default="raise",
        help="--ijb: what to do with images without landmarks; crop takes the middle of the loose crop",
    )
    parser.add_argument("--no-norm", dest="norm", action="store_false", help="--ijb: all images weigh the same")
    parser.add_argument("--no-detector-score", dest="detector_score", action="store_false", help="--ijb: as it says")
    parser.add_argument("--nmi", action="store_true", help="cluster for NMI too, in --retrieval (slow)")
    arguments = parser.parse_args()
    if not any((arguments.pairs, arguments.retrieval, arguments.market, arguments.ijb)):
        parser.error("name at least one set: --pairs, --retrieval, --market or --ijb")
    return arguments


if __name__ == "__main__":
    main()
