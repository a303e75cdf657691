"""Exports a saved embedder as an ONNX file.

    python export/to_onnx.py runs/1/embedder.keras model.onnx
    python export/to_onnx.py runs/1/embedder.keras model.onnx --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

The file has the input `images`, uint8 RGB, and the outputs `embedding` and `norm`. It is kept only if its embeddings
agree with those of the embedder.
"""

import command

from keras_arcface.serving.convert import to_onnx

if __name__ == "__main__":
    command.main(to_onnx.export_onnx, to_onnx.PRECISIONS, __doc__)
