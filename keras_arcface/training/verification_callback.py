"""Face verification during training."""

import inspect
import logging
import os
import time
from collections.abc import Mapping

import keras
import numpy as np

from keras_arcface import _arguments
from keras_arcface import evaluation
from keras_arcface.models import RecognitionModel
from keras_arcface.training.scalar_writer import ScalarWriter
from keras_arcface.training.steps import StepCallback

_log = logging.getLogger(__name__)


class VerificationCallback(StepCallback):
    """Callback that evaluates verification on pair sets, and adds the metrics to the logs of `fit`.

    For a set named `lfw`, the logs and the history get `val_lfw_accuracy`, `val_lfw_auc`, `val_lfw_eer`, and
    `val_lfw_tar_0.001` for each FAR that does not require more impostor pairs. Callbacks that monitor these metrics
    must come after this one. `EarlyStopping` and `ModelCheckpoint` require `mode="max"`. A checkpoint selected in this
    way is fitted to these pairs, so report metrics on other pairs.

    Args:
        sets: dictionary from names to `keras_arcface.data.PairSet` objects.
        every_epochs: number of epochs between verifications. The logs of other epochs do not contain the metrics.
        every_steps: number of steps between additional verifications, which are added to `results` and TensorBoard;
            None for no additional verifications.
        embedder: model that computes the embeddings; None for `model.embedder` of a `RecognitionModel`, or for the
            trained model itself if it has another type.
        flip: if true, adds the embedding of the mirrored image.
        batch_size: number of images per call of the embedder.
        log_dir: directory of TensorBoard event files with the metrics by training step; None for no event files.
        start_step: number of steps before `fit`, for a resumed run.
        **options: arguments of `keras_arcface.evaluation.verify`, such as `fars` or `shuffle_seed`.

    Attributes:
        results: list with one dictionary per verification of the last `fit`. It contains `step` and the metrics under
            their names in the logs.
        seconds: total duration of the verifications of the last `fit`.

    Raises:
        ValueError: if `sets` is empty, or `every_epochs` or `every_steps` is below 1; during `fit`, if an embedding is
            zero or not finite. The error names the image.
        TypeError: if `verify` does not have an argument of `options`.
        ModuleNotFoundError: if `log_dir` is given and TensorBoard is not installed.

    Examples:
        >>> verification = VerificationCallback({"lfw": PairSet.load("pairs.npz")}, folds=2, fars=[0.5])
        >>> best = keras.callbacks.ModelCheckpoint("best.keras", "val_lfw_auc", mode="max", save_best_only=True)
        >>> history = model.fit(images, labels, batch_size=4, callbacks=[verification, best], verbose=0)
        >>> sorted(verification.results[0])
        ['step', 'val_lfw_accuracy', 'val_lfw_auc', 'val_lfw_eer', 'val_lfw_tar_0.5']
    """

    def __init__(
        self,
        sets: Mapping,
        every_epochs: int = 1,
        every_steps: int | None = None,
        embedder: keras.Model | None = None,
        flip: bool = True,
        batch_size: int = 64,
        log_dir: str | os.PathLike | None = None,
        start_step: int = 0,
        **options,
    ):
        super().__init__(start_step)
        _arguments.check("sets", sets, bool(sets), "a dictionary of at least one set, such as {'lfw': pairs}")
        _arguments.check_integer("every_epochs", every_epochs, 1)
        if every_steps is not None:
            _arguments.check_integer("every_steps", every_steps, 1)
        inspect.signature(evaluation.verify).bind(None, None, **options)  # raises an error for unknown options
        self.sets, self.every_epochs, self.every_steps, self.embedder = dict(sets), every_epochs, every_steps, embedder
        self.flip, self.batch_size, self.options = flip, batch_size, options
        self.results: list[dict] = []
        self.seconds = 0.0
        self._scalar_writer = None if log_dir is None else ScalarWriter(log_dir, "log_dir")

    def on_train_begin(self, logs=None):
        self.results, self.seconds = [], 0.0

    def on_step_end(self, previous_step, logs=None):
        if self.every_steps is not None and self.reached_multiple_of(self.every_steps, previous_step):
            self._verify()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs:
            return
        if not self.results or self.results[-1]["step"] != self.step:
            self._verify()
        if logs is not None:
            logs.update({name: value for name, value in self.results[-1].items() if name != "step"})

    def on_train_end(self, logs=None):
        if self._scalar_writer is not None:
            self._scalar_writer.close()
        _log.info("%d verifications took %.1f s", len(self.results), self.seconds)

    def _verify(self) -> None:
        started = time.perf_counter()
        embedder = self._current_embedder()
        metrics: dict[str, float] = {}
        for name, pairs in self.sets.items():
            embeddings = evaluation.embed_pairs(embedder, pairs, self.flip, self.batch_size, progress=False)
            result = evaluation.verify(embeddings, pairs.same, **self.options)
            metrics |= {f"val_{name}_{metric}": getattr(result, metric) for metric in ("accuracy", "auc", "eer")}
            metrics |= {f"val_{name}_tar_{far:g}": tar for far, tar in result.tar.items() if not np.isnan(tar)}
        self.results.append({"step": self.step, **metrics})
        if self._scalar_writer is not None:
            self._scalar_writer.write(self.step, metrics)
        self.seconds += time.perf_counter() - started

    def _current_embedder(self) -> keras.Model:
        model = self.model  # on JAX, access copies the state of the training step to the variables
        if self.embedder is not None:
            return self.embedder
        return model.embedder if isinstance(model, RecognitionModel) else model
