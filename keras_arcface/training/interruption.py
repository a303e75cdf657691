"""Ctrl-C during a training: it ends behind a step, with a checkpoint."""

import signal
import threading

from keras_arcface.training.checkpoints import Checkpoints
from keras_arcface.training.steps import StepCallback


class StopOnInterrupt(StepCallback):
    """Ends a training at Ctrl-C when the current step is done, writes a checkpoint, and says after which step.

    Python would raise `KeyboardInterrupt` anywhere between two steps, also where the weights of a step are updated and
    the step is not counted yet. Inside the `with` block, SIGINT is noted and acted upon at the end of the step; a
    second one interrupts at once, as usual, without a checkpoint. In another thread than the main one, Python lets
    nobody handle signals, and this does nothing.

    >>> # with StopOnInterrupt(checkpoints) as stop:
    >>> #     model.fit(dataset, callbacks=[checkpoints, stop])

    Args:
        checkpoints: the `Checkpoints` of the training, which must stand before this callback in the list; None to write
            none.
        start_step: steps done before `fit`.

    Raises:
        KeyboardInterrupt: from `fit`, with the step and the checkpoint in its message. Not in the last step, after
            which the training ends anyway.
        ValueError: from `fit`, in the first step, if `checkpoints` stands behind this callback or counts from another
            step.
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

    def on_step_end(self, before, logs=None):
        if self.checkpoints is not None and self.checkpoints.step != self.step:
            raise ValueError(
                "StopOnInterrupt expects its Checkpoints before itself in the list of callbacks, both with the same "
                f"start_step. Received: Checkpoints at step {self.checkpoints.step}, StopOnInterrupt at {self.step}"
            )
        if not self._asked or self.model.stop_training:
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
