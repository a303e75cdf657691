"""Training recipes for train_ms1m.py: from the papers and arcface_torch, for small datasets, and for the demo.

A recipe is plain data. Its description states the source, the command and the published result. Results are those of
the sources and were not measured with this package, unless stated otherwise.
"""

import dataclasses
import functools
import math

import keras

from keras_arcface import AdaFace
from keras_arcface import ArcFace
from keras_arcface import CosFace
from keras_arcface import CurricularFace
from keras_arcface import ElasticFace
from keras_arcface import MagFace
from keras_arcface import RecognitionModel
from keras_arcface import SphereFace
from keras_arcface import UniFace
from keras_arcface import backbones
from keras_arcface import models
from keras_arcface import training
from keras_arcface.data import augment
from keras_arcface.layers import MVSoftmax
from keras_arcface.layers import NormSoftmax
from keras_arcface.layers import SoftmaxProduct


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All settings of a training run. Each is also a command line option."""

    description: str = dataclasses.field(repr=False)
    # The network.
    backbone: str = "IResNet50"
    width: int = 64
    stem_strides: int = 1  # IResNet only
    dim: int = 512
    dropout: float = 0.4
    # The head.
    head: str = "ArcFace"
    margin: float = 0.5  # the smallest margin for MagFace
    scale: float = 64.0
    warmup_margin: float = 0.0  # epochs until the full margin applies
    initial_scale: float = 0.0  # start of the scale, which grows over the same epochs; 0 disables it
    label_smoothing: float = 0.0
    sub_centers: int = 1
    ignored_above: float = 1.0  # other classes above this cosine are left out of the loss
    sample_rate: float = 1.0  # fraction of the classes in each step
    # The optimizer.
    optimizer: str = "SGD"
    learning_rate: float = 0.1
    weight_decay: float = 5e-4
    no_decay: str = ""  # names of weights without decay, such as "gamma,beta,alpha"
    head_rate: float = 1.0  # multiplier of the head's learning rate
    clip_norm: float = 0.0  # limit of the gradient norm, without the head; 0 disables it
    ema: float = 0.0  # momentum of the moving average of the weights; 0 disables it
    # The schedule, in epochs.
    schedule: str = "polynomial"
    drops: str = ""  # epochs at which a step schedule drops to a tenth, such as "10,16"
    warmup: float = 0.0
    epochs: float = 20.0
    # The data.
    batch_size: int = 512
    accumulate: int = 1  # number of steps that accumulate one batch
    augmentation: str = "flip"
    seed: int = 0


# All are called as head(num_classes, margin=..., scale=..., **options).
HEADS = {
    "ArcFace": ArcFace,
    "CosFace": CosFace,
    "SphereFace": SphereFace,
    "AdaFace": AdaFace,
    "CurricularFace": CurricularFace,
    "ElasticFace": ElasticFace,
    "MagFace": lambda num_classes, margin, **options: MagFace(num_classes, min_margin=margin, **options),
    "MVSoftmax": MVSoftmax,
    "UniFace": UniFace,
}
HEAD_NAMES = [*HEADS, "norm-softmax", "softmax"]
# Default margins for --head without --margin, from the papers.
MARGINS = {"CosFace": 0.35, "SphereFace": 1.35, "AdaFace": 0.4, "MagFace": 0.45, "UniFace": 0.4}
OPTIMIZERS = ["SGD", "AdamW"]
SCHEDULES = ["step", "polynomial", "cosine"]
BACKBONES = [name for name in backbones.__all__ if name != "IResNet"]
SMALL_AUGMENTATION = augment.chain(
    functools.partial(augment.fill_border, probability=0.8),
    functools.partial(augment.affine, rotation=0.2, zoom=0.1, shift=0.05),
    functools.partial(augment.photometric, probability=0.4),
    functools.partial(augment.gray, probability=0.1),
    functools.partial(augment.erase, probability=0.25),
)
AUGMENTATIONS = {
    "none": None,
    "flip": augment.flip,
    "affine": augment.affine,
    "adaface": augment.adaface,
    "small": SMALL_AUGMENTATION,
}

# arcface_torch on 8 GPUs with 128 images each: no dropout, rate 0.1 with linear decay, clipped gradients.
_ARCFACE_TORCH = Recipe("", dropout=0.0, clip_norm=5.0, batch_size=1024)

RECIPES = {
    "orl": Recipe(
        """Demo on the ORL faces, 300 images of 30 people. Takes up to 4 minutes on two CPU cores.

        python examples/train_ms1m.py

        Tuned on people 31 to 40 of the ORL faces, on whom it is also evaluated: AUC 0.961.""",
        backbone="IResNet18",
        width=16,
        scale=30.0,
        optimizer="SGD",
        learning_rate=0.3,
        schedule="cosine",
        warmup=2.0,
        epochs=35.0,
        batch_size=30,
        augmentation="affine",
    ),
    "small": Recipe(
        """A few thousand images of a few hundred people, on CPUs. Tuned for 4536 images of 324 people, which takes half
        an hour on two cores with AVX512-BF16. --stem-strides 2 is three times as fast.

        python examples/train_ms1m.py --recipe small --data cfp_tfrecord --verify lfw_dev.bin --shuffle-seed 0

        Measured with this package on these 4536 images of CFP: LFW View 1 90.0, and 87.8 with --stem-strides 2.""",
        backbone="IResNet18",
        width=32,
        margin=0.4,
        scale=16.0,
        warmup_margin=10.0,
        weight_decay=2e-3,
        schedule="cosine",
        warmup=2.0,
        epochs=20.0,
        batch_size=64,
        augmentation="small",
    ),
    "casia_r50": Recipe(
        """CASIA-WebFace (0.5 million images of 10 thousand people), ResNet-50, as in the ArcFace paper, section 3.1: 32
        thousand steps of 512 images, rate drops at 20 and 28 thousand. The paper used four GPUs.

        python examples/train_ms1m.py --recipe casia_r50 --data casia_tfrecord --verify lfw.bin cfp_fp.bin agedb_30.bin

        Published: LFW 99.53, CFP-FP 95.56, AgeDB-30 95.15.""",
        schedule="step",
        drops="20.9,29.2",  # 20 and 28 thousand steps, with 957 steps per epoch
        epochs=33.4,
    ),
    "ms1mv2_r100": Recipe(
        """MS1MV2 (5.8 million images of 85 thousand people), ResNet-100, as in the ArcFace paper, section 3.1: 180
        thousand steps of 512 images, rate drops at 100 and 160 thousand.

        python examples/train_ms1m.py --recipe ms1mv2_r100 --data ms1mv2_tfrecord --verify lfw.bin cfp_fp.bin

        Published: LFW 99.83, YTF 98.02, MegaFace 81.03 / 96.98 (refined 98.35 / 98.48), IJB-C TAR@FAR=1e-4 95.6.""",
        backbone="IResNet100",
        schedule="step",
        drops="8.79,14.1",  # 100 and 160 thousand steps, with 11,372 steps per epoch
        epochs=15.8,
    ),
    "ms1mv3_r50": dataclasses.replace(
        _ARCFACE_TORCH,
        description="""MS1MV3 (5.2 million images of 93 thousand people), ResNet-50, as in arcface_torch on 8 GPUs with
        128 images each. On one GPU: --batch-size 128 --learning-rate 0.02.

        python examples/train_ms1m.py --recipe ms1mv3_r50 --data ms1mv3_tfrecord --verify lfw.bin cfp_fp.bin

        Published (arcface_torch, README): IJB-C TAR@FAR=1e-4 96.37, 1e-5 94.47.""",
    ),
    "ms1mv3_r100": dataclasses.replace(
        _ARCFACE_TORCH,
        description="""MS1MV3, ResNet-100, as in arcface_torch on 8 GPUs with 128 images each.

        python examples/train_ms1m.py --recipe ms1mv3_r100 --data ms1mv3_tfrecord --verify lfw.bin cfp_fp.bin

        Published (arcface_torch, README): IJB-C TAR@FAR=1e-4 96.85, 1e-5 95.02.""",
        backbone="IResNet100",
    ),
    "glint360k_r100": dataclasses.replace(
        _ARCFACE_TORCH,
        description="""Glint360K (17 million images of 360 thousand people), ResNet-100 with CosFace 0.4 and weight
        decay 1e-4, as in arcface_torch on 8 GPUs with 128 images each.

        python examples/train_ms1m.py --recipe glint360k_r100 --data glint360k_tfrecord --verify lfw.bin cfp_fp.bin

        Published (arcface_torch, README): IJB-C TAR@FAR=1e-4 97.55, 1e-5 96.38.""",
        backbone="IResNet100",
        head="CosFace",
        margin=0.4,
        weight_decay=1e-4,
    ),
    "mobilefacenet": dataclasses.replace(
        _ARCFACE_TORCH,
        description="""MS1MV3, MobileFaceNet: twice the epochs and weight decay 1e-4, as arcface_torch uses for its
        wider MobileFaceNet (0.45 GFLOPs) on 8 GPUs with 128 images each.

        python examples/train_ms1m.py --recipe mobilefacenet --data ms1mv3_tfrecord --verify lfw.bin cfp_fp.bin

        Published (arcface_torch, README, its network): IJB-C TAR@FAR=1e-4 94.23, 1e-5 91.33.""",
        backbone="MobileFaceNet",
        weight_decay=1e-4,
        epochs=40.0,
    ),
    "adamw": Recipe(
        """Decoupled AdamW with warm-up and CosFace 0.4, as arcface_torch uses for vision transformers on WebFace42M
        (rate 1e-3, weight decay 0.1, 40 epochs including 4 of warm-up). Applied to the networks of this package, with
        batches of 4096 and without weight decay of BatchNorm and PReLU.

        python examples/train_ms1m.py --recipe adamw --data webface_tfrecord --verify lfw.bin cfp_fp.bin

        No result is published for these networks. Published for ViT-T: IJB-C TAR@FAR=1e-4 97.27
        (arcface_torch, README, WebFace42M).""",
        dropout=0.0,
        head="CosFace",
        margin=0.4,
        optimizer="AdamW",
        learning_rate=1e-3,
        weight_decay=0.1,
        no_decay="gamma,beta,alpha",
        clip_norm=5.0,
        warmup=4.0,
        epochs=40.0,
        batch_size=4096,
    ),
}


def build(recipe: Recipe, num_classes: int, num_examples: int, image_size) -> RecognitionModel:
    """Creates and compiles the model of a recipe for a dataset."""
    stem = {"stem_strides": recipe.stem_strides} if recipe.stem_strides != 1 else {}
    backbone = getattr(backbones, recipe.backbone)(width=recipe.width, input_shape=(*image_size, 3), **stem)
    scaled = recipe.head == "MagFace"  # its margin depends on the embedding norms
    embedder = models.make_embedder(backbone, dim=recipe.dim, dropout=recipe.dropout, scaled=scaled)
    model = RecognitionModel(embedder, make_head(recipe, num_classes, steps_per_epoch(recipe, num_examples)))
    model.compile(make_optimizer(recipe, max(1, steps_per_epoch(recipe, num_examples) / recipe.accumulate)))
    model.build((None, *image_size, 3))
    return model


def make_head(recipe: Recipe, num_classes: int, steps_in_epoch: int) -> keras.layers.Layer:
    options = {"label_smoothing": recipe.label_smoothing, "name": "head"}
    if recipe.head == "softmax":
        return SoftmaxProduct(num_classes, **options)
    options |= {"scale": recipe.scale, "warmup_steps": round(recipe.warmup_margin * steps_in_epoch)}
    options |= {"initial_scale": recipe.initial_scale or None}
    options |= {name: getattr(recipe, name) for name in ("sub_centers", "ignored_above", "sample_rate")}
    options["sample_seed"] = recipe.seed
    if recipe.head == "norm-softmax":
        return NormSoftmax(num_classes, **options)
    return HEADS[recipe.head](num_classes, margin=recipe.margin, **options)


def steps_per_epoch(recipe: Recipe, num_examples: int) -> int:
    """Returns the number of steps per epoch. With accumulation, a step takes a part of the batch."""
    return max(1, num_examples // (recipe.batch_size // recipe.accumulate))


def make_optimizer(recipe: Recipe, updates_per_epoch: float) -> keras.optimizers.Optimizer:
    optimizer = _base_optimizer(recipe, recipe.learning_rate, updates_per_epoch)
    if recipe.head_rate != 1:
        head_optimizer = _base_optimizer(recipe, recipe.learning_rate * recipe.head_rate, updates_per_epoch)
        optimizer = keras.optimizers.MultiOptimizer(
            keras.optimizers.OptimizerMap(optimizer, {".*head/.*": head_optimizer})
        )
    if recipe.accumulate > 1 or recipe.clip_norm:
        limit = recipe.clip_norm or None
        optimizer = training.GradientAccumulationOptimizer(optimizer, recipe.accumulate, limit, clip="^(?!.*head/)")
    if keras.config.dtype_policy().name == "mixed_float16":
        optimizer = training.SyncedLossScaleOptimizer(optimizer)
    return optimizer


def _base_optimizer(recipe: Recipe, rate: float, updates_per_epoch: float) -> keras.optimizers.Optimizer:
    times = {"warmup": recipe.warmup, "steps_per_epoch": updates_per_epoch}
    schedule = {
        "step": lambda: training.StepSchedule(
            rate, boundaries=[float(step) for step in recipe.drops.split(",") if step], **times
        ),
        "polynomial": lambda: training.PolynomialSchedule(rate, total=recipe.epochs, **times),
        "cosine": lambda: training.CosineSchedule(rate, total=recipe.epochs, **times),
    }[recipe.schedule]()
    average = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    excluded = [name for name in recipe.no_decay.split(",") if name]
    if recipe.optimizer == "SGD":
        return training.CoupledSGD(schedule, weight_decay=recipe.weight_decay, no_decay=excluded, **average)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, **average)
    optimizer.exclude_from_weight_decay(var_names=excluded)
    return optimizer


def total_steps(recipe: Recipe, num_examples: int) -> int:
    return math.ceil(recipe.epochs * steps_per_epoch(recipe, num_examples))
