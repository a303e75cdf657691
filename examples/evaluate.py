"""Evaluates one or more embedders. Prints tables and writes results.json and an HTML report.

    python examples/evaluate.py ours=runs/.../embedder.keras theirs=model.onnx pixels --pairs lfw.bin cfp_fp.bin

A model is a `.keras` file, a SavedModel directory, an ONNX (`.onnx`), OpenVINO (`.xml`) or LiteRT (`.tflite`) file, or
`pixels`, which compares the raw images as a baseline. The prefix `NAME=` sets the name in the tables. If a model does
not expect RGB in 0..255, append its preprocessing: `theirs=model.onnx,color=BGR,mean=127.5,std=127.5`.

Evaluation sets, any number of each kind. The prefix `NAME=` sets a name other than the file name:

    --pairs      verification pairs: .bin of InsightFace, or .npz (accuracy over folds, TAR@FAR, AUC, EER)
    --retrieval  images with labels: TFRecords, a folder of folders, a .rec file or a list (Recall@K, mAP@R, NMI)
    --market     Market-1501 or DukeMTMC-reID: a folder with query/ and bounding_box_test/ (mAP, CMC)
    --ijb        IJB-B or IJB-C: a folder with meta/ and loose_crop/ (TAR@FAR of pairs of templates)

Results are written after each set, so an error in a later set does not lose them.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.evaluation import tables

RECALL_AT = (1, 2, 4, 8, 10, 100, 1000)


def main():
    arguments = parse_arguments()
    try:
        sets = find_sets(arguments)
        check_extras(arguments)
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "results.json").touch()  # fails now, not after the evaluation, if the folder is read-only
        evaluate(unique_names(map(parse_model, arguments.models), "model"), sets, arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.exit(f"error: {error}")


def evaluate(models, sets, arguments):
    results = {}
    flipped = "with the embedding of the mirror image added" if arguments.flip else "without mirror images"
    report = evaluation.Report("Evaluation", f"{', '.join(models)}: {flipped}.")
    results_file, report_file = arguments.output / "results.json", arguments.output / "report.html"
    for name, (protocol, path) in sets.items():
        print(f"\n{name}")
        by_model = protocol(name, path, models, arguments, report)
        results.setdefault(protocol.__name__, {})[name] = {
            model: evaluation.to_json(r) for model, r in by_model.items()
        }
        results_file.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", "utf-8")
        report.write(report_file)
    print("\nWritten:", results_file, report_file, sep="\n  ")


def find_sets(arguments):
    """Returns name -> (protocol, path). Missing files raise an error before anything is embedded."""
    protocols = {"pairs": verification, "retrieval": retrieval, "market": reidentification, "ijb": templates}
    sets = []
    for option, protocol in protocols.items():
        for text in getattr(arguments, option):
            name, path = split_name(text)
            path = Path(path)
            if not path.exists():
                raise FileNotFoundError(f"--{option}: expected an existing path. Received: {path}")
            sets.append((name or (path.stem if path.is_file() else path.resolve().name), (protocol, path)))
    return unique_names(sets, "set")


def check_extras(arguments):
    needed = {"plots": "matplotlib"} | ({"clustering": "sklearn"} if arguments.nmi else {})
    for extra, module in needed.items():
        if importlib.util.find_spec(module) is None:
            raise ModuleNotFoundError(f"The module {module} is absent: pip install 'keras-arcface[{extra}]'")


def unique_names(entries, kind):
    """Returns a dictionary of `(name, value)` entries. Duplicate names raise an error."""
    entries = list(entries)
    names = [name for name, _ in entries]
    duplicates = {name for name in names if names.count(name) > 1}
    if duplicates:
        raise ValueError(f"Every {kind} needs a unique name, as in NAME=PATH. Received twice: {', '.join(duplicates)}")
    return dict(entries)


def verification(name, path, models, arguments, report):
    pairs = data.PairSet.load(path)
    results = {}
    for model, embed in models.items():
        embeddings = evaluation.embed_pairs(embed, pairs, arguments.flip, arguments.batch_size)
        results[model] = evaluation.verify(embeddings, pairs.same, arguments.folds, shuffle_seed=arguments.shuffle_seed)
    note = "" if arguments.shuffle_seed is None else f"Pairs in random order (seed {arguments.shuffle_seed})."
    print(f"{np.sum(pairs.same):,} genuine and {np.sum(~pairs.same):,} impostor pairs. {note}")
    print(tables.verification_table(results, intervals=False))
    report.add_verification(name, results, pairs, note)
    return results


def retrieval(name, path, models, arguments, report):
    results, nmi = {}, {}
    for model, embed in models.items():
        embeddings, labels = embed_labeled(embed, path, arguments)
        results[model] = evaluation.retrieve(embeddings, labels, [k for k in RECALL_AT if k < len(labels)])
        nmi[model] = evaluation.clustering_nmi(embeddings, labels) if arguments.nmi else None
    table = evaluation.results_table(results)
    if arguments.nmi:
        rows = [[*row, f"{value:.2%}"] for row, value in zip(table.rows, nmi.values(), strict=True)]
        table = evaluation.Table([*table.columns, "NMI"], rows)
    first = next(iter(results.values()))
    skipped = f" Skipped: {first.skipped:,} images without another image of their class." if first.skipped else ""
    show(name, table, f"{first.queries:,} queries, each against all other images.{skipped}", report)
    return {model: {**evaluation.to_json(result), "nmi": nmi[model]} for model, result in results.items()}


def reidentification(name, path, models, arguments, report):
    query, gallery = data.CameraFolder(path / "query"), data.CameraFolder(path / "bounding_box_test")
    results = {}
    for model, embed in models.items():
        query_and_gallery = []
        for folder in (query, gallery):
            embeddings = embed_all(embed, folder, arguments, lambda row, files=folder.files: str(files[row]))
            query_and_gallery += [embeddings, folder.ids, folder.cameras]
        results[model] = evaluation.reidentify(*query_and_gallery)
    show(name, evaluation.results_table(results), f"{len(query):,} queries, {len(gallery):,} gallery images.", report)
    return results


def templates(name, path, models, arguments, report):
    ijb = data.IjbSet(path, size=arguments.size[0] if arguments.size else 112, undetected=arguments.undetected)
    detector_scores = ijb.detector_scores if arguments.detector_score else None
    results = {}
    for model, embed in models.items():
        embeddings = embed_all(embed, ijb, arguments, ijb.names.__getitem__)
        ids, pooled = evaluation.pool_templates(embeddings, ijb.templates, ijb.media, arguments.norm, detector_scores)
        results[model] = evaluation.verify_templates(pooled, ids, ijb.pairs, ijb.same)
    weights = [word for word, on in (("norm", arguments.norm), ("detector score", arguments.detector_score)) if on]
    weighting = f"weighted by {' and '.join(weights)}" if weights else "not weighted"
    note = (
        f"{len(ijb.pairs):,} pairs of templates; images {weighting}. "
        "In parentheses: TAR at the nearest FAR, as in published results."
    )
    if ijb.skipped:
        note += f" Skipped: {len(ijb.skipped):,} images without a detected face, and {ijb.skipped_pairs:,} pairs."
    elif not ijb.detected.all():
        note += f" Not aligned: {np.sum(~ijb.detected):,} images without a detected face."
    show(name, evaluation.results_table(results), note, report)
    return results


def embed_labeled(embed, path, arguments):
    if (path / "dataset.json").is_file():
        return evaluation.embed_dataset(embed, data.load_dataset(path, arguments.batch_size), arguments.flip)
    suffixes = {".rec": data.RecordIO, ".csv": data.ImageList, ".lst": data.ImageList}
    source = suffixes.get(path.suffix, data.ImageFolder)(path)
    return embed_all(embed, Images(source), arguments, lambda row: source[row].name), source.labels


class Images:
    """Sequence of a source's encoded images, read on access."""

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
    """Splits `NAME=PATH`. A path alone, which may contain `=`, has the name None."""
    if Path(text).exists() or "=" not in text:
        return None, text
    name, _, path = text.partition("=")
    return name, path


def parse_model(text):
    """Parses `NAME=PATH,color=BGR,mean=127.5` and returns the name and the embedder."""
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
                f"Expected model options: color=RGB or BGR, mean=NUMBER, std=NUMBER. Received: {option!r}, in {text}"
            ) from None
    if path == "pixels":
        preprocess = serving.Preprocessing(**chosen)
        return name or "pixels", lambda images: np.reshape(preprocess(images), (len(images), -1))
    return name or Path(path).stem, serving.load_embedder(path, **chosen)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="+", metavar="MODEL", help="[NAME=]PATH[,color=BGR][,mean=X][,std=X], or pixels"
    )
    for option in ("pairs", "retrieval", "market", "ijb"):
        parser.add_argument(f"--{option}", nargs="+", default=[], metavar="[NAME=]PATH")
    parser.add_argument("--output", type=Path, default=Path("evaluation"), help="output folder")
    parser.add_argument(
        "--no-flip", dest="flip", action="store_false", help="do not add the embedding of the mirror image"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size to which images of --retrieval and --market are resized, and those of --ijb aligned",
    )
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--shuffle-seed", type=int, help="shuffle the pairs before they are split into folds")
    parser.add_argument(
        "--undetected",
        choices=("raise", "skip", "crop"),
        default="raise",
        help="--ijb: treatment of images without landmarks; crop uses the center of the loose crop",
    )
    parser.add_argument(
        "--no-norm", dest="norm", action="store_false", help="--ijb: do not weight images by the embedding norm"
    )
    parser.add_argument(
        "--no-detector-score",
        dest="detector_score",
        action="store_false",
        help="--ijb: do not weight images by the detector score",
    )
    parser.add_argument("--nmi", action="store_true", help="--retrieval: also compute the NMI of a clustering (slow)")
    arguments = parser.parse_args()
    if not any((arguments.pairs, arguments.retrieval, arguments.market, arguments.ijb)):
        parser.error("expected at least one set: --pairs, --retrieval, --market or --ijb")
    return arguments


if __name__ == "__main__":
    main()
