"""Verification while training."""

import importlib.util
import logging
import time
from collections.abc import Mapping

import keras
import numpy as np

from keras_arcface import evaluation

_log = logging.getLogger(__name__)


class VerificationCallback(keras.callbacks.Callback):
    """Verifies pair sets during `fit`, and adds what it finds to the logs.

    For a set called `lfw` the logs, and so the history, get `val_lfw_accuracy`, `val_lfw_auc`, `val_lfw_eer`, and
    `val_lfw_tar_0.001` for each measurable FAR. Callbacks that watch these must stand behind this one in the list:

    >>> callbacks = [
    ...     VerificationCallback({"lfw": PairSet.load("lfw.bin")}),
    ...     keras.callbacks.ModelCheckpoint("best.keras", "val_lfw_accuracy", mode="max", save_best_only=True),
    ... ]
    >>> # model.fit(images, callbacks=callbacks)

    A checkpoint chosen so has been fitted to these pairs: report its figures on others.

    Args:
        sets: name -> `keras_arcface.data.PairSet`.
        every: number of training steps between two verifications; None for one at the end of each epoch. The logs of
            an epoch get what was found last.
        embedder: what gives the embeddings; None for `model.embedder`, or the model itself if it has none.
        flip: whether to add the embedding of the mirror image.
        batch_size: images per call of the embedder.
        log_dir: where to write scalars for TensorBoard, by training step; None for nowhere.
        **options: of `keras_arcface.evaluation.verify`, such as `fars` or `shuffle_seed`.

    Attributes:
        found: a dictionary for each verification: `step`, and the figures under the names above.
        seconds: how long verifying took, in all.

    Raises:
        ValueError: if there is no set, or `every` is below 1.
        ModuleNotFoundError: saying what to install, if `log_dir` is given and TensorBoard is absent.
    """

    def __init__(
        self,
        sets: Mapping,
        every: int | None = None,
        embedder=None,
        flip: bool = True,
        batch_size: int = 64,
        log_dir=None,
        **options,
    ):
        super().__init__()
        if not sets:
            raise ValueError("VerificationCallback expects at least one set, as {'lfw': pairs}. Received: none")
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, or None. Received: every={every}")
        if log_dir is not None and importlib.util.find_spec("tensorboard") is None:
            raise ModuleNotFoundError("log_dir needs TensorBoard: pip install 'keras-arcface[tensorboard]'")
        self.sets, self.every, self.embedder = dict(sets), every, embedder
        self.flip, self.batch_size, self.log_dir, self.options = flip, batch_size, log_dir, options
        self.found: list[dict] = []
        self.seconds = 0.0
        self._steps_before_epoch = self._step = 0
        self._writer = None

    def on_train_begin(self, logs=None):
        # Not 0 where a run goes on.
        self._steps_before_epoch = self._step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def on_epoch_begin(self, epoch, logs=None):
        self._steps_before_epoch = self._step

    def on_train_batch_end(self, batch, logs=None):
        before, self._step = self._step, self._steps_before_epoch + batch + 1
        if self.every is not None and self._step // self.every > before // self.every:
            self._verify()

    def on_epoch_end(self, epoch, logs=None):
        if self.every is None or not self.found:
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
        if keras.backend.backend() == "jax":  # within an epoch the trained values lie in the step's state
            self.model.jax_state_sync()
        embedder = self.embedder or getattr(self.model, "embedder", self.model)
        figures = {"step": self._step}
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
