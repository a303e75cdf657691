"""HTML report of evaluation results in one self-contained file."""

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface._html import data_uri
from keras_arcface._html import escape
from keras_arcface._html import write_page
from keras_arcface.data import encoded_images
from keras_arcface.data.pairs import PairSet
from keras_arcface.evaluation import plots
from keras_arcface.evaluation.groups import GroupResult
from keras_arcface.evaluation.tables import Table
from keras_arcface.evaluation.tables import group_difference_table
from keras_arcface.evaluation.tables import group_table
from keras_arcface.evaluation.tables import threshold_table
from keras_arcface.evaluation.tables import verification_table
from keras_arcface.evaluation.verification import VerificationResult

_MAX_ERRORS_SHOWN = 6
_JPEG = b"\xff\xd8"
_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --wash: #f5f7f9; --good: #0072b2; --bad: #a84300; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 16px 64px; color: var(--ink); background: #fff;
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 1.35rem; margin: 48px 0 4px; padding-top: 16px; border-top: 2px solid var(--ink); }
h3 { font-size: 1.05rem; margin: 28px 0 4px; }
p { margin: 4px 0 12px; max-width: 75ch; color: var(--soft); }
.scroll { overflow-x: auto; margin: 12px 0; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
thead th { font-size: .85rem; color: var(--soft); background: var(--wash); font-weight: 600; }
th:first-child { text-align: left; font-weight: 600; position: sticky; left: 0; background: #fff; }
thead th:first-child { background: var(--wash); }
tbody tr:last-child > * { border-bottom: 0; }
small { display: block; color: var(--soft); font-size: .8rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 340px), 1fr)); gap: 16px; }
figure { margin: 0; }
.plots img { width: 100%; height: auto; display: block; border: 1px solid var(--line); border-radius: 8px; }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 166px), 1fr)); gap: 12px; }
.pair { border: 1px solid var(--line); border-radius: 8px; padding: 8px; background: var(--wash); }
.pair div { display: flex; gap: 4px; }
.pair img { width: calc(50% - 2px); height: auto; border-radius: 4px; }
.pair figcaption { font-size: .82rem; margin-top: 6px; line-height: 1.35; }
.accepted { color: var(--bad); font-weight: 600; }
.rejected { color: var(--good); font-weight: 600; }
@media (max-width: 480px) { .pairs { grid-template-columns: repeat(2, 1fr); } body { font-size: 15px; } }
"""


class Report:
    """Self-contained HTML report with tables, curves, histograms, and images of the worst errors.

    Add one section per pair set or table in the order of the page, then call `write`.

    Args:
        title: title of the page.
        note: text below the title.

    Examples:
        >>> pairs = data.PairSet.load("pairs.npz")
        >>> def mean_color(images):
        ...     return images.mean(axis=(1, 2))
        >>> result = verify(embed_pairs(mean_color, pairs, progress=False), pairs.same, folds=2)
        >>> report = Report("Mean color as an embedding", note="The baseline of the other models.")
        >>> report.add_verification("four pairs", {"mean color": result}, pairs)
        >>> report.add_table("Sizes", Table(["", "dimension"], [["mean color", "3"]]))
        >>> report.write("report.html")
        PosixPath('report.html')
    """

    def __init__(self, title: str, note: str = ""):
        self.title, self.note = title, note
        self._sections: list[str] = []

    def add_verification(
        self, name: str, results: Mapping[str, VerificationResult], pairs: PairSet | None = None, note: str = ""
    ) -> None:
        """Adds a section about a pair set: tables of accuracies and thresholds, plots, and the worst errors.

        Args:
            name: name of the set.
            results: mapping from the name of a model to its result of `verify` on this set.
            pairs: pair set that contains the images of the worst errors; None for a report without images.
            note: text below the heading.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
            ValueError: if `results` is empty, or `pairs` has another number of pairs than a result.
        """
        if not results:
            raise ValueError("results must contain at least one result. Received: results={}")
        for model, result in results.items():
            if pairs is not None and len(pairs) != len(result.same):
                raise ValueError(
                    f"pairs must contain the {len(result.same)} pairs of the result of {model!r}. Received: {pairs!r}"
                )
        parts = [
            f"<h2>{escape(name)}</h2>",
            *_verification_tables(results, note),
            *_verification_plots(results),
            "<h3>Thresholds</h3>",
            "<p>The lowest threshold that accepts at most this share of the impostor pairs. The interval contains the "
            "FAR on other impostor pairs, if pairs are independent. It is wide if few impostor pairs are accepted: "
            "with fewer than ten, its ends differ by a factor of four or more.</p>",
            _table(threshold_table(results)),
        ]
        if pairs is not None:
            parts += [_error_gallery(model, result, pairs.images) for model, result in results.items()]
        self._sections.append("\n".join(parts))

    def add_groups(self, name: str, results: Mapping[str, GroupResult], note: str = "") -> None:
        """Adds a section about groups of people: their error rates, a plot, and how much they differ.

        Args:
            name: name of the set.
            results: mapping from the name of a model to its result of `by_group` on this set.
            note: text below the heading.

        Raises:
            ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
            ValueError: if `results` is empty, or has results of different groups.
        """
        if not results:
            raise ValueError("results must contain at least one result. Received: results={}")
        parts = [
            f"<h2>{escape(name)}</h2>",
            _paragraph(note),
            _table(group_table(results)),
            '<div class="plots">',
            _figure(plots.groups_svg(results), "error rates of each group with their intervals"),
            "</div>",
            "<h3>Differences between groups</h3>",
            "<p>Groups that do not differ have different rates in a sample, too: compare the Gini coefficient with the "
            "one by chance. A p-value below 0.05 says that so large a difference is rare by chance, if pairs are "
            "independent. In brackets: 95% intervals.</p>",
            _table(group_difference_table(results)),
        ]
        self._sections.append("\n".join(parts))

    def add_table(self, name: str, table: Table, note: str = "") -> None:
        """Adds a section with a table, such as one of `results_table`.

        Args:
            name: heading of the section.
            table: the table.
            note: text below the heading.
        """
        self._sections.append(f"<h2>{escape(name)}</h2>\n{_paragraph(note)}\n{_table(table)}")

    def write(self, path) -> Path:
        """Writes the report to a file, which is replaced if it exists.

        Args:
            path: path of the HTML file.

        Returns:
            The path.

        Raises:
            OSError: if the file cannot be written.
        """
        return write_page(
            path, self.title, _STYLE, [f"<h1>{escape(self.title)}</h1>", _paragraph(self.note), *self._sections]
        )


def _verification_tables(results: Mapping[str, VerificationResult], note: str) -> list[str]:
    first = next(iter(results.values()))
    genuine, impostors = int(np.sum(first.same)), int(np.sum(~first.same))
    return [
        f"<p>{genuine:,} genuine and {impostors:,} impostor pairs, {len(first.grid.accuracies)} folds. "
        f"{escape(note)}</p>",
        _table(verification_table(results)),
        "<p>Accuracy: mean and standard deviation over the folds. The threshold of each fold is the best one on the "
        "other folds, of the published grid or of all thresholds (exact). In brackets: 95% bootstrap intervals. "
        "TAR@FAR: the largest share of genuine pairs accepted by a threshold that accepts at most this share of the "
        f"impostor pairs; {impostors:,} impostor pairs cannot measure a FAR below 1/{impostors:,}.</p>",
    ]


def _verification_plots(results: Mapping[str, VerificationResult]) -> list[str]:
    figures = [
        _figure(plots.roc_svg(results), "ROC curves: higher is better"),
        _figure(plots.det_svg(results), "DET curves: lower is better"),
        _figure(plots.folds_svg(results), "accuracy and threshold of each fold"),
    ]
    figures += [_figure(plots.scores_svg(model, result), f"scores of {model}") for model, result in results.items()]
    return ['<div class="plots">', *figures, "</div>"]


def _error_gallery(model: str, result: VerificationResult, images: Sequence[bytes]) -> str:
    """Returns HTML with the worst false accepts and false rejects of a model."""
    distance = np.abs(result.scores - result.grid.thresholds[result.fold_of_pair])
    parts = []
    for same, title, verdict in (
        (False, "different people, accepted as the same", "accepted"),
        (True, "the same person, rejected", "rejected"),
    ):
        errors = np.flatnonzero(~result.correct & (result.same == same))
        worst = errors[np.argsort(-distance[errors], kind="stable")][:_MAX_ERRORS_SHOWN]
        count = f"The {len(worst)} worst of {len(errors)}" if len(errors) > len(worst) else f"All {len(errors)}"
        note = f"{count} errors, each with its score and the threshold of its fold." if len(errors) else "No errors."
        pairs = "\n".join(_pair(result, pair, verdict, images) for pair in worst)
        parts.append(f'<h3>{escape(model)}: {title}</h3>\n<p>{note}</p>\n<div class="pairs">{pairs}</div>')
    return "\n".join(parts)


def _pair(result: VerificationResult, pair: int, verdict: str, images: Sequence[bytes]) -> str:
    names = [f"pair {pair}, {side} image" for side in ("first", "second")]
    pictures = "".join(
        f'<img src="{image_uri(image, name)}" alt="{name}">'
        for image, name in zip(images[2 * pair : 2 * pair + 2], names, strict=True)
    )
    threshold = result.grid.thresholds[result.fold_of_pair[pair]]
    return (
        f'<figure class="pair"><div>{pictures}</div><figcaption><span class="{verdict}">{verdict}: '
        f"{result.scores[pair]:.3f}</span><br>threshold {threshold:.3f}<br>pair {pair}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column) or "model"}</th>' for column in table.columns)
    rows = "\n".join(
        f'<tr><th scope="row">{escape(cells[0])}</th>'
        + "".join(f"<td>{_cell(cell)}</td>" for cell in cells[1:])
        + "</tr>"
        for cells in table.rows
    )
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table">'
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def _cell(cell: str) -> str:
    value, bracket, interval = cell.partition(" [")
    return escape(value) + (f"<small>[{escape(interval)}</small>" if bracket else "")


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>" if text else ""


def _figure(svg: bytes, description: str) -> str:
    return f'<figure><img src="{data_uri(svg, "image/svg+xml")}" alt="{escape(description)}"></figure>'


def image_uri(image: bytes, name: str) -> str:
    """Returns the URI of an image in a format that every browser shows, with the orientation that the model saw."""
    image = encoded_images.to_jpeg_or_png(image, name)
    return data_uri(image, "image/jpeg" if image.startswith(_JPEG) else "image/png")
