"""Callbacks that count training steps across epochs and resumed runs."""

import math

import keras

from keras_arcface import _arguments


class StepCallback(keras.callbacks.Callback):
    """Base class of callbacks that depend on the number of completed training steps.

    Keras counts batches from 0 in every epoch. This class counts over epochs and resumed runs. A subclass implements
    `on_step_end`.

    Args:
        start_step: number of steps before `fit`, for a resumed run.

    Attributes:
        step: number of completed steps. A step is one batch, also if the optimizer accumulates gradients.

    Raises:
        ValueError: if `start_step` is negative.

    Examples:
        >>> class PrintSteps(StepCallback):
        ...     def on_step_end(self, previous_step, logs=None):
        ...         if self.reached_multiple_of(2, previous_step):
        ...             print(f"completed {self.step} steps")
        >>> history = model.fit(images, labels, batch_size=4, epochs=2, callbacks=[PrintSteps()], verbose=0)
        completed 2 steps
        completed 4 steps
        completed 6 steps
    """

    def __init__(self, start_step: int = 0):
        super().__init__()
        _arguments.check_integer("start_step", start_step, 0)
        self.step = self._epoch_start = start_step

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch_start = self.step

    def on_train_batch_end(self, batch, logs=None):
        previous_step, self.step = self.step, self._epoch_start + batch + 1
        self.on_step_end(previous_step, logs)

    def on_step_end(self, previous_step: int, logs=None) -> None:
        """Handles the end of a step, or of several steps if `steps_per_execution` is above 1.

        Args:
            previous_step: value of `step` in the previous call.
            logs: logs of Keras, which are means over the steps of the epoch.
        """

    def reached_multiple_of(self, interval: int, previous_step: int) -> bool:
        """Returns whether a multiple of `interval` lies in `(previous_step, step]`.

        Args:
            interval: number of steps.
            previous_step: argument of `on_step_end`.

        Returns:
            A bool. It is also right if `steps_per_execution` is above 1, so that `step` skips multiples.
        """
        return self.step // interval > previous_step // interval


class StopAtStep(StepCallback):
    """Callback that stops training after a total number of steps, also in the middle of an epoch.

    Args:
        last_step: number of steps of the whole training, including those before a resumed run.
        start_step: number of steps before `fit`, for a resumed run.

    Raises:
        ValueError: if `start_step` is negative.

    Examples:
        >>> stop = StopAtStep(5)
        >>> history = model.fit(images, labels, batch_size=4, epochs=10, callbacks=[stop], verbose=0)
        >>> stop.step  # an epoch has 3 steps
        5
    """

    def __init__(self, last_step: int, start_step: int = 0):
        super().__init__(start_step)
        self.last_step = last_step

    def on_step_end(self, previous_step, logs=None):
        if self.step >= self.last_step:
            self.model.stop_training = True


class StopOnNaN(StepCallback):
    """Callback that stops training with an error if the loss is NaN or infinite.

    Unlike `keras.callbacks.TerminateOnNaN`, it raises an error. The step and the seed in its message determine the
    batch.

    Args:
        seed: seed of the training, for the message.
        replay: hint in the message about the inspection of the images. `{step}` is replaced by the index of the step.
        start_step: number of steps before `fit`, for a resumed run.

    Raises:
        FloatingPointError: from `fit`, with the step and the seed.
        ValueError: if `start_step` is negative.

    Examples:
        >>> model.compile(keras.optimizers.SGD(float("nan")))
        >>> model.fit(images, labels, batch_size=4, callbacks=[StopOnNaN(seed=7)], verbose=0)
        Traceback (most recent call last):
        FloatingPointError: The loss must be finite. Received: loss=nan since step 1, counted from 0, with seed 7. ...
    """

    def __init__(self, seed: int = 0, replay: str = "", start_step: int = 0):
        super().__init__(start_step)
        self.seed, self.replay = seed, replay

    def on_step_end(self, previous_step, logs=None):
        loss = float((logs or {}).get("loss", 0.0))
        if math.isfinite(loss):
            return
        is_one_step = self.step == previous_step + 1
        steps = f"step {previous_step}" if is_one_step else f"one of the steps {previous_step} to {self.step - 1}"
        raise FloatingPointError(
            f"The loss must be finite. Received: loss={loss} since {steps}, counted from 0, with seed {self.seed}. The "
            "update of the step before may be the cause. " + self.replay.replace("{step}", str(previous_step))
        )
