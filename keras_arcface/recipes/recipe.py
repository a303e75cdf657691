"""The settings of a training run, as plain data."""

import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any

from keras_arcface._choices import NECKS
from keras_arcface._messages import short

BACKBONES = ("IResNet18", "IResNet34", "IResNet50", "IResNet100", "IResNet200", "MobileFaceNet", "ResNet50")
HEADS = (
    "ArcFace",
    "CosFace",
    "SphereFace",
    "AdaFace",
    "CurricularFace",
    "ElasticFace",
    "MagFace",
    "MVSoftmax",
    "QMargin",
    "UniFace",
    "norm-softmax",
    "softmax",
)
OPTIMIZERS = ("SGD", "AdamW", "Adam")
SCHEDULES = ("step", "polynomial", "cosine")
AUGMENTATIONS = ("none", "flip", "affine", "adaface", "small", "reid", "retrieval")
TEACHER_IMAGES = ("original", "augmented")
TEACHER_CENTERS = ("none", "start", "fixed")

# Margins of the papers, for a recipe whose head is replaced. The margin of the other heads is an angle like ArcFace's.
MARGINS = {"CosFace": 0.35, "SphereFace": 1.35, "AdaFace": 0.4, "MagFace": 0.45, "QMargin": 0.35, "UniFace": 0.4}

_CHOICES = {
    "backbone": BACKBONES,
    "neck": NECKS,
    "head": HEADS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "augmentation": AUGMENTATIONS,
    "teacher_images": TEACHER_IMAGES,
    "teacher_centers": TEACHER_CENTERS,
}
_AT_LEAST_ONE = ("width", "stem_strides", "dim", "sub_centers", "batch_size", "accumulate")
_POSITIVE = ("scale", "learning_rate", "epochs")
_AT_LEAST_ZERO = (
    *("warmup_margin", "initial_scale", "weight_decay", "head_rate", "clip_norm", "warmup", "seed"),
    *("dropout", "label_smoothing", "ema", "distillation", "head_weight"),
    *("triplet", "triplet_margin", "images_per_class"),
)
_BELOW_ONE = ("dropout", "label_smoothing", "ema")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run. `keras-arcface train` has an option for each.

    Attributes:
        description: source, command, and published or measured result.
        backbone: "IResNet18", "IResNet34", "IResNet50", "IResNet100", "IResNet200", "MobileFaceNet" or, for other
            objects than faces, "ResNet50".
        backbone_weights: weights of ResNet50 at the start: "imagenet" for those that Keras downloads, the path of such
            a file (.h5 or .keras), or "" for random ones.
        width: number of channels of its first stage, which is 64 for ResNet50.
        stem_strides: stride of the first convolution. Other values than 1 require an IResNet.
        last_stride: stride of the last stage. Other values than 2 require ResNet50.
        neck: layers after the backbone: "E" as in the ArcFace paper, "linear", or "BNNeck" or "LayerNorm" after the
            mean of the feature map.
        dim: length of an embedding.
        dropout: fraction of the features that are dropped before the embedding.
        head: "ArcFace", "CosFace", "SphereFace", "AdaFace", "CurricularFace", "ElasticFace", "MagFace", "MVSoftmax",
            "QMargin", "UniFace", "norm-softmax" or "softmax".
        margin: margin of the head: an angle in radians, a cosine, or a factor, depending on the head; the smallest
            margin for MagFace.
        scale: factor of the cosines.
        warmup_margin: number of epochs until the full margin applies.
        initial_scale: first value of the scale, which grows over the same epochs. 0 disables it.
        label_smoothing: fraction of the target that is spread over all classes.
        sub_centers: number of centers per class.
        ignored_above: other classes with a cosine above this value are left out of the loss.
        sample_rate: fraction of the classes in each step.
        triplet: weight of a triplet loss of the hardest images of a batch, which requires `images_per_class`. 0
            disables it.
        triplet_margin: margin of the triplet loss: a distance of normalized embeddings, or of features before the last
            BatchNorm with a BNNeck.
        distillation: weight of the distance to the embeddings of the teacher, which `--teacher` names. 0 disables it.
        head_weight: weight of the loss of the head beside that distance.
        teacher_images: images that the teacher embeds: "original" for those of the dataset and their mirror images,
            once, or "augmented" for those of each step, which takes more time.
        teacher_centers: class centers of the head: "none" for its own, "start" to start from those of the teacher, or
            "fixed" to keep these.
        optimizer: "SGD" with momentum 0.9 and coupled weight decay, "AdamW", or "Adam" with coupled weight decay.
        learning_rate: learning rate for `batch_size`, after the warm-up.
        weight_decay: weight decay.
        no_decay: parts of the names of weights without weight decay, such as gamma, beta and alpha.
        head_rate: factor of the learning rate of the head.
        clip_norm: limit of the gradient norm, without the head. 0 disables it.
        ema: momentum of a moving average of the weights. 0 disables it.
        schedule: "step", "polynomial" (linear to 0 for the recipes of arcface_torch) or "cosine".
        drops: for "step", the epochs at which the learning rate drops to a tenth.
        warmup: number of epochs in which the learning rate grows from 0.
        epochs: number of epochs.
        batch_size: number of images per update, on all devices together.
        accumulate: number of steps whose gradients are accumulated for one update.
        images_per_class: number of images of each class in a step, whose classes are then equally frequent. 0 draws
            images regardless of their class.
        augmentation: "none", "flip", "affine", "adaface", "small", "reid" for whole people, or "retrieval" for other
            objects.
        seed: seed of the weights, the order of the images, and the augmentation.

    Raises:
        ValueError: if a setting has the wrong type or value, or two settings contradict each other.

    Examples:
        >>> recipe = get("ms1mv3_r50", batch_size=128, learning_rate=0.02)
        >>> recipe.backbone, recipe.head, recipe.margin, recipe.batch_size
        ('IResNet50', 'ArcFace', 0.5, 128)
    """

    description: str = dataclasses.field(default="", repr=False)
    # The network.
    backbone: str = "IResNet50"
    backbone_weights: str = ""
    width: int = 64
    stem_strides: int = 1
    last_stride: int = 2
    neck: str = "E"
    dim: int = 512
    dropout: float = 0.4
    # The head.
    head: str = "ArcFace"
    margin: float = 0.5
    scale: float = 64.0
    warmup_margin: float = 0.0
    initial_scale: float = 0.0
    label_smoothing: float = 0.0
    sub_centers: int = 1
    ignored_above: float = 1.0
    sample_rate: float = 1.0
    # The loss between the images of a batch.
    triplet: float = 0.0
    triplet_margin: float = 0.3
    # The teacher.
    distillation: float = 0.0
    head_weight: float = 1.0
    teacher_images: str = "original"
    teacher_centers: str = "none"
    # The optimizer.
    optimizer: str = "SGD"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    no_decay: tuple[str, ...] = ()
    head_rate: float = 1.0
    clip_norm: float = 0.0
    ema: float = 0.0
    # The schedule, in epochs.
    schedule: str = "polynomial"
    drops: tuple[float, ...] = ()
    warmup: float = 0.0
    epochs: float = 20.0
    # The data.
    batch_size: int = 512
    accumulate: int = 1
    images_per_class: int = 0
    augmentation: str = "flip"
    seed: int = 0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _convert(field.name, field.type, getattr(self, field.name)))
        for names, is_valid, expected in (
            (_AT_LEAST_ONE, lambda value: value >= 1, "at least 1"),
            (_POSITIVE, lambda value: value > 0, "above 0"),
            (_AT_LEAST_ZERO, lambda value: value >= 0, "at least 0"),
            (_BELOW_ONE, lambda value: value < 1, "below 1"),
            (("last_stride",), lambda value: value in (1, 2), "1 or 2"),
            (("sample_rate",), lambda value: 0 < value <= 1, "in (0, 1]"),
            ((*_AT_LEAST_ONE, "seed"), lambda value: value < 2**31, "below 2**31"),
        ):
            for name in names:
                if not is_valid(getattr(self, name)):
                    raise ValueError(f"{name} must be {expected}. Received: {name}={short(getattr(self, name))}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                "batch_size must be a multiple of accumulate. "
                f"Received: batch_size={self.batch_size}, accumulate={self.accumulate}"
            )
        if self.stem_strides != 1 and not self.backbone.startswith("IResNet"):
            raise ValueError(
                "stem_strides requires an IResNet. "
                f"Received: stem_strides={self.stem_strides}, backbone={self.backbone}"
            )
        for name, usual in (("last_stride", 2), ("backbone_weights", "")):
            if getattr(self, name) != usual and self.backbone != "ResNet50":
                raise ValueError(
                    f"{name} requires ResNet50. Received: {name}={short(getattr(self, name))}, backbone={self.backbone}"
                )
        if self.backbone == "ResNet50" and self.width != 64:
            raise ValueError(f"width must be 64 for ResNet50. Received: width={self.width}")
        step_size = self.batch_size // self.accumulate
        if self.images_per_class and step_size % self.images_per_class:
            raise ValueError(
                "images_per_class must divide the number of images of a step, batch_size / accumulate. "
                f"Received: images_per_class={self.images_per_class}, {step_size} images per step"
            )
        if self.triplet > 0 and not 1 < self.images_per_class < step_size:
            raise ValueError(
                "triplet requires images_per_class of at least 2, and several classes in a step. "
                f"Received: triplet={self.triplet:g}, images_per_class={self.images_per_class}, "
                f"{step_size} images per step"
            )
        for name, default in (("head_weight", 1.0), ("teacher_images", "original")):
            if self.distillation == 0 and getattr(self, name) != default:
                raise ValueError(
                    f"{name} requires distillation above 0. Received: {name}={getattr(self, name)}, distillation=0"
                )
        if (self.schedule == "step") != bool(self.drops):
            raise ValueError(
                'drops and schedule="step" require each other. '
                f"Received: schedule={self.schedule}, drops={list(self.drops)}"
            )

    @property
    def summary(self) -> str:
        """The first line of the description."""
        return self.description.strip().partition("\n")[0]

    @property
    def needs_teacher(self) -> bool:
        """True if a training requires a teacher."""
        return self.distillation > 0 or self.teacher_centers != "none"

    def steps_per_epoch(self, num_examples: int) -> int:
        """Returns the number of steps per epoch. With accumulation, a step takes a part of the batch.

        Args:
            num_examples: number of images of the dataset.

        Examples:
            >>> get("small").steps_per_epoch(4536)
            70
        """
        return max(1, num_examples // (self.batch_size // self.accumulate))

    def total_steps(self, num_examples: int) -> int:
        """Returns the number of steps of the whole training.

        Args:
            num_examples: number of images of the dataset.

        Examples:
            >>> get("small").total_steps(4536)
            1400
        """
        return math.ceil(self.epochs * self.steps_per_epoch(num_examples))

    def replace(self, **settings: Any) -> "Recipe":
        """Returns a recipe with other settings.

        A new head without a margin gets the margin of its paper, because margins of different heads have different
        units. Between heads whose margin is an angle, such as ArcFace and CurricularFace, the margin of the recipe
        is kept.

        Args:
            **settings: attributes of the recipe and their values.

        Returns:
            The new `Recipe`.

        Raises:
            ValueError: if a setting does not exist, or a value is not valid.

        Examples:
            >>> get("small").replace(head="CosFace").margin
            0.35
        """
        check_names(settings)
        head = str(settings.get("head", self.head))
        if head != self.head and "margin" not in settings and not MARGINS.keys().isdisjoint((head, self.head)):
            settings["margin"] = MARGINS.get(head, Recipe.margin)
        return dataclasses.replace(self, **settings)


SETTINGS = tuple(field.name for field in dataclasses.fields(Recipe) if field.name != "description")


def check_names(settings: Mapping[str, Any]) -> None:
    """Raises a ValueError if a name is not a setting of a recipe."""
    for name in settings:
        if name not in SETTINGS and name != "description":
            meant = difflib.get_close_matches(name, SETTINGS, n=1)
            suggestion = f" Did you mean {meant[0]}?" if meant else ""
            raise ValueError(f"A recipe has no setting {short(name)}.{suggestion} Settings: {', '.join(SETTINGS)}")


def choices_of(name: str) -> tuple[str, ...] | None:
    """Returns the allowed values of a setting, or None if they are not a list of words."""
    return _CHOICES.get(name)


def _convert(name: str, kind: Any, value: Any) -> Any:
    """Returns a value as the type of its setting. Integers are converted to floats, and lists to tuples."""
    if isinstance(kind, types.GenericAlias):
        entry, _ = typing.get_args(kind)
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} must be a list. Received: {name}={short(value)}")
        return tuple(_convert(f"{name}[{index}]", entry, item) for index, item in enumerate(value))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is float and is_number:
        if not abs(value) <= sys.float_info.max:  # also refuses NaN and integers that no float can hold
            raise ValueError(f"{name} must be finite. Received: {name}={short(value)}")
        return float(value)
    if kind is float or not isinstance(value, kind) or isinstance(value, bool):
        expected = {int: "an integer", float: "a number", str: "a text"}[kind]
        raise ValueError(f"{name} must be {expected}. Received: {name}={short(value)}")
    choices = choices_of(name)
    if choices is not None and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}. Received: {name}={short(value)}")
    return value
