"""Random augmentations of training images.

Each function accepts uint8 images `(batch, height, width, 3)` of known height and width, and a seed, an int tensor
`(2,)`. It returns images of the same shape and type. The functions have no state: the result depends only on the
images and the seed. Every image is changed independently with the given `probability`, and is otherwise returned
unchanged, so the cost is proportional to the probability. `chain` combines several functions into one:

>>> augmentation = augment.chain(augment.flip, functools.partial(augment.blur, probability=0.1))
>>> dataset = load_dataset("faces", batch_size=4, training=True, augmentation=augmentation)
"""

import functools

import numpy as np
import tensorflow as tf

_BLUR_RADIUS = 4  # pixels


def chain(*augmentations):
    """Combines several augmentations into one function that applies them in the given order.

    Args:
        *augmentations: functions `(images, seed) -> images`. Each receives a different seed.

    Returns:
        A function `(images, seed) -> images`.
    """

    def apply(images, seed):
        for number, augmentation in enumerate(augmentations):
            images = augmentation(images, tf.random.experimental.stateless_fold_in(seed, number))
        return images

    return apply


def flip(images, seed, probability=0.5):
    """Mirrors images left to right.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
    """

    def mirror(images, _):
        shape = tf.shape(images)
        # TensorFlow has a faster kernel for tensors of rank 3.
        return tf.reshape(tf.reverse(tf.reshape(images, (-1, shape[2], shape[3])), axis=[1]), shape)

    return _apply_randomly(images, seed, probability, mirror)


def gray(images, seed, probability=0.1):
    """Converts images to grayscale, with three equal channels.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
    """
    return _apply_randomly(
        images, seed, probability, lambda images, _: tf.tile(tf.image.rgb_to_grayscale(images), (1, 1, 1, 3))
    )


def erase(images, seed, probability=0.2, area=(0.02, 0.2), aspect=(0.3, 3.3)):
    """Fills a random rectangle with uniform noise.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        area: smallest and largest area of the rectangle, as a fraction of the image.
        aspect: smallest and largest ratio of the rectangle's height to its width.

    Reference: Zhong et al., Random Erasing Data Augmentation, arXiv 1708.04896.
    """

    def fill_rectangle(images, draw):
        inside = _rectangle_mask(images, *_random_rectangles(images, draw, area, aspect))
        noise = tf.random.stateless_uniform(tf.shape(images), draw.seed, 0, 256, tf.int32)
        return tf.where(inside, tf.cast(noise, tf.uint8), images)

    return _apply_randomly(images, seed, probability, fill_rectangle)


def crop(images, seed, probability=0.2, area=(0.2, 1.0), aspect=(3 / 4, 4 / 3), rescale=True):
    """Crops a random rectangle and scales it to the size of the image, or sets all pixels outside it to black.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        area: smallest and largest area of the rectangle, as a fraction of the image.
        aspect: smallest and largest ratio of the rectangle's height to its width.
        rescale: whether to scale the crop to the size of the image. If false, all other pixels become black, as in
            AdaFace.
    """

    def crop_rectangle(images, draw):
        top, left, height, width = _random_rectangles(images, draw, area, aspect)
        if not rescale:
            return tf.where(_rectangle_mask(images, top, left, height, width), images, tf.zeros_like(images))
        rows, columns = images.shape[1:3]
        scale_x, scale_y, zero = (width - 1) / (columns - 1), (height - 1) / (rows - 1), tf.zeros_like(top)
        return _affine_transform(images, [scale_x, zero, left, zero, scale_y, top])

    return _apply_randomly(images, seed, probability, crop_rectangle)


def photometric(images, seed, probability=0.2, brightness=0.5, contrast=0.5, saturation=0.5):
    """Changes brightness, contrast and saturation, in this order, by random factors.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        brightness: largest difference between the factor of the brightness and 1.
        contrast: largest difference between the factor of the contrast and 1.
        saturation: largest difference between the factor of the saturation and 1.
    """

    def adjust(images, draw):
        def blend(first, second, limit, stream):
            factor = draw(stream, 1 - limit, 1 + limit)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return tf.clip_by_value(second + factor * (first - second), 0.0, 255.0)

        pixels = tf.cast(images, tf.float32)
        pixels = blend(pixels, 0.0, brightness, 1)
        mean = tf.reduce_mean(tf.image.rgb_to_grayscale(pixels), axis=(1, 2, 3), keepdims=True)
        pixels = blend(pixels, mean, contrast, 2)
        return _to_uint8(blend(pixels, tf.image.rgb_to_grayscale(pixels), saturation, 3))

    return _apply_randomly(images, seed, probability, adjust)


def blur(images, seed, probability=0.1, sigma=(0.3, 2.0)):
    """Blurs images with a Gaussian kernel.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        sigma: smallest and largest standard deviation, in pixels. The kernel extends 4 pixels from its center.
    """
    offsets = np.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=np.float32)

    def convolve(images, draw):
        weights = tf.exp(-0.5 * (offsets / draw(1, *sigma)[:, tf.newaxis]) ** 2)
        weights = (weights / tf.reduce_sum(weights, axis=1, keepdims=True))[:, tf.newaxis, tf.newaxis, tf.newaxis]
        height, width = images.shape[1:3]
        pixels = tf.pad(
            tf.cast(images, tf.float32), [[0, 0], [_BLUR_RADIUS] * 2, [_BLUR_RADIUS] * 2, [0, 0]], "SYMMETRIC"
        )
        pixels = tf.add_n([pixels[:, k : k + height] * weights[..., k] for k in range(len(offsets))])
        return _to_uint8(tf.add_n([pixels[:, :, k : k + width] * weights[..., k] for k in range(len(offsets))]))

    return _apply_randomly(images, seed, probability, convolve)


def low_resolution(images, seed, probability=0.2, scale=(0.2, 1.0)):
    """Scales images down and up again, with random interpolation methods, as in AdaFace.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        scale: smallest and largest factor by which height and width are reduced.
    """
    methods = ("nearest", "bilinear", "area", "bicubic", "lanczos5")

    def resize(pixels, size, method):
        def resize_with(name):
            return tf.cast(tf.image.resize(pixels, size, name), tf.float32)

        branches = [functools.partial(resize_with, name) for name in methods]
        return tf.clip_by_value(tf.switch_case(tf.cast(method, tf.int32), branches), 0.0, 255.0)

    def reduce_resolution(images, draw):
        full_size = images.shape[1:3].as_list()

        def reduce_one(image, scale, down_method, up_method):
            small_size = tf.maximum(tf.cast(scale * tf.constant(full_size, tf.float32), tf.int32), 1)
            return _to_uint8(resize(resize(image, small_size, down_method), full_size, up_method))

        draws = (draw(1, *scale), draw(2, 0, len(methods)), draw(3, 0, len(methods)))
        return _map_images(reduce_one, images, *draws)

    return _apply_randomly(images, seed, probability, reduce_resolution)


def jpeg(images, seed, probability=0.1, quality=(20, 95)):
    """Encodes images as JPEG and decodes them again.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        quality: smallest and largest JPEG quality, from 0 to 100.
    """

    def compress(images, draw):
        qualities = tf.cast(draw(1, quality[0], quality[1] + 1), tf.int32)
        change = functools.partial(tf.image.adjust_jpeg_quality, dct_method="INTEGER_ACCURATE")
        return _map_images(change, images, qualities)

    return _apply_randomly(images, seed, probability, compress)


def affine(images, seed, rotation=0.2, zoom=0.2, shift=0.1):
    """Flips half of the images, and rotates, zooms and shifts every image.

    Beyond the border of an image, its outermost pixels are repeated.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        rotation: largest angle of rotation about the center in either direction, in radians.
        zoom: largest absolute value of the logarithm of the zoom factor.
        shift: largest shift in each direction, as a fraction of height and width.
    """
    images = flip(images, seed)
    height, width = images.shape[1:3]
    draw = _RandomNumbers(seed, tf.range(tf.shape(images)[0]), tf.shape(images)[0])
    angle = draw(1, -rotation, rotation)
    factor = tf.exp(draw(2, -zoom, zoom))
    cosine, sine = factor * tf.cos(angle), factor * tf.sin(angle)
    # Output pixel (x, y) is input pixel (cosine * x - sine * y + left, sine * x + cosine * y + top).
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x - cosine * x + sine * y + width * draw(3, -shift, shift)
    top = y - sine * x - cosine * y + height * draw(4, -shift, shift)
    return _affine_transform(images, [cosine, -sine, left, sine, cosine, top])


def fill_border(images, seed, probability=0.7, darkest=8):
    """Fills the black areas that alignment adds outside a photograph, with its repeated edge or a random color.

    A network that is trained with such areas uses them as a feature, and is less accurate for faces without them. Half
    of the changed images are filled with their repeated edge, the other half with one random color per image.

    Args:
        images: uint8 images `(batch, height, width, 3)`.
        seed: int tensor `(2,)`.
        probability: probability that an image is changed.
        darkest: largest value of the channels of a black pixel. Only black pixels that are connected to the border by
            a row or column of black pixels are filled.
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
    photometrically, and a fifth is reduced in resolution.

    Reference: Kim et al., AdaFace, arXiv 2204.00964.
    """
    return _ADAFACE(images, seed)


_ADAFACE = chain(flip, lambda images, seed: crop(images, seed, rescale=False), photometric, low_resolution)


class _RandomNumbers:
    """Uniform random numbers for selected rows of a batch.

    Different streams are independent. The numbers of a row do not depend on the selection of other rows.
    """

    def __init__(self, seed, rows, batch):
        self.seed, self._rows, self._batch = seed, rows, batch

    def __call__(self, stream, low, high):
        seed = tf.random.experimental.stateless_fold_in(self.seed, stream)
        return tf.gather(tf.random.stateless_uniform([self._batch], seed, low, high), self._rows)


def _apply_randomly(images, seed, probability, change):
    """Applies `change(images, draw)` to a random selection of the images, and returns all images."""
    batch = tf.shape(images)[0]
    rows = tf.range(batch)
    is_chosen = tf.cast(_RandomNumbers(seed, rows, batch)(0, 0.0, 1.0) < probability, tf.int32)
    unchanged, chosen = tf.dynamic_partition(images, is_chosen, 2)
    row_parts = tf.dynamic_partition(rows, is_chosen, 2)
    changed = change(chosen, _RandomNumbers(seed, row_parts[1], batch))
    return tf.ensure_shape(tf.dynamic_stitch(row_parts, [unchanged, changed]), images.shape)


def _map_images(change, images, *draws):
    """Applies `change(image, *draws)` to each image, for operations that do not support batches."""
    shape = images.shape[1:]

    def change_one(image_and_draws):
        return tf.ensure_shape(change(*image_and_draws), shape)

    return tf.map_fn(change_one, (images, *draws), fn_output_signature=tf.TensorSpec(shape, images.dtype))


def _random_rectangles(images, draw, area, aspect):
    """Returns the top, left, height and width of a random rectangle per image, in whole pixels: `(batch,)` float32."""
    rows, columns = images.shape[1:3]
    fraction = draw(1, *area)
    ratio = tf.exp(draw(2, *np.log(aspect)))
    height = tf.clip_by_value(tf.round(tf.sqrt(fraction * ratio) * rows), 1, rows)
    width = tf.clip_by_value(tf.round(tf.sqrt(fraction / ratio) * columns), 1, columns)
    top = tf.floor(draw(3, 0.0, 1.0) * (rows - height + 1))
    left = tf.floor(draw(4, 0.0, 1.0) * (columns - width + 1))
    return top, left, height, width


def _rectangle_mask(images, top, left, height, width):
    """Returns the bool mask `(batch, height, width, 1)` of the pixels in the rectangle of each image."""

    def within(length, start, extent):
        offset = tf.range(length, dtype=tf.float32) - start[:, tf.newaxis]
        return tf.logical_and(offset >= 0, offset < extent[:, tf.newaxis])

    rows, columns = images.shape[1:3]
    in_rows, in_columns = within(rows, top, height), within(columns, left, width)
    return tf.logical_and(in_rows[:, :, tf.newaxis], in_columns[:, tf.newaxis])[..., tf.newaxis]


def _affine_transform(images, matrix):
    """Applies the affine transform from output to input pixels, `(x, y) -> (m0 x + m1 y + m2, m3 x + m4 y + m5)`.

    Outside the image, the nearest pixel of its border is used.
    """
    zero = tf.zeros_like(matrix[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*matrix, zero, zero], axis=1),
        output_shape=images.shape[1:3],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _extend_edges(images, darkest, axis):
    """Fills the black ends of all rows or columns with the repeated edge of the photograph.

    Returns:
        The bool mask `(batch, height, width, 1)` of the filled pixels, and the filled images.
    """
    length = images.shape[axis]
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
