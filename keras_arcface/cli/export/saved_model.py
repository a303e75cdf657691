"""Exports a saved embedder as a SavedModel for TensorFlow Serving.

    keras-arcface export saved-model runs/demo/embedder.keras exported --pairs lfw.bin cfp_fp.bin --mirror
    keras-arcface publish exported models/faces

The export is checked before it is renamed to the output directory. `--pairs` computes the thresholds for false accept
rates of 1e-2 to 1e-6 on all verification sets together, and stores them in the metadata of the model with the 95%
confidence intervals of the rates. `--mirror` adds the embeddings of mirror images, as in published evaluations. It also
affects the thresholds. The output may be a version in the base path of a served model, for example models/faces/1.
"""

import argparse
from pathlib import Path

from keras_arcface._choices import ALIGNMENTS
from keras_arcface._choices import BATCH_SIZES
from keras_arcface.cli.embedders import add_embedder
from keras_arcface.cli.embedders import check_embedder
from keras_arcface.cli.embedders import load_embedder
from keras_arcface.cli.export.shared import measure_parity
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.paths import check_exists
from keras_arcface.cli.startup import load_tensorflow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_embedder(parser)
    parser.add_argument("output", type=Path, metavar="OUTPUT", help="new directory for the SavedModel")
    parser.add_argument(
        "--pairs",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="verification sets, .bin or .npz, for the thresholds",
    )
    parser.add_argument("--mirror", action="store_true", help="add the embedding of the mirror image")
    parser.add_argument("--compare", action="store_true", help="add the signature compare: two batches -> cosines")
    parser.add_argument("--keep-variables", action="store_true", help="keep weights as variables instead of constants")
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS, help="alignment of the training faces, if known, for the metadata"
    )
    parser.add_argument(
        "--batch-sizes",
        type=int,
        nargs="*",
        default=BATCH_SIZES,
        metavar="N",
        help=f"batch sizes of the warm-up requests; default {' '.join(map(str, BATCH_SIZES))}",
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_embedder(arguments.embedder, arguments.accept_license)
    check_exists(*arguments.pairs)
    load_tensorflow()
    from keras_arcface import data
    from keras_arcface import evaluation
    from keras_arcface import serving
    from keras_arcface.serving.saved_model.metadata import read_metadata

    say = text_printer(arguments)
    embedder = load_embedder(arguments.embedder, arguments.accept_license)
    serving.check_exportable(embedder, arguments.output, arguments.alignment)
    rocs = []
    for path in arguments.pairs:
        pairs = data.PairSet.load(path)
        embeddings = evaluation.embed_pairs(embedder, pairs, flip=arguments.mirror)
        # The curve uses all pairs, so the folds do not matter.
        rocs.append(evaluation.verify(embeddings, pairs.same, shuffle_seed=0).roc)
        say(f"{path}: AUC {rocs[-1].auc:.4f}, equal error rate {rocs[-1].eer:.2%}")
    serving.export_saved_model(
        embedder,
        arguments.output,
        mirror=arguments.mirror,
        compare=arguments.compare,
        freeze=not arguments.keep_variables,
        evaluation=evaluation.Roc.from_rocs(rocs) if rocs else None,
        alignment=arguments.alignment,
        warmup_batch_sizes=arguments.batch_sizes,
    )
    facts = read_metadata(arguments.output)
    say(f"{arguments.output}: checked; signatures {', '.join(facts['signatures'])}")
    if arguments.json:
        precision = next((dtype for dtype in facts["computes_in"] if dtype != "float32"), "float32")
        exported = serving.load_embedder(arguments.output)
        parity = measure_parity(embedder, exported, arguments.output, precision, arguments.mirror)
        verified = [
            {"pairs": str(path), "auc": float(roc.auc), "eer": float(roc.eer)}
            for path, roc in zip(arguments.pairs, rocs, strict=True)
        ]
        document = {"path": str(arguments.output), "facts": facts, "parity": parity["figures"]}
        print_json({**document, "verification": verified})
