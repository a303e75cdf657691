"""A conformance check, and what it finds."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        result: "passed", "failed", "skipped" or "info".
        received: what the server answered, or why the check was skipped.
        cause: cause of a failure, empty if it is unknown.
        expected: replaces `Check.expected` if it is not empty.
    """

    result: str
    received: str
    cause: str = ""
    expected: str = ""


def passed(received: str, expected: str = "") -> Finding:
    """Returns the finding of a check that passed."""
    return Finding("passed", received, "", expected)


def failed(received: str, cause: str = "", expected: str = "") -> Finding:
    """Returns the finding of a check that failed."""
    return Finding("failed", received, cause, expected)


def skipped(reason: str) -> Finding:
    """Returns the finding of a check that cannot run."""
    return Finding("skipped", reason)


@dataclasses.dataclass(frozen=True)
class Check:
    """Check of a server over one protocol, or of both protocols.

    Attributes:
        name: short name, for the table.
        expected: what the check expects, for the table.
        run: function that sends requests and returns the finding. Its argument is a `Context`, or two for a comparison
            of protocols. It may raise the `ServingError` of a request, which is a failure of the check.
        signatures: signatures that the check requires. It is skipped if one is missing or does not answer.
        needs_export: whether the check requires the SavedModel that is served.
    """

    name: str
    expected: str
    run: Callable[..., Finding]
    signatures: tuple[str, ...] = ()
    needs_export: bool = False

    def obstacle(self, *contexts: Any) -> str:
        """Returns why the check cannot run, or an empty string."""
        if self.needs_export and contexts[0].export is None:
            return "requires an export to compare with"
        for context in contexts:
            for signature in self.signatures:
                if signature in context.unusable:
                    return context.unusable[signature]
        return ""
