"""Compares the embeddings of an embedder's exports through every interface, on real faces.

    python tests/serving/compare.py runs/1/embedder.keras

Exports the embedder as a SavedModel, ONNX, OpenVINO and LiteRT in float32, and embeds faces in batches of 1, 7 and 64:
through TensorFlow's C++ loader, in a process without Keras, with OpenVINO reading the SavedModel, with the package's
client and with ovmsclient through the test double of a server, and in each runtime. The table shows the maximum
difference of an entry of an embedding (of length 1), or of a cosine, from `embedder.predict`.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from server_double import ServerDouble

from keras_arcface import serving
from keras_arcface.data.orl_faces import OrlFaces
from keras_arcface.serving.saved_model import loaders
from keras_arcface.serving.saved_model.loaders import npz_requests

BATCHES = (1, 7, 64)


def in_a_process(loader, saved_model, requests, folder):
    files = [str(folder / name) for name in ("requests.npz", "answers.npz")]
    npz_requests.save(files[0], requests)
    script = str(Path(loaders.__file__).with_name(f"{loader}.py"))
    subprocess.run([sys.executable, script, str(saved_model), *files], check=True, capture_output=True)
    return [answer for _, answer in npz_requests.load(files[1])]


def openvino_on(saved_model):
    import openvino

    compiled = openvino.Core().compile_model(str(saved_model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: compiled([images])["embedding"]


def onnx(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["embedding"], {"images": images})[0]


def openvino(path):
    return openvino_on(path)


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    signature = Interpreter(str(path)).get_signature_runner()
    return lambda images: signature(images=images)["embedding"]


def results_by_interface(embedder, folder, images, pngs):
    """Yields `(interface, {batch: embeddings, or cosines of each image and the previous one})`."""
    saved_model = serving.export_saved_model(embedder, folder / "models" / "faces" / "1", compare=True)
    turned = {batch: np.roll(images[:batch], 1, axis=0) for batch in BATCHES}
    requests = {
        "serving_default": [("serving_default", {"images": images[:batch]}) for batch in BATCHES],
        "serve_bytes": [("serve_bytes", {"image_bytes": pngs[:batch]}) for batch in BATCHES],
        "compare": [("compare", {"images_a": images[:batch], "images_b": turned[batch]}) for batch in BATCHES],
    }
    for name, loader in (("C++ loader", "cpp"), ("process without Keras", "python")):
        for signature, asked in requests.items():
            answers = in_a_process(loader, saved_model, asked, folder)
            output = "cosine" if signature == "compare" else "embedding"
            yield f"{name}, {signature}", dict(zip(BATCHES, (answer[output] for answer in answers), strict=True))
    for name, run in (
        ("OpenVINO on the SavedModel", openvino_on(saved_model)),
        ("ONNX Runtime", onnx(serving.export_onnx(embedder, folder / "faces.onnx"))),
        ("OpenVINO", openvino(serving.export_openvino(embedder, folder / "faces.xml"))),
        ("LiteRT", litert(serving.export_litert(embedder, folder / "faces.tflite"))),
    ):
        yield name, {batch: run(images[:batch]) for batch in BATCHES}
    with ServerDouble(folder / "models") as double:
        for protocol in ("grpc", "rest"):
            with serving.FaceClient(getattr(double, protocol), batch_size=64, timeout=60) as client:
                for kind, given in (("arrays", images), ("PNG", pngs)):
                    yield (
                        f"FaceClient, {protocol}, {kind}",
                        {batch: client.embed(given[:batch]).embedding for batch in BATCHES},
                    )
                found = {batch: client.compare(images[:batch], turned[batch]) for batch in BATCHES}
                yield f"FaceClient, {protocol}, compare", found
        yield from results_of_independent_client(double, images)


def results_of_independent_client(double, images):
    try:
        import ovmsclient
    except ModuleNotFoundError:
        print("without ovmsclient: pip install --no-deps ovmsclient")
        return
    for protocol, address in (("grpc", double.grpc), ("http", double.rest)):
        client = getattr(ovmsclient, f"make_{protocol}_client")(address.split("://")[1])
        yield (
            f"ovmsclient, {protocol}",
            {
                batch: client.predict(inputs={"images": images[:batch]}, model_name="faces", model_version=1)[
                    "embedding"
                ]
                for batch in BATCHES
            },
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path)
    arguments = parser.parse_args()
    embedder = keras.saving.load_model(arguments.embedder, compile=False)
    faces = OrlFaces(range(31, 38))
    pngs = [faces[index].image for index in range(max(BATCHES))]
    images = np.stack([tf.io.decode_png(png) for png in pngs])
    expected, cosines = {}, {}
    for batch in BATCHES:
        raw = embedder.predict(images[:batch], verbose=0)
        expected[batch] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        cosines[batch] = np.sum(expected[batch] * np.roll(expected[batch], 1, axis=0), axis=1)
    others = cosines[max(BATCHES)]
    print(f"{len(pngs)} faces; cosines of one and the next from {others.min():.2f} to {others.max():.2f}")
    print(f"{'':38}" + "".join(f"{f'batch {batch}':>11}" for batch in BATCHES))
    with tempfile.TemporaryDirectory() as folder:
        for name, found in results_by_interface(embedder, Path(folder), images, pngs):
            right = cosines if name.endswith("compare") else expected
            largest = (np.abs(np.asarray(found[batch]) - right[batch]).max() for batch in BATCHES)
            print(f"{name:38}" + "".join(f"{value:11.1e}" for value in largest), flush=True)


if __name__ == "__main__":
    main()
