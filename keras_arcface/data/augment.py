"""Random augmentations of training images, for the argument `augmentation` of `load_dataset`.

Each function accepts uint8 images `(batch, height, width, 3)` and a seed, two integers. It returns images of the same
shape and type. The functions have no state: the result depends only on the images and the seed. Every image is changed
independently with the given `probability`, and is otherwise returned unchanged, so the cost is proportional to the
probability. `chain` combines several functions into one, and `functools.partial` sets their other arguments:

    augmentation = augment.chain(augment.flip, functools.partial(augment.blur, probability=0.05))
    dataset = load_dataset("faces", batch_size=256, training=True, augmentation=augmentation)

They are TensorFlow functions, for `tf.data`. The Keras backend may be any.
"""

import functools
import math
import threading

import cv2
import numpy as np
import tensorflow as tf

from keras_arcface._arguments import check
from keras_arcface._arguments import check_integer
from keras_arcface._arguments import check_number

__all__ = [
    "adaface",
    "affine",
    "blur",
    "chain",
    "crop",
    "erase",
    "fill_border",
    "flip",
    "gray",
    "jpeg",
    "low_resolution",
    "photometric",
    "translate",
]

_BLUR_RADIUS = 4  # pixels
# Weights of red, green and blue, as in `tf.image.rgb_to_grayscale`.
_GRAY_WEIGHTS = np.array([[0.2989], [0.587], [0.114]], np.float32)
_INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
# State of `apply_to_part`: `masks` collects the images that `flip` mirrors, `first` is the position of the first image
# in the global batch, and `total` the size of the global batch.
_part = threading.local()


def chain(*augmentations):
    """Combines several augmentations into one function that applies them in the given order.

    Args:
        *augmentations: functions `(images, seed) -> images`, from this module or your own. Each receives a seed that
            is derived from its position, so that the choices of two functions are independent.

    Returns:
        A function `(images, seed) -> images`.

    Raises:
        TypeError: if an augmentation is not callable.

    Examples:
        >>> import functools
        >>> augmentation = augment.chain(augment.flip, functools.partial(augment.gray, probability=0.5))
        >>> images = augmentation(np.zeros((4, 32, 32, 3), "uint8"), seed=[0, 1])
        >>> dataset = load_dataset("faces", batch_size=4, training=True, augmentation=augmentation)
    """

    for augmentation in augmentations:
        if not callable(augmentation):
            raise TypeError(f"augmentations must be functions (images, seed) -> images. Received: {augmentation!r}")

    def apply(images, seed):
        for number, augmentation in enumerate(augmentations):
            images = augmentation(images, tf.random.experimental.stateless_fold_in(seed, number))
        return images

    return apply


def flip(images, seed, probability=0.5):
    """Mirrors images left to right.

    A mirrored face is as good an example of a person as the original one. This is the only augmentation of the recipes
    for large datasets, and the default of `load_dataset`.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is mirrored, in [0, 1].

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, or `probability` is outside of [0, 1].

    Examples:
        >>> images = np.array([[[[0, 0, 0], [10, 10, 10], [20, 20, 20]]]], "uint8")  # one image of 1 x 3 pixels
        >>> augment.flip(images, seed=[0, 1], probability=1.0).numpy()[0, 0, :, 0].tolist()
        [20, 10, 0]
    """

    def mirror(images, _):
        shape = tf.shape(images)
        # TensorFlow has a faster kernel for tensors of rank 3.
        return tf.reshape(tf.reverse(tf.reshape(images, (-1, shape[2], shape[3])), axis=[1]), shape)

    return _apply_randomly(images, seed, probability, mirror, getattr(_part, "masks", None))


def apply_to_part(augmentation, images, seed, first, total):
    """Applies an augmentation to the part of a global batch, and finds the images that `flip` has mirrored.

    The functions of this module draw the random numbers of the global batch and use those of the part, so that an image
    is changed in the same way for any number of hosts.

    Args:
        augmentation: function `(images, seed) -> images`.
        images: uint8 images `(batch, height, width, 3)`.
        seed: integer tensor `(2,)`, the same for all parts.
        first: position of the first image in the global batch.
        total: number of images in the global batch.

    Returns:
        `(images, is_mirrored)`: the augmented images, and a `(batch,)` bool tensor, also true for images that `flip`
        has mirrored as a part of other functions.
    """
    _part.masks, _part.first, _part.total = [], first, total
    try:
        images = augmentation(images, seed)
        is_mirrored = tf.zeros(tf.shape(images)[:1], tf.bool)
        for mask in _part.masks:
            is_mirrored = tf.math.logical_xor(is_mirrored, mask)
    finally:
        _part.__dict__.clear()
    return images, is_mirrored


def gray(images, seed, probability=0.1):
    """Converts images to grayscale, with three equal channels.

    Use it if some cameras of the application have no color, such as infrared ones, or if the colors of the training
    images are not representative.

    Args:
        images: uint8 images `(batch, height, width, 3)`, RGB.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is converted, in [0, 1].

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, or `probability` is outside of [0, 1].

    Examples:
        >>> red = np.full((1, 1, 1, 3), [200, 0, 0], "uint8")
        >>> augment.gray(red, seed=[0, 1], probability=1.0).numpy().tolist()
        [[[[59, 59, 59]]]]
    """
    return _apply_randomly(
        images, seed, probability, lambda images, _: tf.tile(tf.image.rgb_to_grayscale(images), (1, 1, 1, 3))
    )


def erase(images, seed, probability=0.2, area=(0.02, 0.2), aspect=(0.3, 3.3)):
    """Fills a random rectangle of an image with uniform noise.

    The network cannot rely on a single part of the face, which helps with faces that are partly covered.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        area: smallest and largest area of the rectangle, as a fraction of the image.
        aspect: smallest and largest ratio of the rectangle's height to its width.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> images = np.zeros((100, 32, 32, 3), "uint8")
        >>> erased = augment.erase(images, seed=[0, 1], probability=1.0, area=(0.25, 0.25)).numpy()
        >>> round(float(np.mean(erased.any(axis=-1))), 2)  # fraction of the pixels with noise
        0.25

    References:
        - [Random Erasing Data Augmentation](https://arxiv.org/abs/1708.04896)
    """

    def fill_rectangle(images, draw):
        inside = _rectangle_mask(images, *_random_rectangles(images, draw, area, aspect))
        # The noise of an image starts at a random position of one array, so that it does not depend on other images.
        size = 3 * math.prod(_size(images))
        noise = tf.cast(tf.random.stateless_uniform([2 * size], draw.seed, 0, 256, tf.int32), tf.uint8)
        first = tf.cast(draw(5, 0.0, float(size)), tf.int32)
        noise = tf.reshape(tf.gather(noise, first[:, tf.newaxis] + tf.range(size)), tf.shape(images))
        return tf.where(inside, noise, images)

    return _apply_randomly(images, seed, probability, fill_rectangle)


def crop(images, seed, probability=0.2, area=(0.2, 1.0), aspect=(3 / 4, 4 / 3), rescale=True):
    """Crops a random rectangle and scales it to the size of the image, or sets all pixels outside it to black.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        area: smallest and largest area of the rectangle, as a fraction of the image.
        aspect: smallest and largest ratio of the rectangle's height to its width.
        rescale: whether to scale the crop to the size of the image. If false, the crop stays where it is and all other
            pixels become black, as in AdaFace, so that an aligned face stays aligned.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> images = np.full((100, 32, 32, 3), 255, "uint8")
        >>> cropped = augment.crop(images, seed=[0, 1], probability=1.0, area=(0.5, 0.5), rescale=False).numpy()
        >>> round(float(np.mean(cropped == 255)), 1)  # the other half is black
        0.5

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964)
    """

    def crop_rectangle(images, draw):
        top, left, height, width = _random_rectangles(images, draw, area, aspect)
        if not rescale:
            return _keep_rectangle(images, top, left, height, width)
        rows, columns = _size(images)
        scale_x, scale_y, zero = (width - 1) / (columns - 1), (height - 1) / (rows - 1), tf.zeros_like(top)
        return _affine_transform(images, [scale_x, zero, left, zero, scale_y, top])

    return _apply_randomly(images, seed, probability, crop_rectangle)


def photometric(images, seed, probability=0.2, brightness=0.5, contrast=0.5, saturation=0.5):
    """Changes brightness, contrast and saturation, in this order, by random factors.

    Args:
        images: uint8 images `(batch, height, width, 3)`, RGB.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        brightness: largest difference between the factor of the brightness and 1. With 0.5, factors are in [0.5, 1.5].
        contrast: largest difference between the factor of the contrast and 1.
        saturation: largest difference between the factor of the saturation and 1.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, or `probability` is outside of [0, 1].

    Examples:
        >>> images = np.full((100, 8, 8, 3), 100, "uint8")
        >>> changed = augment.photometric(images, seed=[0, 1], probability=1.0, brightness=0.2).numpy()
        >>> bool(changed.min() >= 80), bool(changed.max() <= 120)
        (True, True)
    """

    def adjust(images, draw):
        def factor(limit, stream):
            return draw(stream, 1 - limit, 1 + limit)[:, tf.newaxis, tf.newaxis]

        # Matrices (pixels, channels) are faster than broadcasts over four axes.
        pixels = tf.cast(tf.reshape(images, (tf.shape(images)[0], -1, 3)), tf.float32)
        pixels = tf.minimum(pixels * factor(brightness, 1), 255.0)
        mean_gray = tf.reduce_mean(pixels, axis=1, keepdims=True) @ _GRAY_WEIGHTS
        change = factor(contrast, 2)
        pixels = tf.clip_by_value(pixels * change + mean_gray * (1 - change), 0.0, 255.0)
        change = factor(saturation, 3)
        pixels = pixels @ (change * tf.eye(3) + (1 - change) * tf.tile(_GRAY_WEIGHTS, (1, 3)))
        return tf.reshape(_to_uint8(pixels), tf.shape(images))

    return _apply_randomly(images, seed, probability, adjust)


def blur(images, seed, probability=0.1, sigma=(0.3, 2.0)):
    """Blurs images with a Gaussian kernel.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        sigma: smallest and largest standard deviation, in pixels. The kernel extends 4 pixels from its center.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> point = np.zeros((1, 9, 9, 3), "uint8")
        >>> point[0, 4, 4] = 255
        >>> blurred = augment.blur(point, seed=[0, 1], probability=1.0, sigma=(1.0, 1.0)).numpy()
        >>> blurred[0, 4, :, 0].tolist()
        [0, 0, 5, 25, 41, 25, 5, 0, 0]
    """
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=np.float32)

    def convolve(images, draw):
        weights = tf.exp(-0.5 * (offsets / draw(1, *sigma)[:, tf.newaxis]) ** 2)
        weights = (weights / tf.reduce_sum(weights, axis=1, keepdims=True))[:, tf.newaxis, tf.newaxis, tf.newaxis]
        height, width = _size(images)
        pixels = tf.pad(
            tf.cast(images, tf.float32), [[0, 0], [_BLUR_RADIUS] * 2, [_BLUR_RADIUS] * 2, [0, 0]], "SYMMETRIC"
        )
        pixels = tf.add_n([pixels[:, k : k + height] * weights[..., k] for k in range(len(offsets))])
        return _to_uint8(tf.add_n([pixels[:, :, k : k + width] * weights[..., k] for k in range(len(offsets))]))

    return _apply_randomly(images, seed, probability, convolve)


def low_resolution(images, seed, probability=0.2, scale=(0.2, 1.0)):
    """Scales images down and up again, with random interpolation methods, as in AdaFace.

    Use it if the application has small faces, such as those of surveillance cameras.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        scale: smallest and largest factor by which height and width are reduced, in (0, 1]. With 0.2, a face of
            112 x 112 pixels becomes one of 22 x 22.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> stripes = np.tile(np.array([0, 255], "uint8")[:, np.newaxis], (4, 32, 16, 3))
        >>> blurred = augment.low_resolution(stripes, seed=[0, 1], probability=1.0, scale=(0.2, 0.2)).numpy()
        >>> blurred.shape, bool(blurred.std() < stripes.std())
        ((4, 32, 32, 3), True)

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964)
    """

    def reduce_resolution(images, draw):
        size = np.array(_size(images))
        small_sizes = tf.maximum(tf.cast(draw(1, *scale)[:, tf.newaxis] * size.astype("float32"), tf.int32), 1)
        methods = [tf.cast(draw(stream, 0, len(_INTERPOLATIONS)), tf.int32) for stream in (2, 3)]
        # OpenCV is several times faster than TensorFlow here, and the code of AdaFace uses it.
        return tf.numpy_function(_resize_twice, [images, small_sizes, *methods], tf.uint8)

    return _apply_randomly(images, seed, probability, reduce_resolution)


def jpeg(images, seed, probability=0.1, quality=(20, 95)):
    """Encodes images as JPEG and decodes them again.

    Use it if the images of the application are compressed more than those of the training.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        quality: smallest and largest JPEG quality, from 0 to 100.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> noise = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype("uint8")
        >>> def mean_error(quality):
        ...     compressed = augment.jpeg(noise, seed=[0, 1], probability=1.0, quality=(quality, quality))
        ...     return np.mean(np.abs(compressed.numpy() - noise.astype(float)))
        >>> bool(mean_error(20) > mean_error(95))
        True
    """

    def compress(images, draw):
        qualities = tf.cast(draw(1, quality[0], quality[1] + 1), tf.int32)
        change = functools.partial(tf.image.adjust_jpeg_quality, dct_method="INTEGER_ACCURATE")
        return _map_images(change, images, qualities)

    return _apply_randomly(images, seed, probability, compress)


def affine(images, seed, rotation=0.2, zoom=0.2, shift=0.1, flip_probability=0.5):
    """Flips half of the images, and rotates, zooms and shifts every image.

    Use it for small datasets, where a network otherwise learns the exact position of the faces. Beyond the border of an
    image, its outermost pixels are repeated.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        rotation: largest angle of rotation about the center in either direction, in radians.
        zoom: largest absolute value of the logarithm of the zoom factor. With 0.2, factors are in [0.82, 1.22].
        shift: largest shift in each direction, as a fraction of height and width.
        flip_probability: probability that an image is mirrored, in [0, 1]. Use 0 for images whose mirror image is of
            another class, such as characters.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or
            `flip_probability` is outside of [0, 1].

    Examples:
        >>> images = np.zeros((4, 32, 32, 3), "uint8")
        >>> moved = augment.affine(images, seed=[0, 1], rotation=0.1, zoom=0.1, shift=0.05)
        >>> moved.shape
        TensorShape([4, 32, 32, 3])
    """
    check_number("flip_probability", flip_probability, lambda value: 0 <= value <= 1, "in [0, 1]")
    images = flip(images, seed, flip_probability)
    height, width = _size(images)
    draw = _RandomNumbers(seed, tf.shape(images)[0])
    angle = draw(1, -rotation, rotation)
    factor = tf.exp(draw(2, -zoom, zoom))
    cosine, sine = factor * tf.cos(angle), factor * tf.sin(angle)
    # Output pixel (x, y) is input pixel (cosine * x - sine * y + left, sine * x + cosine * y + top).
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x - cosine * x + sine * y + width * draw(3, -shift, shift)
    top = y - sine * x - cosine * y + height * draw(4, -shift, shift)
    return _affine_transform(images, [cosine, -sine, left, sine, cosine, top])


def translate(images, seed, pixels=10):
    """Moves images by a random number of pixels, vertically and horizontally, and fills the border with black.

    This is a random crop of an image with a black border, as in the training of networks that re-identify people.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        pixels: largest shift in each direction, at least 0. All shifts, and 0, are equally probable.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `pixels` is
            not an integer of at least 0.

    Examples:
        >>> images = np.full((100, 8, 8, 3), 255, "uint8")
        >>> moved = augment.translate(images, seed=[0, 1], pixels=2).numpy()
        >>> sorted(set(np.sum(moved[..., 0].any(axis=2), axis=1).tolist()))  # rows of the moved image
        [6, 7, 8]

    References:
        - [Bag of Tricks and a Strong Baseline for Deep Person Re-identification](https://arxiv.org/abs/1903.07071),
          section 2
    """
    check_integer("pixels", pixels, 0)
    images, seed = _to_tensors(images, seed)
    draw = _RandomNumbers(seed, tf.shape(images)[0])
    moved = images
    for axis, size in enumerate(_size(images), 1):
        border = [[pixels, pixels] if axis == padded else [0, 0] for padded in range(4)]
        first = tf.cast(tf.floor(draw(axis, 0.0, 2.0 * pixels + 1)), tf.int32)
        moved = tf.gather(tf.pad(moved, border), first[:, tf.newaxis] + tf.range(size), axis=axis, batch_dims=1)
    return tf.ensure_shape(moved, images.shape)


def fill_border(images, seed, probability=0.7, darkest=8):
    """Fills the black areas that alignment adds outside a photograph, with its repeated edge or a random color.

    A network that is trained with such areas uses them as a feature, and is less accurate for faces without them. Half
    of the changed images are filled with their repeated edge, the other half with one random color per image.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width.
        seed: integer tensor `(2,)`, different in every step.
        probability: probability that an image is changed, in [0, 1].
        darkest: largest value of the channels of a black pixel. Only black pixels that are connected to the border by
            a row or column of black pixels are filled.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, the height or width is not known, or `probability`
            is outside of [0, 1].

    Examples:
        >>> images = np.full((2, 32, 32, 3), 100, "uint8")
        >>> images[:, :, 27:] = 0  # outside of the photograph
        >>> filled = augment.fill_border(images, seed=[0, 2], probability=1.0).numpy()
        >>> filled[:, 16, 31].tolist()  # a random color, and the edge
        [[120, 243, 47], [100, 100, 100]]
    """

    def fill(images, draw):
        is_outside_x, extended = _extend_edges(images, darkest, axis=2)
        is_outside_y, extended = _extend_edges(tf.where(is_outside_x, extended, images), darkest, axis=1)
        color = tf.cast(tf.stack([draw(stream, 0.0, 256.0) for stream in (1, 2, 3)], axis=-1), tf.uint8)
        uses_color = draw(4, 0.0, 1.0)[:, tf.newaxis, tf.newaxis, tf.newaxis] < 0.5
        filling = tf.where(uses_color, color[:, tf.newaxis, tf.newaxis], extended)
        return tf.where(tf.logical_or(is_outside_x, is_outside_y), filling, images)

    return _apply_randomly(images, seed, probability, fill)


def adaface(images, seed):
    """Applies the augmentations of AdaFace.

    Half of the images are flipped. Independently, a fifth is cropped without rescaling, a fifth is changed
    photometrically, and a fifth is reduced in resolution. Use it with `keras_arcface.layers.AdaFace`, or to train for
    images of low quality.

    Args:
        images: uint8 images `(batch, height, width, 3)` of known height and width, RGB.
        seed: integer tensor `(2,)`, different in every step.

    Returns:
        uint8 tensor of the shape of `images`.

    Raises:
        ValueError: if `images` or `seed` has another type or shape, or the height or width is not known.

    Examples:
        >>> dataset = load_dataset("faces", batch_size=4, training=True, augmentation=augment.adaface)
        >>> images, labels = next(iter(dataset))
        >>> images.shape
        TensorShape([4, 32, 32, 3])

    References:
        - [AdaFace](https://arxiv.org/abs/2204.00964)
    """
    return _ADAFACE(*_to_tensors(images, seed))


_ADAFACE = chain(flip, lambda images, seed: crop(images, seed, rescale=False), photometric, low_resolution)


class _RandomNumbers:
    """Uniform random numbers for selected rows of a batch.

    Different streams are independent. The numbers of a row do not depend on the selection of other rows. In
    `apply_to_part`, they are those of the row in the global batch.
    """

    def __init__(self, seed, batch, rows=None):
        self.seed, self._batch = seed, batch
        self._rows = tf.range(batch) if rows is None else rows

    def __call__(self, stream, low, high):
        seed = tf.random.experimental.stateless_fold_in(self.seed, stream)
        first = getattr(_part, "first", 0)
        total = tf.maximum(getattr(_part, "total", 0), first + self._batch)
        return tf.gather(tf.random.stateless_uniform([total], seed, low, high), first + self._rows)


def _apply_randomly(images, seed, probability, change, masks=None):
    """Applies `change(images, draw)` to a random selection of the images, and returns all images.

    The `(batch,)` bool mask of the selection is appended to the list `masks`, unless it is None.
    """
    check_number("probability", probability, lambda value: 0 <= value <= 1, "in [0, 1]")
    images, seed = _to_tensors(images, seed)
    batch = tf.shape(images)[0]
    is_chosen = _RandomNumbers(seed, batch)(0, 0.0, 1.0) < probability
    if masks is not None:
        masks.append(is_chosen)
    part = tf.cast(is_chosen, tf.int32)
    unchanged, chosen = tf.dynamic_partition(images, part, 2)
    row_parts = tf.dynamic_partition(tf.range(batch), part, 2)
    changed = change(chosen, _RandomNumbers(seed, batch, row_parts[1]))
    return tf.ensure_shape(tf.dynamic_stitch(row_parts, [unchanged, changed]), images.shape)


def _to_tensors(images, seed):
    """Converts the arguments of an augmentation to tensors, and checks their types and shapes."""
    images, seed = tf.convert_to_tensor(images), tf.convert_to_tensor(seed)
    if images.dtype != tf.uint8 or images.shape.rank != 4 or images.shape[3] != 3:
        raise ValueError(
            "images must be a uint8 batch (batch, height, width, 3). "
            f"Received: images.dtype={images.dtype.name}, images.shape={images.shape}"
        )
    is_seed = seed.dtype.is_integer and seed.shape.is_compatible_with((2,))
    check("seed", seed, is_seed, "an integer tensor of shape (2,)")
    return images, seed


def _size(images):
    """Returns the height and width of images, which must be known when a graph is traced."""
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            "images must have a known height and width, for example by tf.ensure_shape. "
            f"Received: images.shape={images.shape}"
        )
    return height, width


def _resize_twice(images, small_sizes, down_methods, up_methods):
    """Scales images to the sizes `(height, width)` and back, with the given indices of interpolation methods."""
    resized = np.empty_like(images)
    height, width = images.shape[1:3]
    for image, result, small, down, up in zip(
        images, resized, small_sizes.tolist(), down_methods.tolist(), up_methods.tolist(), strict=True
    ):
        reduced = cv2.resize(image, (small[1], small[0]), interpolation=_INTERPOLATIONS[down])
        cv2.resize(reduced, (width, height), dst=result, interpolation=_INTERPOLATIONS[up])
    return resized


def _map_images(change, images, *draws):
    """Applies `change(image, *draws)` to each image, for operations that do not support batches."""
    shape = (*_size(images), 3)

    def change_one(image_and_draws):
        return tf.ensure_shape(change(*image_and_draws), shape)

    return tf.map_fn(change_one, (images, *draws), fn_output_signature=tf.TensorSpec(shape, images.dtype))


def _random_rectangles(images, draw, area, aspect):
    """Returns the top, left, height and width of a random rectangle per image, in whole pixels: `(batch,)` float32."""
    rows, columns = _size(images)
    fraction = draw(1, *area)
    ratio = tf.exp(draw(2, *np.log(aspect)))
    height = tf.clip_by_value(tf.round(tf.sqrt(fraction * ratio) * rows), 1, rows)
    width = tf.clip_by_value(tf.round(tf.sqrt(fraction / ratio) * columns), 1, columns)
    top = tf.floor(draw(3, 0.0, 1.0) * (rows - height + 1))
    left = tf.floor(draw(4, 0.0, 1.0) * (columns - width + 1))
    return top, left, height, width


def _rectangle_mask(images, top, left, height, width):
    """Returns the bool mask `(batch, height, width, 1)` of the pixels in the rectangle of each image."""

    rows, columns = _size(images)
    in_rows, in_columns = _is_within(rows, top, height), _is_within(columns, left, width)
    return tf.logical_and(in_rows[:, :, tf.newaxis], in_columns[:, tf.newaxis])[..., tf.newaxis]


def _keep_rectangle(images, top, left, height, width):
    """Returns the images with all pixels outside of the rectangles set to 0."""
    rows, columns = _size(images)
    in_rows = tf.cast(_is_within(rows, top, height), tf.int32)
    in_columns = tf.cast(_is_within(columns, left, width), tf.uint8)
    # Each row of the mask is one of two rows. Copies of them are faster than broadcasts of a condition.
    inside = tf.repeat(255 * in_columns, 3, axis=1)
    masks = tf.gather(tf.stack([tf.zeros_like(inside), inside], axis=1), in_rows, batch_dims=1)
    return tf.bitwise.bitwise_and(images, tf.reshape(masks, tf.shape(images)))


def _is_within(length, start, extent):
    """Returns whether each of `length` positions is in the interval, `(batch, length)`."""
    offset = tf.range(length, dtype=tf.float32) - start[:, tf.newaxis]
    return tf.logical_and(offset >= 0, offset < extent[:, tf.newaxis])


def _affine_transform(images, matrix):
    """Applies the affine transform from output to input pixels, `(x, y) -> (m0 x + m1 y + m2, m3 x + m4 y + m5)`.

    Outside the image, the nearest pixel of its border is used.
    """
    zero = tf.zeros_like(matrix[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*matrix, zero, zero], axis=1),
        output_shape=_size(images),
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _extend_edges(images, darkest, axis):
    """Fills the black ends of all rows or columns with the repeated edge of the photograph.

    Returns:
        The bool mask `(batch, height, width, 1)` of the filled pixels, and the filled images.
    """
    length = _size(images)[axis - 1]
    is_visible = tf.cast(tf.reduce_any(images > darkest, axis=-1), tf.int8)
    first = tf.expand_dims(tf.argmax(is_visible, axis, tf.int32), axis)
    last = length - 1 - tf.expand_dims(tf.argmax(tf.reverse(is_visible, [axis]), axis, tf.int32), axis)
    position = tf.reshape(tf.range(length), (-1, 1) if axis == 1 else (1, -1))
    is_before, is_after = position < first, position > last
    # Alignment blends the outermost pixels of a photograph with black. The repeated edge is 3 pixels further inside.
    source = tf.where(is_before, tf.minimum(first + 3, last), tf.where(is_after, tf.maximum(last - 3, first), position))
    if axis == 1:
        extended = tf.gather(tf.transpose(images, (0, 2, 1, 3)), tf.transpose(source, (0, 2, 1)), batch_dims=2)
        extended = tf.transpose(extended, (0, 2, 1, 3))
    else:
        extended = tf.gather(images, source, batch_dims=2)
    return tf.logical_or(is_before, is_after)[..., tf.newaxis], extended


def _to_uint8(pixels):
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
