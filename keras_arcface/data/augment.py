"""Random changes of training images.

All take uint8 images `(batch, height, width, 3)` of known height and width, and a seed, an int tensor `(2,)`, and
return images like them. They keep no state: the same seed makes the same change, and every row draws anew. Each
changes a row with its `probability` and leaves the others alone, to the bit, so what costs much is paid for few.
`chain` makes one of several, to be given to `load_dataset`:

    augmentation = augment.chain(augment.flip, functools.partial(augment.blur, probability=0.1))
"""

import functools

import numpy as np
import tensorflow as tf

_MOST_BLUR = 4  # pixels to each side


def chain(*changes):
    """Makes one augmentation of several, applied in the order given; cheap ones first.

    Args:
        changes: functions `(images, seed)` -> images. Each gets a seed of its own.

    Returns:
        A function `(images, seed)` -> images.
    """

    def changed(images, seed):
        for number, change in enumerate(changes):
            images = change(images, tf.random.experimental.stateless_fold_in(seed, number))
        return images

    return changed


def flip(images, seed, probability=0.5):
    """Mirrors images, left to right."""

    def mirrored(images, _):
        shape = tf.shape(images)
        # Of rank 3, TensorFlow has a fast way.
        return tf.reshape(tf.reverse(tf.reshape(images, (-1, shape[2], shape[3])), axis=[1]), shape)

    return _on_some(images, seed, probability, mirrored)


def gray(images, seed, probability=0.1):
    """Takes the color away."""
    return _on_some(
        images, seed, probability, lambda images, _: tf.tile(tf.image.rgb_to_grayscale(images), (1, 1, 1, 3))
    )


def erase(images, seed, probability=0.2, area=(0.02, 0.2), aspect=(0.3, 3.3)):
    """Fills a rectangle with noise (random erasing, Zhong et al., arXiv 1708.04896).

    Args:
        images, seed, probability: see above.
        area: least and largest share of the image.
        aspect: least and largest ratio of height to width.
    """

    def erased(images, draw):
        inside = _inside(images, *_boxes(images, draw, area, aspect))
        noise = tf.random.stateless_uniform(tf.shape(images), draw.seed, 0, 256, tf.int32)
        return tf.where(inside, tf.cast(noise, tf.uint8), images)

    return _on_some(images, seed, probability, erased)


def crop(images, seed, probability=0.2, area=(0.2, 1.0), aspect=(3 / 4, 4 / 3), rescale=True):
    """Cuts a rectangle out and scales it to the whole image, or leaves it where it is and blackens the rest.

    Args:
        images, seed, probability: see above.
        area: least and largest share of the image.
        aspect: least and largest ratio of height to width.
        rescale: whether to scale; False blackens, as AdaFace does.
    """

    def cropped(images, draw):
        top, left, height, width = _boxes(images, draw, area, aspect)
        if not rescale:
            return tf.where(_inside(images, top, left, height, width), images, tf.zeros_like(images))
        rows, columns = images.shape[1:3]
        across, down, zero = (width - 1) / (columns - 1), (height - 1) / (rows - 1), tf.zeros_like(top)
        return _transformed(images, [across, zero, left, zero, down, top])

    return _on_some(images, seed, probability, cropped)


def photometric(images, seed, probability=0.2, brightness=0.5, contrast=0.5, saturation=0.5):
    """Changes brightness, contrast and saturation, in this order, each by a factor within 1 +- its limit."""

    def changed(images, draw):
        def blend(first, second, limit, stream):
            factor = draw(stream, 1 - limit, 1 + limit)[:, tf.newaxis, tf.newaxis, tf.newaxis]
            return tf.clip_by_value(second + factor * (first - second), 0.0, 255.0)

        pixels = tf.cast(images, tf.float32)
        pixels = blend(pixels, 0.0, brightness, 1)
        mean = tf.reduce_mean(tf.image.rgb_to_grayscale(pixels), axis=(1, 2, 3), keepdims=True)
        pixels = blend(pixels, mean, contrast, 2)
        return _to_uint8(blend(pixels, tf.image.rgb_to_grayscale(pixels), saturation, 3))

    return _on_some(images, seed, probability, changed)


def blur(images, seed, probability=0.1, sigma=(0.3, 2.0)):
    """Blurs by a Gaussian.

    Args:
        images, seed, probability: see above.
        sigma: least and largest standard deviation, in pixels; the kernel ends 4 pixels from its center.
    """
    offsets = np.arange(-_MOST_BLUR, _MOST_BLUR + 1, dtype=np.float32)

    def blurred(images, draw):
        weights = tf.exp(-0.5 * (offsets / draw(1, *sigma)[:, tf.newaxis]) ** 2)
        weights = (weights / tf.reduce_sum(weights, axis=1, keepdims=True))[:, tf.newaxis, tf.newaxis, tf.newaxis]
        height, width = images.shape[1:3]
        pixels = tf.pad(tf.cast(images, tf.float32), [[0, 0], [_MOST_BLUR] * 2, [_MOST_BLUR] * 2, [0, 0]], "SYMMETRIC")
        pixels = tf.add_n([pixels[:, k : k + height] * weights[..., k] for k in range(len(offsets))])
        return _to_uint8(tf.add_n([pixels[:, :, k : k + width] * weights[..., k] for k in range(len(offsets))]))

    return _on_some(images, seed, probability, blurred)


def low_resolution(images, seed, probability=0.2, scale=(0.2, 1.0)):
    """Makes images smaller and scales them up again, each way by an interpolation drawn for it, as AdaFace does.

    Args:
        images, seed, probability: see above.
        scale: least and largest share of height and width that is left.
    """
    methods = ("nearest", "bilinear", "area", "bicubic", "lanczos5")

    def resized(pixels, size, method):
        ways = [lambda name=name: tf.image.resize(pixels, size, name) for name in methods]
        ways[0] = lambda: tf.cast(tf.image.resize(pixels, size, "nearest"), tf.float32)
        return tf.clip_by_value(tf.switch_case(tf.cast(method, tf.int32), ways), 0.0, 255.0)

    def lowered(images, draw):
        full = images.shape[1:3].as_list()

        def lowered_one(image, scale, down, up):
            small = tf.maximum(tf.cast(scale * tf.constant(full, tf.float32), tf.int32), 1)
            return _to_uint8(resized(resized(image, small, down), full, up))

        draws = (draw(1, *scale), draw(2, 0, len(methods)), draw(3, 0, len(methods)))
        return _one_by_one(lowered_one, images, *draws)

    return _on_some(images, seed, probability, lowered)


def jpeg(images, seed, probability=0.1, quality=(20, 95)):
    """Encodes images as JPEG and decodes them again.

    Args:
        images, seed, probability: see above.
        quality: least and largest quality, 0 to 100.
    """

    def compressed(images, draw):
        qualities = tf.cast(draw(1, quality[0], quality[1] + 1), tf.int32)
        change = functools.partial(tf.image.adjust_jpeg_quality, dct_method="INTEGER_ACCURATE")
        return _one_by_one(change, images, qualities)

    return _on_some(images, seed, probability, compressed)


def affine(images, seed, rotation=0.2, zoom=0.2, shift=0.1):
    """Flips, and rotates, zooms and moves every image a little about its center, repeating its border.

    Args:
        images, seed: see above.
        rotation: largest rotation, in radians, to either side.
        zoom: largest zoom, as the logarithm of the factor, in and out.
        shift: largest move, as a share of height and width, in any direction.
    """
    images = flip(images, seed)
    height, width = images.shape[1:3]
    draw = _Draws(seed, tf.range(tf.shape(images)[0]), tf.shape(images)[0])
    angle = draw(1, -rotation, rotation)
    factor = tf.exp(draw(2, -zoom, zoom))
    cosine, sine = factor * tf.cos(angle), factor * tf.sin(angle)
    # Output (x, y) is read at input (cosine * x - sine * y + left, sine * x + cosine * y + top), about the center.
    x, y = (width - 1) / 2, (height - 1) / 2
    left = x - cosine * x + sine * y + width * draw(3, -shift, shift)
    top = y - sine * x - cosine * y + height * draw(4, -shift, shift)
    return _transformed(images, [cosine, -sine, left, sine, cosine, top])


def fill_border(images, seed, probability=0.7, darkest=8):
    """Fills the black that aligning leaves where a photograph ended: with its edge, repeated, or with one color.

    A network that sees such borders in training learns to look at them, and is lost where faces come without.

    Args:
        images, seed, probability: see above. Half of what is changed has its edge repeated, the rest gets a color that
            is drawn for it.
        darkest: a pixel counts as black if none of its channels is above this, and all between it and the border are
            black too.
    """

    def filled(images, draw):
        across, extended = _border(images, darkest, axis=2)
        down, extended = _border(tf.where(across, extended, images), darkest, axis=1)
        color = tf.cast(tf.stack([draw(stream, 0.0, 256.0) for stream in (1, 2, 3)], axis=-1), tf.uint8)
        plain = draw(4, 0.0, 1.0)[:, tf.newaxis, tf.newaxis, tf.newaxis] < 0.5
        filling = tf.where(plain, color[:, tf.newaxis, tf.newaxis], extended)
        return tf.where(tf.logical_or(across, down), filling, images)

    return _on_some(images, seed, probability, filled)


def adaface(images, seed):
    """The recipe of AdaFace (Kim et al., arXiv 2204.00964): flips half, and each of crop without rescaling,
    photometric changes and low resolution for a fifth of the images."""
    return _ADAFACE(images, seed)


_ADAFACE = chain(flip, lambda images, seed: crop(images, seed, rescale=False), photometric, low_resolution)


class _Draws:
    """Uniform random numbers for some rows of a batch. Every stream draws anew; a row draws the same in any company."""

    def __init__(self, seed, rows, batch):
        self.seed, self._rows, self._batch = seed, rows, batch

    def __call__(self, stream, low, high):
        seed = tf.random.experimental.stateless_fold_in(self.seed, stream)
        return tf.gather(tf.random.stateless_uniform([self._batch], seed, low, high), self._rows)


def _on_some(images, seed, probability, change):
    """Applies `change(images, draw)` to each row with a probability."""
    batch = tf.shape(images)[0]
    rows = tf.range(batch)
    chosen = tf.cast(_Draws(seed, rows, batch)(0, 0.0, 1.0) < probability, tf.int32)
    unchanged, to_change = tf.dynamic_partition(images, chosen, 2)
    row_parts = tf.dynamic_partition(rows, chosen, 2)
    changed = change(to_change, _Draws(seed, row_parts[1], batch))
    return tf.ensure_shape(tf.dynamic_stitch(row_parts, [unchanged, changed]), images.shape)


def _one_by_one(change, images, *draws):
    """Applies `change(image, *draws)` to each image, for what TensorFlow cannot do to a batch."""
    shape = images.shape[1:]

    def changed(image_and_draws):
        return tf.ensure_shape(change(*image_and_draws), shape)

    return tf.map_fn(changed, (images, *draws), fn_output_signature=tf.TensorSpec(shape, images.dtype))


def _boxes(images, draw, area, aspect):
    """A rectangle for every image, in whole pixels: top, left, height, width, each `(batch,)` float32."""
    rows, columns = images.shape[1:3]
    share = draw(1, *area)
    ratio = tf.exp(draw(2, *np.log(aspect)))
    height = tf.clip_by_value(tf.round(tf.sqrt(share * ratio) * rows), 1, rows)
    width = tf.clip_by_value(tf.round(tf.sqrt(share / ratio) * columns), 1, columns)
    top = tf.floor(draw(3, 0.0, 1.0) * (rows - height + 1))
    left = tf.floor(draw(4, 0.0, 1.0) * (columns - width + 1))
    return top, left, height, width


def _inside(images, top, left, height, width):
    """Which pixels lie in the rectangle of their image: bool `(batch, height, width, 1)`."""

    def within(length, start, extent):
        place = tf.range(length, dtype=tf.float32) - start[:, tf.newaxis]
        return tf.logical_and(place >= 0, place < extent[:, tf.newaxis])

    rows, columns = images.shape[1:3]
    down, across = within(rows, top, height), within(columns, left, width)
    return tf.logical_and(down[:, :, tf.newaxis], across[:, tf.newaxis])[..., tf.newaxis]


def _transformed(images, matrix):
    """Reads output (x, y) at input (m0 x + m1 y + m2, m3 x + m4 y + m5); beyond the border, at the border."""
    zero = tf.zeros_like(matrix[0])
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([*matrix, zero, zero], axis=1),
        output_shape=images.shape[1:3],
        interpolation="BILINEAR",
        fill_mode="NEAREST",
        fill_value=0.0,
    )


def _border(images, darkest, axis):
    """Where lines along an axis are black at their ends, and the images with their edges repeated there."""
    length = images.shape[axis]
    seen = tf.cast(tf.reduce_any(images > darkest, axis=-1), tf.int8)
    first = tf.expand_dims(tf.argmax(seen, axis, tf.int32), axis)
    last = length - 1 - tf.expand_dims(tf.argmax(tf.reverse(seen, [axis]), axis, tf.int32), axis)
    place = tf.reshape(tf.range(length), (-1, 1) if axis == 1 else (1, -1))
    before, behind = place < first, place > last
    # The outermost pixels of a photograph are half black.
    read = tf.where(before, tf.minimum(first + 3, last), tf.where(behind, tf.maximum(last - 3, first), place))
    if axis == 1:
        extended = tf.gather(tf.transpose(images, (0, 2, 1, 3)), tf.transpose(read, (0, 2, 1)), batch_dims=2)
        extended = tf.transpose(extended, (0, 2, 1, 3))
    else:
        extended = tf.gather(images, read, batch_dims=2)
    return tf.logical_or(before, behind)[..., tf.newaxis], extended


def _to_uint8(pixels):
    return tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
