"""Losses on embeddings alone, without class centers.

They compare the images of a batch with each other, so a batch needs several images of each of its people:
`keras_arcface.data.load_dataset(..., images_per_class=K)` makes such. `keras_arcface.layers.EmbeddingHead(loss)` trains
with one of them under `RecognitionModel`, and with Keras' own `keras.losses.Circle` too.
"""

from keras_arcface.losses.triplet import TripletLoss

__all__ = ["TripletLoss"]
