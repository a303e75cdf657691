"""What `fit` needs around it."""

from keras_arcface.training.strategies import all_gpus_strategy

__all__ = ["all_gpus_strategy"]
