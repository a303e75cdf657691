"""What `fit` needs around it: optimizers, schedules, callbacks, and where to train."""

from keras_arcface.training.checkpoints import Checkpoints
from keras_arcface.training.curves import ProgressBar
from keras_arcface.training.curves import TrainingLog
from keras_arcface.training.curves import plot_training
from keras_arcface.training.distribution import ClassParallel
from keras_arcface.training.distribution import divisible_classes
from keras_arcface.training.fine_tuning import layerwise
from keras_arcface.training.fine_tuning import stages
from keras_arcface.training.fine_tuning import trainable_from
from keras_arcface.training.interruption import AlignEpochs
from keras_arcface.training.interruption import StopOnInterrupt
from keras_arcface.training.replica_check import check_replicas
from keras_arcface.training.schedules import CosineSchedule
from keras_arcface.training.schedules import PolynomialSchedule
from keras_arcface.training.schedules import StepSchedule
from keras_arcface.training.sgd import CoupledSGD
from keras_arcface.training.steps import StepCallback
from keras_arcface.training.steps import StopAtStep
from keras_arcface.training.steps import StopOnNaN
from keras_arcface.training.strategies import PRECISIONS
from keras_arcface.training.strategies import STRATEGIES
from keras_arcface.training.strategies import all_gpus_strategy
from keras_arcface.training.strategies import placed
from keras_arcface.training.strategies import use_precision
from keras_arcface.training.verification import VerificationCallback
from keras_arcface.training.whole_batch import WholeBatchLossScale
from keras_arcface.training.whole_batch import WholeBatchOptimizer

__all__ = [
    "PRECISIONS",
    "STRATEGIES",
    "AlignEpochs",
    "Checkpoints",
    "ClassParallel",
    "CosineSchedule",
    "CoupledSGD",
    "PolynomialSchedule",
    "ProgressBar",
    "StepCallback",
    "StepSchedule",
    "StopAtStep",
    "StopOnInterrupt",
    "StopOnNaN",
    "TrainingLog",
    "VerificationCallback",
    "WholeBatchLossScale",
    "WholeBatchOptimizer",
    "all_gpus_strategy",
    "check_replicas",
    "divisible_classes",
    "layerwise",
    "placed",
    "plot_training",
    "stages",
    "trainable_from",
    "use_precision",
]
