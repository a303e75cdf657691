"""Error classes of `FaceClient`, one for each cause."""


class ServingError(RuntimeError):
    """Base class of the errors of requests to a server.

    The message contains the address, the model, its version or label, the signature, and the server's message. The
    module `keras_arcface.serving.client.errors` contains one subclass for each cause:

    | class | cause |
    |---|---|
    | `ServerUnavailable` | the server is unreachable, starts or stops, or its batching queue is full, in all attempts |
    | `RequestTimeout` | the server does not respond within the time limit |
    | `ModelNotFound` | the server does not know the model |
    | `VersionNotAvailable` | the version is not loaded, or no version of the model is loaded |
    | `LabelNotFound` | no version has the label |
    | `SignatureNotFound` | the model does not have the signature, because other software exported it |
    | `RequestRefused` | the server refuses the request, for example for its shape, its size or a missing permission |
    | `ServerFailed` | the server fails during the computation |
    | `UnexpectedResponse` | the response does not come from an exported embedder, or fails a check |
    | `ThresholdNotFound` | the metadata of the model has no threshold for the false accept rate |

    Examples:
        No server listens on this port:

        >>> client = FaceClient("http://localhost:1", retries=0)
        >>> client.status()
        Traceback (most recent call last):
        ServerUnavailable: http://localhost:1, model 'faces': no response after 1 attempt in ... s. Last message: ...
        >>> try:
        ...     client.status()
        ... except ServingError as error:
        ...     print(f"The faces are compared later: {type(error).__name__}")
        The faces are compared later: ServerUnavailable
    """


class ServerUnavailable(ServingError):
    """Error for a server that does not respond, or is unavailable, in all attempts."""


class RequestTimeout(ServingError):
    """Error for a server that does not respond within the timeout."""


class ModelNotFound(ServingError):
    """Error for a model name that the server does not know."""


class VersionNotAvailable(ServingError):
    """Error for a requested version that the server has not loaded, or for a model without a loaded version."""


class LabelNotFound(ServingError):
    """Error for a label that no version of the model has."""


class SignatureNotFound(ServingError):
    """Error for a signature that the model does not have.

    Such a model was exported by an older version of this package or by other software.
    """


class RequestRefused(ServingError):
    """Error for a request that the server refuses, for example for its shape, type or size, or a missing permission."""


class ServerFailed(ServingError):
    """Error for a failure of the server during the computation."""


class UnexpectedResponse(ServingError):
    """Error for a response that does not come from an embedder exported by this package, or fails a check."""


class ThresholdNotFound(ServingError):
    """Error for a false accept rate without a threshold in the metadata of the model."""
