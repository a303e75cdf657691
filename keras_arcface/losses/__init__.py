"""Losses on embeddings, without class centers.

They compare the images of a batch with each other, so a batch must have several images per class.
`keras_arcface.data.load_dataset(..., images_per_class=K)` yields such batches.
`keras_arcface.layers.EmbeddingHead(loss)` is a head for `RecognitionModel` that trains with one of them, or with
`keras.losses.Circle`.
"""

from keras_arcface.losses.triplet import TripletLoss

__all__ = ["TripletLoss"]
