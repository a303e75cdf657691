"""Arguments and steps that several exports share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_arcface.cli.embedders import add_embedder
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow

if TYPE_CHECKING:
    import keras
    import numpy as np


def add_conversion_arguments(parser: argparse.ArgumentParser, precisions: tuple[str, ...]) -> None:
    """Adds the arguments of the exports to ONNX, OpenVINO and LiteRT."""
    add_embedder(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="path of the exported file")
    parser.add_argument(
        "--precision", choices=precisions, default="float32", help="precision of the weights; default float32"
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="PATH",
        help="images for int8: TFRecords, a .rec file, a list, a folder of folders, or a folder of images",
    )
    parser.add_argument(
        "--images", type=int, default=256, metavar="N", help="number of calibration images; default 256"
    )
    parser.add_argument("--mirror", action="store_true", help="add the embedding of the mirror image in the graph")
    parser.add_argument(
        "--pairs",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="verification sets, .bin or .npz, to compare embedder and export",
    )
    parser.add_argument(
        "--shuffle-seed", type=int, metavar="N", help="seed to shuffle the pairs if they are not stored in folds"
    )
    add_json_option(parser)


def convert(arguments: argparse.Namespace, function: str) -> None:
    """Exports with a function of `keras_arcface.serving`, and compares the export with the embedder."""
    check_embedder(arguments.embedder, arguments.accept_license)
    check_exists(*arguments.pairs, *([arguments.calibration] if arguments.calibration else []))
    load_tensorflow()
    from keras_arcface import serving
    from keras_arcface.serving.embedder_facts import embedder_facts
    from keras_arcface.serving.embedder_facts import image_size_of

    say = text_printer(arguments)
    embedder = load_embedder(arguments.embedder, arguments.accept_license)
    calibration = None
    if arguments.calibration is not None:
        calibration = serving.calibration_images(arguments.calibration, image_size_of(embedder), arguments.images)
    getattr(serving, function)(embedder, arguments.output, arguments.precision, calibration, arguments.mirror)
    exported = serving.load_embedder(arguments.output)
    parity = measure_parity(embedder, exported, arguments.output, arguments.precision, arguments.mirror, calibration)
    say(f"{arguments.output}: images -> embedding, norm; {arguments.precision}, checked against the embedder")
    say(f"Compared with the embedder: {parity['text']}")
    verified = [
        {
            "pairs": str(path),
            "shuffle_seed": arguments.shuffle_seed,
            **_verify(embedder, exported, path, arguments, say),
        }
        for path in arguments.pairs
    ]
    if arguments.json:
        facts = {**embedder_facts(embedder, arguments.mirror), "precision": arguments.precision}
        print_json(
            {"path": str(arguments.output), "facts": facts, "parity": parity["figures"], "verification": verified}
        )


def measure_parity(
    embedder: keras.Model,
    exported: Callable,
    path: Path,
    precision: str,
    mirror: bool,
    calibration: np.ndarray | None = None,
) -> dict[str, Any]:
    """Returns how much the embeddings of an export differ from the embedder's, as text and as figures."""
    import numpy as np

    from keras_arcface.serving.convert import parity

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        rows = exported(images)
        norm = np.linalg.norm(rows, axis=1)
        return {"embedding": rows / norm[:, None], "norm": norm}

    found = parity.measure_parity(run, embedder, path, precision, mirror, calibration)
    return {"text": str(found), "figures": found._asdict()}


def _verify(
    embedder: keras.Model, exported: Callable, path: Path, arguments: argparse.Namespace, say: Callable[..., None]
) -> dict[str, dict[str, float]]:
    """Prints the verification accuracy of the embedder and of the export, with mirror images as in the LFW protocol."""
    from keras_arcface import data
    from keras_arcface import evaluation

    pairs = data.PairSet.load(path)
    embeddings = (
        evaluation.embed_pairs(embedder, pairs),
        evaluation.embed_pairs(exported, pairs, flip=not arguments.mirror),
    )
    before, after = (evaluation.verify(e, pairs.same, shuffle_seed=arguments.shuffle_seed) for e in embeddings)
    if len(arguments.pairs) > 1:
        say(f"\n{path}")
    say(f"{'':12}{'accuracy':>9}{'AUC':>9}")
    for name, result in (("embedder", before), (arguments.precision, after)):
        say(f"{name:12}{result.accuracy:9.2%}{result.auc:9.4f}")
    say(f"The export loses {100 * (before.accuracy - after.accuracy):.2f} points of accuracy.")
    return {
        name: {"accuracy": float(result.accuracy), "auc": float(result.auc)}
        for name, result in (("embedder", before), ("export", after))
    }
