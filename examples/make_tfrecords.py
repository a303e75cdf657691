"""Converts aligned faces to TFRecords for training, as `keras-arcface convert`.

    python examples/make_tfrecords.py faces_emore/train.rec ms1m_tfrecord --processes 8
    python examples/make_tfrecords.py --check ms1m_tfrecord

With --check, it compares a dataset with its checksums, as `keras-arcface check`.
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    options = [option for option in sys.argv[1:] if option != "--check"]
    sys.exit(main(["check" if "--check" in sys.argv else "convert", *options]))
