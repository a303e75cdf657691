"""Trains a face embedder with ArcFace, from TFRecords to a served model.

    python examples/train_ms1m.py
    python examples/train_ms1m.py --data ms1m_tfrecord --recipe ms1mv2_r100 --verify lfw.bin cfp_fp.bin --output runs/1

With `--data` it is the command `keras-arcface train`, and without it `keras-arcface demo`.
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    has_data = any(argument.partition("=")[0] == "--data" for argument in sys.argv)
    sys.exit(main(["train" if has_data else "demo", *sys.argv[1:]]))
