"""Compares imported embedders with arcface_torch's PyTorch networks at full size, from .pth and ONNX files.

    python tests/compare_pretrained.py --peer insightface/recognition/arcface_torch

Weights, scales and statistics are random. The difference of an image is |imported - reference| divided by
|reference - mean of references|, which is stricter than dividing by |reference|. The table shows the largest one.
Requires torch, onnx and onnxruntime; takes some minutes on two cores.
"""

import argparse
import sys
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import torch
from insightface_networks import embed
from insightface_networks import pixels
from insightface_networks import randomize

from keras_arcface.pretrained import load_insightface

NETWORKS = ("r18", "r34", "r50", "r100", "r200", "mbf", "mbf 2,8,12,4", "mbf_large")


def make_network(name):
    from backbones import iresnet
    from backbones import mobilefacenet

    if name.startswith("r"):
        return getattr(iresnet, f"iresnet{name[1:]}")()
    if name == "mbf_large":
        return mobilefacenet.get_mbf_large(False, 512)
    blocks = (1, 4, 6, 2) if name == "mbf" else (2, 8, 12, 4)
    return mobilefacenet.get_mbf(False, 512, blocks=blocks)


def largest_difference(received, expected):
    distances = np.linalg.norm(received - expected, axis=1)
    return (distances / np.linalg.norm(expected - expected.mean(axis=0), axis=1)).max()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--peer", type=Path, required=True, help="the folder recognition/arcface_torch of insightface")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.peer))
    images = np.random.default_rng(0).integers(0, 256, (8, 112, 112, 3), dtype=np.uint8)
    print(f"backend {keras.backend.backend()}, {len(images)} images")
    print(f"{'network':14}{'parameters':>12}{'.pth':>10}{'ONNX':>10}{'.keras of it':>14}{'onnxruntime':>13}")
    for name in arguments.networks:
        torch.manual_seed(0)
        network = randomize(make_network(name), images)
        expected = embed(network, images)
        with tempfile.TemporaryDirectory() as folder:
            pth, graph, saved = (Path(folder) / file for file in ("backbone.pth", "model.onnx", "embedder.keras"))
            torch.save(network.state_dict(), pth)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the exporter without further dependencies is deprecated
                torch.onnx.export(
                    network,
                    pixels(images[:1]),
                    graph,
                    input_names=["data"],
                    dynamic_axes={"data": {0: "n"}},
                    opset_version=11,
                    dynamo=False,
                )
            session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
            by_onnxruntime = session.run(None, {"data": pixels(images).numpy()})[0]
            from_pth = load_insightface(pth).predict(images, verbose=0)
            embedder = load_insightface(graph)
            embedder.save(saved)
            outputs = (
                from_pth,
                embedder.predict(images, verbose=0),
                keras.saving.load_model(saved).predict(images, verbose=0),
                by_onnxruntime,
            )
        parameters = sum(parameter.numel() for parameter in network.parameters())
        columns = [f"{largest_difference(output, expected):.1e}" for output in outputs]
        print(f"{name:14}{parameters:12,}{columns[0]:>10}{columns[1]:>10}{columns[2]:>14}{columns[3]:>13}", flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()
