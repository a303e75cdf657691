"""Backbones, which are functional Keras models that map images in [-1, 1] to a feature map.

`keras_arcface.models.make_embedder` turns a backbone into an embedder.
"""

from keras_arcface.backbones.edgeface import EdgeFace
from keras_arcface.backbones.edgeface import EdgeFaceS
from keras_arcface.backbones.edgeface import EdgeFaceXS
from keras_arcface.backbones.ghostfacenet import GhostFaceNetV1
from keras_arcface.backbones.ghostfacenet import GhostFaceNetV2
from keras_arcface.backbones.iresnet import IResNet
from keras_arcface.backbones.iresnet import IResNet18
from keras_arcface.backbones.iresnet import IResNet34
from keras_arcface.backbones.iresnet import IResNet50
from keras_arcface.backbones.iresnet import IResNet100
from keras_arcface.backbones.iresnet import IResNet200
from keras_arcface.backbones.mobilefacenet import MobileFaceNet
from keras_arcface.backbones.mobilenet import MobileNetV1
from keras_arcface.backbones.resnet import ResNet50
from keras_arcface.backbones.vit import ViT
from keras_arcface.backbones.vit import ViTBase
from keras_arcface.backbones.vit import ViTSmall
from keras_arcface.backbones.vit import ViTTiny

__all__ = [
    "EdgeFace",
    "EdgeFaceS",
    "EdgeFaceXS",
    "GhostFaceNetV1",
    "GhostFaceNetV2",
    "IResNet",
    "IResNet18",
    "IResNet34",
    "IResNet50",
    "IResNet100",
    "IResNet200",
    "MobileFaceNet",
    "MobileNetV1",
    "ResNet50",
    "ViT",
    "ViTBase",
    "ViTSmall",
    "ViTTiny",
]
