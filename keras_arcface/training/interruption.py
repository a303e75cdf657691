"""Ctrl-C during a training: the current step ends, a checkpoint is written, and epochs stay where they are."""

import signal
import threading

from keras_arcface.training.checkpoints import Checkpoints
from keras_arcface.training.steps import StepCallback


class StopOnInterrupt(StepCallback):
    """Ends a training at Ctrl-C after the current step, writes a checkpoint, and says after which step.

    Python would raise `KeyboardInterrupt` anywhere in a step, also where its weights are updated and it is not counted
    yet. Inside the `with` block, SIGINT is noted, and the training ends where the next step begins. So the last step of
    an epoch is followed by what belongs to the epoch's end, such as verification and the swaps of `SwapEMAWeights`, and
    the last step of a training by its normal end. A second SIGINT interrupts at once, as usual, without a checkpoint.
    Python handles signals in the main thread alone; in another thread, Ctrl-C is not changed.

    >>> # with StopOnInterrupt(checkpoints) as stop:
    >>> #     model.fit(dataset, callbacks=[checkpoints, stop])

    The checkpoint may be in the middle of an epoch. `AlignEpochs` resumes from there.

    Args:
        checkpoints: the `Checkpoints` of the training, which must be in the list of callbacks; None to write none.
        start_step: steps done before `fit`.

    Raises:
        KeyboardInterrupt: from `fit`, with the step and the checkpoint in its message. Not in the last step, after
            which the training ends anyway.
        ValueError: from `fit`, if `checkpoints` counts from another step or is not in the list of callbacks.
    """

    def __init__(self, checkpoints: Checkpoints | None = None, start_step: int = 0):
        super().__init__(start_step)
        self.checkpoints = checkpoints
        self._former, self._asked = None, False

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *exception):
        self._give_back()

    def on_train_batch_begin(self, batch, logs=None):
        if self.checkpoints is not None and self.checkpoints.step != self.step:
            raise ValueError(
                "StopOnInterrupt expects its Checkpoints in the list of callbacks, and the same start_step. Received: "
                f"Checkpoints at step {self.checkpoints.step}, StopOnInterrupt at {self.step}"
            )
        if not self._asked:
            return
        self._asked = False
        stopped = f"Stopped by Ctrl-C after {self.step:,} steps"
        raise KeyboardInterrupt(stopped if self.checkpoints is None else f"{stopped}, see {self.checkpoints.write()}")

    def _note(self, number, frame):
        self._asked = True
        self._give_back()

    def _give_back(self):
        if self._former is not None:
            signal.signal(signal.SIGINT, self._former)
            self._former = None


class AlignEpochs(StepCallback):
    """Ends the first epoch of a resumed training early, so that epochs end at multiples of `steps_per_epoch`.

    Without it, a training that resumes at step 14 with epochs of 10 steps has its epochs end at 24, 34, and so on.
    Verification then happens at other steps, and with `SwapEMAWeights`, which rounds at each swap, the final weights
    differ. A second `fit` for the rest would not work: at its end, `fit` replaces the weights by their averages.

    It must be the first callback in the list, and `epochs` must not exceed what the training needs: where the first
    epoch ends early, another callback that ends the training in the same step is overruled.

    >>> # model.fit(
    >>> #     dataset,
    >>> #     steps_per_epoch=1000,
    >>> #     initial_epoch=step // 1000,
    >>> #     epochs=180,
    >>> #     callbacks=[AlignEpochs(1000, step), checkpoints, ...],
    >>> # )

    Args:
        steps_per_epoch: of `fit`.
        start_step: steps done before `fit`.

    Raises:
        ValueError: if `steps_per_epoch` is below 1.
    """

    def __init__(self, steps_per_epoch: int, start_step: int = 0):
        super().__init__(start_step)
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1. Received: steps_per_epoch={steps_per_epoch}")
        self.steps_per_epoch = steps_per_epoch
        self._ends_early = False

    def on_step_end(self, before, logs=None):
        is_early = self.step - self._before_epoch < self.steps_per_epoch
        if is_early and self.passed(before, self.steps_per_epoch):
            self._ends_early = self.model.stop_training = True  # Keras looks at it after each step and after each epoch

    def on_epoch_end(self, epoch, logs=None):
        if self._ends_early:
            self._ends_early = self.model.stop_training = False
