"""Exports a saved embedder as an OpenVINO model, an .xml file and a .bin file.

    python export/to_openvino.py runs/1/embedder.keras model.xml --precision bfloat16
    python export/to_openvino.py runs/1/embedder.keras model.xml --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

The file has the input `images`, uint8 RGB, and the outputs `embedding` and `norm`. It is kept only if its embeddings
agree with those of the embedder.
"""

import command

from keras_arcface.serving.convert import to_openvino

if __name__ == "__main__":
    command.main(to_openvino.export_openvino, to_openvino.PRECISIONS, __doc__)
