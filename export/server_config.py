"""Writes the configuration files of a TensorFlow Serving server, as `keras-arcface server-config`.

python export/server_config.py config faces=/srv/models/faces
python export/server_config.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["server-config", *sys.argv[1:]]))
