"""Exports a saved embedder as a LiteRT (TensorFlow Lite) file, as `keras-arcface export litert`.

python export/to_litert.py runs/1/embedder.keras model.tflite --precision float16
python export/to_litert.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "litert", *sys.argv[1:]]))
