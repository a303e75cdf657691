"""What `fit` needs around it: optimizers, schedules, callbacks, and where to train."""

from keras_arcface.training.schedules import CosineSchedule
from keras_arcface.training.schedules import PolynomialSchedule
from keras_arcface.training.schedules import StepSchedule
from keras_arcface.training.sgd import CoupledSGD
from keras_arcface.training.strategies import all_gpus_strategy
from keras_arcface.training.verification import VerificationCallback
from keras_arcface.training.whole_batch import WholeBatchLossScale
from keras_arcface.training.whole_batch import WholeBatchOptimizer

__all__ = [
    "CosineSchedule",
    "CoupledSGD",
    "PolynomialSchedule",
    "StepSchedule",
    "VerificationCallback",
    "WholeBatchLossScale",
    "WholeBatchOptimizer",
    "all_gpus_strategy",
]
