"""Loader of the weights files of published networks as embedders."""

from pathlib import Path

import numpy as np
from keras import layers

from keras_arcface import _arguments
from keras_arcface._messages import cut
from keras_arcface.models import make_embedder
from keras_arcface.pretrained import preset_files
from keras_arcface.pretrained.layer_weights import set_weights
from keras_arcface.pretrained.layouts import recognize
from keras_arcface.pretrained.onnx_networks import read_onnx
from keras_arcface.pretrained.state_dicts import read_safetensors
from keras_arcface.pretrained.state_dicts import read_torch
from keras_arcface.pretrained.weights import UnsupportedFileError

_TORCH = (read_torch, "a state dict, as written by torch.save(network.state_dict(), path)")
# Reader and description of each format.
READERS = {
    **{".pth": _TORCH, ".pt": _TORCH, ".ckpt": _TORCH},
    ".safetensors": (read_safetensors, "a safetensors file"),
    ".onnx": (read_onnx, "an ONNX file"),
}


def load_insightface(path, dropout=0.0, synchronized=False, name="embedder", color="RGB"):
    """Loads a weights file of InsightFace, or of AdaFace, CVLface, EdgeFace or SFace, as an embedder.

    The file contains an IResNet, a MobileFaceNet or a ViT of arcface_torch, an IResNet of AdaFace or CVLface, an
    EdgeFace, or the MobileNetV1 of SFace. Depth, width, image size and embedding length are read from the weights; ViT
    and EdgeFace are built for 112 x 112 images. The embedder accepts RGB images in 0..255, like all embedders of this
    package. If the file normalizes pixels, this is folded into the first convolution.

    In most ONNX files, BatchNorm is folded into the preceding convolutions. They give the same embeddings, but lack the
    statistics of BatchNorm, which would normalize a second time in training. For fine-tuning use a `.pth` file, or set
    `trainable = False` on the BatchNormalization layers.

    Args:
        path: path of the file, in one of these formats:

            - `.pth`, `.pt`, `.ckpt`: a state dict such as `backbone.pth`, or a checkpoint that contains one, as written
              by `torch.save`. Requires no PyTorch, and executes no code from the file.
            - `.safetensors`: weights with the same names as in a state dict. Requires safetensors.
            - `.onnx`: a network exported by torch.onnx (w600k_r50.onnx, glint360k, ...), an IResNet exported by mxnet,
              or SFace, but no ViT or EdgeFace. Requires onnx. Weights that the graph computes from constants (by
              reshaping, casting or dequantizing) are supported. `load_onnx` converts other networks.
        dropout: fraction of the features that is dropped in training, as in `make_embedder`. It is 0 in arcface_torch.
        synchronized: whether BatchNorm uses the statistics of the whole batch instead of those of each replica
            (TensorFlow backend only).
        name: name of the model.
        color: order of the channels in which the network was trained, "RGB" or "BGR". The checkpoints of AdaFace
            (`adaface_ir50_ms1mv2.ckpt`, ...) require "BGR". The embedder takes RGB in both cases.

    Returns:
        A functional `keras.Model`, `(batch, height, width, 3)` -> `(batch, dim)`, as built by
        `keras_arcface.models.make_embedder`.

    Raises:
        FileNotFoundError: if the file does not exist.
        ModuleNotFoundError: if the library that reads the format is not installed.
        ValueError: if the suffix of the file or the color order is unknown; if the file is damaged, or asks for more
            memory than its size explains; or if it contains another network, for instance one with
            squeeze-and-excitation or quantized activations, one of more than 100 blocks, or one whose pixels are not
            centered at 127.5. The message names the file, and the key or node.

    Examples:
        >>> embedder = load_insightface("backbone.safetensors")  # or backbone.pth, w600k_r50.onnx
        >>> embedder.input_shape, embedder.output_shape
        ((None, 32, 32, 3), (None, 512))
        >>> embeddings = embedder.predict(np.zeros((2, 32, 32, 3), "uint8"), verbose=0)
        >>> embedder.save("r50.keras")

    References:
        - [AdaFace](https://github.com/mk-minchul/AdaFace) and [CVLface](https://github.com/mk-minchul/CVLface)
        - [SFace in OpenCV Zoo](https://github.com/opencv/opencv_zoo/tree/main/models/face_recognition_sface)
        - [arcface_torch of InsightFace](https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch)
    """
    path = Path(path)
    preset_files.check_is_file(path)
    suffix = path.suffix.lower()
    _arguments.check("path", str(path), suffix in READERS, f"a file with one of the suffixes {', '.join(READERS)}")
    _arguments.check_choice("color", color, ("RGB", "BGR"))
    try:
        weights = _read(path, suffix)
        network = recognize(weights, synchronized)
        embedder = make_embedder(network.backbone, network.dim, dropout, synchronized, name=name, neck=network.neck)
        set_weights(embedder, network, weights)
        weights.check_is_empty()
        if color == "BGR":
            _reverse_colors(network.backbone)
    except UnsupportedFileError as error:
        hint = ". If it is another network, load_onnx converts it" if suffix == ".onnx" else ""
        raise UnsupportedFileError(f"{path} cannot be loaded: {error}{hint}") from error
    return embedder


def _reverse_colors(backbone):
    first = next(layer for layer in backbone.layers if isinstance(layer, layers.Conv2D))
    first.kernel.assign(np.asarray(first.kernel)[:, :, ::-1])


def _read(path, suffix):
    """Reads the weights of a file, and converts every error of a damaged file to an UnsupportedFileError."""
    reader, expected = READERS[suffix]
    try:
        return reader(path)
    except (UnsupportedFileError, ImportError):
        raise
    except Exception as error:  # the readers and their libraries raise exceptions of many types
        received = f"{type(error).__name__}: {cut(str(error))}"
        raise UnsupportedFileError(f"expected {expected}. Received: a file that fails with {received}") from error
