"""Exports a saved embedder as a SavedModel for TensorFlow Serving.

    python export/to_saved_model.py runs/demo/embedder.keras exported --pairs lfw.bin cfp_fp.bin --mirror
    python export/publish.py exported models/faces

The export is checked before it is renamed to the output directory. `--pairs` computes the thresholds for false accept
rates of 1e-2 to 1e-6 on all verification sets together, and stores them in the metadata of the model with the 95%
confidence intervals of the rates. `--mirror` adds the embeddings of mirror images, as in published evaluations. It also
affects the thresholds. The output may be a version in the base path of a served model, for example models/faces/1.
"""

import argparse
from pathlib import Path

import keras

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.data.alignment import ALIGNMENTS
from keras_arcface.serving.deploy.batching_parameters import BATCH_SIZES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path, help="an embedder saved with `embedder.save('embedder.keras')`")
    parser.add_argument("output", type=Path, help="new directory for the SavedModel")
    parser.add_argument(
        "--pairs", type=Path, nargs="+", default=[], help="verification sets (.bin, .npz) for the thresholds"
    )
    parser.add_argument("--mirror", action="store_true", help="add the embedding of the mirror image")
    parser.add_argument("--compare", action="store_true", help="add the signature compare: two batches -> cosines")
    parser.add_argument("--keep-variables", action="store_true", help="keep weights as variables instead of constants")
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS, help="alignment of the training faces, if known, for the metadata"
    )
    parser.add_argument("--warmup", type=int, nargs="*", default=BATCH_SIZES, help="batch sizes of warm-up requests")
    arguments = parser.parse_args()
    try:
        embedder = keras.saving.load_model(arguments.embedder, compile=False)
        serving.check_exportable(embedder, arguments.output, arguments.alignment)
        rocs = []
        for path in arguments.pairs:
            pairs = data.PairSet.load(path)
            embeddings = evaluation.embed_pairs(embedder, pairs, flip=arguments.mirror)
            # The curve uses all pairs, so the folds do not matter.
            rocs.append(evaluation.verify(embeddings, pairs.same, shuffle_seed=0).roc)
            print(f"{path}: AUC {rocs[-1].auc:.4f}, equal error rate {rocs[-1].eer:.2%}")
        serving.export_saved_model(
            embedder,
            arguments.output,
            mirror=arguments.mirror,
            compare=arguments.compare,
            freeze=not arguments.keep_variables,
            evaluation=evaluation.Roc.from_rocs(rocs) if rocs else None,
            alignment=arguments.alignment,
            warmup_batch_sizes=arguments.warmup,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.output}: checked; signatures serving_default (images) and serve_bytes (image_bytes)")


if __name__ == "__main__":
    main()
