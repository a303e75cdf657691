"""Exports a saved embedder as an OpenVINO model, an .xml file and a .bin beside it.

    python export/to_openvino.py runs/1/embedder.keras model.xml --precision bfloat16
    python export/to_openvino.py runs/1/embedder.keras model.xml --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

Input `images`, uint8 RGB; outputs `embedding` and `norm`. The file is kept only if its embeddings agree with the
embedder's.
"""

import command

from keras_arcface.serving.convert import to_openvino

if __name__ == "__main__":
    command.main(to_openvino.export_openvino, to_openvino.PRECISIONS, __doc__)
