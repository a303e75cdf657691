"""Exports a saved embedder as a LiteRT (TensorFlow Lite) file.

    python export/to_litert.py runs/1/embedder.keras model.tflite --precision float16
    python export/to_litert.py runs/1/embedder.keras model.tflite --precision int8 \\
        --calibration ms1m_tfrecord --pairs lfw.bin

The file has the input `images`, uint8 RGB, and the outputs `embedding` and `norm`. It is kept only if its embeddings
agree with those of the embedder.
"""

import command

from keras_arcface.serving.convert import to_litert

if __name__ == "__main__":
    command.main(to_litert.export_litert, to_litert.PRECISIONS, __doc__)
