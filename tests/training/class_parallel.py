"""Compares heads whose classes are sharded over 8 CPU devices with one device, and lists collectives (JAX).

    KERAS_BACKEND=jax python tests/training/class_parallel.py

A step is the loss and gradients of the head. For a sampled head it is that of `RecognitionModel`, which also gathers
centers and momentum. Four times as many classes must not increase the communication between devices.
"""

import json
import re

import jax
import keras
import numpy as np

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import UniFace
from keras_arcface.layers import MisclassifiedNegatives
from keras_arcface.layers import QMargin
from keras_arcface.layers import WithQuality
from keras_arcface.training import ClassParallel
from keras_arcface.training import CoupledSGD


def with_quality(classes, name, **choices):
    keras.utils.set_random_seed(0)
    return WithQuality(ArcFace(classes, **choices), name=name)


DEVICES, BATCH, DIM = 8, 64, 32
BYTES = {"f32": 4, "s32": 4, "u32": 4, "pred": 1}
OTHERWISE = {"max_cache_bytes": 0, "scale": 100.0, "sub_centers": 2, "ignored_above": 0.5, "label_smoothing": 0.1}
EXACT = {
    "exact, 8 shards": (8, {"chunk_size": 256}),
    "exact, 2 shards": (2, {"chunk_size": 256}),
    "hard negatives, 8 shards": (8, {"chunk_size": 256, "negatives": MisclassifiedNegatives()}),
    "quality, 8 shards": (8, {"chunk_size": 256, "of": with_quality}),
    "binary, 8 shards": (8, {"chunk_size": 256, "of": UniFace}),
    "divergence, 8 shards": (8, {"chunk_size": 256, "of": QMargin}),
    "sub-centers, computed again, 8 shards": (8, {"chunk_size": 200, **OTHERWISE}),
}
SAMPLED = {"sample_rate": 0.25, "sample_groups": DEVICES}
CLASSES = (4096, 16384)


def make_head(classes, of=ArcFace, **choices):
    head = of(classes, name="head", **choices)
    head.build((None, DIM))
    head.centers.assign(np.random.default_rng(0).normal(size=head.centers.shape).astype("float32"))
    return head


def batch_for(head):
    """Makes embeddings near their centers, with repeated labels."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, head.num_classes, BATCH).astype("int32")
    labels[3] = labels[0]
    own = np.asarray(head.centers.value)[labels].reshape(BATCH, -1, DIM)[:, 0]
    return (own + 2 * generator.normal(size=(BATCH, DIM))).astype("float32"), labels


def laid_out(*batch):
    distribution = keras.distribution.distribution()
    if distribution is None:
        return batch
    layouts = [distribution.get_data_layout(array.shape) for array in batch]
    return tuple(map(keras.distribution.distribute_tensor, batch, layouts))


def exact_step(classes, **choices):
    """Returns losses, top-1 hits and gradients, and the compiled program."""
    head = make_head(classes, **choices)
    embeddings, labels = batch_for(head)
    embeddings, labels = laid_out(embeddings, labels)

    def mean_loss(embeddings, centers):
        with keras.StatelessScope(state_mapping=[(head.centers, centers)]):
            losses, _, hits = head.loss_and_stats(labels, embeddings)
        return losses.mean(), (losses, hits)

    step = jax.jit(jax.grad(mean_loss, (0, 1), has_aux=True)).lower(embeddings, head.centers.value).compile()
    (by_embeddings, by_centers), (losses, hits) = step(embeddings, head.centers.value)
    found = {"losses": losses, "hits": hits, "by embeddings": by_embeddings, "by centers": by_centers}
    return {name: np.asarray(array) for name, array in found.items()}, step.as_text()


def sampled_steps(classes, **choices):
    """Returns all variables after three steps, including the sampled classes, and the compiled program of a step."""
    keras.utils.set_random_seed(0)
    head = make_head(classes, **choices)
    inputs = keras.Input((DIM,))
    model = RecognitionModel(keras.Model(inputs, keras.layers.Dense(DIM, name="body")(inputs)), head)
    model.compile(CoupledSGD(0.1))
    model.build((None, DIM))
    model.optimizer.build(model.trainable_variables)
    batch = laid_out(*batch_for(head))
    groups = model.trainable_variables, model.non_trainable_variables, model.optimizer.variables
    groups = *groups, model.metrics_variables
    state = tuple([v.value for v in variables] for variables in groups)
    layouts = jax.tree.map(lambda value: value.sharding, state)
    step = jax.jit(model.train_step, donate_argnums=0, out_shardings=(None, layouts)).lower(state, batch).compile()
    for _ in range(3):
        _, state = step(state, batch)
    values = jax.tree.leaves(state)
    variables = [variable for group in groups for variable in group]
    return {v.path: np.asarray(value) for v, value in zip(variables, values, strict=True)}, step.as_text()


def collectives(program):
    """Returns the bytes of each collective of a compiled program, by kind and shapes, in and outside of loops."""
    found = {}
    bodies = re.findall(r"body=%?([\w.-]+)", program)
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    for computation in re.split(r"\n(?=\S)", program):
        often = re.split(r"[ (]", computation.removeprefix("%"), maxsplit=1)[0] in bodies
        for shapes, kind in re.findall(rf"= (\(?[a-z]\w*\[[^=]*?) ({kinds})(?:-start)?\(", computation):
            shapes = re.findall(r"([a-z]\w*)\[([\d,]*)\]", shapes)
            name = f"{kind} {' '.join(f'{t}[{s}]' for t, s in shapes)}{' in a loop' if often else ''}"
            found[name] = sum(BYTES[t] * int(np.prod([int(n) for n in s.split(",") if n])) for t, s in shapes)
    return dict(sorted(found.items()))


def compare(step, shards, classes, **choices):
    keras.utils.clear_session()  # also resets the distribution
    expected, _ = step(classes, **choices)
    keras.utils.clear_session()
    keras.distribution.set_distribution(ClassParallel(shards))
    found, program = step(classes, **choices)
    differences = {
        name: float(np.abs(found[name].astype("float64") - value).max() / max(1e-30, np.abs(value).max()))
        for name, value in expected.items()
    }
    return {"differences": differences, "collectives": collectives(program)}


def main():
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    reports = {}
    for name, (shards, choices) in EXACT.items():
        for classes in CLASSES:
            reports[f"{name}, {classes} classes"] = compare(exact_step, shards, classes, **choices)
    for classes in CLASSES:
        reports[f"sampled, {classes} classes"] = compare(sampled_steps, DEVICES, classes, **SAMPLED)
    print(json.dumps(reports, indent=1))


if __name__ == "__main__":
    main()
