"""Errors of `FaceClient`, one class per cause."""


class ServingError(RuntimeError):
    """Base class of all errors of requests to a server.

    The message contains the address, the model, its version or label, the signature, and the server's message.
    """


class ServerUnavailable(ServingError):
    """The server does not answer, or reports that it is unavailable, in every attempt."""


class RequestTimeout(ServingError):
    """The server did not answer within the timeout."""


class ModelNotFound(ServingError):
    """The server has no model with this name."""


class VersionNotAvailable(ServingError):
    """The server has the model, but not the requested version, or no loaded version."""


class LabelNotFound(ServingError):
    """The server has the model, but no version with the requested label."""


class SignatureNotFound(ServingError):
    """The model lacks the signature: it was exported by an older version of this package, or by other software."""


class RequestRefused(ServingError):
    """The server refused the request, for example for its shape, type or size, or for a missing permission."""


class ServerFailed(ServingError):
    """The server failed while it computed the answer."""


class UnexpectedAnswer(ServingError):
    """The answer is not that of an embedder exported by this package."""


class ThresholdNotFound(ServingError):
    """The model was exported without a threshold for the requested false accept rate."""
