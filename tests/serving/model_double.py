"""A model as TensorFlow Serving serves it, independent of the protocol. Part of `server_double`."""

import collections
import contextlib
import threading
from pathlib import Path
from pathlib import PurePosixPath

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import get_model_metadata_pb2
from tensorflow_serving.apis import get_model_status_pb2
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.config import file_system_storage_path_source_pb2
from tensorflow_serving.config import model_server_config_pb2

Policy = file_system_storage_path_source_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy
State = get_model_status_pb2.ModelVersionStatus
Code = grpc.StatusCode
CONTAINER_BASE = PurePosixPath("/models")  # where a container finds `base`
_CODES = {code.value[0]: code for code in Code}


class Refusal(Exception):
    """Error status of an answer."""

    def __init__(self, code: grpc.StatusCode, message: str):
        super().__init__(message)
        self.code = code
        self.message = message


class Servable:
    """One loaded version."""

    def __init__(self, directory: Path, version: int):
        self.version = version
        self._loaded = tf.saved_model.load(str(directory))
        saved = saved_model_pb2.SavedModel.FromString((directory / "saved_model.pb").read_bytes())
        (graph,) = (graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
        self.signatures = {name: graph.signature_def[name] for name in self._loaded.signatures}

    def run(self, name, inputs):
        """Returns `{name: array}` for `{name: tensor}`."""
        try:
            outputs = self._loaded.signatures[name](**inputs)
        except tf.errors.OpError as error:
            raise Refusal(_CODES[error.error_code], error.message) from error
        except (TypeError, ValueError) as error:
            raise Refusal(Code.INVALID_ARGUMENT, str(error)) from error
        return {name: output.numpy() for name, output in outputs.items()}


class Versions:
    """Versions of one model on the disk and in memory.

    Args:
        directory: `BASE/NAME`.
        policy: which versions to load.
    """

    def __init__(self, directory: Path, policy: Policy):
        self._directory = directory
        self.policy = policy
        self._loaded = {}
        self._failed = set()
        self._lock = threading.Lock()
        self.states = {}  # version -> (state, what went wrong)

    def poll(self):
        """Reads the folder once, and loads and unloads versions by the server's default policy."""
        with self._lock:
            if not self._directory.is_dir():
                return
            present = {int(child.name): child for child in self._directory.iterdir() if child.name.isdecimal()}
            aspired = _aspired(sorted(present), self.policy)
            self._failed &= aspired
            while self._step(present, aspired):
                pass

    def _step(self, present, aspired):
        ready = set(self._loaded)
        others = sorted(ready - aspired)
        if others and (not aspired or aspired & ready or len(others) > 1):
            self._loaded = {version: kept for version, kept in self._loaded.items() if version != others[0]}
            self.states[others[0]] = (State.END, "")
            return True
        new = aspired - ready - self._failed
        if not new:
            return False
        version = max(new)
        self.states[version] = (State.LOADING, "")
        try:
            self._loaded = {**self._loaded, version: Servable(present[version], version)}
            self.states[version] = (State.AVAILABLE, "")
        except Exception as error:  # the server continues after every kind of error, too
            self._failed.add(version)
            self.states[version] = (State.END, str(error))
        return True

    def find(self, version):
        """Returns a version, or the newest one, or None."""
        loaded = self._loaded
        return loaded.get(max(loaded, default=None) if version is None else version)


class ModelDouble:
    """Answers requests in the form of protos, or raises `Refusal`. See `ServerDouble` for the arguments."""

    def __init__(self, base, name, labels, latest, poll_seconds, config=None):
        self.name = name
        self.labels = dict(labels or {})
        self.config_error = None
        self.delay = 0.0
        self.predicted = []
        self._faults = collections.deque()
        self._config = config
        policy = Policy(latest={"num_versions": latest}) if latest else Policy(all={})
        self._versions = Versions(Path(base) / name, policy)
        self.poll()
        self._stopping = threading.Event()
        self._poller = threading.Thread(target=self._poll, args=(poll_seconds,), daemon=True)
        self._poller.start()

    def stop(self):
        self._stopping.set()
        self._poller.join()

    def poll(self):
        """Reads the configuration and the folder now."""
        if self._config:
            self._reload(Path(self._config).read_text())
        self._versions.poll()

    def find(self, version=None):
        """Returns a loaded version, or the newest one, to run it without client and server."""
        return self._versions.find(version)

    def reset(self):
        """Removes recorded requests, faults and the delay."""
        self.delay = 0.0
        self.predicted.clear()
        self._faults.clear()

    def fail_next(self, count, code=Code.UNAVAILABLE, message="told to fail"):
        """Makes the next Predicts fail."""
        self._faults.extend([Refusal(code, message)] * count)

    def hang_up_next(self, count):
        """Makes the next Predicts end without an answer over REST, and with UNAVAILABLE over gRPC."""
        self._faults.extend([ConnectionAbortedError] * count)

    def signature_inputs(self, spec):
        """Returns `{input: TensorInfo}`, which REST needs to parse a request."""
        name = spec.signature_name or "serving_default"
        signatures = self._servable(spec).signatures
        if name not in signatures:
            raise Refusal(Code.INVALID_ARGUMENT, f'Serving signature name: "{name}" not found in signature def')
        return signatures[name].inputs

    def predict(self, request):
        self._note(request)
        if not request.HasField("model_spec"):
            raise Refusal(Code.INVALID_ARGUMENT, "Missing ModelSpec")
        servable = self._servable(request.model_spec)
        name = request.model_spec.signature_name or "serving_default"
        if name not in servable.signatures:
            raise Refusal(Code.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        outputs = servable.run(name, _read_inputs(servable.signatures[name], request.inputs))
        response = predict_pb2.PredictResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.model_spec.signature_name = name
        wanted = list(request.output_filter) or outputs
        for alias in wanted:
            if alias not in outputs:
                names = ",".join(sorted(outputs))
                message = f"output tensor alias not found in signature: {alias} Outputs expected to be in the set"
                raise Refusal(Code.INVALID_ARGUMENT, f"{message} {{{names}}}.")
            response.outputs[alias].CopyFrom(_as_fields(outputs[alias]))
        return response

    def metadata(self, request):
        if list(request.metadata_field) != ["signature_def"]:
            raise Refusal(
                Code.INVALID_ARGUMENT,
                f"Metadata field {request.metadata_field[0]} is not supported"
                if request.metadata_field
                else "GetModelMetadataRequest must specify at least one metadata_field",
            )
        servable = self._servable(request.model_spec)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in servable.signatures.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = request.model_spec.name
        response.model_spec.version.value = servable.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def status(self, request):
        states, name = dict(self._versions.states), request.model_spec.name
        if name != self.name:
            states = {}
        if request.model_spec.HasField("version"):
            version = request.model_spec.version.value
            if version not in states:
                raise Refusal(Code.NOT_FOUND, f"Could not find version {version} of model {name}")
            states = {version: states[version]}
        if not states:
            raise Refusal(Code.NOT_FOUND, f"Could not find any versions of model {name}")
        response = get_model_status_pb2.GetModelStatusResponse()
        for version, (state, message) in sorted(states.items(), reverse=True):
            found = response.model_version_status.add(version=version, state=state)
            found.status.error_code = Code.UNKNOWN.value[0] if message else 0
            found.status.error_message = message
        return response

    def _servable(self, spec):
        if not spec.name:
            raise Refusal(Code.INVALID_ARGUMENT, "ModelSpec has no name specified.")
        version = spec.version.value if spec.HasField("version") else None
        if spec.HasField("version_label"):
            if spec.name != self.name or spec.version_label not in self.labels:
                raise Refusal(Code.INVALID_ARGUMENT, f"Unrecognized servable version label: {spec.version_label}")
            version = self.labels[spec.version_label]
        servable = self._versions.find(version) if spec.name == self.name else None
        if servable is None:
            asked = f"Latest({spec.name})" if version is None else f"Specific({spec.name}, {version})"
            raise Refusal(Code.NOT_FOUND, f"Servable not found for request: {asked}")
        return servable

    def _note(self, request):
        rows = {tensor.tensor_shape.dim[0].size for tensor in request.inputs.values() if tensor.tensor_shape.dim}
        spec = request.model_spec
        asked = spec.version.value if spec.HasField("version") else spec.version_label or None
        self.predicted.append((spec.signature_name, max(rows, default=0), asked))
        if self.delay:
            self._stopping.wait(self.delay)
        with contextlib.suppress(IndexError):
            raise self._faults.popleft()

    def _poll(self, seconds):
        while not self._stopping.wait(seconds):
            self.poll()

    def _reload(self, text):
        """Applies a configuration, as `ServerCore::ReloadConfig` does with allow_version_labels_for_unavailable_models.

        The labels come first: a label that exists moves only to an available version, otherwise nothing changes.
        """
        (config,) = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
        if PurePosixPath(config.base_path) != CONTAINER_BASE / self.name or config.name != self.name:
            raise ValueError(f"expected the model {self.name} in {CONTAINER_BASE / self.name}. Received: {config}")
        for label, version in config.version_labels.items():
            available = self._versions.states.get(version, (None, ""))[0] == State.AVAILABLE
            if self.labels.get(label, version) != version and not available:
                self.config_error = (
                    f"Request to assign label to version {version} of model {self.name}, which is not currently "
                    "available for inference"
                )
                return
        self.config_error = None
        self.labels = dict(config.version_labels)
        self._versions.policy = config.model_version_policy


def _aspired(present, policy):
    """Returns the versions that should be loaded, of those on the disk."""
    if policy.HasField("specific"):
        return set(policy.specific.versions) & set(present)
    return set(present) if policy.HasField("all") else set(present[-(policy.latest.num_versions or 1) :])


def _read_inputs(signature, sent):
    """Returns the tensors of a request if they match the signature."""
    extra, missing = sorted(set(sent) - set(signature.inputs)), sorted(set(signature.inputs) - set(sent))
    if len(sent) != len(signature.inputs):
        raise Refusal(
            Code.INVALID_ARGUMENT,
            f"input size does not match signature: {len(sent)}!={len(signature.inputs)} "
            f"len({{{','.join(sorted(sent))}}}) != len({{{','.join(sorted(signature.inputs))}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}.",
        )
    if missing:
        raise Refusal(Code.INVALID_ARGUMENT, f"Signature input alias: {missing[0]} not found in request")
    tensors = {}
    for name, info in signature.inputs.items():
        tensor = sent[name]
        if tensor.dtype != info.dtype:
            expected, received = tf.as_dtype(info.dtype).name, tf.as_dtype(tensor.dtype).name
            raise Refusal(Code.INVALID_ARGUMENT, f"Expects {name} to be {expected} but {received} is provided")
        if tensor.dtype == tf.string.as_datatype_enum:  # NumPy's byte strings lose trailing zeros
            shape = [dim.size for dim in tensor.tensor_shape.dim]
            tensors[name] = tf.reshape(tf.constant(list(tensor.string_val), tf.string), shape)
        else:
            tensors[name] = tf.constant(tf.make_ndarray(tensor))
        expected = tf.TensorShape(info.tensor_shape)
        if not expected.is_compatible_with(tensors[name].shape):
            received = tensors[name].shape
            raise Refusal(Code.INVALID_ARGUMENT, f"{name}: expected a shape like {expected}. Received: {received}")
    return tensors


def _as_fields(array):
    """Returns a tensor in the server's form: a field with numbers instead of bytes."""
    dtype = tf.as_dtype(array.dtype)
    tensor = tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=tf.TensorShape(array.shape).as_proto())
    field = {
        np.dtype(np.float32): tensor.float_val,
        np.dtype(bool): tensor.bool_val,
        np.dtype(object): tensor.string_val,
    }
    field[array.dtype].extend(array.ravel().tolist())
    return tensor
