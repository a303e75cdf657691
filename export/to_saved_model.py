"""Exports a saved embedder as a SavedModel for TensorFlow Serving.

    python export/to_saved_model.py runs/demo/embedder.keras models/faces/1

The last part of the output is the version, an integer: TensorFlow Serving is given the folder above it.
"""

import argparse
from pathlib import Path

import keras

from keras_arcface import serving


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("embedder", type=Path, help="an embedder saved with `embedder.save('embedder.keras')`")
    parser.add_argument("output", type=Path, help="new directory for the SavedModel")
    arguments = parser.parse_args()
    try:
        serving.export_saved_model(keras.saving.load_model(arguments.embedder, compile=False), arguments.output)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{arguments.output}: signatures serving_default (images) and serve_bytes (image_bytes)")


if __name__ == "__main__":
    main()
