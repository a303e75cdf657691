"""Causes of failed requests, found in the error and the message of the server."""

import re

from keras_arcface.serving.client import errors

# Patterns in messages, the most specific first, and the cause. `{1}` is the first group of the pattern.
_MESSAGES = (
    (
        r"Op type not registered '(\w+)'",
        "the server was built without the op {1}: use a TensorFlow Serving of the export's TensorFlow version or later",
    ),
    (
        r"Task size (\d+) is larger than maximum input batch size (\d+)",
        "the largest batch of the server is {2} (max_batch_size and allowed_batch_sizes in batching.config), a request "
        "has {1} images",
    ),
    (
        r"(?i)http1\.x server|HTTP_1_1_REQUIRED|Failed parsing HTTP/2",
        "the port does not answer HTTP/2; it may be the REST port: use the gRPC port (--port, usually 8500) for grpc://",
    ),
    (
        r"BadStatusLine|HTTP/0\.9|got more than|\\x00\\x00",
        "the port does not answer HTTP/1; it may be the gRPC port: use the REST port (--rest_api_port, usually 8501) "
        "for http://",
    ),
    (
        r"(?i)connection refused|errno 111|errno 61\b",
        "nothing listens at this port: the server is not running, it is still loading its first model, or the port is "
        "closed (tensorflow_model_server opens the REST port only with --rest_api_port)",
    ),
    (
        r"(?i)has no address|name resolution|DNS resolution|errors resolving|Name or service not known",
        "the name of the host has no address: check its spelling and the DNS",
    ),
    (
        r"(?i)certificate|SSL|TLS|handshake",
        "the encrypted connection fails: check the certificates, and whether the server uses TLS",
    ),
    (
        r"(?i)message larger than max|message length|too large",
        "a limit on the length of messages is too small, of the server or of a proxy in between",
    ),
    (
        r"(?i)batch scheduling queue.*full",
        "the batching queue is full: the server has more load than it can handle (max_enqueued_batches)",
    ),
    (
        r"(?i)out of memory|OOM when allocating|failed to allocate",
        "the server has not enough memory for this batch",
    ),
)
_ERRORS: dict[type, str] = {
    errors.RequestTimeout: "the server does not answer in time, or a firewall drops the connection: see --timeout",
    errors.ModelNotFound: "no model with this name is served: see --model, and the name in models.config",
    errors.LabelNotFound: "the label is not assigned to a loaded version: see version_labels in models.config, and "
    "--allow_version_labels_for_unavailable_models for labels that the server reads when it starts",
    errors.VersionNotAvailable: "the version is not loaded: see model_version_policy in models.config, and the log of "
    "the server",
    errors.SignatureNotFound: "the served model was not exported by export_saved_model of this package",
}


def explain_error(error: errors.ServingError) -> str:
    """Returns the cause of a failed request, or an empty string if it is unknown.

    Args:
        error: error of the request.
    """
    return explain_message(str(error)) or next((text for kind, text in _ERRORS.items() if isinstance(error, kind)), "")


def explain_message(message: str) -> str:
    """Returns the cause that a server's message states, or an empty string."""
    for pattern, cause in _MESSAGES:
        found = re.search(pattern, message)
        if found:
            return cause.format(found[0], *found.groups())
    return ""
