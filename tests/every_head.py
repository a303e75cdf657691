"""Every head of the package, with few classes."""

import keras

from keras_arcface import layers
from keras_arcface.layers import EmbeddingHead
from keras_arcface.losses import TripletLoss
from keras_arcface.margins import CombinedMargin

# Functions of num_classes. Running statistics move fast and annealing is short, so that a few steps show their effect.
WITH_CLASSES = {
    "softmax": layers.SoftmaxProduct,
    "softmax and center loss": lambda n: layers.WithCenterLoss(layers.SoftmaxProduct(n), weight=0.1),
    "L-Softmax": lambda n: layers.LSoftmax(n, base=10.0),
    "A-Softmax": lambda n: layers.ASoftmax(n, base=10.0),
    "norm-softmax": lambda n: layers.NormSoftmax(n, scale=8.0),
    "norm-softmax, intra- and inter-loss": lambda n: layers.WithInterLoss(
        layers.WithIntraLoss(layers.NormSoftmax(n, scale=8.0))
    ),
    "quality": lambda n: layers.WithQuality(layers.ArcFace(n, scale=8.0)),
    "SphereFace": lambda n: layers.SphereFace(n, scale=8.0),
    "CosFace": lambda n: layers.CosFace(n, scale=8.0),
    "ArcFace": lambda n: layers.ArcFace(n, scale=8.0),
    "combined": lambda n: layers.MarginProduct(n, margin=CombinedMargin(0.9, 0.4, 0.15), scale=8.0),
    "AdaFace": lambda n: layers.AdaFace(n, momentum=0.5, scale=8.0),
    "MagFace": lambda n: layers.MagFace(n, min_norm=0.1, max_norm=5.0, weight=0.1, scale=8.0),
    "ElasticFace": lambda n: layers.ElasticFace(n, std=0.2, scale=8.0),
    "ElasticFace, sorted": lambda n: layers.ElasticFace(n, std=0.2, sort=True, scale=8.0),
    "CurricularFace": lambda n: layers.CurricularFace(n, momentum=0.5, scale=8.0),
    "MV-softmax": lambda n: layers.MVSoftmax(n, scale=8.0),
    "UniFace": lambda n: layers.UniFace(n, scale=8.0),
    "Q-Margin": lambda n: layers.QMargin(n, scale=8.0),
}
OF_BATCHES = {
    "triplets, hard": lambda n: EmbeddingHead(TripletLoss()),
    "triplets, semi-hard": lambda n: EmbeddingHead(TripletLoss(mining="semihard")),
    "CosFace and triplets": lambda n: layers.WithEmbeddingLoss(
        layers.CosFace(n, scale=8.0), TripletLoss(normalize=False)
    ),
    "circle": lambda n: EmbeddingHead(keras.losses.Circle()),
}
HEADS = WITH_CLASSES | OF_BATCHES
