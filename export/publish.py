"""Publishes a SavedModel as the next version in a base path, as `keras-arcface publish`.

python export/publish.py exported/faces models/faces --keep 5
python export/publish.py --rollback models/faces
python export/publish.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["publish", *sys.argv[1:]]))
