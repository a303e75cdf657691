"""Exports a saved embedder as a SavedModel for TensorFlow Serving.

    python export/to_saved_model.py runs/demo/embedder.keras exported --pairs lfw.bin --mirror
    python export/publish.py exported models/faces

What is written is checked before it appears; `--pairs` measures on a verification set at which cosine two images are
one person's, for false accept rates of 1e-2 to 1e-6, and writes that into the model's metadata. The output may also be
a version of a served model itself, an integer below its folder: models/faces/1.
"""

import argparse
from pathlib import Path

import keras

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.serving.batching import BATCH_SIZES


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path, help="an embedder saved with `embedder.save('embedder.keras')`")
    parser.add_argument("output", type=Path, help="new directory for the SavedModel")
    parser.add_argument("--pairs", type=Path, help="verification set (.bin, .npz) to calibrate thresholds on")
    parser.add_argument("--mirror", action="store_true", help="sum the embeddings of image and mirror image")
    parser.add_argument("--compare", action="store_true", help="add the signature compare: two batches -> cosines")
    parser.add_argument("--keep-variables", action="store_true", help="do not make weights constants of the graph")
    parser.add_argument("--not-aligned", action="store_true", help="the images are not faces aligned by five landmarks")
    parser.add_argument("--warmup", type=int, nargs="*", default=BATCH_SIZES, help="batch sizes of warm-up requests")
    arguments = parser.parse_args()
    try:
        embedder = keras.saving.load_model(arguments.embedder, compile=False)
        result = None
        if arguments.pairs:
            pairs = data.PairSet.load(arguments.pairs)
            embeddings = evaluation.embed_pairs(embedder, pairs, flip=arguments.mirror)
            result = evaluation.verify(embeddings, pairs.same)
            print(f"{arguments.pairs}: AUC {result.auc:.4f}, equal error rate {result.eer:.2%}")
        serving.export_saved_model(
            embedder,
            arguments.output,
            mirror=arguments.mirror,
            compare=arguments.compare,
            freeze=not arguments.keep_variables,
            evaluation=result,
            aligned=not arguments.not_aligned,
            warmup_batch_sizes=arguments.warmup,
        )
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.output}: checked; signatures serving_default (images) and serve_bytes (image_bytes)")


if __name__ == "__main__":
    main()
