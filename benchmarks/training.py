"""Compares the images per second of training steps with arcface_torch on the same machine.

    git clone https://github.com/deepinsight/insightface && pip install torch
    python benchmarks/training.py --peer insightface/recognition/arcface_torch
    python benchmarks/training.py --peer ... --backend jax --networks IResNet50 IResNet100 --batches 128 256   # a GPU

A step consists of the forward pass in training mode, ArcFace over 10,000 classes, the backward pass, and the update of
SGD with momentum and weight decay, on one batch in memory. The peer is arcface_torch's backbone with a plain ArcFace in
PyTorch and `torch.optim.SGD`: as published, channels-last, and channels-last with autocast, which is its fastest
configuration. Each contender runs in a separate process, and they are measured in turns. The table shows the median,
minimum and maximum over the rounds.

The product multiplies two large square matrices in the faster framework. The column `product` is the ratio of the
network's operations per second (three times those of the forward pass) to those of the product in the same precision.
"""

import argparse
import contextlib
import importlib.util
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from contenders import Contender
from contenders import in_turns
from contenders import machine
from contenders import seconds_of
from contenders import serve

CLASSES, DIM, DROPOUT = 10_000, 512, 0.4
RATE, MOMENTUM, DECAY = 0.01, 0.9, 5e-4
PRECISIONS = {"cpu": ("float32", "onednn_bfloat16"), "gpu": ("mixed_bfloat16", "mixed_float16")}
PEERS = {
    "cpu": {
        "as published": (None, False),
        "channels-last": (None, True),
        "channels-last, bfloat16": ("bfloat16", True),
    },
    "gpu": {
        "as published, float16": ("float16", False),
        "channels-last, float16": ("float16", True),
        "channels-last, bfloat16": ("bfloat16", True),
    },
}


# Each function returns a function `steps -> seconds`.


def ours(network, batch, precision, **_):
    import keras

    from keras_arcface import ArcFace
    from keras_arcface import RecognitionModel
    from keras_arcface import backbones
    from keras_arcface import models
    from keras_arcface import training

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        training.use_precision(precision)
        dataset = tf.data.Dataset.from_tensors(batch_of(batch)).repeat().prefetch(2)
    else:  # without TensorFlow, which may not be installed
        keras.config.set_dtype_policy(precision)
        pair = batch_of(batch)
        dataset = (pair for _ in itertools.count())
    embedder = models.make_embedder(getattr(backbones, network)(), dim=DIM, dropout=DROPOUT)
    model = RecognitionModel(embedder, ArcFace(CLASSES))
    model.compile(optimizer=training.CoupledSGD(RATE, momentum=MOMENTUM, weight_decay=DECAY))
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: moments.append(time.perf_counter()),
        on_epoch_end=lambda *_: moments.append(time.perf_counter()),  # Keras has read the losses at this point
    )
    moments = []

    def run(times):
        moments.clear()
        # Only the epoch is measured: on a CPU, TensorFlow idles for about five seconds when it releases a dataset.
        model.fit(dataset, steps_per_epoch=times, shuffle=False, verbose=0, callbacks=[clock])
        return moments[1] - moments[0]

    return run


def peer(network, batch, dtype, channels_last, path, compiled=False, **_):
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Their networks switch CUDA's autocast on and off. Here, autocast surrounds them in any precision.
    torch.cuda.amp.autocast = lambda _: contextlib.nullcontext()
    low = torch.autocast(device, getattr(torch, dtype)) if dtype else contextlib.nullcontext()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    backbone = peer_network(network, path).to(device, memory_format=layout).train()
    if compiled:
        backbone = torch.compile(backbone)
    centers = torch.nn.Parameter(0.01 * torch.randn(CLASSES, DIM, device=device))
    optimizer = torch.optim.SGD([*backbone.parameters(), centers], RATE, MOMENTUM, weight_decay=DECAY)
    scaler = torch.amp.GradScaler(device, enabled=dtype == "float16")
    images, labels = (torch.from_numpy(array).to(device) for array in batch_of(batch))
    images, labels = images.permute(0, 3, 1, 2).contiguous(memory_format=layout), labels.long()
    rows = torch.arange(batch, device=device)

    def step():
        with low:
            embeddings = backbone(images.float() / 127.5 - 1)
        cosines = functional.linear(functional.normalize(embeddings.float()), functional.normalize(centers))
        target = torch.cos(torch.acos(cosines[rows, labels].clamp(-1 + 1e-7, 1 - 1e-7)) + 0.5)
        loss = functional.cross_entropy(64 * cosines.index_put((rows, labels), target), labels)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    def run(times):
        for _ in range(times):
            loss = step()
        loss.item()  # waits for the device

    return lambda times: seconds_of(run, times)


def product(framework, dtype, side, **_):
    if framework == "torch":
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        first = torch.randn(side, side, device=device).to(getattr(torch, dtype))
        multiply, wait = (lambda: first @ first), lambda result: result[0, 0].item()
    elif framework == "jax":
        import jax

        first = jax.random.normal(jax.random.key(0), (side, side)).astype(dtype)
        multiply, wait = jax.jit(lambda: first @ first), lambda result: result.block_until_ready()
    else:
        import tensorflow as tf

        first = tf.cast(tf.random.normal((side, side)), dtype)
        multiply, wait = (lambda: first @ first), lambda result: result[0, 0].numpy()

    def run(times):
        for _ in range(times):
            result = multiply()
        wait(result)

    return lambda times: seconds_of(run, times)


KINDS = {"ours": ours, "peer": peer, "product": product}


def batch_of(size):
    import numpy as np

    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (size, 112, 112, 3)).astype("uint8")
    return images, generator.integers(0, CLASSES, size).astype("int32")


def peer_network(network, path):
    if network == "MobileFaceNet":
        return peer_module(path, "mobilefacenet").get_mbf(fp16=False, num_features=DIM, scale=1)
    return getattr(peer_module(path, "iresnet"), network.lower())(num_features=DIM, dropout=DROPOUT)


def peer_module(path, name):
    spec = importlib.util.spec_from_file_location(name, Path(path) / "backbones" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forward_flops(network):
    """Returns the FLOPs of one image: two per multiplication of a convolution or matrix product."""
    from keras import layers

    from keras_arcface import backbones
    from keras_arcface import models

    backbone = getattr(backbones, network)()
    embedder = models.make_embedder(backbone, dim=DIM)
    total = 2 * DIM * CLASSES
    for layer in [*backbone.layers, *embedder.layers]:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            total += 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
        elif isinstance(layer, layers.Dense):
            total += 2 * math.prod(layer.kernel.shape)
    return total


def measure_products(arguments, device):
    """Returns the FLOP/s of the fastest framework for each dtype."""
    side = 8192 if device == "gpu" else 2048
    rates = {}
    frameworks = [arguments.backend, "torch"] if arguments.peer else [arguments.backend]
    for dtype in ("float32", "bfloat16") if device == "cpu" else ("bfloat16", "float16"):
        contenders = []
        for framework in frameworks:
            task = {"kind": "product", "framework": framework, "dtype": dtype, "side": side}
            contenders.append(Contender(framework, task, framework, True))
        for contender in in_turns(contenders, arguments):
            rate = 2 * side**3 / statistics.median(contender.measured)
            print(f"product of {side} x {side}, {dtype:9}{contender.name:11}{rate / 1e12:8.3f} TFLOP/s", flush=True)
            rates[dtype] = max(rate, rates.get(dtype, 0))
    return rates


def compare(network, batch, arguments, device, products):
    contenders = []
    for precision in arguments.precision or PRECISIONS[device]:
        task = {"kind": "ours", "network": network, "batch": batch, "precision": precision}
        contenders.append(Contender(f"ours, {precision}", task, arguments.backend, device == "cpu"))
    if arguments.peer:
        for name, (dtype, channels_last) in PEERS[device].items():
            task = {"kind": "peer", "network": network, "batch": batch, "dtype": dtype}
            task |= {"channels_last": channels_last, "path": arguments.peer}
            contenders.append(Contender(f"arcface_torch, {name}", task, arguments.backend, device == "cpu"))
    contenders = in_turns(contenders, arguments)
    rates = {c.name: [batch / seconds for seconds in c.measured] for c in contenders}
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    peers = [median for name, median in medians.items() if name.startswith("arcface_torch")]
    count = [sys.executable, __file__, "--count", network]
    hidden = {**os.environ, "KERAS_BACKEND": arguments.backend, "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
    counted = subprocess.run(count, env=hidden, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    flops = 3 * int(counted.stdout)
    print(
        f"\n{network}, batch {batch}: {flops / 1e9:.1f} GFLOP per image\n"
        f"{'':40}{'images/s':>9}{'min':>8}{'max':>8}{'x peer best':>12}{'published':>11}{'product':>9}{'GiB':>7}"
    )
    for contender in contenders:
        name, median = contender.name, medians[contender.name]
        dtype = next((d for d in ("bfloat16", "float16") if d in name), "float32")
        ratios = f"{median / max(peers):>12.2f}{median / peers[0]:>11.2f}" if peers else f"{'':23}"
        print(
            f"{name:40}{median:>9.1f}{min(rates[name]):>8.1f}{max(rates[name]):>8.1f}{ratios}"
            f"{flops * median / products[dtype]:>9.2f}{contender.gib:>7.1f}",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="directory of arcface_torch, which contains backbones/")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--networks", nargs="+", default=["IResNet18", "MobileFaceNet"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--precision", nargs="+", help="precisions of this package; default: those of the device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="duration of each measurement")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--count", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, KINDS)
        return
    if arguments.count:
        print(forward_flops(arguments.count))
        return
    device, name = machine()
    if device == "cpu" and arguments.backend == "jax" and not arguments.precision:
        arguments.precision = ["float32"]
    print(f"{name}; {arguments.backend}; median of {arguments.rounds} rounds of {arguments.seconds:g} s\n", flush=True)
    products = measure_products(arguments, device)
    for network in arguments.networks:
        for batch in arguments.batches:
            compare(network, batch, arguments, device, products)


if __name__ == "__main__":
    main()
