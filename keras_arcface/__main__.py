"""Runs the command `keras-arcface` as `python -m keras_arcface`."""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
