"""Heads: `MarginProduct` and its presets, which are named after papers, softmax heads, and auxiliary losses."""

from keras_arcface.layers.auxiliary_losses import AuxiliaryLossHead
from keras_arcface.layers.auxiliary_losses import WithCenterLoss
from keras_arcface.layers.auxiliary_losses import WithInterLoss
from keras_arcface.layers.auxiliary_losses import WithIntraLoss
from keras_arcface.layers.base import Head
from keras_arcface.layers.distillation import WithDistillation
from keras_arcface.layers.distillation import set_teacher_centers
from keras_arcface.layers.embedding_head import EmbeddingHead
from keras_arcface.layers.embedding_loss import WithEmbeddingLoss
from keras_arcface.layers.large_margin_product import ASoftmax
from keras_arcface.layers.large_margin_product import LSoftmax
from keras_arcface.layers.margin_product import MarginProduct
from keras_arcface.layers.modern_presets import AdaFace
from keras_arcface.layers.modern_presets import CurricularFace
from keras_arcface.layers.modern_presets import ElasticFace
from keras_arcface.layers.modern_presets import MagFace
from keras_arcface.layers.modern_presets import MVSoftmax
from keras_arcface.layers.modern_presets import NormSoftmax
from keras_arcface.layers.negatives import CurricularNegatives
from keras_arcface.layers.negatives import MisclassifiedNegatives
from keras_arcface.layers.negatives import Negatives
from keras_arcface.layers.presets import ArcFace
from keras_arcface.layers.presets import ArcMarginProduct
from keras_arcface.layers.presets import CosFace
from keras_arcface.layers.presets import CosMarginProduct
from keras_arcface.layers.presets import SphereFace
from keras_arcface.layers.presets import SphereMarginProduct
from keras_arcface.layers.q_margin import QMargin
from keras_arcface.layers.quality import WithQuality
from keras_arcface.layers.softmax_product import SoftmaxProduct
from keras_arcface.layers.uniface import UniFace

__all__ = [
    "ASoftmax",
    "AdaFace",
    "ArcFace",
    "ArcMarginProduct",
    "CosFace",
    "CosMarginProduct",
    "CurricularFace",
    "CurricularNegatives",
    "ElasticFace",
    "EmbeddingHead",
    "Head",
    "AuxiliaryLossHead",
    "LSoftmax",
    "MVSoftmax",
    "MagFace",
    "MarginProduct",
    "MisclassifiedNegatives",
    "Negatives",
    "NormSoftmax",
    "QMargin",
    "SoftmaxProduct",
    "SphereFace",
    "SphereMarginProduct",
    "UniFace",
    "WithCenterLoss",
    "WithDistillation",
    "WithEmbeddingLoss",
    "WithInterLoss",
    "WithIntraLoss",
    "WithQuality",
    "set_teacher_centers",
]
