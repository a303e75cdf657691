"""Callbacks that stop training at Ctrl-C and align the epochs of a resumed run."""

import signal
import threading
from types import FrameType
from typing import Any

from keras_arcface import _arguments
from keras_arcface.training.checkpoints import Checkpoints
from keras_arcface.training.steps import StepCallback


class StopOnInterrupt(StepCallback):
    """Callback that stops training at Ctrl-C after the current step, and writes a checkpoint.

    By default, Python raises `KeyboardInterrupt` anywhere in a step, for example between the update of the weights and
    the update of the step counter. Inside the `with` block, SIGINT only sets a flag, and training stops when the next
    step begins. After the last step of an epoch, the callbacks of the end of the epoch are called first, such as
    verification and the swaps of `SwapEMAWeights`. After the last step of the training, `fit` ends as usual. A second
    SIGINT interrupts immediately, without a checkpoint. Python handles signals only in the main thread; in other
    threads, Ctrl-C is not changed.

    The checkpoint may be in the middle of an epoch. Use `AlignEpochs` in the resumed run.

    Args:
        checkpoints: the `Checkpoints` callback of the training, which must also be in the list of callbacks; None to
            write no checkpoint.
        start_step: number of steps before `fit`, for a resumed run.

    Raises:
        KeyboardInterrupt: from `fit`, with the step and the checkpoint in the message, except in the last step of the
            training.
        ValueError: if `start_step` is negative; from `fit`, if `checkpoints` has another start step or is not in the
            list of callbacks.

    Examples:
        >>> checkpoints = Checkpoints("checkpoints", every_steps=1000)
        >>> with StopOnInterrupt(checkpoints) as stop:
        ...     history = model.fit(images, labels, callbacks=[checkpoints, stop], verbose=0)
    """

    def __init__(self, checkpoints: Checkpoints | None = None, start_step: int = 0):
        super().__init__(start_step)
        self.checkpoints = checkpoints
        self._previous_handler: Any = None
        self._is_requested = False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._previous_handler = signal.signal(signal.SIGINT, self._request_stop)
        return self

    def __exit__(self, *exception):
        self._restore_handler()

    def on_train_batch_begin(self, batch, logs=None):
        if self.checkpoints is not None and self.checkpoints.step != self.step:
            raise ValueError(
                "The Checkpoints of StopOnInterrupt must be in the list of callbacks and have the same start step. "
                f"Received: Checkpoints at step {self.checkpoints.step}, StopOnInterrupt at step {self.step}"
            )
        if not self._is_requested:
            return
        self._is_requested = False
        message = f"Stopped by Ctrl-C after {self.step:,} steps"
        raise KeyboardInterrupt(message if self.checkpoints is None else f"{message}, see {self.checkpoints.write()}")

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._is_requested = True
        self._restore_handler()

    def _restore_handler(self) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None


class AlignEpochs(StepCallback):
    """Callback that shortens the first epoch of a resumed run, so that epochs end at multiples of `steps_per_epoch`.

    Without it, a run that resumes at step 14 with epochs of 10 steps ends its epochs at steps 24, 34, and so on.
    Verification then happens at other steps than without the interruption. With `SwapEMAWeights`, which rounds at each
    swap, the final weights differ too. A separate `fit` for the rest of the epoch is no alternative: `fit` replaces the
    weights by their averages when it ends.

    It must be the first callback in the list. `epochs` must be the last epoch of the training: if the first epoch ends
    early, a request of another callback to stop training in the same step is ignored.

    Args:
        steps_per_epoch: number of steps per epoch, equal to the argument of `fit`.
        start_step: number of steps before `fit`.

    Raises:
        ValueError: if `steps_per_epoch` is below 1, or `start_step` is negative.

    Examples:
        >>> class PrintEpochEnd(StepCallback):
        ...     def on_epoch_end(self, epoch, logs=None):
        ...         print(f"epoch {epoch} ended at step {self.step}")
        >>> step = 14  # of the last checkpoint
        >>> history = model.fit(
        ...     dataset,
        ...     steps_per_epoch=10,
        ...     initial_epoch=step // 10,
        ...     epochs=3,
        ...     shuffle=False,
        ...     callbacks=[AlignEpochs(10, start_step=step), PrintEpochEnd(start_step=step)],
        ...     verbose=0,
        ... )
        epoch 1 ended at step 20
        epoch 2 ended at step 30
    """

    def __init__(self, steps_per_epoch: int, start_step: int = 0):
        super().__init__(start_step)
        _arguments.check_integer("steps_per_epoch", steps_per_epoch, 1)
        self.steps_per_epoch = steps_per_epoch
        self._ends_early = False

    def on_step_end(self, previous_step, logs=None):
        is_partial_epoch = self.step - self._epoch_start < self.steps_per_epoch
        if is_partial_epoch and self.reached_multiple_of(self.steps_per_epoch, previous_step):
            # Keras reads `stop_training` after each step and after each epoch.
            self._ends_early = self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self._ends_early:
            self._ends_early = self.model.stop_training = False
