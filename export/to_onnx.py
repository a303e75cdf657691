"""Exports a saved embedder as an ONNX file, as `keras-arcface export onnx`.

python export/to_onnx.py runs/1/embedder.keras model.onnx --precision float16
python export/to_onnx.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "onnx", *sys.argv[1:]]))
