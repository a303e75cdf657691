"""Reads a `.pth` file: the whole file, or the pickle in a zip archive, because a checksum would reject most changes."""

import io
import zipfile

from fuzzing import weight_files

COVERS = (
    "keras_arcface/pretrained/torch_pickle.py",
    "keras_arcface/pretrained/torch_files.py",
    "keras_arcface/pretrained/state_dicts.py",
    "keras_arcface/pretrained/weights.py",
    "keras_arcface/pretrained/layouts/layout.py",
    "keras_arcface/pretrained/layouts/iresnet.py",
    "keras_arcface/pretrained/layouts/mobilefacenet.py",
)
ALLOWED = ()
MAX_SECONDS = 2
MAX_MIB = 64

_ZIPPED, _WHOLE = b"\0", b"\1"
_VALUES = 64


def _pickle(shapes, legacy=False):
    """Returns the pickle of a state dict whose tensors share a storage of `_VALUES` numbers."""
    entries = b"".join(_text(name) + _tensor(shape, legacy) for name, shape in shapes.items())
    return b"\x80\x02}(" + entries + b"u."


def _text(text):
    return b"X" + len(text).to_bytes(4, "little") + text.encode()


def _tuple(numbers):
    return b"(" + b"".join(b"J" + number.to_bytes(4, "little") for number in numbers) + b"t"


def _tensor(shape, legacy):
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text("0") + _text("cpu") + b"K" + bytes([_VALUES])
    strides = [1] * len(shape)
    arguments = storage + (b"N" if legacy else b"") + b"tQK\0" + _tuple(shape) + _tuple(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"\x89ccollections\nOrderedDict\n)RtR"


def _zip(pickle, compression=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(4 * _VALUES))
    return file.getvalue()


def seeds():
    state = {"conv1.weight": (1, 3, 3, 3), "fc.weight": (1, 8), "layer4.0.conv1.weight": (1, 1, 1, 1)}
    mobile = {"layers.0.layers.0.weight": (1, 3, 3, 3), "conv_sep.layers.0.weight": (1, 2, 1, 1)}
    mobile |= {"features.layers.0.layers.0.weight": (1, 1, 2, 2), "features.layers.2.weight": (1, 2)}
    magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}."
    legacy = magic + _pickle(state, legacy=True) + b"\x80\x02]" + _text("0") + b"a."
    legacy += _VALUES.to_bytes(8, "little") + bytes(4 * _VALUES)
    pickles = [_pickle(state), _pickle(mobile), b"\x80\x02}" + _text("state_dict") + _pickle(state)[2:-1] + b"s."]
    return [
        *(_ZIPPED + pickle for pickle in pickles),
        _WHOLE + _zip(pickles[0]),
        _WHOLE + _zip(pickles[0], zipfile.ZIP_DEFLATED),
        _WHOLE + legacy,
    ]


def run(data):
    weight_files.read(_zip(data[1:]) if data[:1] == _ZIPPED else data[1:], ".pth")
