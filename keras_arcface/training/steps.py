"""Counting the steps of a training, over epochs and over runs that go on."""

import keras


class StepCallback(keras.callbacks.Callback):
    """A callback that knows how many steps the training has done.

    Args:
        start_step: steps done before `fit`, where a run goes on.

    Attributes:
        step: steps done so far. A step is one batch, whatever the optimizer makes of it.
    """

    def __init__(self, start_step: int = 0):
        super().__init__()
        if start_step < 0:
            raise ValueError(f"start_step must not be negative. Received: start_step={start_step}")
        self.step = self._before_epoch = start_step

    def on_epoch_begin(self, epoch, logs=None):
        self._before_epoch = self.step

    def on_train_batch_end(self, batch, logs=None):
        before, self.step = self.step, self._before_epoch + batch + 1
        self.on_step_end(before, logs)

    def on_step_end(self, before: int, logs=None) -> None:
        """Called after a step, or after several if `steps_per_execution` is above 1.

        Args:
            before: what `step` was before.
            logs: Keras' logs, means over the epoch so far.
        """

    def passed(self, before: int, every: int) -> bool:
        """Whether a multiple of `every` was reached since `before`."""
        return self.step // every > before // every


class StopAtStep(StepCallback):
    """Ends a training after so many steps in all, in the middle of an epoch if need be.

    Args:
        last_step: how many steps the whole training has.
        start_step: steps done before `fit`.
    """

    def __init__(self, last_step: int, start_step: int = 0):
        super().__init__(start_step)
        self.last_step = last_step

    def on_step_end(self, before, logs=None):
        if self.step >= self.last_step:
            self.model.stop_training = True


class StopOnNaN(StepCallback):
    """Ends a training with an error in the step whose loss is not finite, and says which it was.

    Args:
        seed: of the training, for the error.
        replay: what one can do to see that step's images, for the error; `{step}` in it becomes
            the step.
        start_step: steps done before `fit`.

    Raises:
        FloatingPointError: from `fit`, naming the step and the seed.
    """

    def __init__(self, seed: int = 0, replay: str = "", start_step: int = 0):
        super().__init__(start_step)
        self.seed, self.replay = seed, replay

    def on_step_end(self, before, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if loss - loss == 0:  # neither NaN nor infinite
            return
        steps = f"step {before}" if self.step == before + 1 else f"one of the steps {before} to {self.step - 1}"
        raise FloatingPointError(
            f"The loss is {loss} since {steps}, counted from 0, with seed {self.seed}; the update of the step "
            "before may have caused it. " + self.replay.replace("{step}", str(before))
        )
