"""The model, optimizer and augmentation of a recipe."""

import functools
from collections.abc import Callable

import keras

from keras_arcface import backbones
from keras_arcface import layers
from keras_arcface import losses
from keras_arcface import models
from keras_arcface import training
from keras_arcface._arguments import check
from keras_arcface.data import TeacherEmbeddings
from keras_arcface.data import augment
from keras_arcface.recipes.recipe import Recipe

# All are called as head(num_classes, margin=..., scale=..., **options).
_MARGIN_HEADS: dict[str, Callable[..., layers.Head]] = {
    "ArcFace": layers.ArcFace,
    "CosFace": layers.CosFace,
    "SphereFace": layers.SphereFace,
    "AdaFace": layers.AdaFace,
    "CurricularFace": layers.CurricularFace,
    "ElasticFace": layers.ElasticFace,
    "MagFace": lambda num_classes, margin, **options: layers.MagFace(num_classes, min_margin=margin, **options),
    "MVSoftmax": layers.MVSoftmax,
    "QMargin": layers.QMargin,
    "UniFace": layers.UniFace,
}
_AUGMENTATIONS = {
    "none": None,
    "flip": augment.flip,
    "affine": augment.affine,
    "adaface": augment.adaface,
    "reid": augment.chain(
        augment.flip,
        functools.partial(augment.translate, pixels=10),
        functools.partial(augment.erase, probability=0.5, area=(0.02, 0.4)),
    ),
    "retrieval": augment.chain(augment.flip, functools.partial(augment.crop, probability=1.0, area=(0.08, 1.0))),
    "small": augment.chain(
        functools.partial(augment.fill_border, probability=0.8),
        functools.partial(augment.affine, rotation=0.2, zoom=0.1, shift=0.05),
        functools.partial(augment.photometric, probability=0.4),
        functools.partial(augment.gray, probability=0.1),
        functools.partial(augment.erase, probability=0.25),
    ),
}


def build(
    recipe: Recipe,
    num_classes: int,
    num_examples: int,
    image_size: tuple[int, int] = (112, 112),
    teacher: keras.Model | None = None,
    teacher_embeddings: TeacherEmbeddings | None = None,
) -> models.RecognitionModel:
    """Creates and compiles the model of a recipe for a dataset.

    Args:
        recipe: a `Recipe`.
        num_classes: number of classes of the dataset.
        num_examples: number of images of the dataset. Epochs in the recipe are converted to steps with it.
        image_size: `(height, width)` of the images.
        teacher: embedder for a recipe with `distillation` and `teacher_images="augmented"`, otherwise None.
        teacher_embeddings: embeddings of the dataset by the teacher, for a recipe with `distillation` and
            `teacher_images="original"` or with `teacher_centers`, otherwise None.

    Returns:
        A compiled `RecognitionModel`. Set the seed (`keras.utils.set_random_seed`), the precision
        (`training.use_precision`) and the devices (`training.device_scope`) before.

    Raises:
        ValueError: if a layer refuses a setting of the recipe, the image size does not fit the network, the recipe
            requires a teacher that is not given, or the file of `backbone_weights` contains other weights.
        FileNotFoundError: if the file of `backbone_weights` does not exist.

    Examples:
        >>> recipe = get("small", backbone="MobileFaceNet", width=8, dim=8, batch_size=4)
        >>> model = build(recipe, num_classes=2, num_examples=8, image_size=(32, 32))
        >>> model.embedder.output_shape
        (None, 8)
    """
    # The margin of MagFace depends on the norms of embeddings. A BNNeck has a scale in any case.
    scaled = recipe.head == "MagFace" and recipe.neck != "BNNeck"
    embedder = models.make_embedder(
        _make_backbone(recipe, image_size), dim=recipe.dim, dropout=recipe.dropout, scaled=scaled, neck=recipe.neck
    )
    is_online = recipe.distillation > 0 and recipe.teacher_images == "augmented"
    needs_embeddings = recipe.needs_teacher and (not is_online or recipe.teacher_centers != "none")
    for name, value, is_needed in (
        ("teacher", teacher, is_online),
        ("teacher_embeddings", teacher_embeddings, needs_embeddings),
    ):
        expected = "given" if is_needed else "None"
        check(
            name,
            value,
            (value is not None) == is_needed,
            f"{expected} for a recipe with distillation={recipe.distillation:g}, teacher_images="
            f"{recipe.teacher_images} and teacher_centers={recipe.teacher_centers}",
        )
    teacher_dim = None
    if teacher is not None:
        teacher_dim = teacher.output_shape[-1]
    elif teacher_embeddings is not None:
        teacher_dim = teacher_embeddings.dim
    head = make_head(recipe, num_classes, num_examples, teacher_dim)
    if teacher_embeddings is not None and recipe.teacher_centers != "none":
        head.build(embedder.output_shape)
        layers.set_teacher_centers(head, teacher_embeddings.class_centers(), fixed=recipe.teacher_centers == "fixed")
    model = models.RecognitionModel(embedder, head, teacher)
    model.compile(make_optimizer(recipe, num_examples))
    model.build((None, *image_size, 3))
    return model


def make_head(recipe: Recipe, num_classes: int, num_examples: int, teacher_dim: int | None = None) -> layers.Head:
    """Creates the head of a recipe.

    Args:
        recipe: a `Recipe`.
        num_classes: number of classes of the dataset.
        num_examples: number of images of the dataset, which the length of the margin warm-up depends on.
        teacher_dim: dimension of the teacher's embeddings, for a recipe with `distillation`. None if it is `dim`.

    Returns:
        A head with the name "head".

    Raises:
        ValueError: if the head refuses a setting of the recipe.

    Examples:
        >>> make_head(get("glint360k_r100"), num_classes=10, num_examples=1000).margin
        CombinedMargin(m1=1.0, m2=0.0, m3=0.4)
    """
    if recipe.distillation > 0:
        plain = recipe.replace(distillation=0, head_weight=1, teacher_images="original")
        inner = make_head(plain, num_classes, num_examples)
        return layers.WithDistillation(inner, recipe.distillation, recipe.head_weight, teacher_dim, name="head")
    if recipe.triplet > 0:
        inner = make_head(recipe.replace(triplet=0), num_classes, num_examples)
        # The paper on the BNNeck compares its features without normalization.
        has_bnneck = recipe.neck == "BNNeck"
        loss = losses.TripletLoss(recipe.triplet_margin, squared=False, normalize=not has_bnneck)
        before = "embedding" if has_bnneck else None
        return layers.WithEmbeddingLoss(inner, loss, recipe.triplet, before, name="head")
    options = {"label_smoothing": recipe.label_smoothing, "name": "head"}
    if recipe.head == "softmax":
        return layers.SoftmaxProduct(num_classes, **options)
    options |= {
        "scale": recipe.scale,
        "initial_scale": recipe.initial_scale or None,
        "warmup_steps": round(recipe.warmup_margin * recipe.steps_per_epoch(num_examples)),
        "sub_centers": recipe.sub_centers,
        "ignored_above": recipe.ignored_above,
        "sample_rate": recipe.sample_rate,
        "sample_seed": recipe.seed,
    }
    if recipe.head == "norm-softmax":
        return layers.NormSoftmax(num_classes, **options)
    return _MARGIN_HEADS[recipe.head](num_classes, margin=recipe.margin, **options)


def make_optimizer(recipe: Recipe, num_examples: int) -> keras.optimizers.Optimizer:
    """Creates the optimizer of a recipe with its schedule, for the current dtype policy.

    Args:
        recipe: a `Recipe`.
        num_examples: number of images of the dataset. Epochs in the recipe are converted to updates with it.

    Returns:
        A Keras optimizer. Clipped and accumulated gradients, and the loss scaling of "mixed_float16", are wrapped
        around it.

    Raises:
        ValueError: if the schedule of the recipe is not valid, for example if its drops are not in ascending order.

    Examples:
        >>> optimizer = make_optimizer(get("casia_r50"), num_examples=490_623)
        >>> step = optimizer.iterations.assign(25_000)  # after the first drop
        >>> print(round(float(optimizer.learning_rate), 4))
        0.01
    """
    updates_per_epoch = max(1, recipe.steps_per_epoch(num_examples) / recipe.accumulate)
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


def make_augmentation(recipe: Recipe) -> Callable | None:
    """Returns the augmentation of a recipe, for `data.load_dataset`, or None if it has none.

    Args:
        recipe: a `Recipe`.

    Returns:
        A function of uint8 images `(n, height, width, 3)` and a seed of two integers, or None.

    Examples:
        >>> images = np.zeros((4, 112, 112, 3), np.uint8)
        >>> make_augmentation(get("small"))(images, [0, 1]).shape
        TensorShape([4, 112, 112, 3])
    """
    return _AUGMENTATIONS[recipe.augmentation]


def _make_backbone(recipe: Recipe, image_size: tuple[int, int]) -> keras.Model:
    make, input_shape = getattr(backbones, recipe.backbone), (*image_size, 3)
    if recipe.backbone == "ResNet50":
        return make(input_shape=input_shape, last_stride=recipe.last_stride, weights=recipe.backbone_weights or None)
    stem = {"stem_strides": recipe.stem_strides} if recipe.stem_strides != 1 else {}
    return make(width=recipe.width, input_shape=input_shape, **stem)


def _base_optimizer(recipe: Recipe, rate: float, updates_per_epoch: float) -> keras.optimizers.Optimizer:
    times = {"warmup": recipe.warmup, "steps_per_epoch": updates_per_epoch}
    if recipe.schedule == "step":
        schedule = training.StepSchedule(rate, boundaries=list(recipe.drops), **times)
    else:
        kind = {"polynomial": training.PolynomialSchedule, "cosine": training.CosineSchedule}[recipe.schedule]
        schedule = kind(rate, total=recipe.epochs, **times)
    average = {"use_ema": True, "ema_momentum": recipe.ema} if recipe.ema else {}
    no_decay = list(recipe.no_decay)
    if recipe.optimizer in ("SGD", "Adam"):
        coupled = {"SGD": training.CoupledSGD, "Adam": training.CoupledAdam}[recipe.optimizer]
        return coupled(schedule, weight_decay=recipe.weight_decay, no_decay=no_decay, **average)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, **average)
    optimizer.exclude_from_weight_decay(var_names=no_decay)
    return optimizer
