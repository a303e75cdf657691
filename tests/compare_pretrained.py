"""Compares embedders from published file formats with their PyTorch networks at full size, and times loading.

    python tests/compare_pretrained.py
    python tests/compare_pretrained.py --networks IResNet50 IResNet100 --peer insightface/recognition/arcface_torch

Weights, scales and statistics are random. A difference is the largest |embedding - reference| of an image, divided by
|reference - mean of references|, which is stricter than dividing by |reference|. With `--peer`, the networks of
arcface_torch are its original modules, otherwise those of the tests. `converted` marks ONNX files that are converted by
`load_onnx`, because they have none of the known layouts. Requires torch, safetensors, onnx and onnxruntime; takes some
minutes on two cores. At the end it prints the errors for files of a network that cannot be loaded.
"""

import argparse
import sys
import tempfile
import time
import warnings
from pathlib import Path

import insightface_networks
import keras
import numpy as np
import onnxruntime
import safetensors.torch
import torch
import torch_edgeface
import torch_sface
import torch_vit
import torch_weights
from insightface_networks import embed
from insightface_networks import pixels

from keras_arcface import pretrained

SIZE = (112, 112)


def iresnet(*blocks):
    return lambda: insightface_networks.TorchIResNet(blocks, 64, SIZE, 512)


def cvlface(*blocks):
    return lambda: insightface_networks.TorchCVLface(blocks, 64, SIZE, 512)


def mobilefacenet(*blocks, scale=2):
    return lambda: insightface_networks.TorchMobileFaceNet(blocks, scale, SIZE, 512)


def vit(channels, blocks):
    return lambda: torch_vit.TorchViT(channels, blocks)


def edgeface(channels, ratio):
    return lambda: torch_edgeface.TorchEdgeFace(channels, ratio=ratio)


NETWORKS = {
    "IResNet18": iresnet(2, 2, 2, 2),
    "IResNet34": iresnet(3, 4, 6, 3),
    "IResNet50": iresnet(3, 4, 14, 3),
    "IResNet100": iresnet(3, 13, 30, 3),
    "IResNet200": iresnet(6, 26, 60, 6),
    "MobileFaceNet": mobilefacenet(1, 4, 6, 2),
    "MobileFaceNet-L": mobilefacenet(2, 8, 12, 4, scale=4),
    "AdaFace IR-18": cvlface(2, 2, 2, 2),
    "AdaFace IR-50": cvlface(3, 4, 14, 3),
    "AdaFace IR-101": cvlface(3, 13, 30, 3),
    "ViT-T": vit(256, 12),
    "ViT-S": vit(512, 12),
    "ViT-B": vit(512, 24),
    "EdgeFace-XS (0.6)": edgeface((32, 64, 100, 192), 0.6),
    "EdgeFace-S (0.5)": edgeface((48, 96, 160, 304), 0.5),
    "SFace": lambda: torch_sface.TorchSFace(32, SIZE, 128),
}
# Networks that were only published as ONNX files.
ONNX_ONLY = ("SFace",)
# The functions of arcface_torch.
ORIGINALS = {
    **{f"IResNet{depth}": ("iresnet", f"iresnet{depth}", {}) for depth in (18, 34, 50, 100, 200)},
    "MobileFaceNet": ("mobilefacenet", "get_mbf", {"fp16": False, "num_features": 512}),
    "MobileFaceNet-L": ("mobilefacenet", "get_mbf_large", {"fp16": False, "num_features": 512}),
}


def make_network(name, peer):
    if peer is None or name not in ORIGINALS:
        return NETWORKS[name]()
    module, function, options = ORIGINALS[name]
    return getattr(__import__(f"backbones.{module}", fromlist=[function]), function)(**options)


def write_files(network, images, folder):
    """Writes the network in each format, and returns the paths."""
    paths = {suffix: folder / f"model{suffix}" for suffix in (".pth", ".safetensors", ".onnx")}
    torch.save(network.state_dict(), paths[".pth"])
    safetensors.torch.save_file(network.state_dict(), paths[".safetensors"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without further dependencies is deprecated
        torch.onnx.export(
            network,
            pixels(images[:1]),
            paths[".onnx"],
            input_names=["data"],
            dynamic_axes={"data": {0: "n"}},
            opset_version=17,
            dynamo=False,
        )
    return paths


def largest_difference(received, expected):
    distances = np.linalg.norm(received - expected, axis=1)
    return (distances / np.linalg.norm(expected - expected.mean(axis=0), axis=1)).max()


def loaded(path, images, expected):
    """Returns the embedder, and a cell of the table: its difference and the seconds of loading."""
    start = time.perf_counter()
    embedder = pretrained.load(path)
    seconds = time.perf_counter() - start
    kind = "" if any(isinstance(layer, keras.Model) for layer in embedder.layers) else ", converted"
    return embedder, f"{largest_difference(embedder.predict(images, verbose=0), expected):.1e}, {seconds:.1f} s{kind}"


def row(network, images, folder, onnx_only):
    torch_weights.randomize(network, pixels(images))
    expected = embed(network.eval(), images)
    paths = write_files(network, images, folder)
    session = onnxruntime.InferenceSession(paths[".onnx"], providers=["CPUExecutionProvider"])
    by_onnxruntime = session.run(None, {"data": pixels(images).numpy()})[0]
    cells = []
    for suffix, path in paths.items():
        is_read = suffix == ".onnx" or not onnx_only
        embedder, cell = loaded(path, images, expected) if is_read else (None, "")
        cells.append(cell)
    embedder.save(folder / "embedder.keras")
    saved = keras.saving.load_model(folder / "embedder.keras").predict(images, verbose=0)
    further = (f"{largest_difference(output, expected):.1e}" for output in (saved, by_onnxruntime))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"{parameters:,} | {' | '.join((*cells, *further))}"


def print_refusals(folder):
    """Prints the errors for files of a network that cannot be loaded."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Upsample(scale_factor=2, mode="bicubic"))
    images = np.zeros((1, *SIZE, 3), np.float32)
    for path in write_files(network, images, folder).values():
        try:
            pretrained.load(path)
        except ValueError as error:
            print(f"- `{path.suffix}`: {str(error).replace(str(folder) + '/', '')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the folder recognition/arcface_torch of insightface")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, metavar="NAME")
    arguments = parser.parse_args()
    if arguments.peer:
        sys.path.insert(0, str(arguments.peer))
    images = torch_weights.smooth_images(8, SIZE)
    print(f"backend {keras.backend.backend()}, {len(images)} images; differences and seconds of loading\n")
    print("| network | parameters | .pth | .safetensors | ONNX | .keras of it | ONNX Runtime |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.networks:
        torch.manual_seed(0)
        network = make_network(name, arguments.peer)
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {name} | {row(network, images, Path(folder), name in ONNX_ONLY)} |", flush=True)
        keras.backend.clear_session()
    print("\nErrors for files of a network that cannot be loaded:\n")
    with tempfile.TemporaryDirectory() as folder:
        print_refusals(Path(folder))


if __name__ == "__main__":
    main()
