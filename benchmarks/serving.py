"""Measures throughput and latency of an exported embedder: SavedModel, ONNX Runtime, OpenVINO, LiteRT, Keras, gRPC.

    python benchmarks/serving.py
    python benchmarks/serving.py --peer insightface/recognition/arcface_torch --networks IResNet50

Weights and BatchNorm statistics are random. The package writes the exports first. Each contender runs in a separate
process, and they are measured in turns: images per second over all rounds, and the 50th and 99th percentile of the call
times. `x bare` is the ratio to `embedder(images)` in a tf.function with the same precision. `x product` is the ratio of
the network's multiplications per second to those of a large square matrix product in float32.

`gRPC` is `FaceClient` with the test double of a server in another process on the same cores. With `--peer`, the same
weights in arcface_torch's network are exported by PyTorch's ONNX exporter, as a reference for our exports. bfloat16 in
TensorFlow corresponds to a server with `--mixed_precision=bfloat16`.

`JPEG` is the time from files to embeddings. OpenVINO receives the pixels of the decoder of our SavedModel, which runs
before it. `--jpeg` measures these contenders only.
"""

import argparse
import atexit
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from contenders import Contender
from contenders import in_turns
from contenders import machine
from contenders import serve

SIZE = 112
ROOT = Path(__file__).parents[1]


class Timed:
    """Calls a function repeatedly and records the latency of each call."""

    def __init__(self, call):
        self.call, self.found = call, {}

    def __call__(self, times):
        moments = [time.perf_counter()]
        for _ in range(times):
            self.call()
            moments.append(time.perf_counter())
        self.found = {"latencies": np.diff(moments).tolist()}
        return moments[-1] - moments[0]


def images_of(batch):
    return np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), dtype=np.uint8)


def jpegs_of(batch):
    import cv2

    smooth = [cv2.resize(image[:14, :14], (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) for image in images_of(batch)]
    return [cv2.imencode(".jpg", image)[1].tobytes() for image in smooth]


# Each function returns a function `calls -> seconds`.


def bare(folder, batch, precision, **_):
    import keras
    import tensorflow as tf

    _use(precision)
    embedder = keras.saving.load_model(Path(folder, "embedder.keras"), compile=False)
    function = tf.function(lambda images: embedder(images, training=False))
    images = tf.constant(images_of(batch))
    return Timed(lambda: function(images).numpy())


def predict(folder, batch, **_):
    import keras

    embedder = keras.saving.load_model(Path(folder, "embedder.keras"), compile=False)
    images = images_of(batch)
    return Timed(lambda: embedder.predict(images, batch_size=batch, verbose=0))


def saved_model(folder, batch, precision, signature="serving_default", model="frozen", **_):
    import tensorflow as tf

    _use(precision)
    loaded = tf.saved_model.load(str(Path(folder, model)))
    answer = loaded.signatures[signature]
    value = tf.constant(images_of(batch) if signature == "serving_default" else jpegs_of(batch))
    name = {"serving_default": "images", "serve_bytes": "image_bytes"}[signature]
    return Timed(lambda: answer(**{name: value})["embedding"].numpy())


def onnx(folder, batch, file, channels_first=False, **_):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(folder, file)), providers=["CPUExecutionProvider"])
    images = images_of(batch)
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1
    name = session.get_inputs()[0].name
    return Timed(lambda: session.run(None, {name: images}))


def decoder(batch):
    """Returns a function that decodes JPEG files as the signature `serve_bytes` does."""
    import tensorflow as tf

    from keras_arcface.serving.saved_model.decoding import decode_rows

    files = tf.constant(jpegs_of(batch))
    function = tf.function(lambda files: decode_rows(files, (SIZE, SIZE))[0])
    return lambda: function(files).numpy()


def decoding(batch, **_):
    return Timed(decoder(batch))


def openvino(folder, batch, file, precision, channels_first=False, is_jpeg=False, **_):
    import openvino as ov

    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision]
    model = ov.Core().compile_model(
        str(Path(folder, file)), "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
    )
    images = images_of(batch)
    if channels_first:
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1
    request = model.create_infer_request()
    decode = decoder(batch) if is_jpeg else lambda: images
    return Timed(lambda: request.infer([decode()]))


def litert(folder, batch, file, **_):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(Path(folder, file)), num_threads=os.cpu_count())
    entry = interpreter.get_input_details()[0]
    interpreter.resize_tensor_input(entry["index"], [batch, SIZE, SIZE, 3])
    interpreter.allocate_tensors()
    images = images_of(batch)

    def call():
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()

    return Timed(call)


def grpc(folder, batch, signature, **_):
    from keras_arcface.serving import FaceClient

    command = [sys.executable, str(ROOT / "tests" / "serving" / "server_double.py"), str(Path(folder, "base"))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command += ["--name", "faces", "--grpc-port", "0", "--rest-port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    atexit.register(server.kill)
    address = next(word for line in server.stdout for word in line.split() if word.startswith("grpc://"))
    client = FaceClient(address, model="faces", timeout=120.0)
    client.wait_until_ready(120.0)
    images = images_of(batch) if signature == "serving_default" else jpegs_of(batch)
    return Timed(lambda: client.embed(images))


def product(**_):
    import tensorflow as tf

    side = 2048
    matrix = tf.random.normal((side, side))
    function = tf.function(lambda: tf.reduce_sum(matrix @ matrix))
    return Timed(lambda: function().numpy())


KINDS = {
    "bare": bare,
    "predict": predict,
    "saved_model": saved_model,
    "onnx": onnx,
    "decoding": decoding,
    "openvino": openvino,
    "litert": litert,
    "grpc": grpc,
    "product": product,
}


def _use(precision):
    import tensorflow as tf

    if precision == "bfloat16":
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})


def prepare(folder, network, peer, int8):
    """Writes the embedder, all its exports, and the number of multiplications per image."""
    import keras

    from keras_arcface import backbones
    from keras_arcface import models
    from keras_arcface import serving

    if peer:
        embedder = _peer(folder, network, peer)
    else:
        keras.utils.set_random_seed(0)
        embedder = models.make_embedder(getattr(backbones, network)(), dim=512)
        generator = np.random.default_rng(0)
        for layer in embedder.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.moving_mean.assign(generator.normal(0, 0.3, layer.moving_mean.shape))
                layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    embedder.save(folder / "embedder.keras")
    for kind in ("frozen", "kept"):
        serving.export_saved_model(embedder, folder / kind, freeze=kind == "frozen", warmup_batch_sizes=(1,))
    serving.publish(folder / "frozen", folder / "base" / "faces", check=False)
    serving.export_onnx(embedder, folder / "float32.onnx")
    serving.export_openvino(embedder, folder / "float32.xml")
    serving.export_litert(embedder, folder / "float32.tflite")
    if int8:
        calibration = images_of(64)
        serving.export_onnx(embedder, folder / "int8.onnx", precision="int8", calibration=calibration, check=False)
        serving.export_openvino(embedder, folder / "int8.xml", precision="int8", calibration=calibration, check=False)
        serving.export_litert(embedder, folder / "int8.tflite", precision="int8", calibration=calibration, check=False)
    (folder / "multiplications").write_text(str(_multiplications(embedder)))


def _peer(folder, network, peer):
    """Exports arcface_torch's network by PyTorch, and returns our embedder with the same weights."""
    import torch

    from keras_arcface import pretrained

    sys.path.insert(0, peer)
    from backbones import get_model

    torch.manual_seed(0)
    theirs = get_model({"IResNet50": "r50", "IResNet18": "r18", "MobileFaceNet": "mbf"}[network], fp16=False).eval()
    for module in theirs.modules():  # the default initialization overflows after fifty layers
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    torch.save(theirs.state_dict(), folder / "peer.pth")
    torch.onnx.export(
        theirs,
        torch.zeros(1, 3, SIZE, SIZE),
        str(folder / "peer.onnx"),
        dynamo=False,
        input_names=["data"],
        dynamic_axes={"data": {0: "batch"}},
    )
    return pretrained.load_insightface(folder / "peer.pth")


def _multiplications(embedder):
    total = 0
    for layer in embedder._flatten_layers(include_self=False):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = int(np.prod(layer.output.shape[1:-1]))
            total += positions * int(np.prod(kernel.shape))
    return total


def tasks(folder, batch, peer, int8):
    """Yields the name and the task of each contender."""
    size = {"folder": str(folder), "batch": batch}
    float32, bfloat16 = {"precision": "float32", **size}, {"precision": "bfloat16", **size}
    yield "bare TensorFlow", {"kind": "bare", **float32}
    yield "SavedModel", {"kind": "saved_model", **float32}
    yield "SavedModel, variables", {"kind": "saved_model", **float32, "model": "kept"}
    yield "SavedModel, JPEG", {"kind": "saved_model", **float32, "signature": "serve_bytes"}
    yield "decoding of JPEG alone", {"kind": "decoding", **size}
    yield "Keras predict", {"kind": "predict", **float32}
    yield "ONNX Runtime", {"kind": "onnx", **float32, "file": "float32.onnx"}
    yield "OpenVINO", {"kind": "openvino", **float32, "file": "float32.xml"}
    yield "OpenVINO, JPEG", {"kind": "openvino", **float32, "file": "float32.xml", "is_jpeg": True}
    yield "LiteRT", {"kind": "litert", **float32, "file": "float32.tflite"}
    if peer:
        theirs = {**float32, "file": "peer.onnx", "channels_first": True}
        yield "peer, ONNX Runtime", {"kind": "onnx", **theirs}
        yield "peer, OpenVINO", {"kind": "openvino", **theirs}
    yield "gRPC, images", {"kind": "grpc", **float32, "signature": "serving_default"}
    yield "gRPC, JPEG", {"kind": "grpc", **float32, "signature": "serve_bytes"}
    yield "bare TensorFlow, bfloat16", {"kind": "bare", **bfloat16}
    yield "SavedModel, bfloat16", {"kind": "saved_model", **bfloat16}
    yield "OpenVINO, bfloat16", {"kind": "openvino", **bfloat16, "file": "float32.xml"}
    if peer:
        yield "peer, OpenVINO, bfloat16", {"kind": "openvino", **bfloat16, "file": "peer.onnx", "channels_first": True}
    if int8:
        quantized = {"precision": "int8", **size}
        yield "ONNX Runtime, int8", {"kind": "onnx", **quantized, "file": "int8.onnx"}
        yield "OpenVINO, int8", {"kind": "openvino", **quantized, "file": "int8.xml"}
        yield "LiteRT, int8", {"kind": "litert", **quantized, "file": "int8.tflite"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=["MobileFaceNet", "IResNet50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 64])
    parser.add_argument("--peer", help="directory of arcface_torch")
    parser.add_argument("--int8", action="store_true", help="also measure quantized exports")
    parser.add_argument("--jpeg", action="store_true", help="only what is needed to compare answers to JPEG files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="duration of each measurement")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, KINDS)
        return
    if arguments.prepare:
        prepare(arguments.prepare, arguments.networks[0], arguments.peer, arguments.int8)
        return
    print(f"{machine()[1]}; {arguments.rounds} rounds of {arguments.seconds:g} s", flush=True)
    for network in arguments.networks:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--prepare", folder, "--networks", network]
            command += [
                *(["--peer", arguments.peer] if arguments.peer else []),
                *(["--int8"] if arguments.int8 else []),
            ]
            subprocess.run(command, check=True, stdout=sys.stderr)
            for batch in arguments.batches:
                compare(network, batch, Path(folder), arguments)


def compare(network, batch, folder, arguments):
    image_flops = 2 * int((folder / "multiplications").read_text())
    keep_alive = image_flops * batch < 2e11  # larger ones do not fit into memory together
    rate = Contender("matrix product", {"kind": "product"}, "tensorflow", True)
    contenders = [
        Contender(name, task, "tensorflow", keep_alive)
        for name, task in tasks(folder, batch, arguments.peer, arguments.int8)
        if not arguments.jpeg or "JPEG" in name or name in ("bare TensorFlow", "SavedModel", "OpenVINO")
    ]
    measured = in_turns([rate, *contenders], arguments)
    flops = 2 * 2048**3 / statistics.median(rate.measured)
    seconds = {contender.name: statistics.median(contender.measured) for contender in measured}
    print(f"\n{network}, batch {batch}; matrix product {flops / 1e12:.3f} TFLOP/s")
    print(f"{'':28}{'images/s':>10}{'p50 ms':>9}{'p99 ms':>9}{'x bare':>9}{'x product':>12}")
    for contender in measured:
        if contender is rate:
            continue
        name = contender.name
        latencies = 1e3 * np.concatenate([answer["latencies"] for answer in contender.answers])
        reference = seconds["bare TensorFlow, bfloat16" if "bfloat16" in name else "bare TensorFlow"]
        share = image_flops * batch / seconds[name] / flops
        p50, p99 = np.percentile(latencies, (50, 99))
        print(
            f"{name:28}{batch / seconds[name]:10.1f}{p50:9.1f}{p99:9.1f}{reference / seconds[name]:9.2f}{share:12.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
