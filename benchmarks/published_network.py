"""Compares a published network in Keras and its exports with the original file, on real faces.

    python benchmarks/published_network.py sface --pairs lfw_dev.bin --calibration cfp324/train.rec
    python benchmarks/published_network.py sface --pairs lfw_dev.bin --calibration cfp324/train.rec --images 1000

The original ONNX file runs in ONNX Runtime. `difference` is the largest L2 distance between its embedding of an image
and that of the contender, both normalized, relative to the distance of its embedding to the mean. Accuracies are those
of one threshold, from cross-validation over shuffled pairs with a fixed seed, with their standard deviation over the
folds. `mirror` is the sum of the embeddings of an image and its mirror image. int8 exports are calibrated with the
images of `--calibration`, which must not be those of the pairs. The last row is the signature `serve_bytes`, which
decodes the images itself.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from contenders import machine

from keras_arcface import evaluation
from keras_arcface import pretrained
from keras_arcface import serving
from keras_arcface._weights_files import obtain
from keras_arcface.data import PairSet
from keras_arcface.serving import calibration_images


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", help="published network whose ONNX file normalizes pixels itself, such as sface")
    parser.add_argument("--pairs", type=Path, required=True, help="pairs of faces, .bin or .npz")
    parser.add_argument("--calibration", type=Path, required=True, help="training images, for the int8 exports")
    parser.add_argument("--images", type=int, default=1000, help="images for the differences (default: %(default)s)")
    parser.add_argument("--accept-license", action="store_true", help="accept a license without commercial use")
    arguments = parser.parse_args()
    pairs = PairSet.load(arguments.pairs)
    embedder = pretrained.load(arguments.network, arguments.accept_license)
    with tempfile.TemporaryDirectory() as folder:
        original = obtain(arguments.network, pretrained.presets()[arguments.network].files)
        networks = {"original file, ONNX Runtime": serving.load_embedder(original), "Keras": embedder}
        networks |= exported(embedder, Path(folder), arguments.calibration)
        print(f"{arguments.network} on {arguments.pairs.name}, {len(pairs.same)} pairs; {machine()[1]}\n")
        print("| network | difference | accuracy | AUC | accuracy, mirror | AUC, mirror |\n|---|---|---|---|---|---|")
        reference = None
        for name, network in networks.items():
            plain = evaluation.embed_pairs(network, pairs, flip=False)
            reference = plain if reference is None else reference
            results = [plain, evaluation.embed_pairs(network, pairs, flip=True)]
            difference = relative_difference(plain[: arguments.images], reference[: arguments.images])
            figures = [evaluation.verify(embeddings, pairs.same, shuffle_seed=0) for embeddings in results]
            columns = [f"{figure.accuracy:.4f} ± {figure.accuracy_std:.4f} | {figure.auc:.5f}" for figure in figures]
            print(f"| {name} | {difference:.1e} | {' | '.join(columns)} |", flush=True)
        print(encoded_row(embedder, Path(folder), pairs, reference, arguments.images), flush=True)


def encoded_row(embedder, folder, pairs, reference, num_images):
    """Returns the row of a SavedModel that decodes the images itself, exported without and with mirror images."""
    columns = []
    for mirror in (False, True):
        directory = serving.export_saved_model(embedder, folder / f"encoded_{mirror}", mirror=mirror, check=False)
        embeddings = serve_bytes(directory, pairs.images)
        if not mirror:
            columns.append(f"{relative_difference(embeddings[:num_images], reference[:num_images]):.1e}")
        figure = evaluation.verify(embeddings, pairs.same, shuffle_seed=0)
        columns.append(f"{figure.accuracy:.4f} ± {figure.accuracy_std:.4f} | {figure.auc:.5f}")
    return f"| SavedModel, encoded images | {' | '.join(columns)} |"


def serve_bytes(directory, images):
    """Returns the answers of the signature `serve_bytes` to encoded images."""
    loaded = tf.saved_model.load(str(directory))
    batches = [images[start : start + 64] for start in range(0, len(images), 64)]
    answers = [loaded.signatures["serve_bytes"](image_bytes=tf.constant(batch)) for batch in batches]
    return np.concatenate([answer["embedding"].numpy() for answer in answers])


def exported(embedder, folder, source):
    """Returns the exports of an embedder by name, as functions of images."""
    images = calibration_images(source, embedder.input_shape[1:3])
    files = {
        "SavedModel": serving.export_saved_model(embedder, folder / "saved_model"),
        "ONNX": serving.export_onnx(embedder, folder / "model.onnx"),
        "ONNX, int8": serving.export_onnx(embedder, folder / "int8.onnx", "int8", images),
        "OpenVINO": serving.export_openvino(embedder, folder / "model.xml"),
        "OpenVINO, int8": serving.export_openvino(embedder, folder / "int8.xml", "int8", images),
    }
    return {name: serving.load_embedder(path) for name, path in files.items()}


def relative_difference(embeddings, reference):
    """Returns the largest distance between unit embeddings, relative to the distance of the reference to its mean."""
    embeddings, reference = (array / np.linalg.norm(array, axis=1, keepdims=True) for array in (embeddings, reference))
    distances = np.linalg.norm(embeddings - reference, axis=1)
    return np.max(distances / np.linalg.norm(reference - reference.mean(axis=0), axis=1))


if __name__ == "__main__":
    main()
