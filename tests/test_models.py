import keras
import numpy as np
import pytest
from keras import ops

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import _pixels
from keras_arcface import backbones
from keras_arcface.models import make_embedder

CLASSES = 5
SHAPE = (32, 32, 3)


def make_model(head=None, backbone=None):
    """A model whose backbone is one convolution, which compiles fast, unless another one is given."""
    keras.utils.set_random_seed(3)
    if backbone is None:
        backbone = keras.Sequential([keras.Input(SHAPE), keras.layers.Conv2D(8, 4, strides=4, activation="relu")])
    model = RecognitionModel(make_embedder(backbone, dim=16, dropout=0.0), head or ArcFace(CLASSES, scale=16.0))
    model.compile(keras.optimizers.Adam(0.003))
    return model


def make_iresnet(stages=(1,)):
    return backbones.IResNet(stages, width=16, input_shape=SHAPE)


@pytest.fixture
def batch():
    """Images of stripes: the label is their direction and width, noise is on top."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, CLASSES, 40)
    grid = np.arange(32)[:, None] * np.cos(labels)[:, None, None] + np.arange(32) * np.sin(labels)[:, None, None]
    stripes = 128 + 100 * np.sign(np.sin(grid))[..., None] + generator.normal(0, 20, (40, *SHAPE))
    return np.clip(stripes, 0, 255).astype(np.uint8), labels


def test_fit_learns_and_shows_accuracy_and_angle(batch):
    model = make_model(ArcFace(CLASSES, margin=0.3, scale=16.0), make_iresnet((1, 1)))
    untrained = model.evaluate(*batch, verbose=0, return_dict=True)
    history = model.fit(*batch, batch_size=20, epochs=8, verbose=0).history
    assert set(history) == {"loss", "accuracy", "target_angle", "target_angle_std", "embedding_norm"}
    assert history["accuracy"][-1] > 0.9 > history["accuracy"][0]
    assert history["target_angle"][-1] < 1.1
    assert untrained["target_angle"] == pytest.approx(np.pi / 2, abs=0.35)


def test_the_output_is_the_embedding(batch):
    images, _ = batch
    model = make_model()
    embeddings = model.predict(images, verbose=0)
    assert embeddings.shape == (40, 16)
    np.testing.assert_array_equal(embeddings, model.embedder.predict(images, verbose=0))


def test_evaluate_equals_the_head_by_hand(batch):
    images, labels = batch
    model = make_model()
    results = model.evaluate(images, labels, batch_size=40, verbose=0, return_dict=True)
    embeddings = model.predict(images, verbose=0)
    losses, cosines, hits = model.head.loss_and_stats(labels, embeddings)
    assert results["loss"] == pytest.approx(float(ops.mean(losses)), rel=1e-5)
    assert results["accuracy"] == pytest.approx(float(ops.mean(ops.cast(hits, "float32"))), rel=1e-5)
    angles = np.arccos(ops.convert_to_numpy(cosines))
    assert results["target_angle"] == pytest.approx(np.mean(angles), rel=1e-5)
    assert results["target_angle_std"] == pytest.approx(np.std(angles), rel=1e-3)
    assert results["embedding_norm"] == pytest.approx(np.mean(np.linalg.norm(embeddings, axis=1)), rel=1e-5)


def test_the_warm_up_counts_batches_of_training_and_goes_on_after_loading(batch, tmp_path):
    images, labels = batch
    model = make_model(ArcFace(CLASSES, scale=16.0, warmup_steps=8))
    model.fit(images, labels, batch_size=20, epochs=2, verbose=0)
    model.evaluate(images, labels, verbose=0)
    model.predict(images, verbose=0)
    assert (int(model.head.steps.numpy()), float(model.head.strength.numpy())) == (4, 3 / 8)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.fit(images, labels, batch_size=20, epochs=4, verbose=0)
    assert (int(loaded.head.steps.numpy()), float(loaded.head.strength.numpy())) == (12, 1.0)


def test_the_step_is_traced_once(batch, monkeypatch):
    images, labels = batch
    model = make_model()
    model.build((None, *images.shape[1:]))
    traced = []
    original = RecognitionModel._train_step
    monkeypatch.setattr(
        RecognitionModel, "_train_step", lambda self, *arguments: traced.append(1) or original(self, *arguments)
    )
    model.fit(images, labels, batch_size=len(images), epochs=2, verbose=0)
    assert len(traced) == 1


def test_sample_weights_weigh_loss_and_accuracy(batch):
    images, labels = batch
    model = make_model()
    weights = np.zeros(40, np.float32)
    weights[:10] = 1
    weighted = model.evaluate(images, labels, sample_weight=weights, batch_size=40, verbose=0, return_dict=True)
    alone = model.evaluate(images[:10], labels[:10], batch_size=40, verbose=0, return_dict=True)
    assert weighted["loss"] == pytest.approx(alone["loss"] * 10 / 40, rel=1e-5)  # Keras divides by the batch
    assert weighted["accuracy"] == pytest.approx(alone["accuracy"], rel=1e-5)


def test_regularizers_are_added(batch):
    plain = make_model()
    regularized = make_model(ArcFace(CLASSES, scale=16.0, centers_regularizer=keras.regularizers.L2(0.5)))
    regularized.build((None, *SHAPE))
    plain.build((None, *SHAPE))
    regularized.set_weights(plain.get_weights())
    loss = plain.evaluate(*batch, batch_size=40, verbose=0, return_dict=True)["loss"]
    penalty = 0.5 * float(ops.sum(ops.square(plain.head.centers)))
    assert penalty > 1e-3
    actual = regularized.evaluate(*batch, batch_size=40, verbose=0, return_dict=True)["loss"]
    assert actual == pytest.approx(loss + penalty, rel=1e-5)


def test_a_compiled_model_continues_bit_for_bit_after_loading(batch, tmp_path):
    images, labels = batch
    model = make_model(backbone=make_iresnet())
    model.fit(images, labels, batch_size=20, epochs=2, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), model.predict(images, verbose=0))
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded.head.centers), ops.convert_to_numpy(model.head.centers))
    after = [m.fit(images, labels, batch_size=20, epochs=2, shuffle=False, verbose=0).history for m in (model, loaded)]
    assert after[0]["loss"] == pytest.approx(after[1]["loss"], rel=1e-5)


def test_the_embedder_saves_alone(batch, tmp_path):
    model = make_model()
    model.embedder.save(tmp_path / "embedder.keras")
    loaded = keras.saving.load_model(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(loaded.predict(batch[0], verbose=0), model.predict(batch[0], verbose=0))


def test_a_loss_in_compile_is_refused(batch):
    model = make_model()
    model.compile("adam", loss="mse")
    with pytest.raises(ValueError, match="loss must be None, because the head"):
        model.fit(*batch, verbose=0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains(policy, batch):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model(ArcFace(CLASSES, margin=0.3, scale=16.0), make_iresnet())
        losses = model.fit(*batch, batch_size=20, epochs=6, verbose=0).history["loss"]
        assert np.isfinite(losses).all()
        assert losses[-1] < 0.8 * losses[0]
        assert model.predict(batch[0], verbose=0).dtype == np.float32
        assert model.head.centers.dtype == "float32"
    finally:
        keras.config.set_dtype_policy(before)


def test_norms_are_near_the_root_of_dim_unless_scaled():
    backbone = make_iresnet()
    fixed = make_embedder(backbone, dim=16).get_layer("embedding")
    free = make_embedder(backbone, dim=16, scaled=True).get_layer("embedding")
    assert [weight.name for weight in fixed.trainable_weights] == ["beta"]
    assert [weight.name for weight in free.trainable_weights] == ["gamma", "beta"]
    rows = np.random.default_rng(0).normal(5, 3, (200, 16))
    norms = np.linalg.norm(ops.convert_to_numpy(fixed(rows, training=True)), axis=1)
    assert np.mean(norms**2) == pytest.approx(16, rel=1e-3)


def test_the_embedder_takes_pixels_as_bytes_and_as_floats(batch):
    images = batch[0]
    embedder = make_model().embedder
    as_bytes, as_floats = embedder.predict(images, verbose=0), embedder.predict(images.astype("float32"), verbose=0)
    np.testing.assert_array_equal(as_bytes, as_floats)
    rescaled = keras.Model(embedder.inputs, embedder.get_layer("normalize_pixels").output).predict(images, verbose=0)
    np.testing.assert_allclose(rescaled, images / 127.5 - 1, atol=1e-6)


def test_images_of_another_size_are_refused():
    embedder = make_model(backbone=make_iresnet()).embedder
    with pytest.raises(ValueError, match=r"expected shape=\(None, 32, 32, 3\), found shape=\(2, 48, 32, 3\)"):
        embedder.predict(np.zeros((2, 48, 32, 3), np.uint8), verbose=0)


def test_the_neck_is_that_of_the_paper():
    embedder = make_embedder(make_iresnet(), dim=16, dropout=0.4)
    kinds = [type(layer).__name__ for layer in embedder.layers[-5:]]
    assert kinds == ["BatchNormalization", "Dropout", "Flatten", "Dense", "BatchNormalization"]
    assert embedder.get_layer("neck_dropout").rate == 0.4
    assert embedder.get_layer("embedding").scale is False
    assert embedder.output_shape == (None, 16)


def test_the_linear_neck_is_dropout_and_a_dense_layer():
    embedder = make_embedder(make_iresnet(), dim=16, dropout=0.2, neck="linear")
    kinds = [type(layer).__name__ for layer in embedder.layers[-3:]]
    assert kinds == ["Dropout", "Flatten", "Dense"]
    assert embedder.get_layer("neck_dropout").rate == 0.2
    assert embedder.get_layer("embedding").use_bias is True
    assert embedder.output_shape == (None, 16)


def parts_of(embedder, images):
    """Returns the feature map and the embeddings of images in inference mode."""
    neck = embedder.get_layer("neck_pooling")
    feature_map, embeddings = keras.Model(embedder.input, [neck.input, embedder.output])(images, training=False)
    return ops.convert_to_numpy(feature_map).astype("float64"), ops.convert_to_numpy(embeddings)


@pytest.mark.parametrize("dim", [None, 5])
def test_the_bnneck_normalizes_the_mean_feature_without_offset(dim, batch):
    backbone = make_iresnet()
    channels = backbone.output_shape[-1]
    embedder = make_embedder(backbone, dim=dim or channels, dropout=0.3, neck="BNNeck")
    norm, generator = embedder.get_layer("embedding"), np.random.default_rng(0)
    assert [weight.name for weight in norm.weights] == ["gamma", "moving_mean", "moving_variance"]
    values = [generator.uniform(0.5, 2, dim or channels) for _ in norm.weights]
    norm.set_weights(values)
    feature_map, embeddings = parts_of(embedder, batch[0][:3])
    means = feature_map.mean(axis=(1, 2))
    if dim:
        means = means @ ops.convert_to_numpy(embedder.get_layer("neck_dense").kernel)
    expected = values[0] * (means - values[1]) / np.sqrt(values[2] + 1e-5)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-4, atol=1e-5)
    assert [layer.rate for layer in embedder.layers if isinstance(layer, keras.layers.Dropout)] == [0.3]


@pytest.mark.parametrize("dim", [None, 5])
def test_the_neck_with_layer_normalization_has_no_offset_and_scale(dim, batch):
    backbone = make_iresnet()
    embedder = make_embedder(backbone, dim=dim or backbone.output_shape[-1], dropout=0.3, neck="LayerNorm")
    feature_map, embeddings = parts_of(embedder, batch[0][:3])
    means = feature_map.mean(axis=(1, 2))
    expected = (means - means.mean(axis=1, keepdims=True)) / np.sqrt(means.var(axis=1, keepdims=True) + 1e-5)
    if dim:
        expected = expected @ ops.convert_to_numpy(embedder.get_layer("embedding").kernel)
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-4)
    assert len(embedder.weights) == len(backbone.weights) + (dim is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neck": "GDC"}, r"neck must be one of E, linear, BNNeck, LayerNorm\. Received: neck='GDC'"),
        ({"neck": "linear", "scaled": True}, r"scaled requires neck='E'.* Received: neck='linear'"),
    ],
)
def test_wrong_necks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_embedder(make_iresnet(), dim=16, **options)


def test_the_embedders_arguments_keep_their_places():
    backbone = make_iresnet()
    embedder = make_embedder(backbone, 24, 0.2, False, "mine")
    assert (embedder.name, embedder.output_shape) == ("mine", (None, 24))
    assert embedder.get_layer("neck_dropout").rate == 0.2


def test_a_backbone_that_gives_no_feature_map_is_refused():
    flat = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten()], name="flat")
    with pytest.raises(ValueError, match="Received: backbone 'flat' with output shape"):
        make_embedder(flat)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_outside_the_range_are_refused_before_anything_runs(label, batch):
    images, labels = batch
    labels = np.where(np.arange(40) == 7, label, labels)
    with pytest.raises(ValueError, match=rf"integers in \[0, {CLASSES}\).*Received: labels from {min(label, 0)} to"):
        make_model().fit(images, labels, verbose=0)


def test_images_without_labels_are_refused(batch):
    with pytest.raises(ValueError, match=r"y must be the labels of the images .*\. Received: y=None"):
        make_model().fit(batch[0], verbose=0)


class Endless:
    """What a `tf.data` dataset that never ends says of itself."""

    def cardinality(self):
        return -1


def test_an_endless_dataset_needs_steps_per_epoch():
    with pytest.raises(ValueError, match="pass fit"):
        make_model().fit(Endless())


@pytest.mark.parametrize("name", ["metrics", "weighted_metrics"])
def test_metrics_in_compile_are_refused(name, batch):
    model = make_model()
    model.compile("adam", **{name: ["accuracy"]})
    for run in (model.fit, model.evaluate, model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match=rf"embeddings, not class scores.*without `{name}`.*\['accuracy'\]"):
            run(*batch)


def as_tensor(array):
    return ops.convert_to_tensor(array)


@pytest.mark.parametrize("kind", [np.asarray, as_tensor], ids=["array", "tensor"])
@pytest.mark.parametrize(("dtype", "label"), [("int32", -1), ("int32", CLASSES), ("int64", 2**32 + 1)])
def test_wrong_labels_are_refused_wherever_arrays_are_given(kind, dtype, label, batch):
    if kind is as_tensor and label > 2**31 and keras.backend.backend() == "jax":
        pytest.skip("JAX has no such tensor")
    images, labels = batch
    wrong = kind(np.where(np.arange(40) == 7, label, labels).astype(dtype))
    model = make_model()
    runs = {
        "fit": lambda: model.fit(images, wrong, verbose=0),
        "evaluate": lambda: model.evaluate(images, wrong, verbose=0),
        "validation_data": lambda: model.fit(images, labels, validation_data=(images, wrong), verbose=0),
    }
    for name, run in runs.items():
        with pytest.raises(
            ValueError, match=rf"given to .* must be integers in \[0, {CLASSES}\).*Received: labels from"
        ) as error:
            run()
        assert str(label) in str(error.value)
        assert name in str(error.value)


def test_a_large_unsigned_label_is_refused_by_its_value(batch):
    images, labels = batch
    with pytest.raises(ValueError, match="Received: labels from 0 to 4294967297"):
        make_model().fit(images, np.where(np.arange(40) == 7, 2**32 + 1, labels).astype("uint64"), verbose=0)


@pytest.mark.parametrize(
    ("convert", "hint"),
    [
        (lambda labels: np.eye(CLASSES)[labels], r"one-hot labels of shape \(40, 5\); pass labels\.argmax\(axis=-1\)"),
        (lambda labels: labels.astype("float32"), r"dtype float32; pass labels\.astype\('int32'\)"),
    ],
)
def test_labels_of_another_form_are_refused_with_a_remedy(convert, hint, batch):
    images, labels = batch
    with pytest.raises(ValueError, match=hint):
        make_model().fit(images, convert(labels), verbose=0)


def test_the_head_is_counted_before_anything_runs():
    model = make_model(ArcFace(CLASSES, name="head"))
    assert model.head.built
    lines = []
    model.summary(print_fn=lines.append)
    (row,) = (line for line in "\n".join(lines).splitlines() if line.startswith("│ head"))
    assert "ArcFace" in row
    assert "unbuilt" not in row
    assert str(model.head.count_params()) in row
    assert model.head.count_params() == CLASSES * 16 + 2  # centers; strength and steps


@pytest.fixture
def _nothing_was_said(monkeypatch):
    monkeypatch.setattr(_pixels, "_warned", set())


SCALED = r"pixels of the images given to {} are all within 0\.\.1"


@pytest.mark.usefixtures("_nothing_was_said")
def test_arrays_of_scaled_pixels_are_warned_about(batch):
    images, labels = batch
    scaled, model = images / np.float32(255), make_model()
    with pytest.warns(UserWarning, match=SCALED.format("fit")) as caught:
        model.fit(scaled, labels, batch_size=20, verbose=0)
    assert [warning.filename for warning in caught] == [__file__]
    model.fit(scaled, labels, batch_size=20, verbose=0)  # no second warning, which would be an error here
    with pytest.warns(UserWarning, match=SCALED.format("evaluate")):
        model.evaluate(scaled, labels, verbose=0)
    with pytest.warns(UserWarning, match=SCALED.format("predict")) as caught:
        model.predict(scaled, verbose=0)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match=SCALED.format("fit as validation_data")):
        model.fit(images, labels, validation_data=(scaled, labels), batch_size=20, verbose=0)


def test_arrays_are_read_without_the_cpu_method_of_tensorflow(batch):
    class Tensor(np.ndarray):
        cpu = None  # TensorFlow's logs that it is deprecated

    images, labels = (array.view(Tensor) for array in batch)
    make_model().evaluate(images, labels, verbose=0)


class Batches(keras.utils.PyDataset):
    """Batches that lie nowhere, as those of a tf.data pipeline or a generator."""

    def __init__(self, images, labels):
        super().__init__()
        self.images, self.labels = images, labels

    def __len__(self):
        return 2

    def __getitem__(self, index):
        part = slice(20 * index, 20 * index + 20)
        return self.images[part], self.labels[part]


@pytest.mark.usefixtures("_nothing_was_said")
@pytest.mark.parametrize("scale", [255, 127.5], ids=["0..1", "-1..1"])
def test_a_first_batch_of_scaled_pixels_is_warned_about(scale, batch):
    images, labels = batch
    scaled = (images / scale - (scale == 127.5)).astype("float32")
    with pytest.warns(UserWarning, match=SCALED.format("fit")) as caught:
        history = make_model().fit(Batches(scaled, labels), shuffle=False, epochs=2, verbose=0).history
    assert set(history) == {"loss", "accuracy", "target_angle", "target_angle_std", "embedding_norm"}
    assert [warning.filename for warning in caught] == [__file__]


def test_valid_pixels_black_images_and_other_embedders_pass(batch):
    images, labels = batch
    black = np.zeros_like(images)
    for pixels in (images, black):
        model = make_model()
        model.fit(Batches(pixels, labels), shuffle=False, verbose=0)
    embedder = keras.Sequential([keras.Input(SHAPE), keras.layers.Flatten(), keras.layers.Dense(4)])
    model = RecognitionModel(embedder, ArcFace(CLASSES))
    model.compile("sgd")
    model.fit(images / np.float32(255), labels, verbose=0)
