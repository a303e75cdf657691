"""Exports a saved embedder as a SavedModel for TensorFlow Serving.

    python export/to_saved_model.py runs/demo/embedder.keras exported --pairs lfw.bin cfp_fp.bin --mirror
    python export/publish.py exported models/faces

What is written is checked before it appears; `--pairs` measures on verification sets, together, at which cosine two
images are one person's, for false accept rates of 1e-2 to 1e-6, and writes that into the model's metadata, with a 95%
interval of the rate that each threshold gives. `--mirror` is how published figures are made; without it the thresholds
are those without. The output may also be a version of a served model itself, an integer below its folder:
models/faces/1.
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
        "--pairs", type=Path, nargs="+", default=[], help="verification sets (.bin, .npz) to calibrate thresholds on"
    )
    parser.add_argument("--mirror", action="store_true", help="sum the embeddings of image and mirror image")
    parser.add_argument("--compare", action="store_true", help="add the signature compare: two batches -> cosines")
    parser.add_argument("--keep-variables", action="store_true", help="do not make weights constants of the graph")
    parser.add_argument(
        "--alignment", choices=ALIGNMENTS, help="of the faces, where it is known: the metadata states it"
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
            # The curve is over all pairs: in which folds they are does not matter.
            rocs.append(evaluation.verify(embeddings, pairs.same, shuffle_seed=0).roc)
            print(f"{path}: AUC {rocs[-1].auc:.4f}, equal error rate {rocs[-1].eer:.2%}")
        serving.export_saved_model(
            embedder,
            arguments.output,
            mirror=arguments.mirror,
            compare=arguments.compare,
            freeze=not arguments.keep_variables,
            evaluation=evaluation.Roc.pooled(rocs) if rocs else None,
            alignment=arguments.alignment,
            warmup_batch_sizes=arguments.warmup,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.output}: checked; signatures serving_default (images) and serve_bytes (image_bytes)")


if __name__ == "__main__":
    main()
