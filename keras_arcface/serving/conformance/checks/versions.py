"""Checks of versions and labels, and of the errors for unknown ones."""

from collections.abc import Callable

from keras_arcface.serving.client import errors
from keras_arcface.serving.conformance.check import Check
from keras_arcface.serving.conformance.check import Finding
from keras_arcface.serving.conformance.check import failed
from keras_arcface.serving.conformance.check import passed
from keras_arcface.serving.conformance.check import skipped
from keras_arcface.serving.conformance.context import Context
from keras_arcface.serving.conformance.error_causes import explain_message
from keras_arcface.serving.conformance.remote_model import RemoteModel

_UNKNOWN_VERSION = 987_654_321
_UNKNOWN_NAME = "no-such-name-of-serve-check"


def _check_version(context: Context) -> Finding:
    remote, current = context.remote, context.remote.current
    states = remote.version_states()
    available = sorted(version for version, state in states.items() if state == "AVAILABLE")
    predicted = remote.predicting_version() if "describe" not in context.unusable else None
    received = f"version {current}; available: {', '.join(map(str, available)) or 'none'}"
    if remote.version is not None:
        expected = f"version {remote.version}, as requested"
        is_right = current == remote.version
    elif remote.label is not None:
        expected = f"one of the available versions for label {remote.label!r}"
        is_right = current in available
    else:
        expected = (
            f"version {max(available)}, the newest one that is available" if available else "an available version"
        )
        is_right = bool(available) and current == max(available)
    if not is_right:
        return failed(received, "", expected)
    if predicted not in (None, current):
        return failed(f"the metadata come from version {current}, embeddings from version {predicted}", "", expected)
    return passed(received, expected)


def _check_export_version(context: Context) -> Finding:
    remote, export = context.remote, context.export
    assert export is not None  # `needs_export`
    if export.version is None:
        return skipped(f"the directory {export.directory.name!r} is not named after a version")
    received = f"version {remote.current}"
    if remote.current == export.version:
        return passed(received, f"version {export.version}")
    state = remote.version_states().get(export.version, "unknown to the server")
    message = remote.version_errors().get(export.version, "")
    reason = f", which failed to load: {message}" if message else f", which is {state}"
    if remote.version is not None or remote.label is not None:
        asked = f"label {remote.label!r}" if remote.version is None else f"version {remote.version}"
        cause = f"{asked} was requested, and compared with version {export.version}{reason}"
    elif (remote.current or 0) < export.version:
        cause = f"an old version is still served instead of version {export.version}{reason}"
    else:
        cause = f"a newer version than that of the export is served; compare with version {remote.current}"
    known = explain_message(message)
    return failed(received, f"{cause}. {known}" if known else cause, f"version {export.version}")


def _check_loading(context: Context) -> Finding:
    messages = context.remote.version_errors()
    if not messages:
        return passed("no errors")
    newest = max(messages)
    received = f"version {newest} failed to load: {messages[newest]}"
    cause = explain_message(messages[newest])
    if context.remote.current is not None and newest < context.remote.current:
        return Finding("info", received, cause)
    return failed(received, cause)


def _refuses(error_type: type[errors.ServingError], ask: Callable[[Context], object]) -> Callable[[Context], Finding]:
    """Returns a check that a request raises an error."""

    def run(context: Context) -> Finding:
        try:
            result = ask(context)
        except error_type as error:
            return passed(type(error).__name__)
        except errors.ServingError as error:
            return failed(context.remote.shorten(error), "a proxy may replace the status codes of the server")
        return failed(f"the answer {result!r}", "the server, or a proxy in front of it, ignores what the request names")

    return run


def _resolve(context: Context, **target) -> int:
    other: RemoteModel = context.remote.other(**target)
    try:
        return other.answering_version()
    finally:
        other.close()


CHECKS = (
    Check("version", "the requested version", _check_version),
    Check("version of the export", "the version of the export", _check_export_version, needs_export=True),
    Check("loading of versions", "no errors", _check_loading),
    Check(
        "unknown version",
        "VersionNotAvailable",
        _refuses(errors.VersionNotAvailable, lambda context: _resolve(context, version=_UNKNOWN_VERSION)),
    ),
    Check(
        "unknown label",
        "LabelNotFound",
        _refuses(errors.LabelNotFound, lambda context: _resolve(context, label=_UNKNOWN_NAME)),
    ),
    Check(
        "unknown model",
        "ModelNotFound",
        _refuses(errors.ModelNotFound, lambda context: _resolve(context, model=_UNKNOWN_NAME)),
    ),
    Check(
        "unknown signature",
        "SignatureNotFound",
        _refuses(errors.SignatureNotFound, lambda context: context.remote.request(_UNKNOWN_NAME, request=[b""])),
    ),
)
