import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face

from keras_arcface import _pixels
from keras_arcface.data import ImageFolder
from keras_arcface.data import PairSet
from keras_arcface.data import TFRecords
from keras_arcface.data import load_dataset
from keras_arcface.data import write_dataset
from keras_arcface.evaluation import embed_dataset
from keras_arcface.evaluation import embed_images
from keras_arcface.evaluation import embed_pairs

FACES = np.stack([make_face(person, 0) for person in range(10)])


def left_half(images):
    """An embedding that differs between an image and its mirror image."""
    return np.asarray(images, np.float32)[:, :, :16].mean(axis=1).reshape(len(images), -1)


def test_mirror_embedding_is_added_before_normalization():
    embeddings = embed_images(left_half, FACES, batch_size=3, progress=False)
    np.testing.assert_allclose(embeddings, left_half(FACES) + left_half(FACES[:, :, ::-1]), rtol=1e-6)
    straight = embed_images(left_half, FACES, flip=False, progress=False)
    np.testing.assert_array_equal(straight, left_half(FACES))


def test_keras_model_runs_in_inference_mode():
    inputs = keras.Input((32, 32, 3))
    outputs = keras.layers.Dropout(0.9)(keras.layers.Flatten()(inputs))
    model = keras.Model(inputs, outputs)
    embeddings = embed_images(model, FACES, flip=False, batch_size=4, progress=False)
    np.testing.assert_array_equal(embeddings, FACES.reshape(10, -1))


def test_function_that_returns_tensors():
    embeddings = embed_images(lambda images: tf.reduce_mean(tf.cast(images, tf.float32), (1, 2)), FACES, progress=False)
    np.testing.assert_allclose(embeddings, 2 * FACES.mean(axis=(1, 2), dtype=np.float64), rtol=1e-5)


def test_encoded_images_are_decoded_per_batch():
    batches = []

    def model(images):
        batches.append(len(images))
        return left_half(images)

    embeddings = embed_images(model, [encode(face) for face in FACES], flip=False, batch_size=4, progress=False)
    np.testing.assert_array_equal(embeddings, left_half(FACES))
    assert batches == [4, 4, 2]


def test_pairs_are_decoded_in_order():
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    embeddings = embed_pairs(left_half, pairs, flip=False, progress=False)
    np.testing.assert_array_equal(embeddings, left_half(FACES))


def test_repeated_images_are_embedded_once():
    chosen = np.array([3, 1, 3, 3, 0, 1, 1, 3])
    seen = []

    def model(images):
        seen.append(len(images))
        return left_half(images)

    pairs = PairSet([encode(FACES[i]) for i in chosen], np.arange(4) > 2)
    np.testing.assert_array_equal(embed_pairs(model, pairs, flip=False, progress=False), left_half(FACES[chosen]))
    assert sum(seen) == 3


def test_dataset_with_labels(face_folder, tmp_path):
    for path in face_folder.glob("*/*.jpg"):
        path.unlink()
    write_dataset(ImageFolder(face_folder), tmp_path / "records")
    embeddings, labels = embed_dataset(left_half, load_dataset(tmp_path / "records", 4), flip=False, progress=False)
    assert sorted(labels.tolist()) == [0, 0, 1, 1, 2, 2, 2]
    nearest = {label: make_face(label, 0) for label in range(3)}
    for embedding, label in zip(embeddings, labels, strict=True):
        distances = [np.linalg.norm(embedding - left_half(nearest[person][None])) for person in range(3)]
        assert np.argmin(distances) == label
    with pytest.raises(ValueError, match="dataset must be finite"):
        embed_dataset(left_half, load_dataset(tmp_path / "records", 4, training=True))
    with pytest.raises(ValueError, match="at least one image"):
        embed_dataset(left_half, [], progress=False)


def test_undecodable_image_is_named():
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    pairs.images[7] = pairs.images[7][:100]
    with pytest.raises(ValueError, match=r"image 7 \(of pair 3\) is not a readable image"):
        embed_pairs(left_half, pairs)


@pytest.mark.parametrize("place", [0, 6])
def test_image_of_another_size_is_named(place):
    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    pairs.images[place] = encode(make_face(place, 0, size=(40, 32)))
    with pytest.raises(ValueError, match=r"image \d \(of pair \d\) must have the size of the first.*Received: "):
        embed_pairs(left_half, pairs)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_invalid_embeddings_name_their_images(value):
    def model(images):
        rows = left_half(images)
        rows[images.mean(axis=(1, 2, 3)) == FACES[7].mean()] = value
        return rows

    pairs = PairSet([encode(face) for face in FACES], np.arange(5) > 2)
    with pytest.raises(ValueError, match=r"finite and not zero. Received: .* for image 7 \(of pair 3\)$"):
        embed_pairs(model, pairs, progress=False, batch_size=4)


def test_formats_that_tensorflow_cannot_decode():
    encoded = [encode(FACES[0]), encode(FACES[1], ".tiff"), encode(FACES[2], ".ppm")]
    np.testing.assert_array_equal(embed_images(left_half, encoded, flip=False, progress=False), left_half(FACES[:3]))


def test_images_are_resized():
    encoded = [encode(make_face(0, 0, size=size)) for size in ((32, 32), (64, 48), (16, 20))]
    sizes = []

    def model(images):
        sizes.append(images.shape)
        return left_half(images)

    embeddings = embed_images(model, encoded, flip=False, progress=False, size=(32, 32))
    assert sizes == [(3, 32, 32, 3)]
    np.testing.assert_array_equal(embeddings[0], left_half(make_face(0, 0)[None])[0])
    encoded[1] = b"broken"
    with pytest.raises(ValueError, match="image 1 is not a readable image"):
        embed_images(model, encoded, progress=False, size=(32, 32))
    with pytest.raises(ValueError, match=r"batch_size must be an integer of at least 1. Received: batch_size=0"):
        embed_images(model, encoded, batch_size=0)


def test_images_of_another_size_than_that_of_a_keras_model_are_refused():
    images = keras.Input((8, None, 3))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(images), name="embedder")
    assert embed_images(model, np.full((2, 8, 5, 3), 9, np.uint8), progress=False).shape == (2, 3)
    expected = r"embedder must get images of 8 x any pixels \(height x width\); `size`.* Received: 9 x 5"
    with pytest.raises(ValueError, match=expected):
        embed_images(model, np.full((2, 9, 5, 3), 9, np.uint8), progress=False)


def test_model_with_invalid_output():
    with pytest.raises(ValueError, match=r"one embedding per image, \(10, dim\). Received: shape \(10, 32, 32, 3\)"):
        embed_images(lambda images: images, FACES, flip=False, progress=False)
    with pytest.raises(ValueError, match="at least one image"):
        embed_images(left_half, [])


def test_paths_and_sources(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    paths = [face_folder / name for *_, name in faces]
    encoded = [image for image, *_ in faces]
    write_dataset(faces, tmp_path / "records")
    records = TFRecords(tmp_path / "records")
    expected = embed_images(left_half, encoded, progress=False)
    in_records = [[name for *_, name in faces].index(name) for *_, name in records]
    for images in (paths, list(map(str, paths)), tuple(paths), np.array(paths, str), faces, list(faces)):
        np.testing.assert_array_equal(embed_images(left_half, images, batch_size=5, progress=False), expected)
    np.testing.assert_array_equal(embed_images(left_half, records, batch_size=5, progress=False), expected[in_records])
    np.testing.assert_array_equal(embed_images(left_half, paths, progress=False, size=(32, 32)), expected)


def test_errors_name_paths_and_records(face_folder):
    path = face_folder / "person_1" / "1.jpg"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"^person_1/1.jpg is not a readable image"):
        embed_images(left_half, ImageFolder(face_folder), progress=False)
    with pytest.raises(ValueError, match=rf"^{path} is not a readable image"):
        embed_images(left_half, [face_folder / "person_0" / "0.png", path], progress=False)
    with pytest.raises(
        FileNotFoundError, match=r"nowhere/1.png must be an existing image file. Received: no such file$"
    ):
        embed_images(left_half, ["nowhere/1.png"], progress=False)


ONE = FACES[0]
INVALID = {
    "one image": (ONE, r"shape \(32, 32, 3\), one image. Pass image\[np.newaxis\]"),
    "one gray image": (ONE[..., 0], r"shape \(32, 32\), gray images"),
    "gray images": (FACES[..., 0], r"shape \(10, 32, 32\), gray images. Repeat the channel"),
    "gray images with an axis": (FACES[..., :1], r"shape \(10, 32, 32, 1\), gray images"),
    "channels first": (FACES.transpose(0, 3, 1, 2), r"shape \(10, 3, 32, 32\)"),
    "four channels": (np.zeros((2, 32, 32, 4)), r"shape \(2, 32, 32, 4\)"),
    "normalized": (FACES / 64.0 - 2, r"float64 values from -2.0 to 1.98"),
    "far above": (FACES * 2.0, r"float64 values from 0.0 to \d+.0"),
    "far below": (FACES - 200.0, r"float64 values from -200.0 to \d+.0"),
    "16 bits": (FACES.astype(np.uint16) * 257, r"uint16 values from 0 to 65535"),
    "NaN": (np.where(FACES > 250, np.nan, FACES), r"float64 values from nan to nan"),
    "complex": (FACES.astype(complex), r"an array of complex128"),
    "list of arrays": (list(FACES), r"a sequence whose image 0 has the type ndarray and shape \(32, 32, 3\)"),
    "numbers": ([1, 2], r"a sequence whose image 0 has the type int$"),
    "one path": ("faces/1.png", r"one path, 'faces/1.png'. Pass a list of paths, or data.ImageFolder"),
    "the bytes of one image": (encode(ONE), r"the bytes of one image. Pass a list"),
    "pairs": (PairSet([encode(ONE)] * 2, [True]), r"a PairSet. Pass it to embed_pairs"),
    "tf.data": (tf.data.Dataset.from_tensor_slices(FACES), r"a tf.data.Dataset. Pass it to embed_dataset"),
    "generator": ((face for face in FACES), r"a generator, which has no length"),
    "dict": ({0: ONE}, r"a dict, which has no length or no order"),
}


@pytest.mark.parametrize("name", INVALID)
def test_invalid_collections_of_images(name):
    images, received = INVALID[name]
    expected = (
        r"^embed_images expects RGB pixels in 0..255 of shape \(n, height, width, 3\), or a sequence of encoded images"
    )
    with pytest.raises(ValueError, match=rf"{expected}, of paths or of records. Received: .*{received}"):
        embed_images(left_half, images, progress=False)


def test_pixels_of_any_dtype_and_library():
    expected = embed_images(left_half, FACES, progress=False)
    for images in (
        FACES.astype(np.float64),
        FACES.astype(np.int32),
        tf.constant(FACES),
        tf.constant(FACES, tf.bfloat16),
    ):
        np.testing.assert_array_equal(embed_images(left_half, images, batch_size=4, progress=False), expected)


@pytest.mark.parametrize("scale", [1.0, 0.03], ids=["bright", "dark"])
def test_pixels_slightly_beyond_0_to_255_are_accepted(scale):
    images = (scale * (FACES * 1.3 - 40)).astype("float32")
    assert images.min() < 0
    embeddings = embed_images(left_half, images, flip=False, progress=False)
    np.testing.assert_array_equal(embeddings, left_half(images))
    embed_dataset(left_half, [(images, np.zeros(10, int))], progress=False)


def test_pixels_in_0_to_1_cause_one_warning(monkeypatch):
    monkeypatch.setattr(_pixels, "_warned", set())
    with pytest.warns(UserWarning, match=r"`images` of embed_images are all within 0..1") as caught:
        embed_images(left_half, FACES / 255.0, batch_size=4, progress=False)
    assert [warning.filename for warning in caught] == [__file__]
    embed_images(left_half, FACES / 255.0, progress=False)
    batches = [(FACES / 255.0, np.zeros(10, int))]
    with pytest.warns(UserWarning, match="images of embed_dataset are all within 0..1") as caught:
        embed_dataset(left_half, batches, progress=False)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.raises(ValueError, match=r"^embed_dataset expects RGB pixels in 0..255 of shape .*one image"):
        embed_dataset(left_half, [(ONE, 0)], progress=False)
