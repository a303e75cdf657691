"""Verification while training."""

import importlib.util
import inspect
import logging
import time
from collections.abc import Mapping

import numpy as np

from keras_arcface import evaluation
from keras_arcface.training.steps import StepCallback

_log = logging.getLogger(__name__)


class VerificationCallback(StepCallback):
    """Verifies pair sets during `fit`, and adds what it finds to the logs.

    For a set called `lfw` the logs, and so the history, get `val_lfw_accuracy`, `val_lfw_auc`, `val_lfw_eer`, and
    `val_lfw_tar_0.001` for each measurable FAR. Callbacks that watch these must stand behind this one in the list:

    >>> callbacks = [
    ...     VerificationCallback({"lfw": PairSet.load("lfw.bin")}),
    ...     keras.callbacks.ModelCheckpoint("best.keras", "val_lfw_accuracy", mode="max", save_best_only=True),
    ... ]
    >>> # model.fit(images, callbacks=callbacks)

    `EarlyStopping` too must be told `mode="max"`. A checkpoint chosen so has been fitted to these pairs: report its
    figures on others.

    Args:
        sets: name -> `keras_arcface.data.PairSet`.
        every_epochs: verify at the end of every so many epochs; the others add nothing to the logs.
        every_steps: verify every so many training steps too, for `found` and TensorBoard; None for not.
        embedder: what gives the embeddings; None for `model.embedder`, or the model itself if it has none.
        flip: whether to add the embedding of the mirror image.
        batch_size: images per call of the embedder.
        log_dir: where to write scalars for TensorBoard, by training step; None for nowhere.
        start_step: steps done before `fit`, where a run goes on.
        **options: of `keras_arcface.evaluation.verify`, such as `fars` or `shuffle_seed`.

    Attributes:
        found: a dictionary for each verification of the last `fit`: `step`, and the figures under the names above.
        seconds: how long verifying took in it, in all.

    Raises:
        ValueError: if there is no set, or `every_epochs` or `every_steps` is below 1; during `fit`, naming the image,
            if an embedding is zero or not finite.
        TypeError: if `verify` has no such option.
        ModuleNotFoundError: saying what to install, if `log_dir` is given and TensorBoard is absent.
    """

    def __init__(
        self,
        sets: Mapping,
        every_epochs: int = 1,
        every_steps: int | None = None,
        embedder=None,
        flip: bool = True,
        batch_size: int = 64,
        log_dir=None,
        start_step: int = 0,
        **options,
    ):
        super().__init__(start_step)
        if not sets:
            raise ValueError("VerificationCallback expects at least one set, as {'lfw': pairs}. Received: none")
        if every_epochs < 1 or (every_steps is not None and every_steps < 1):
            raise ValueError(
                "every_epochs and every_steps must be at least 1. Received: "
                f"every_epochs={every_epochs}, every_steps={every_steps}"
            )
        inspect.signature(evaluation.verify).bind(None, None, **options)  # refuses what it does not know
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("log_dir needs TensorBoard: pip install 'keras-arcface[tensorboard]'")
        self.sets, self.every_epochs, self.every_steps, self.embedder = dict(sets), every_epochs, every_steps, embedder
        self.flip, self.batch_size, self.log_dir, self.options = flip, batch_size, log_dir, options
        self.found: list[dict] = []
        self.seconds = 0.0
        self._writer = None

    def on_train_begin(self, logs=None):
        self.found, self.seconds = [], 0.0

    def on_step_end(self, before, logs=None):
        if self.every_steps is not None and self.passed(before, self.every_steps):
            self._verify()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every_epochs:
            return
        if not self.found or self.found[-1]["step"] != self.step:
            self._verify()
        if logs is not None:
            logs.update({name: value for name, value in self.found[-1].items() if name != "step"})

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        _log.info("%d verifications took %.1f s in all", len(self.found), self.seconds)

    def _verify(self):
        started = time.perf_counter()
        model = self.model  # on JAX, asking for it brings the trained values from the step's state to the variables
        embedder = self.embedder or getattr(model, "embedder", model)
        figures = {"step": self.step}
        for name, pairs in self.sets.items():
            embeddings = evaluation.embed_pairs(embedder, pairs, self.flip, self.batch_size, progress=False)
            result = evaluation.verify(embeddings, pairs.same, **self.options)
            figures.update({f"val_{name}_{figure}": getattr(result, figure) for figure in ("accuracy", "auc", "eer")})
            figures.update({f"val_{name}_tar_{far:g}": tar for far, tar in result.tar.items() if not np.isnan(tar)})
        self.found.append(figures)
        self._write(figures)
        self.seconds += time.perf_counter() - started

    def _write(self, figures):
        if self.log_dir is None:
            return
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self.log_dir))
        with self._writer.as_default(step=figures["step"]):
            for name, value in figures.items():
                if name != "step":
                    tf.summary.scalar(name, value)
        self._writer.flush()
