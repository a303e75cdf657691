"""Model that trains an embedder with a head, and construction of embedders and quality models."""

import functools
import inspect

import keras
import numpy as np
from keras import layers
from keras import ops

from keras_arcface import _cpu_training
from keras_arcface import _pixels
from keras_arcface import _private_api
from keras_arcface import _replicas
from keras_arcface._arguments import check_choice
from keras_arcface._choices import NECKS
from keras_arcface.layers import AuxiliaryLossHead
from keras_arcface.layers import Head
from keras_arcface.layers import WithQuality

__all__ = ["RecognitionModel", "make_embedder", "make_quality_model"]

# Key of a log entry that is 1 if the pixels of a batch are in 0..1. It is removed before callbacks receive the logs.
_UNIT_RANGE_KEY = "_has_unit_range"
_IMAGES_OF_METHOD = "the images given to {}"
# Modes of callbacks that monitor these metrics. Keras knows those of compiled metrics only.
_MONITOR_MODES = {"accuracy": "max", "target_angle": "min", "target_angle_std": "min", "teacher_cosine": "max"}


@keras.saving.register_keras_serializable(package="keras_arcface")
class RecognitionModel(keras.Model):
    """Model of an embedder and the head that trains it.

    The data of `fit` and `evaluate` are `(images, labels)`. `predict` and calls of the model return embeddings of
    images and do not use labels. The head computes the loss, so `compile` must not receive one. After training, save,
    export or serve the embedder, `model.embedder`; the head is not needed.

    `fit` and `evaluate` report:

    - `loss`: mean loss of the head, with regularizers.
    - `accuracy`: share of examples whose nearest center is that of their class, without the margin.
    - `target_angle`: mean angle in radians between an embedding and the center of its class, about pi / 2 at the start
      and well below 1 in a successful training.
    - `target_angle_std`: standard deviation of these angles.
    - `embedding_norm`: mean L2 norm of the embeddings before normalization.
    - `teacher_cosine`, if the head is `WithDistillation`: mean cosine between the embeddings of model and teacher.

    If the embedder rescales pixels, as those of `make_embedder` do, arrays and the first batch of a training cause a
    `UserWarning` if all their pixels are within 0..1.

    Args:
        embedder: model from images `(batch, height, width, 3)` to embeddings `(batch, dim)`, such as one of
            `make_embedder`.
        head: a `keras_arcface.layers.Head`, such as `keras_arcface.ArcFace`.
        teacher: trained embedder whose embeddings of the same images a head with distillation,
            `keras_arcface.layers.WithDistillation`, uses as targets; or None, if the labels contain them already. It is
            neither trained nor saved: its weights are not among those of this model, so checkpoints and saved models do
            not contain it, and a loaded model has no teacher. It must have the images of the embedder as its inputs.
        **kwargs: `name` and other arguments of `keras.Model`.

    Attributes:
        embedder: the embedder.
        head: the head.

    Raises:
        TypeError: if the head is not a `Head`, or the teacher not a Keras model.
        ValueError: if the teacher is given for a head without distillation, `compile` receives a loss or metrics, `fit`
            an infinite dataset without `steps_per_epoch`, or a method an array of labels that are not integers in `[0,
            num_classes)`. Such a label in a dataset makes the loss NaN.

    Examples:
        Train a small network on 12 images of two people, an array `(12, 32, 32, 3)` of pixels in 0..255:

        >>> backbone = keras_arcface.backbones.IResNet((1,), width=8, input_shape=(32, 32, 3))
        >>> embedder = make_embedder(backbone, dim=8)
        >>> model = RecognitionModel(embedder, keras_arcface.ArcFace(num_classes=2))
        >>> model.compile(optimizer="sgd")
        >>> history = model.fit(images, labels, batch_size=6, epochs=2, verbose=0)
        >>> sorted(history.history)
        ['accuracy', 'embedding_norm', 'loss', 'target_angle', 'target_angle_std']

        Embed images, and save the embedder:

        >>> model.predict(images, verbose=0).shape
        (12, 8)
        >>> model.embedder.save("embedder.keras")

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698)
    """

    def __init__(self, embedder, head, teacher=None, **kwargs):
        if not isinstance(head, Head):
            raise TypeError(f"head must be a keras_arcface.layers.Head, such as ArcFace. Received: head={head!r}")
        if teacher is not None:
            _check_teacher(teacher, head)
        super().__init__(**kwargs)
        self.embedder = _cpu_training.speed_up(embedder)
        self.head = head
        # Keras tracks the variables of an attribute that is a model, but not those in the arguments of a function.
        self._embed_by_teacher = None if teacher is None else functools.partial(_embed_by_teacher, teacher)
        self._embed_with_features = None
        if head.features_before is not None:
            with_features = _with_features(self.embedder, head.features_before)
            self._embed_with_features = functools.partial(_call_model, with_features)
        # A Keras loss supports sample weights and the scaling that tf.distribute requires.
        self._reduction = _PerExampleLoss(name="margin_loss")
        self.accuracy_tracker = keras.metrics.Mean(name="accuracy")
        self.target_angle_tracker = keras.metrics.Mean(name="target_angle")
        self.target_angle_spread_tracker = _StandardDeviation(name="target_angle_std")
        self.embedding_norm_tracker = keras.metrics.Mean(name="embedding_norm")
        if head.needs_teacher:
            self.teacher_cosine_tracker = keras.metrics.Mean(name="teacher_cosine")
        self._rescales_pixels = _has_pixel_rescaling(embedder)
        self._pixels_were_checked = False
        if embedder.built and hasattr(embedder, "output_shape"):  # subclassed models do not have one
            if not head.built:
                head.build(embedder.output_shape)
            # Loading of weights and BackupAndRestore require a built model. The `build` of a subclass may use
            # attributes that its constructor has not set yet.
            if type(self).build is RecognitionModel.build:
                self.build(embedder.input_shape)

    def build(self, input_shape):
        if self.embedder.built and self.head.built:
            return
        embeddings = self.embedder(keras.KerasTensor(input_shape))
        if not self.head.built:
            self.head.build(embeddings.shape)

    def _lock_state(self):  # overrides Keras: as in a functional model, a subclass can add layers to a built model
        pass

    def _purge_model_variables(self, **kwargs):  # overrides Keras, only used on JAX
        """Keeps the variables, which Keras would lose if the first step of `fit`, `evaluate` or `predict` fails.

        A compiled step donates their memory in any case.
        """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):  # overrides Keras, only used on TensorFlow
        if iterator is not None and self.distribute_strategy.num_replicas_in_sync > 1:
            iterator, data_batch = None, _replicas.first_local_batch(self.distribute_strategy, iterator)
        super()._maybe_symbolic_build(iterator=iterator, data_batch=data_batch)

    def call(self, images, training=None):
        """Computes embeddings.

        Args:
            images: tensor `(batch, height, width, 3)`; for embedders of `make_embedder`, RGB in 0..255.
            training: if true, layers such as dropout and BatchNorm are in training mode.

        Returns:
            `(batch, dim)` embeddings, not normalized. In training, with a head that has `features_before`, a pair of
            embeddings and features.
        """
        embed = self._embed_with_features if training and self._embed_with_features else self.embedder
        return _replicas.run_on_local_batch(lambda local_batch: embed(local_batch, training=training), images, training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self._check_compiled()
        if y is None:
            raise ValueError(f"y must be the labels of the images for {type(self).__name__}. Received: y=None")
        y = self.add_teacher_embeddings(x, y)
        if self._embed_with_features is not None:
            if not isinstance(y_pred, (tuple, list)):  # Keras calls the model alike in `evaluate` and `predict`
                embed = functools.partial(self._embed_with_features, training=False)
                y_pred = _replicas.run_on_local_batch(embed, x, training=False)
            y_pred, features = y_pred
            y = y, features
        losses, target_cosines, hits = self.head.loss_and_stats(y, y_pred, training=training)
        angles, norms = ops.arccos(target_cosines), ops.norm(ops.cast(y_pred, "float32"), axis=-1)
        self.accuracy_tracker.update_state(hits, sample_weight=sample_weight)
        self.target_angle_tracker.update_state(angles, sample_weight=sample_weight)
        self.target_angle_spread_tracker.update_state(angles, sample_weight=sample_weight)
        self.embedding_norm_tracker.update_state(norms, sample_weight=sample_weight)
        if self.head.needs_teacher:
            cosines = self.head.teacher_cosines(y, y_pred)
            self.teacher_cosine_tracker.update_state(cosines, sample_weight=sample_weight)
        total = self._reduction(losses, losses, sample_weight=sample_weight)
        if training:
            total = _replicas.scale_gradient_by_batch_share(total, losses)
        if self.losses:
            regularizers = ops.expand_dims(sum(self.losses), 0)
            total = total + self._reduction(regularizers, regularizers)
        return total

    def add_teacher_embeddings(self, images, labels):
        """Returns the labels of images with the embeddings of the teacher.

        Args:
            images: tensor `(batch, height, width, 3)`.
            labels: labels of the images, or a pair of labels and teacher embeddings.

        Returns:
            A pair `(labels, teacher_embeddings)`, or the given labels if the model has no teacher or they are a pair.
        """
        if self._embed_by_teacher is None or isinstance(labels, (tuple, list)):
            return labels
        return labels, self._embed_by_teacher(images)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self._check_compiled()
        return _replicas.reduce_metrics(
            self.metrics, lambda: super(RecognitionModel, self).compute_metrics(x, y, y_pred, sample_weight)
        )

    def _check_compiled(self):
        """Raises a ValueError for a compiled loss or metrics, because Keras would treat embeddings as class scores."""
        if self.compiled and self.loss is not None:
            raise ValueError(
                f"loss must be None, because the head ({type(self.head).__name__}) of {type(self).__name__} computes "
                f"the loss: call compile() without `loss`. Received: loss={self.loss!r}"
            )
        config = _private_api.compile_arguments(self)
        for name in ("metrics", "weighted_metrics"):
            if config.get(name):
                raise ValueError(
                    f"{name} must be empty, because {type(self).__name__} returns embeddings, not class scores, and "
                    "computes loss, accuracy, target_angle, target_angle_std and embedding_norm itself: call compile() "
                    f"without `{name}`. For verification accuracy, use keras_arcface.training.VerificationCallback. "
                    f"Received: {name}={config[name]!r}"
                )

    def train_step(self, *arguments):
        images, labels, _ = keras.utils.unpack_x_y_sample_weight(arguments[-1])
        result = self._train_step(_without_teacher(labels), *arguments)
        _replicas.average_statistics(self.embedder.non_trainable_variables, images)
        if self._rescales_pixels and hasattr(images, "shape"):
            logs = result[0] if keras.backend.backend() == "jax" else result
            logs[_UNIT_RANGE_KEY] = ops.cast(_pixels.has_unit_range(images), "float32")
        return result

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        # A compiled step that creates the variables of the optimizer would be traced twice.
        if not self.optimizer.built and _private_api.are_all_layers_built(self):
            with _replicas.variable_scope(self):
                self.optimizer.build(self.trainable_variables)
        self._connect_partial_fc()
        super().make_train_function(force)
        function = self.train_function

        def step(*arguments):
            result = function(*arguments)
            logs = result[0] if keras.backend.backend() == "jax" else result
            scaled = logs.pop(_UNIT_RANGE_KEY, None)
            if scaled is not None and not self._pixels_were_checked:
                self._pixels_were_checked = True  # only once, because reading a value waits for the device
                if float(scaled) == 1:
                    _pixels.warn_once(_IMAGES_OF_METHOD.format("fit"))
            return result

        self.train_function = step

    def _connect_partial_fc(self):
        """Creates the storage for the optimizer slots of sampled centers, which a compiled step cannot create."""
        if not self.head.is_sampled:
            return
        if not self.head.built:
            raise ValueError(
                "head must be built before training if its sample_rate is below 1: call "
                f"model.build((None, 112, 112, 3)) with the shape of the images. Received: head={self.head!r}"
            )
        with _replicas.variable_scope(self):
            if not self.optimizer.built:
                self.optimizer.build(self.trainable_variables)
            self.head.partial_fc.connect(self.optimizer)

    def _train_step(self, labels, *arguments):
        sampled = self.head.partial_fc
        if sampled is None:
            return super().train_step(*arguments)
        if keras.backend.backend() == "tensorflow":
            sampled.draw(labels, self.head.steps)
            logs = super().train_step(*arguments)
            sampled.store()
            return logs
        state, data = arguments
        state = self._with_state(state, lambda: sampled.draw(labels, self.head.steps))
        logs, state = super().train_step(state, data)
        return logs, self._with_state(state, sampled.store)

    def _with_state(self, state, function):
        """Calls a function with variables set to a JAX training state, and returns the state after the call."""
        variables = [self.trainable_variables, self.non_trainable_variables, self.optimizer.variables]
        pairs = [pair for group in zip(variables, state, strict=False) for pair in zip(*group, strict=True)]
        with keras.StatelessScope(state_mapping=pairs) as scope:
            function()
        return *([scope.get_current_value(v) for v in group] for group in variables), *state[len(variables) :]

    def fit(self, x=None, y=None, *args, **kwargs):
        arguments = inspect.signature(super().fit).bind(x, y, *args, **kwargs).arguments
        if arguments.get("steps_per_epoch") is None and _is_infinite(x):  # the first epoch would never end
            raise ValueError(
                "steps_per_epoch must be an integer for an infinite dataset, such as load_dataset(training=True): pass "
                "fit(..., steps_per_epoch=info.num_examples // batch_size). Received: steps_per_epoch=None"
            )
        self._check_arrays("fit", x, y)
        validation_data = arguments.get("validation_data")
        if isinstance(validation_data, (tuple, list)):
            images, labels, _ = keras.utils.unpack_x_y_sample_weight(tuple(validation_data))
            self._check_arrays("fit as validation_data", images, labels)
        _set_monitor_modes(arguments.get("callbacks"))
        self._pixels_were_checked = False
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        if not kwargs.get("_use_cached_eval_dataset"):  # `fit` has checked the cached dataset
            self._check_arrays("evaluate", x, y)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self._check_arrays("train_on_batch", x, y)
        self._pixels_were_checked = True
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        self._check_arrays("test_on_batch", x, y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def predict(self, x, *args, **kwargs):
        self._check_arrays("predict", x)
        return super().predict(x, *args, **kwargs)

    def _check_arrays(self, method, images, labels=None):
        """Checks images and labels that are arrays. The batches of a dataset are not checked."""
        if method != "predict":
            self._check_compiled()
        if self._rescales_pixels and hasattr(images, "dtype") and len(images.shape) == 4:
            _pixels.warn_if_unit_range(_as_numpy(images[:16]), _IMAGES_OF_METHOD.format(method))
        num_classes, labels = self.head.num_classes, _without_teacher(labels)
        if num_classes is None or not hasattr(labels, "dtype") or 0 in labels.shape:
            return
        labels, received = _as_numpy(labels), None
        if labels.ndim == 2 and labels.shape[1] == num_classes:
            received = f"one-hot labels of shape {labels.shape}; pass labels.argmax(axis=-1)"
        elif labels.ndim != 1 and labels.shape[1:] != (1,):
            received = f"labels of shape {labels.shape}"
        elif labels.dtype.kind not in "iu":
            received = f"labels of dtype {labels.dtype}; pass labels.astype('int32') if they are whole numbers"
        elif labels.min() < 0 or labels.max() >= num_classes:
            received = f"labels from {labels.min()} to {labels.max()}"
        if received:
            raise ValueError(
                f"The labels given to {method} must be integers in [0, {num_classes}), the classes of the head, "
                f"of shape (n,). Received: {received}"
            )

    def get_config(self):
        return {
            **super().get_config(),
            "embedder": keras.saving.serialize_keras_object(self.embedder),
            "head": keras.saving.serialize_keras_object(self.head),
        }

    @classmethod
    def from_config(cls, config):
        parts = {name: keras.saving.deserialize_keras_object(config[name]) for name in ("embedder", "head")}
        return cls(**{**config, **parts})


def _check_teacher(teacher, head):
    if not isinstance(teacher, keras.Model):
        raise TypeError(
            "teacher must be a Keras model. To use other networks, compute their embeddings once with "
            f"keras_arcface.data.write_teacher_embeddings. Received: teacher={teacher!r}"
        )
    if not head.needs_teacher:
        raise ValueError(
            "head must be keras_arcface.layers.WithDistillation if a teacher is given, because other heads do not use "
            f"it. Received: head={head!r}"
        )


def _embed_by_teacher(teacher, images):
    embeddings = _replicas.run_on_local_batch(lambda batch: teacher(batch, training=False), images, training=False)
    return ops.stop_gradient(embeddings)


def _with_features(embedder, layer_name):
    """Returns a model with the weights of an embedder and two outputs, embeddings and the input of a layer."""
    names = [layer.name for layer in getattr(embedder, "layers", ())]
    if not isinstance(embedder, keras.Model) or layer_name not in names:
        raise ValueError(
            "features_before of the head must be the name of a layer of the embedder, such as 'embedding' for those of "
            f"make_embedder. Received: features_before={layer_name!r}. Layers: {', '.join(names)}"
        )
    return keras.Model(embedder.input, [embedder.output, embedder.get_layer(layer_name).input])


def _call_model(model, images, training):
    return model(images, training=training)


def _without_teacher(labels):
    """Returns the labels of a pair of labels and teacher embeddings."""
    return labels[0] if isinstance(labels, (tuple, list)) and len(labels) == 2 else labels


class _PerExampleLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred


class _StandardDeviation(keras.metrics.Metric):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean = keras.metrics.Mean(name="mean")
        self.mean_square = keras.metrics.Mean(name="mean_square")

    def update_state(self, values, sample_weight=None):
        self.mean.update_state(values, sample_weight=sample_weight)
        self.mean_square.update_state(ops.square(values), sample_weight=sample_weight)

    def result(self):
        return ops.sqrt(ops.maximum(self.mean_square.result() - ops.square(self.mean.result()), 0.0))

    def reset_state(self):
        self.mean.reset_state()
        self.mean_square.reset_state()


def _has_pixel_rescaling(layer):
    """Returns whether a model contains a layer that rescales pixels from 0..255 to a range of a few units."""
    if isinstance(layer, layers.Rescaling):
        return float(np.max(np.abs(layer.scale))) < 0.1
    if isinstance(layer, layers.Normalization) and layer.built:
        return float(np.min(_as_numpy(layer.variance))) > 100
    return any(_has_pixel_rescaling(inner) for inner in getattr(layer, "layers", ()))


def _as_numpy(array):
    # NumPy preserves all labels, whereas JAX truncates 64-bit integers and PyTorch does not support uint64.
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def _set_monitor_modes(callbacks):
    """Sets the mode of callbacks such as EarlyStopping that monitor a metric of `RecognitionModel`.

    In the mode "auto", they would raise an error after the first epoch.
    """
    for callback in keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)):
        metric = str(getattr(callback, "monitor", None)).removeprefix("val_")
        if getattr(callback, "mode", None) == "auto" and metric in _MONITOR_MODES:
            callback.mode = _MONITOR_MODES[metric]


def _is_infinite(dataset):
    cardinality = getattr(dataset, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1  # tf.data.INFINITE_CARDINALITY


def make_embedder(
    backbone,
    dim=512,
    dropout=0.4,
    synchronized=False,
    name="embedder",
    scaled=False,
    normalize_pixels=True,
    neck="E",
):
    """Creates an embedder, a model from pixels to embeddings, from a backbone.

    Pixels are RGB in 0..255, uint8 or float. The model rescales them to `x / 127.5 - 1`. The backbone is followed by
    a neck, by default that of the ArcFace paper (option E): BatchNorm, dropout, a dense layer, and a BatchNorm without
    scale. Embeddings are not normalized, and are float32 under every dtype policy. Normalize them before a comparison.

    Args:
        backbone: model from images `(batch, height, width, 3)`, by default in [-1, 1], to feature maps `(batch, rows,
            columns, channels)`, such as `keras_arcface.backbones.IResNet50()`.
        dim: dimension of the embeddings.
        dropout: share of the features that are dropped in training, in [0, 1).
        synchronized: if true, BatchNorm uses the statistics of the global batch instead of the local batch of each
            replica (TensorFlow backend only). Use the same value for the backbone.
        name: name of the model.
        scaled: if true, the last BatchNorm of the neck "E" has a scale. Without it, the norms of embeddings are near
            `sqrt(dim)`, as in the paper. `MagFace`, whose margin depends on the norms, requires a scale.
        normalize_pixels: if true, the model rescales pixels to [-1, 1] before the backbone. Use false for a backbone
            that takes pixels in 0..255, as some networks of `keras.applications` do.
        neck: one of

            - "E": the neck of the ArcFace paper.
            - "linear": dropout and a dense layer with bias, as in EdgeFace.
            - "BNNeck": the mean of the feature map, dropout, and a BatchNorm with scale and without offset, for the
              re-identification of people. With `WithEmbeddingLoss(..., features_before="embedding")`, a triplet loss
              compares the features before the BatchNorm.
            - "LayerNorm": the mean of the feature map, a layer normalization without weights, and dropout, as in
              "Classification is a Strong Baseline for Deep Metric Learning".

            The last two contain a dense layer without bias if the channels of the feature map are not `dim`: before
            the BatchNorm, or at the end.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` to embeddings `(batch, dim)`.

    Raises:
        ValueError: if the backbone's output is not a feature map of known size, `dim` or `dropout` is out of its range,
            the backbone rescales pixels itself and `normalize_pixels` is true, `neck` is not one of the four, or
            `scaled` is true with another neck than "E".

    Examples:
        >>> backbone = keras_arcface.backbones.MobileFaceNet(input_shape=(64, 64, 3))
        >>> embedder = make_embedder(backbone, dim=128)
        >>> images = np.random.randint(0, 256, (2, 64, 64, 3), "uint8")
        >>> embeddings = keras.ops.normalize(embedder(images))
        >>> tuple(embeddings.shape)
        (2, 128)

        The cosine similarity of the two images:

        >>> similarity = keras.ops.sum(embeddings[0] * embeddings[1])

        A network of `keras.applications` that rescales pixels itself:

        >>> backbone = keras.applications.MobileNetV3Small((96, 96, 3), include_top=False, weights=None)
        >>> embedder = make_embedder(backbone, dim=128, normalize_pixels=False)

    References:
        - [ArcFace](https://arxiv.org/abs/1801.07698), section 3.1
        - [Bag of Tricks and a Strong Baseline for Deep Person Re-identification](https://arxiv.org/abs/1903.07071),
          section 3.6
        - [Classification is a Strong Baseline for Deep Metric Learning](https://arxiv.org/abs/1811.12649), section 3
    """
    features = tuple(backbone.output_shape)
    if len(features) != 4 or None in features[1:]:
        raise ValueError(
            "backbone must have a feature map (batch, rows, columns, channels) of known size as its output. "
            f"Received: backbone {backbone.name!r} with output shape {features}"
        )
    if normalize_pixels and _has_pixel_rescaling(backbone):
        raise ValueError(
            f"normalize_pixels must be False, because the backbone {backbone.name!r} rescales pixels itself and takes "
            "them in 0..255. Received: normalize_pixels=True"
        )

    check_choice("neck", neck, NECKS)
    if scaled and neck != "E":
        raise ValueError(f"scaled requires neck='E', whose last BatchNorm has no scale. Received: neck={neck!r}")

    def batch_norm(name, **kwargs):
        return layers.BatchNormalization(
            momentum=0.9, epsilon=1e-5, synchronized=synchronized, dtype="float32", name=name, **kwargs
        )

    images = keras.Input(backbone.input_shape[1:], dtype="float32", name="images")
    x = images
    if normalize_pixels:
        x = layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalize_pixels")(x)
    x = backbone(x)
    if neck in ("E", "linear"):
        if neck == "E":
            x = batch_norm("neck_bn")(x)
        x = layers.Dropout(dropout, dtype="float32", name="neck_dropout")(x)
        x = layers.Flatten(dtype="float32", name="neck_flatten")(x)
    else:
        x = layers.GlobalAveragePooling2D(dtype="float32", name="neck_pooling")(x)
        if neck == "LayerNorm":
            x = layers.LayerNormalization(
                epsilon=1e-5, center=False, scale=False, dtype="float32", name="neck_normalization"
            )(x)
        x = layers.Dropout(dropout, dtype="float32", name="neck_dropout")(x)
    if neck in ("E", "BNNeck"):
        if neck == "E" or dim != features[-1]:
            x = layers.Dense(dim, use_bias=False, dtype="float32", name="neck_dense")(x)
        options = {"scale": scaled} if neck == "E" else {"center": False}
        x = batch_norm("embedding", **options)(x)
    elif neck == "linear" or dim != features[-1]:
        x = layers.Dense(dim, use_bias=neck == "linear", dtype="float32", name="embedding")(x)
    return _cpu_training.speed_up(keras.Model(images, x, name=name))


def make_quality_model(model):
    """Creates a model from pixels to embeddings and their predicted quality.

    It shares its layers with the trained model. A saved quality model consists of plain Keras layers, so that
    `keras.saving.load_model` does not need this package. `evaluation.error_versus_discard` measures the benefit of the
    quality.

    Args:
        model: trained `RecognitionModel` whose head is a `layers.WithQuality`, or another auxiliary loss or a
            distillation with such a head inside.

    Returns:
        A functional `keras.Model` from images `(batch, height, width, 3)` to a dictionary: `embedding`, `(batch, dim)`,
        not normalized, and `quality`, `(batch,)`. A higher quality is better.

    Raises:
        TypeError: if the model is not a `RecognitionModel`.
        ValueError: if its head has no `layers.WithQuality`, or its embedder is a subclassed model.

    Examples:
        >>> model = RecognitionModel(embedder, keras_arcface.layers.WithQuality(keras_arcface.ArcFace(num_classes=2)))
        >>> model.compile("sgd")
        >>> history = model.fit(images, labels, batch_size=6, verbose=0)
        >>> quality_model = make_quality_model(model)
        >>> outputs = quality_model.predict(images, verbose=0)
        >>> outputs["embedding"].shape, outputs["quality"].shape
        ((12, 8), (12,))
        >>> quality_model.save("quality.keras")

    References:
        - [CR-FIQA](https://arxiv.org/abs/2112.06592)
    """
    if not isinstance(model, RecognitionModel):
        raise TypeError(f"model must be a keras_arcface.RecognitionModel. Received: model={model!r}")
    head, embedder = model.head, model.embedder
    while isinstance(head, AuxiliaryLossHead) and not isinstance(head, WithQuality):
        head = head.head
    if not isinstance(head, WithQuality):
        raise ValueError(
            "model must have a head with keras_arcface.layers.WithQuality, such as WithQuality(ArcFace(num_classes)). "
            f"Received: head={model.head!r}"
        )
    if not getattr(embedder, "inputs", None):
        raise ValueError(
            "The embedder of the model must be a functional or Sequential model with known inputs. "
            f"Received: embedder={embedder!r}"
        )
    images = keras.Input(embedder.inputs[0].shape[1:], dtype=embedder.inputs[0].dtype, name="images")
    embeddings = embedder(images)
    quality = layers.Reshape((), dtype="float32", name="quality_of_image")(head.regressor(embeddings))
    return keras.Model(images, {"embedding": embeddings, "quality": quality}, name="quality_model")
