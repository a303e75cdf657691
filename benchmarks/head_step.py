"""Compares a training step of a head (loss, gradients, SGD with momentum) with the bare matrix products.

    pip install torch pytorch-metric-learning && git clone https://github.com/deepinsight/insightface
    python benchmarks/head_step.py --peer insightface/recognition/arcface_torch
    python benchmarks/head_step.py --peer ... --backend jax --classes 100000 1000000 10000000    # a GPU
    python benchmarks/head_step.py --peer ... --alphas 1.25 1.5 --trained trained.npz --images cfp324/train.rec

The limit contains only what every exact dense step needs: the matrix product of the logits, the two products of the
gradients, and the same update. Each contender runs in a separate process, and they are measured in turns. The table
shows the median, minimum and maximum over the rounds. The memory is in addition to centers, gradient and momentum.

Embeddings and centers are random, as at the start of a training, unless `--trained` is given. In this case, embeddings
are those of SFace, a published network, and the first centers are the mean embeddings of their people. The other
centers are random, with the mean and the covariance of these. All are rotated into `--dim` dimensions, which keeps the
cosines. The file is created from `--images` if it does not exist. The time of `QMargin` depends on the embeddings: the
table shows how many classes have a probability in a row.
"""

import argparse
import functools
import json
import math
import re
import statistics
import sys
from pathlib import Path

from contenders import Contender
from contenders import in_turns
from contenders import machine
from contenders import seconds_of
from contenders import serve

# The rate is so small that the embeddings stay in the state that is measured.
RATE, MOMENTUM, MARGIN, SCALE = 1e-9, 0.9, 0.5, 64.0


def problem(batch, classes, dim, trained=None):
    import numpy as np

    generator = np.random.default_rng(0)
    if trained:
        stored = np.load(trained)
        chosen = np.resize(generator.permutation(len(stored["labels"])), batch)
        rotation = np.linalg.qr(generator.standard_normal((dim, dim), dtype="float32"))[0][: len(stored["root"])]
        others = generator.standard_normal((classes - len(stored["means"]), len(stored["root"])), dtype="float32")
        centers = np.concatenate([stored["means"] @ rotation, others @ (stored["root"] @ rotation)])
        centers[len(stored["means"]) :] += stored["mean"] @ rotation
        return stored["embeddings"][chosen] @ rotation, centers, stored["labels"][chosen].astype("int32")
    embeddings = generator.standard_normal((batch, dim), dtype="float32")
    centers = 0.01 * generator.standard_normal((min(classes, 100_000), dim), dtype="float32")
    centers = np.resize(centers, (classes, dim))  # repeated, because the numbers of ten million take a minute
    return embeddings, centers, generator.integers(0, classes, batch).astype("int32")


def store_trained(images, path):
    """Stores the embeddings of SFace of the images of some people, and the distribution of their means."""
    import numpy as np

    from keras_arcface import data
    from keras_arcface import evaluation
    from keras_arcface import pretrained

    source = data.RecordIO(images)
    embeddings = evaluation.embed_images(pretrained.load("sface"), source, flip=False)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    _, labels = np.unique(source.labels, return_inverse=True)
    means = np.stack([embeddings[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    values, vectors = np.linalg.eigh(np.cov(means.T))
    root = (np.sqrt(np.maximum(values, 0)) * vectors).T.astype("float32")
    np.savez(path, embeddings=embeddings, labels=labels, means=means, mean=means.mean(axis=0), root=root)


# Each function returns a function `steps -> seconds`. A tiny problem runs first, so that memory which a framework
# allocates at its first step is not counted.


def ours(batch, classes, dim, trained=None, head="ArcFace", **choices):
    import keras

    from keras_arcface import layers

    embeddings, centers, labels = problem(batch, classes, dim, trained)
    if head == "ArcFace":
        choices |= {"margin": MARGIN, "scale": SCALE}
    head = getattr(layers, head)(classes, **choices)
    head.build((None, dim))
    head.centers.assign(centers)
    found = {"per row": classes_with_probability(head, embeddings, labels)} if "alpha" in choices else {}
    run = keras_step(head.centers, embeddings, lambda x: keras.ops.mean(head.loss(labels, x)))
    run.found = found
    return run


def classes_with_probability(head, embeddings, labels):
    """Returns the mean number of classes with a probability in a row, computed for some of the rows."""
    import numpy as np

    unit = embeddings[:16] / np.linalg.norm(embeddings[:16], axis=1, keepdims=True)
    centers = np.array(head.centers)
    logits = head.scale * unit @ (centers / np.linalg.norm(centers, axis=1, keepdims=True)).T
    width, margin = 1 / (head.alpha - 1), head.scale * head.margin.m3
    penalized = logits.copy()
    rows = np.arange(len(logits))
    penalized[rows, labels[:16]] -= margin
    low, high = penalized.max(axis=1), logits.max(axis=1) + width
    for _ in range(40):
        middle = (low + high) / 2
        powers = np.maximum(1 + (logits - middle[:, None]) / width, 0) ** width
        powers[rows, labels[:16]] /= (1 + margin / width) ** width
        is_low = powers.sum(axis=1) > 1
        low, high = np.where(is_low, middle, low), np.where(is_low, high, middle)
    return float((logits > low[:, None] - width).sum(axis=1).mean())


def one_hot(batch, classes, dim, trained=None):
    """The implementation of most tutorials: one-hot labels, a mask over all logits, categorical cross-entropy."""
    import keras
    from keras import ops

    embeddings, centers, labels = problem(batch, classes, dim, trained)
    weight = keras.Variable(centers)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)

    def mean_loss(x):
        mask = ops.one_hot(labels, classes)
        cosines = ops.matmul(ops.normalize(x), ops.transpose(ops.normalize(weight)))
        angles = ops.arccos(ops.clip(cosines, -1 + 1e-7, 1 - 1e-7))
        return loss(mask, SCALE * (cosines * (1 - mask) + ops.cos(angles + MARGIN) * mask))

    return keras_step(weight, embeddings, mean_loss)


def keras_step(weight, embeddings, mean_loss):
    import keras

    if keras.backend.backend() == "jax":
        import jax

        def loss_of(x, centers):
            with keras.StatelessScope(state_mapping=[(weight, centers)]):
                return mean_loss(x)

        def step(centers, slot, x):
            by_x, by_centers = jax.grad(loss_of, (0, 1))(x, centers)
            slot = MOMENTUM * slot - RATE * by_centers
            return centers + slot, slot, by_x

        centers = weight.value
        weight._value = None  # avoids a second copy in memory
        return jax_steps(step, centers, embeddings)
    import tensorflow as tf

    variable, slot = weight.value, tf.Variable(tf.zeros_like(weight.value))
    x = tf.constant(embeddings)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([x, variable])
            loss = mean_loss(x)
        by_x, by_centers = tape.gradient(loss, [x, variable])
        update(variable, slot, by_centers)
        return tf.reduce_sum(by_x)

    return lambda times: seconds_of(lambda times: [step().numpy() for _ in range(times)], times)


def jax_steps(step, centers, embeddings):
    """Returns a function `steps -> seconds`. Its attribute `gib` is the memory of a compiled step."""
    import jax

    state, x = [centers, jax.numpy.zeros_like(centers)], jax.numpy.asarray(embeddings)
    compiled = jax.jit(step, donate_argnums=(0, 1)).lower(*state, x).compile()
    del centers

    def run(times):
        for _ in range(times):
            state[0], state[1], by_x = compiled(*state, x)
        by_x.block_until_ready()

    def measure(times):
        return seconds_of(run, times)

    if needed := compiled.memory_analysis():
        arguments = needed.argument_size_in_bytes + needed.output_size_in_bytes - needed.alias_size_in_bytes
        measure.gib = (arguments + needed.temp_size_in_bytes) / 2**30
    return measure


def update(variable, slot, gradient):
    import tensorflow as tf

    tf.raw_ops.ResourceApplyKerasMomentum(
        var=variable.handle, accum=slot.handle, lr=RATE, grad=gradient, momentum=MOMENTUM, use_locking=False
    )


def limit(batch, classes, dim, framework, trained=None, dtype="float32"):
    embeddings, centers, _ = problem(batch, classes, dim, trained)
    if framework == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        x, weight = torch.from_numpy(embeddings).to(device), torch.from_numpy(centers).to(device)
        weight.grad = torch.zeros_like(weight)
        optimizer = torch.optim.SGD([weight], RATE, MOMENTUM)
        low = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        torch.set_float32_matmul_precision("high" if dtype == "tensorfloat32" else "highest")

        def run(times):
            for _ in range(times):
                a, b = x.to(low), weight.to(low)
                logits = a @ b.T
                by_x = logits @ b
                weight.grad = (logits.T @ a).float()
                optimizer.step()
            by_x[0, 0].item()

        return lambda times: seconds_of(run, times)
    if framework == "jax":
        from jax import numpy as jnp

        low = "bfloat16" if dtype == "bfloat16" else "float32"
        product = functools.partial(jnp.matmul, precision=dtype)

        def step(weight, slot, x):
            a, b = x.astype(low), weight.astype(low)
            logits = product(a, b.T)
            slot = MOMENTUM * slot - RATE * product(logits.T, a).astype("float32")
            return weight + slot, slot, product(logits, b)

        return jax_steps(step, jnp.asarray(centers), embeddings)
    import tensorflow as tf

    variable, slot, x = tf.Variable(centers), tf.Variable(tf.zeros_like(centers)), tf.constant(embeddings)

    @tf.function(autograph=False)
    def step():
        a, b = tf.cast(x, dtype), tf.cast(variable, dtype)
        logits = tf.matmul(a, b, transpose_b=True)
        by_x = tf.matmul(logits, b)
        update(variable, slot, tf.cast(tf.matmul(logits, a, transpose_a=True), "float32"))
        return tf.cast(by_x[0, 0], "float32")

    return lambda times: seconds_of(lambda times: [step().numpy() for _ in range(times)], times)


def metric_learning(batch, classes, dim, trained=None):
    from pytorch_metric_learning import losses

    loss = losses.ArcFaceLoss(classes, dim, margin=math.degrees(MARGIN), scale=SCALE)
    return torch_step(batch, classes, dim, trained, loss, lambda x, labels: loss(x, labels))


def arcface_torch(batch, classes, dim, path, trained=None):
    """PartialFC_V2 of arcface_torch with all classes, in a group of one process."""
    import torch

    sys.path.insert(0, str(Path(path)))
    import losses
    import partial_fc_v2

    if not torch.cuda.is_available():
        torch.Tensor.cuda = lambda tensor: tensor  # arcface_torch calls it even without a GPU
    if not torch.distributed.is_initialized():
        alone = {"store": torch.distributed.HashStore(), "rank": 0, "world_size": 1}
        torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo", **alone)
    loss = partial_fc_v2.PartialFC_V2(losses.CombinedMarginLoss(SCALE, 1.0, MARGIN, 0.0), dim, classes, 1.0, False)
    return torch_step(batch, classes, dim, trained, loss, lambda x, labels: loss(x, labels))


def torch_step(batch, classes, dim, trained, module, mean_loss):
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    embeddings, _, labels = problem(batch, classes, dim, trained)
    module.to(device).train()
    x, labels = torch.from_numpy(embeddings).to(device).requires_grad_(), torch.from_numpy(labels).long().to(device)
    optimizer = torch.optim.SGD(module.parameters(), RATE, MOMENTUM)

    def run(times):
        for _ in range(times):
            x.grad = None
            optimizer.zero_grad()
            mean_loss(x, labels).backward()
            optimizer.step()
        x.grad[0, 0].item()

    return lambda times: seconds_of(run, times)


KINDS = {
    "ours": ours,
    "one_hot": one_hot,
    "limit": limit,
    "metric_learning": metric_learning,
    "arcface_torch": arcface_torch,
}


def tasks(batch, classes, arguments):
    """Yields the name, task and backend of each contender."""
    held = 3 * 4 * classes * arguments.dim / 2**30
    first = {"batch": 8, "classes": 2000}
    size = {"batch": batch, "classes": classes, "dim": arguments.dim, "held": held, "first": first}
    size["trained"] = arguments.trained and str(arguments.trained)
    dtypes = ["float32", *(["tensorfloat32"] if machine()[0] == "gpu" else []), "bfloat16"]
    for framework in dict.fromkeys([arguments.backend, "torch"] if arguments.peer else [arguments.backend]):
        for dtype in dtypes:
            yield (
                f"limit, {framework}, {dtype}",
                {"kind": "limit", "framework": framework, "dtype": dtype, **size},
                framework,
            )
    for head in arguments.heads:
        recomputed = {"kind": "ours", "head": head, "max_cache_bytes": 0, **size}
        yield f"{head}, recomputed", recomputed, arguments.backend
        yield f"{head}, one chunk", {**recomputed, "chunk_size": classes, "max_cache_bytes": 2**60}, arguments.backend
    if arguments.heads:
        return
    for dtype in dtypes:
        recomputed = {"kind": "ours", "max_cache_bytes": 0, "matmul_dtype": dtype, **size}
        yield f"ours, recomputed, {dtype}", recomputed, arguments.backend
        yield f"ours, cached, {dtype}", {**recomputed, "max_cache_bytes": 2**60}, arguments.backend
    for alpha in arguments.alphas:
        yield (
            f"QMargin, alpha {alpha:g}",
            {"kind": "ours", "head": "QMargin", "alpha": alpha, **size},
            arguments.backend,
        )
    one_chunk = {"kind": "ours", "chunk_size": classes, "max_cache_bytes": 2**60, **size}
    yield "ours, one chunk", one_chunk, arguments.backend
    yield "Keras, one-hot", {"kind": "one_hot", **size}, arguments.backend
    if arguments.peer:
        yield "pytorch-metric-learning", {"kind": "metric_learning", **size}, "torch"
        yield "arcface_torch", {"kind": "arcface_torch", "path": arguments.peer, **size}, "torch"


def compare(batch, classes, arguments):
    too_large = 40 * classes * (3 * arguments.dim + 5 * batch) > 2**34  # to keep ten contenders in memory
    contenders = [
        Contender(*task, not too_large)
        for task in tasks(batch, classes, arguments)
        if re.search(arguments.only, task[0])
    ]
    contenders = in_turns(contenders, arguments)
    medians = {c.name: statistics.median(c.measured) for c in contenders}
    limits = [median for name, median in medians.items() if name.startswith("limit") and name.endswith("float32")]
    held = 3 * 4 * classes * arguments.dim / 2**30
    print(f"\nbatch {batch}, {classes:,} classes: {held:.2f} GiB of centers, gradient and momentum")
    print(f"{'':36}{'ms':>9}{'min':>9}{'max':>9}{'x limit':>10}{'GiB added':>11}{'classes':>10}")
    for c in contenders:
        milliseconds = [1e3 * seconds for seconds in (medians[c.name], min(c.measured), max(c.measured))]
        ratio = medians[c.name] / min(limits)
        per_row = "".join(f"{answer['per row']:10.1f}" for answer in c.answers[:1] if "per row" in answer)
        text = "".join(f"{ms:9.1f}" for ms in milliseconds) + f"{ratio:10.2f}{c.gib:11.2f}{per_row}"
        print(f"{c.name:36}{text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="directory of arcface_torch")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 512, 2048])
    parser.add_argument("--classes", nargs="+", type=int, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument(
        "--heads", nargs="+", default=[], help="heads of this package, such as SoftmaxProduct, instead of ArcFace"
    )
    parser.add_argument(
        "--alphas", nargs="+", type=float, default=[], help="parameters of QMargin, which runs for each"
    )
    parser.add_argument("--trained", type=Path, help="file with embeddings of a trained network, .npz")
    parser.add_argument("--images", type=Path, help="RecordIO file of faces from which to create that file")
    parser.add_argument("--only", default="", help="regular expression of the rows to measure")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, KINDS)
        return
    if arguments.trained and not arguments.trained.exists():
        store_trained(arguments.images, arguments.trained)
    _, name = machine()
    print(f"{name}; {arguments.backend}; median of {arguments.rounds} rounds of {arguments.seconds:g} s", flush=True)
    for classes in arguments.classes:
        for batch in arguments.batches:
            compare(batch, classes, arguments)


if __name__ == "__main__":
    main()
