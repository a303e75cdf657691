"""What can go wrong between a client and a server, by name."""

import enum


class ServingError(RuntimeError):
    """Something between `FaceClient` and its server went wrong; the classes below say what.

    The message names the address, the model, its version or label, the signature, and what the server said.
    """


class ServerUnavailable(ServingError):
    """Nobody answers at the address, or the server says that it cannot at present, however often it was asked."""


class RequestTimeout(ServingError):
    """No answer within the client's `timeout`."""


class ModelNotFound(ServingError):
    """The server has no model of that name."""


class VersionNotAvailable(ServingError):
    """The server has the model, but not that version of it, or none that is loaded."""


class LabelNotFound(ServingError):
    """The server has the model, but no such label for its versions."""


class SignatureNotFound(ServingError):
    """The model has no such signature: it was not exported by this package, or by an older one."""


class RequestRefused(ServingError):
    """The server does not accept the request: wrong shape or type, too large, not allowed."""


class ServerFailed(ServingError):
    """The server failed in answering."""


class UnexpectedAnswer(ServingError):
    """There was an answer, but not what an embedder exported by this package answers."""


class ThresholdNotFound(ServingError):
    """The model was exported without a calibrated threshold for that FAR."""


class Kind(enum.Enum):
    """What a protocol's status means to a client, whichever protocol it is."""

    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    NOT_FOUND = "not found"
    REFUSED = "refused"
    FAILED = "failed"
    UNEXPECTED = "unexpected"


class Failure(Exception):
    """One try that failed, as the transports raise it; `FaceClient` makes a `ServingError` of it.

    Args:
        kind: what it means.
        said: what the server, or the library that should have reached it, said.

    Attributes:
        tries: how often it was tried.
        seconds: how long.
    """

    def __init__(self, kind: Kind, said: str):
        super().__init__(said)
        self.kind = kind
        self.said = said
        self.tries = 1
        self.seconds = 0.0
