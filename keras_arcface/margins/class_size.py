"""Margin that depends on the number of images of a class."""

import keras
from keras import ops

from keras_arcface._arguments import check
from keras_arcface.margins.base import Margin
from keras_arcface.margins.base import check_angle
from keras_arcface.margins.base import cosine_of_shifted_angle


@keras.saving.register_keras_serializable(package="keras_arcface")
class ClassSizeMargin(Margin):
    """ArcFace margin that is larger for classes with fewer images.

    Use it for data where some classes have a few images and others thousands. A class with n images has the margin
    `min_margin + (max_margin - min_margin) * f(n)`, where `f(n)` is `n**-power`, scaled to 1 for the smallest class and
    0 for the largest class. The defaults are those of the third-place solutions of the Google landmark recognition
    competitions.

    Args:
        class_sizes: sequence of `num_classes` integers, the number of images of each class, at least 1.
        min_margin: margin of the largest class, in radians, at least 0.
        max_margin: margin of the smallest class, in radians, at most `pi / 2`.
        power: exponent of the decrease with the class size, above 0.

    Raises:
        ValueError: if an argument is out of its range.
        TypeError: for a call without a batch, because the margin depends on the labels.

    Examples:
        >>> margin = ClassSizeMargin([1, 16, 10_000])
        >>> [round(m, 3) for m in margin.margins]
        [0.5, 0.25, 0.05]
        >>> head = keras_arcface.MarginProduct(num_classes=3, margin=margin)

    References:
        - [Google Landmark Recognition 2020 Competition Third Place Solution](https://arxiv.org/abs/2010.05350)
        - [Sub-center ArcFace](https://www.ecva.net/papers/eccv_2020/papers_ECCV/papers/123560715.pdf)
    """

    def __init__(self, class_sizes, min_margin=0.05, max_margin=0.5, power=0.25):
        class_sizes = [int(size) for size in class_sizes]
        if len(class_sizes) < 2 or min(class_sizes) < 1:
            smallest = min(range(len(class_sizes)), key=class_sizes.__getitem__, default=None)
            received = f"{len(class_sizes)} classes"
            if smallest is not None:
                received += f", class {smallest} with {class_sizes[smallest]}"
            raise ValueError(
                f"class_sizes must be at least 2 integers of at least 1. Received: class_sizes with {received}"
            )
        min_margin, max_margin = check_angle("min_margin", min_margin), check_angle("max_margin", max_margin)
        check("min_margin", min_margin, min_margin <= max_margin, f"at most max_margin={max_margin}")
        check("power", power, power > 0, "above 0")
        self.class_sizes, self.min_margin, self.max_margin, self.power = class_sizes, min_margin, max_margin, power

    @property
    def margins(self):
        """Margin of each class, a list of angles in radians."""
        most, least = min(self.class_sizes) ** -self.power, max(self.class_sizes) ** -self.power
        factor = (self.max_margin - self.min_margin) / ((most - least) or 1.0)
        return [self.min_margin + factor * (size**-self.power - least) for size in self.class_sizes]

    def for_batch(self, batch):
        margins = ops.take(ops.convert_to_tensor(self.margins, "float32"), batch.labels)
        return lambda cosines: cosine_of_shifted_angle(cosines, 1.0, margins)

    def __call__(self, cosines):
        raise TypeError(
            "ClassSizeMargin depends on labels. Expected: margin.for_batch(batch)(cosines). Received: margin(cosines)"
        )

    def get_config(self):
        names = ("class_sizes", "min_margin", "max_margin", "power")
        return {name: getattr(self, name) for name in names}

    def __repr__(self):
        sizes = f"[{len(self.class_sizes)} classes of {min(self.class_sizes)} to {max(self.class_sizes)}]"
        return (
            f"ClassSizeMargin({sizes}, min_margin={self.min_margin}, max_margin={self.max_margin}, power={self.power})"
        )
