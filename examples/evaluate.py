"""Evaluates one or more embedders, as `keras-arcface evaluate`.

python examples/evaluate.py ours=runs/1/embedder.keras theirs=model.onnx pixels --pairs lfw.bin cfp_fp.bin
python examples/evaluate.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
