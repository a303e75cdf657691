"""Answers with a SavedModel through TensorFlow's C++ loader, as a server does: no Python TensorFlow, no Keras.

    python c_loader.py SAVED_MODEL SIGNATURE INPUTS.npz OUTPUTS.npz

INPUTS.npz holds either `images`, a uint8 array, or `image_bytes`, encoded images as one uint8 array each, in
`image_bytes_0`, `image_bytes_1` ... OUTPUTS.npz gets the signature's outputs under their names.
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import numpy as np

FLOAT, UINT8, STRING, BOOL = 1, 4, 7, 10  # TF_DataType
NUMPY_TYPES = {FLOAT: np.float32, UINT8: np.uint8, BOOL: np.bool_}
TSTRING_SIZE = 24


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


def load_library():
    folder = Path(importlib.util.find_spec("tensorflow").origin).parent
    ctypes.CDLL(str(folder / "libtensorflow_framework.so.2"), ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(folder / "libtensorflow_cc.so.2"), ctypes.RTLD_GLOBAL)
    for name in [
        "TF_NewStatus",
        "TF_NewSessionOptions",
        "TF_NewGraph",
        "TF_NewBuffer",
        "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName",
        "TF_AllocateTensor",
        "TF_TensorData",
    ]:
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_TensorByteSize.restype = ctypes.c_size_t
    return library


def fields(message):
    """Yields (number, value) of a serialised protocol buffer's fields."""
    position = 0

    def varint():
        nonlocal position
        value = shift = 0
        while True:
            byte = message[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while position < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        else:
            length = {1: 8, 5: 4}.get(key & 7)
            length = varint() if length is None else length
            yield key >> 3, message[position : position + length]
            position += length


def entries(message, number):
    """The map<string, message> in a field."""
    return {dict(fields(entry))[1].decode(): dict(fields(entry))[2] for n, entry in fields(message) if n == number}


class Session:
    def __init__(self, directory):
        self.library = load_library()
        self.status = ctypes.c_void_p(self.library.TF_NewStatus())
        self.graph = ctypes.c_void_p(self.library.TF_NewGraph())
        options = ctypes.c_void_p(self.library.TF_NewSessionOptions())
        self.library.TF_NewBuffer.restype = ctypes.POINTER(Buffer)
        meta_graph = self.library.TF_NewBuffer()
        tags = (ctypes.c_char_p * 1)(b"serve")
        self.session = ctypes.c_void_p(
            self.library.TF_LoadSessionFromSavedModel(
                options, None, str(directory).encode(), tags, 1, self.graph, meta_graph, self.status
            )
        )
        self.check()
        serialized = ctypes.string_at(meta_graph.contents.data, meta_graph.contents.length)
        self.signatures = entries(serialized, 5)  # MetaGraphDef.signature_def

    def check(self):
        if self.library.TF_GetCode(self.status):
            raise RuntimeError(self.library.TF_Message(self.status).decode())

    def tensors_of(self, signature, number):
        """Names of a signature's inputs (1) or outputs (2) -> names of the graph's tensors."""
        infos = entries(self.signatures[signature], number)
        return {name: dict(fields(info))[1].decode() for name, info in infos.items()}

    def output(self, tensor):
        name, index = tensor.split(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        assert operation, f"no operation {name}"
        return Output(operation, int(index))

    def tensor(self, value):
        """A numpy array, or a list of bytes, as a tensor."""
        strings = isinstance(value, list)
        shape = (len(value),) if strings else value.shape
        size = TSTRING_SIZE * len(value) if strings else value.nbytes
        dims = (ctypes.c_int64 * len(shape))(*shape)
        tensor = ctypes.c_void_p(
            self.library.TF_AllocateTensor(STRING if strings else UINT8, dims, len(shape), ctypes.c_size_t(size))
        )
        data = self.library.TF_TensorData(tensor)
        if not strings:
            ctypes.memmove(data, np.ascontiguousarray(value).ctypes.data, size)
            return tensor
        for row, item in enumerate(value):
            place = ctypes.c_void_p(data + row * TSTRING_SIZE)
            self.library.TF_StringInit(place)
            self.library.TF_StringCopy(place, item, ctypes.c_size_t(len(item)))
        return tensor

    def array(self, tensor):
        shape = [self.library.TF_Dim(tensor, axis) for axis in range(self.library.TF_NumDims(tensor))]
        raw = ctypes.string_at(self.library.TF_TensorData(tensor), self.library.TF_TensorByteSize(tensor))
        return np.frombuffer(raw, NUMPY_TYPES[self.library.TF_TensorType(tensor)]).reshape(shape)

    def run(self, signature, value):
        (source,) = self.tensors_of(signature, 1).values()
        results = self.tensors_of(signature, 2)
        inputs, values = (Output * 1)(self.output(source)), (ctypes.c_void_p * 1)(self.tensor(value))
        outputs = (Output * len(results))(*map(self.output, results.values()))
        fetched = (ctypes.c_void_p * len(results))()
        self.library.TF_SessionRun(
            self.session, None, inputs, values, 1, outputs, fetched, len(results), None, 0, None, self.status
        )
        self.check()
        return {name: self.array(ctypes.c_void_p(tensor)) for name, tensor in zip(results, fetched, strict=True)}


def main():
    directory, signature, source, target = sys.argv[1:]
    with np.load(source) as stored:
        value = (
            stored["images"]
            if "images" in stored
            else [stored[f"image_bytes_{i}"].tobytes() for i in range(len(stored))]
        )
    outputs = Session(directory).run(signature, value)
    loaded = {"tensorflow", "keras"} & set(sys.modules)
    assert not loaded, f"imported {loaded}"
    np.savez(target, **outputs)


if __name__ == "__main__":
    main()
