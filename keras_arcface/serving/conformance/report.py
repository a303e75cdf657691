"""Result of a conformance check, and its text table."""

import dataclasses
import textwrap
from typing import Any

_COLUMNS = ("check", "protocol", "result", "expected", "received")
_GAP = "  "
_MIN_TEXT_WIDTH = 24  # of the columns "expected" and "received"


@dataclasses.dataclass(frozen=True)
class CheckResult:
    """Result of one check of a server.

    Attributes:
        check: name of the check.
        protocol: "grpc", "rest", or "both" for a comparison of the protocols.
        result: "passed", "failed", "skipped" (the check cannot run) or "info" (a measurement that cannot fail).
        expected: what the check expects.
        received: what the server answered, or why the check was skipped.
        cause: cause of a failed check, empty if it is unknown.

    Examples:
        >>> result = CheckResult("signatures", "grpc", "failed", "compare", "no compare", cause="compare=False")
        >>> result.cause
        'compare=False'
    """

    check: str
    protocol: str
    result: str
    expected: str
    received: str
    cause: str = ""


@dataclasses.dataclass(frozen=True)
class ConformanceReport:
    """Results of all checks of a server, see `check_server`. As a string, it is a text table.

    Attributes:
        addresses: addresses of the server, without credentials.
        model: name of the model.
        version: version that answered, or None without a connection.
        label: requested label of a version, or None.
        export: path of the SavedModel with which the answers were compared, or None.
        tolerance: allowed difference of embeddings and cosines, and allowed relative difference of norms.
        results: `CheckResult`s in the order of the checks.

    Examples:
        >>> length = CheckResult("length of embeddings", "grpc", "failed", "length 1", "length 7.2", "not normalized")
        >>> report = ConformanceReport(("grpc://localhost:8500",), "faces", 1, None, None, 1e-4, (length,))
        >>> report.passed, report.summary(), report.causes
        (False, '0 passed, 1 failed', ('not normalized',))
        >>> print(report.table(100))
        check                 protocol  result      expected                     received
        --------------------  --------  ----------  ---------------------------  ---------------------------
        length of embeddings  grpc      failed [1]  length 1                     length 7.2
        <BLANKLINE>
        [1] not normalized
    """

    addresses: tuple[str, ...]
    model: str
    version: int | None
    label: str | None
    export: str | None
    tolerance: float
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """Results of the checks that failed."""
        return tuple(result for result in self.results if result.result == "failed")

    @property
    def causes(self) -> tuple[str, ...]:
        """Causes of the failures, each once."""
        return tuple(dict.fromkeys(result.cause for result in self.failures if result.cause))

    def summary(self) -> str:
        """Returns the number of checks per result as text, such as "30 passed, 2 failed"."""
        kinds = [result.result for result in self.results]
        counts = {kind: kinds.count(kind) for kind in ("passed", "failed", "skipped", "info")}
        return ", ".join(f"{count} {kind}" for kind, count in counts.items() if count or kind in ("passed", "failed"))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary that can be written as JSON."""
        fields = dataclasses.asdict(self)
        fields["addresses"] = list(self.addresses)
        checks = [dataclasses.asdict(result) for result in self.results]
        del fields["results"]
        return fields | {
            "passed": self.passed,
            "summary": self.summary(),
            "causes": list(self.causes),
            "checks": checks,
        }

    def table(self, width: int = 120) -> str:
        """Returns a text table of the results, followed by the causes. `[1]` marks a check with the first cause.

        A check with the same result over both protocols has one row.

        Args:
            width: number of characters of a line. A table that needs more has longer lines.
        """
        causes = list(dict.fromkeys(result.cause for result in self.results if result.cause))
        protocols: dict[CheckResult, list[str]] = {}
        for each in self.results:
            protocols.setdefault(dataclasses.replace(each, protocol=""), []).append(each.protocol)
        rows = [
            (each.check, ", ".join(names), each.result + _mark(each.cause, causes), each.expected, each.received)
            for each, names in protocols.items()
        ]
        fixed = [max(map(len, column)) for column in zip(_COLUMNS[:3], *(row[:3] for row in rows), strict=True)]
        rest = width - sum(fixed) - 4 * len(_GAP)
        widths = [*fixed, *[max(rest // 2, _MIN_TEXT_WIDTH)] * 2]
        lines = [*_wrap_row(_COLUMNS, widths), _GAP.join("-" * size for size in widths)]
        for row in rows:
            lines += _wrap_row(row, widths)
        if causes:
            lines.append("")
        for cause in causes:
            mark = f"{_mark(cause, causes)[1:]} "
            lines += textwrap.wrap(
                cause, max(width, sum(widths)), initial_indent=mark, subsequent_indent=" " * len(mark)
            )
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()


def _mark(cause: str, causes: list[str]) -> str:
    return f" [{causes.index(cause) + 1}]" if cause else ""


def _wrap_row(cells: tuple[str, ...], widths: list[int]) -> list[str]:
    """Returns the lines of a row, with each cell wrapped to the width of its column."""
    wrapped = [
        textwrap.wrap(cell, width, break_on_hyphens=False) or [""] for cell, width in zip(cells, widths, strict=True)
    ]
    height = max(map(len, wrapped))
    columns = [cell + [""] * (height - len(cell)) for cell in wrapped]
    return [
        _GAP.join(part.ljust(width) for part, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
