"""Images per second of whole training steps, beside arcface_torch's on the same machine.

    git clone https://github.com/deepinsight/insightface && pip install torch
    python benchmarks/training.py --peer insightface/recognition/arcface_torch
    python benchmarks/training.py --peer ... --backend jax --networks IResNet50 IResNet100 --batches 128 256   # a GPU

A step is forward in training mode, ArcFace over 10,000 classes, backward, and the update of SGD with momentum and
weight decay, on one batch that stays in memory. The peer is its own backbone with a plain ArcFace in PyTorch and
`torch.optim.SGD`: as published, channels-last, and channels-last under autocast, which is its best. Every contender is
a process of its own, and they are measured in turns; the table has the median of the rounds, and the least and most.

The product is of two large square matrices, by the fastest framework at hand. Its share counts three times the
multiplications of the network's convolutions and products forward, in the contender's own precision.
"""

import argparse
import contextlib
import importlib.util
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


# Each contender gives a function that does what is measured so many times, and returns the seconds until all was done.


def ours(network, batch, precision, **_):
    import keras
    import tensorflow as tf

    from keras_arcface import ArcFace
    from keras_arcface import RecognitionModel
    from keras_arcface import backbones
    from keras_arcface import models
    from keras_arcface import training

    if keras.backend.backend() != "tensorflow":
        tf.config.set_visible_devices([], "GPU")  # it only hands over the batch
    training.use_precision(precision)
    embedder = models.make_embedder(getattr(backbones, network)(), dim=DIM, dropout=DROPOUT)
    model = RecognitionModel(embedder, ArcFace(CLASSES))
    model.compile(optimizer=training.CoupledSGD(RATE, momentum=MOMENTUM, weight_decay=DECAY))
    dataset = tf.data.Dataset.from_tensors(batch_of(batch)).repeat().prefetch(2)
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: moments.append(time.perf_counter()),
        on_epoch_end=lambda *_: moments.append(time.perf_counter()),  # Keras has read the losses by then
    )
    moments = []

    def run(times):
        moments.clear()
        # Not all of fit is measured: on a CPU TensorFlow idles for some five seconds when it lets go of a dataset.
        model.fit(dataset, steps_per_epoch=times, shuffle=False, verbose=0, callbacks=[clock])
        return moments[1] - moments[0]

    return run


def peer(network, batch, dtype, channels_last, path, **_):
    import torch
    from torch.nn import functional

    device = "cuda" if torch.cuda.is_available() else "cpu"
    # Their networks switch CUDA's autocast on and off within; here it is around them, in any precision.
    torch.cuda.amp.autocast = lambda _: contextlib.nullcontext()
    low = torch.autocast(device, getattr(torch, dtype)) if dtype else contextlib.nullcontext()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    backbone = peers_network(network, path).to(device, memory_format=layout).train()
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
        loss.item()  # waits

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


def peers_network(network, path):
    if network == "MobileFaceNet":
        return peers_file(path, "mobilefacenet").get_mbf(fp16=False, num_features=DIM, scale=1)
    return getattr(peers_file(path, "iresnet"), network.lower())(num_features=DIM, dropout=DROPOUT)


def peers_file(path, name):
    spec = importlib.util.spec_from_file_location(name, Path(path) / "backbones" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def forward_flops(network):
    """Of one image, two for each multiplication of a convolution or product."""
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
    """FLOP/s of the fastest framework, by dtype."""
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
        f"\n{network}, batch {batch}: {flops / 1e9:.1f} GFLOP for an image\n"
        f"{'':40}{'images/s':>9}{'least':>8}{'most':>8}{'peer: best':>12}{'published':>11}{'product':>9}{'GiB':>7}"
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
    parser.add_argument("--peer", help="arcface_torch's directory, with backbones/ in it")
    parser.add_argument("--backend", choices=("tensorflow", "jax"), default="tensorflow")
    parser.add_argument("--networks", nargs="+", default=["IResNet18", "MobileFaceNet"])
    parser.add_argument("--batches", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--precision", nargs="+", help="ours, by default what suits the device")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
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
