"""Exports a saved embedder as a SavedModel for TensorFlow Serving, as `keras-arcface export saved-model`.

python export/to_saved_model.py runs/demo/embedder.keras exported --pairs lfw.bin cfp_fp.bin --mirror
python export/to_saved_model.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "saved-model", *sys.argv[1:]]))
