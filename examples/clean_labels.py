"""Finds images with a wrong label and writes the dataset without them, as `keras-arcface clean-labels`.

python examples/train_ms1m.py --data ms1m_tfrecord --sub-centers 3 --output runs/noisy
python examples/clean_labels.py ms1m_tfrecord runs/noisy clean_tfrecord
python examples/clean_labels.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["clean-labels", *sys.argv[1:]]))
