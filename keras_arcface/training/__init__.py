"""Optimizers, schedules, callbacks, and device strategies for training with `fit`."""

from typing import TYPE_CHECKING

from keras_arcface._choices import PRECISIONS
from keras_arcface._choices import STRATEGIES
from keras_arcface._late_names import late_names
from keras_arcface.training.adam import CoupledAdam
from keras_arcface.training.checkpoints import Checkpoints
from keras_arcface.training.distribution import ClassParallel
from keras_arcface.training.distribution import round_up_classes
from keras_arcface.training.fine_tuning import freeze_below
from keras_arcface.training.fine_tuning import layerwise_lr_decay
from keras_arcface.training.fine_tuning import stages
from keras_arcface.training.gradient_accumulation import GradientAccumulationOptimizer
from keras_arcface.training.interruption import AlignEpochs
from keras_arcface.training.interruption import StopOnInterrupt
from keras_arcface.training.loss_scaling import SyncedLossScaleOptimizer
from keras_arcface.training.progress_bar import ProgressBar
from keras_arcface.training.schedules import CosineSchedule
from keras_arcface.training.schedules import PolynomialSchedule
from keras_arcface.training.schedules import StepSchedule
from keras_arcface.training.sgd import CoupledSGD
from keras_arcface.training.steps import StepCallback
from keras_arcface.training.steps import StopAtStep
from keras_arcface.training.steps import StopOnNaN
from keras_arcface.training.training_log import TrainingLog
from keras_arcface.training.training_plot import plot_training
from keras_arcface.training.verification_callback import VerificationCallback

if TYPE_CHECKING:
    from keras_arcface.training.precision import use_precision
    from keras_arcface.training.replica_check import check_replicas
    from keras_arcface.training.strategies import all_gpus_strategy
    from keras_arcface.training.strategies import device_scope

__all__ = [
    "PRECISIONS",
    "STRATEGIES",
    "AlignEpochs",
    "Checkpoints",
    "ClassParallel",
    "CosineSchedule",
    "CoupledAdam",
    "CoupledSGD",
    "GradientAccumulationOptimizer",
    "PolynomialSchedule",
    "ProgressBar",
    "StepCallback",
    "StepSchedule",
    "StopAtStep",
    "StopOnInterrupt",
    "StopOnNaN",
    "SyncedLossScaleOptimizer",
    "TrainingLog",
    "VerificationCallback",
    "all_gpus_strategy",
    "check_replicas",
    "device_scope",
    "freeze_below",
    "layerwise_lr_decay",
    "plot_training",
    "round_up_classes",
    "stages",
    "use_precision",
]

# A training on JAX does not require TensorFlow.
__getattr__ = late_names(
    __name__,
    {
        "all_gpus_strategy": "strategies",
        "check_replicas": "replica_check",
        "device_scope": "strategies",
        "use_precision": "precision",
    },
)


def __dir__():
    return sorted(__all__)
