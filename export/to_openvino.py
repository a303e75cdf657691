"""Exports a saved embedder as an OpenVINO model, an .xml file and a .bin file, as `keras-arcface export openvino`.

python export/to_openvino.py runs/1/embedder.keras model.xml --precision bfloat16
python export/to_openvino.py --help
"""

import sys

from keras_arcface.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["export", "openvino", *sys.argv[1:]]))
