"""Progress bar of the whole training."""

from typing import Any

from tqdm import tqdm

from keras_arcface.training.steps import StepCallback


class ProgressBar(StepCallback):
    """Progress bar with the number of images, images per second, remaining time, loss and accuracy.

    Use it with `fit(verbose=0)`. Unlike `tqdm.keras.TqdmCallback`, it covers the whole training, including the steps
    before a resumed run, so that the remaining time is that of the training, not of the epoch. It is written to stderr.

    Args:
        last_step: number of steps of the whole training.
        batch_size: number of images per step.
        start_step: number of steps before `fit`, for a resumed run.

    Raises:
        ValueError: if `start_step` is negative.

    Examples:
        >>> progress = ProgressBar(last_step=6, batch_size=4)
        >>> history = model.fit(images, labels, batch_size=4, epochs=2, callbacks=[progress], verbose=0)
    """

    def __init__(self, last_step: int, batch_size: int, start_step: int = 0):
        super().__init__(start_step)
        self.last_step, self.batch_size = last_step, batch_size
        self._bar: Any = None

    def on_train_begin(self, logs=None):
        self._bar = tqdm(
            total=self.last_step * self.batch_size,
            initial=self.step * self.batch_size,
            desc="training",
            unit=" images",
            unit_scale=True,
            dynamic_ncols=True,
        )

    def on_step_end(self, previous_step, logs=None):
        shown = {name: f"{float(logs[name]):.3f}" for name in ("loss", "accuracy", "target_angle") if name in logs}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update((self.step - previous_step) * self.batch_size)

    def on_train_end(self, logs=None):
        self._bar.close()
