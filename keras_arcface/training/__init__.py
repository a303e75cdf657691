"""What `fit` needs around it."""

from keras_arcface.training.strategies import all_gpus_strategy
from keras_arcface.training.verification import VerificationCallback

__all__ = ["VerificationCallback", "all_gpus_strategy"]
