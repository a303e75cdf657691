"""Script that runs a SavedModel through TensorFlow's C++ loader, as a server does, without Keras.

python cpp.py SAVED_MODEL REQUESTS.npz OUTPUTS.npz
"""

import ctypes
import importlib.util
import sys
from pathlib import Path

import npz_requests
import numpy as np

FLOAT, UINT8, STRING, BOOL = 1, 4, 7, 10  # TF_DataType
NUMPY_TYPES = {FLOAT: np.float32, UINT8: np.uint8, BOOL: np.bool_}
TSTRING_SIZE = 24
NO_LIBRARY = 77  # exit status


class Output(ctypes.Structure):
    _fields_ = (("operation", ctypes.c_void_p), ("index", ctypes.c_int))


class Buffer(ctypes.Structure):
    _fields_ = (("data", ctypes.c_void_p), ("length", ctypes.c_size_t), ("deallocator", ctypes.c_void_p))


def load_library():
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent
    files = [sorted(folder.glob(f"libtensorflow_{part}.*")) for part in ("framework", "cc")]
    if not all(files):
        sys.stderr.write(f"{folder} must contain libtensorflow_framework and libtensorflow_cc. Received: {files}\n")
        sys.exit(NO_LIBRARY)
    *_, library = [ctypes.CDLL(str(found[0]), ctypes.RTLD_GLOBAL) for found in files]
    for name in [
        "TF_NewStatus",
        "TF_NewSessionOptions",
        "TF_NewGraph",
        "TF_NewBuffer",
        "TF_LoadSessionFromSavedModel",
        "TF_GraphOperationByName",
        "TF_AllocateTensor",
        "TF_TensorData",
        "TF_StringGetDataPointer",
    ]:
        getattr(library, name).restype = ctypes.c_void_p
    library.TF_Message.restype = ctypes.c_char_p
    library.TF_Dim.restype = ctypes.c_int64
    library.TF_TensorByteSize.restype = ctypes.c_size_t
    library.TF_StringGetSize.restype = ctypes.c_size_t
    return library


def parse_fields(message):
    """Yields pairs `(number, value)` of the fields of a serialized protocol buffer."""
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


def parse_map(message, number):
    """Returns a field of the type `map<string, message>` as a dictionary."""
    entries = [dict(parse_fields(entry)) for found, entry in parse_fields(message) if found == number]
    return {entry[1].decode(): entry[2] for entry in entries}


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
        self.signatures = parse_map(serialized, 5)  # MetaGraphDef.signature_def

    def check(self):
        if self.library.TF_GetCode(self.status):
            raise RuntimeError(self.library.TF_Message(self.status).decode())

    def tensor_names(self, signature, number):
        """Returns `{name: name of the tensor}` for the inputs (field number 1) or outputs (2) of a signature."""
        infos = parse_map(self.signatures[signature], number)
        return {name: dict(parse_fields(info))[1].decode() for name, info in infos.items()}

    def output(self, tensor):
        name, index = tensor.split(":")
        operation = self.library.TF_GraphOperationByName(self.graph, name.encode())
        if not operation:
            raise RuntimeError(f"The tensor must belong to an operation of the graph. Received: {tensor}")
        return Output(operation, int(index))

    def tensor(self, value):
        """Returns a tensor with the values of a NumPy array or a list of bytes."""
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

    def value(self, tensor):
        """Returns the values of a tensor as a NumPy array or a list of bytes."""
        shape = [self.library.TF_Dim(tensor, axis) for axis in range(self.library.TF_NumDims(tensor))]
        kind, data = self.library.TF_TensorType(tensor), self.library.TF_TensorData(tensor)
        if kind != STRING:
            raw = ctypes.string_at(data, self.library.TF_TensorByteSize(tensor))
            return np.frombuffer(raw, NUMPY_TYPES[kind]).reshape(shape)
        places = [ctypes.c_void_p(data + row * TSTRING_SIZE) for row in range(shape[0])]
        return [
            ctypes.string_at(self.library.TF_StringGetDataPointer(place), self.library.TF_StringGetSize(place))
            for place in places
        ]

    def run(self, signature, inputs):
        """Runs a signature with inputs `{name: uint8 array or list of bytes}`, and returns outputs in the same form."""
        if signature not in self.signatures:
            sys.exit(f"signature must be one of {sorted(self.signatures)}. Received: signature={signature!r}")
        sources = self.tensor_names(signature, 1)
        results = self.tensor_names(signature, 2)
        fed = (Output * len(inputs))(*(self.output(sources[name]) for name in inputs))
        values = (ctypes.c_void_p * len(inputs))(*(self.tensor(value).value for value in inputs.values()))
        outputs = (Output * len(results))(*map(self.output, results.values()))
        fetched = (ctypes.c_void_p * len(results))()
        self.library.TF_SessionRun(
            self.session, None, fed, values, len(inputs), outputs, fetched, len(results), None, 0, None, self.status
        )
        self.check()
        named_outputs = {
            name: self.value(ctypes.c_void_p(tensor)) for name, tensor in zip(results, fetched, strict=True)
        }
        for tensor in (*values, *fetched):
            self.library.TF_DeleteTensor(ctypes.c_void_p(tensor))
        return named_outputs


def main():
    directory, source, target = sys.argv[1:]
    session = Session(directory)
    outputs = [(signature, session.run(signature, inputs)) for signature, inputs in npz_requests.load(source)]
    imported = {"tensorflow", "keras"} & set(sys.modules)
    if imported:
        sys.exit(f"TensorFlow and Keras must not be imported. Received: {sorted(imported)}")
    npz_requests.save(target, outputs)


if __name__ == "__main__":
    main()
