"""Plots of verification results, of quality scores, of groups of people and of label noise."""

import io
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import _files
from keras_arcface._optional import optional_import
from keras_arcface.evaluation.error_discard import ErrorVersusDiscard
from keras_arcface.evaluation.groups import GroupResult
from keras_arcface.evaluation.label_noise import LabelNoise
from keras_arcface.evaluation.verification import VerificationResult

# Colors of Okabe and Ito, which color-blind readers can distinguish.
_GENUINE, _IMPOSTOR, _RELABELED = "#0072B2", "#D55E00", "#009E73"
_MODEL_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES = ("-", "--", "-.", ":")
# Size in inches. Text of 10 points stays readable on a phone.
_SIZE = (4.8, 4.2)
_MAX_POINTS = 2000


def plot_verification(results: Mapping[str, VerificationResult], path) -> Path:
    """Plots the ROC curves of models, and for each model the histograms of genuine and impostor scores.

    `Report` has logarithmic curves, which show the differences between good models better.

    Args:
        results: mapping from the name of a model to its result of `verify`, best model first.
        path: file to write, which is replaced if it exists. The suffix determines the format, such as `.png`, `.svg` or
            `.pdf`; without a suffix, it is PNG.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
        OSError: if the file cannot be written.
        ValueError: if matplotlib does not support the format.

    Examples:
        >>> same = np.arange(20) % 2 == 0
        >>> first, other = np.random.default_rng(0).normal(size=(2, 20, 16))
        >>> second = np.where(same[:, None], first + other, other)
        >>> result = verify(np.stack([first, second], axis=1).reshape(40, 16), same)
        >>> plot_verification({"ours": result}, "verification.png")
        PosixPath('verification.png')
    """
    figure = _figure((5 + 4.5 * len(results), 4.8))
    panels = figure.subplots(1, 1 + len(results), squeeze=False)[0]
    _draw_roc(panels[0], results)
    for panel, (name, result) in zip(panels[1:], results.items(), strict=True):
        _draw_scores(panel, result)
        panel.set(title=f"{_escape(name)}: accuracy {result.accuracy:.1%} ± {result.accuracy_std:.1%}")
    return _save(figure, Path(path))


def plot_error_versus_discard(results: Mapping[str, ErrorVersusDiscard], path) -> Path:
    """Plots the false non-match rate over the discarded share, for several quality scores.

    A dotted line is the lowest possible curve, that of a quality score that discards all false non-matches first.

    Args:
        results: mapping from the name of a quality score to its result of `error_versus_discard`, for the same or for
            different pairs.
        path: file to write, which is replaced if it exists. The suffix determines the format, such as `.png`, `.svg` or
            `.pdf`; without a suffix, it is PNG.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
        OSError: if the file cannot be written.
        ValueError: if there is no result, or matplotlib does not support the format.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> same, noise = np.arange(400) % 2 == 0, rng.uniform(0, 1, 800)
        >>> scores = same - noise.reshape(400, 2).max(axis=1)
        >>> qualities = {"noise": -noise, "unrelated": rng.normal(size=800)}
        >>> results = {name: error_versus_discard(scores, same, q, far=0.01) for name, q in qualities.items()}
        >>> plot_error_versus_discard(results, "quality.png")
        PosixPath('quality.png')
    """
    if not results:
        raise ValueError("results must contain at least one result. Received: results={}")
    figure = _figure((7, 5))
    panel = figure.subplots()
    max_discard = max(result.max_discard for result in results.values())
    for (name, result), style in _with_styles(results):
        label = f"{_escape(name)}: pAUC {result.pauc:.2%}"
        panel.step(*_up_to(max_discard, result.discarded, result.fnmr), where="post", label=label, **style)
    bounds = {(r.genuine, r.false_non_matches): r for r in results.values()}
    for result in bounds.values():
        label = f"lowest possible: pAUC {result.best_pauc:.2%}"
        panel.step(*_up_to(max_discard, *result.best()), where="post", color="gray", linestyle=":", label=label)
    fars = ", ".join(f"{far:g}" for far in sorted({result.far for result in results.values()}))
    panel.set(xlim=(0, 100 * max_discard), xlabel="genuine pairs discarded, lowest quality first (%)")
    panel.set(ylabel="FNMR of the remaining pairs (%)", title=f"Error versus discard, threshold at FAR {fars}")
    panel.set_ylim(bottom=0)
    panel.grid(alpha=0.3)
    _legend_below(figure)
    return _save(figure, Path(path))


def plot_groups(results: Mapping[str, GroupResult], path) -> Path:
    """Plots the error rates of groups with their confidence intervals, and the overall rates as lines.

    Args:
        results: mapping from the name of a model to its result of `by_group`, all with the same groups.
        path: file to write, which is replaced if it exists. The suffix determines the format, such as `.png`, `.svg` or
            `.pdf`; without a suffix, it is PNG.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
        OSError: if the file cannot be written.
        ValueError: if matplotlib does not support the format, or the results have different groups.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> same, groups = np.arange(12000) % 2 == 0, np.repeat(["a", "b", "c"], 4000)
        >>> scores = rng.normal(np.where(same, 0.45, np.where(groups == "c", 0.03, 0.0)), 0.1)
        >>> plot_groups({"ours": by_group(scores, same, groups, far=0.01)}, "groups.png")
        PosixPath('groups.png')
    """
    return _save(_draw_groups(results), Path(path))


def plot_label_noise(noise: LabelNoise, cleaned: np.ndarray, image_of: Callable[[int], np.ndarray], path) -> Path:
    """Plots the angles between images and their class, and shows the farthest images.

    Each of the farthest images is shown next to the image nearest to the dominant sub-center of its class.

    Args:
        noise: result of `find_label_noise`.
        cleaned: `(n,)` int, the result of `noise.clean_labels`, with -1 for a dropped image.
        image_of: function from the index of an image to its pixels, `(height, width, 3)` uint8.
        path: file to write, which is replaced if it exists. The suffix determines the format, such as `.png`, `.svg` or
            `.pdf`; without a suffix, it is PNG.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: if matplotlib is not installed. The message says what to install.
        OSError: if the file cannot be written.
        ValueError: if matplotlib does not support the format.

    Examples:
        >>> images = np.stack([np.full((32, 32, 3), 60 * n, "uint8") for n in range(4)])
        >>> embeddings = [[1.0, 0.0], [1.0, 0.1], [0.1, 1.0], [0.0, 1.0]]
        >>> noise = find_label_noise(embeddings, labels=[0, 0, 0, 1], centers=np.eye(2))
        >>> plot_label_noise(noise, noise.clean_labels(), images.__getitem__, "noise.png")
        PosixPath('noise.png')
    """
    columns, rows = 8, 3
    figure = _figure((12, 9))
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[2] + [1] * rows)
    _draw_angles(figure.add_subplot(grid[0, :]), noise, cleaned)
    farthest = np.argsort(-noise.angles, kind="stable")[: columns * rows]
    for place, image in enumerate(farthest.tolist()):
        of_class = np.flatnonzero(noise.labels == noise.labels[image])
        nearest = of_class[np.argmin(noise.angles[of_class])].item()
        panel = figure.add_subplot(grid[1 + place // columns, place % columns])
        panel.imshow(np.concatenate([image_of(image), image_of(nearest)], axis=1))
        verdict = {-1: "dropped", noise.labels.item(image): "kept"}.get(cleaned.item(image), "relabeled")
        panel.set_title(f"class {noise.labels[image]}, {np.rad2deg(noise.angles[image]):.0f}°: {verdict}", fontsize=8)
        panel.axis("off")
    return _save(figure, Path(path))


def groups_svg(results: Mapping[str, GroupResult]) -> bytes:
    """Returns a plot of the error rates of groups as SVG."""
    return _svg(_draw_groups(results))


def roc_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """Returns a plot of ROC curves as SVG. The logarithmic FAR axis shows the differences between good models."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    min_far = _min_far(results)
    for (name, result), style in _with_styles(results):
        far, tar = _subsample_curve(result.roc.far, result.roc.tar, min_far)
        panel.plot(far, tar, label=f"{_escape(name)}: AUC {result.auc:.4f}", **style)
    panel.set(xscale="log", xlim=(min_far, 1), ylim=(0, 1.02), title="ROC")
    panel.set(xlabel="FAR: impostor pairs accepted (log scale)", ylabel="TAR: genuine pairs accepted")
    panel.grid(alpha=0.3, which="both")
    _legend_below(figure)
    return _svg(figure)


def det_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """Returns a plot of DET curves as SVG. Both axes are logarithmic, and a dot marks the equal error rate."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    min_far = _min_far(results)
    lowest_frr = min(1 / len(result.roc.genuine) for result in results.values())
    for (name, result), style in _with_styles(results):
        far, tar = _subsample_curve(result.roc.far, result.roc.tar, min_far)
        panel.plot(far, np.maximum(1 - tar, lowest_frr / 2), label=f"{_escape(name)}: EER {result.eer:.2%}", **style)
        panel.plot([result.eer], [result.eer], "o", color=style["color"], markersize=5)
    panel.set(xscale="log", yscale="log", xlim=(min_far, 1), ylim=(lowest_frr / 2, 1.2), title="DET")
    panel.set(xlabel="FAR: impostor pairs accepted (log scale)", ylabel="1 - TAR: genuine pairs rejected (log)")
    panel.grid(alpha=0.3, which="both")
    _legend_below(figure)
    return _svg(figure)


def scores_svg(name: str, result: VerificationResult) -> bytes:
    """Returns histograms of the genuine and impostor scores of a model as SVG."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    _draw_scores(panel, result)
    panel.set(title=_escape(name))
    return _svg(figure)


def folds_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """Returns a plot of the accuracy and threshold of each fold as SVG."""
    figure = _figure(_SIZE)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for (name, result), style in _with_styles(results):
        folds = np.arange(1, len(result.grid.accuracies) + 1)
        upper.plot(folds, result.grid.accuracies, "o", label=_escape(name), **style)
        lower.plot(folds, result.grid.thresholds, "o", **style)
    upper.set(title="Folds", ylabel="accuracy")
    lower.set(xlabel="fold", ylabel="threshold (cosine)")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
        panel.margins(y=0.15)
    upper.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(figure)
    return _svg(figure)


def _figure(size: tuple[float, float]) -> Any:
    with optional_import("plots", "Plotting"):
        from matplotlib.figure import Figure
    return Figure(figsize=size, layout="constrained")


def _escape(name: str) -> str:
    """Escapes dollar signs, which start a formula in matplotlib, and a leading "_", which hides a legend entry."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _legend_below(figure: Any) -> None:
    """Adds a legend below the axes, so that it covers no curve."""
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _save(figure: Any, path: Path) -> Path:
    with _files.replacing(path) as file:
        figure.savefig(file, format=path.suffix.removeprefix(".") or "png", dpi=120)
    return path


def _svg(figure: Any) -> bytes:
    import matplotlib

    stream = io.BytesIO()
    # A fixed salt and a missing date make the output reproducible.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "keras_arcface"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _up_to(share: float, discarded: np.ndarray, fnmr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of a step curve up to a share, in percent. The last step ends there."""
    shown = discarded <= share
    discarded, fnmr = discarded[shown], fnmr[shown]
    return 100 * np.append(discarded, share), 100 * np.append(fnmr, fnmr[-1])


def _with_styles(results: Mapping[str, Any]) -> Iterator[tuple[tuple[str, Any], dict[str, str]]]:
    for number, entry in enumerate(results.items()):
        color, style = _MODEL_COLORS[number % len(_MODEL_COLORS)], _LINE_STYLES[number % len(_LINE_STYLES)]
        yield entry, {"color": color, "linestyle": style}


def _min_far(results: Mapping[str, VerificationResult]) -> float:
    """Returns the FAR of one impostor pair, the lower limit of a logarithmic axis."""
    return min(0.5, *(1 / len(result.roc.impostor) for result in results.values()))


def _subsample_curve(far: np.ndarray, tar: np.ndarray, min_far: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the part of a curve with a FAR of at least `min_far`, subsampled to about `_MAX_POINTS` points."""
    first = int(np.searchsorted(far, min_far, side="left"))
    start = tar[max(first - 1, 0)]
    far, tar = np.concatenate([[min_far], far[first:]]), np.concatenate([[start], tar[first:]])
    if len(far) > _MAX_POINTS:
        places = np.geomspace(min_far, 1, _MAX_POINTS)
        kept = np.unique(np.concatenate([[0], np.searchsorted(far, places, side="right") - 1, [len(far) - 1]]))
        far, tar = far[kept], tar[kept]
    return far, tar


def _draw_roc(panel: Any, results: Mapping[str, VerificationResult]) -> None:
    for (name, result), style in _with_styles(results):
        panel.plot(result.roc.far, result.roc.tar, label=f"{_escape(name)}: AUC {result.auc:.3f}", **style)
    panel.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":", label="chance: AUC 0.500")
    panel.set(xlim=(0, 1), ylim=(0, 1.01), title="ROC curve")
    panel.set(xlabel="FAR: impostor pairs accepted", ylabel="TAR: genuine pairs accepted")
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right")


def _draw_scores(panel: Any, result: VerificationResult) -> None:
    lowest, highest = result.scores.min(), max(result.scores.max(), result.threshold)
    bins = np.linspace(min(lowest, result.threshold), highest + 1e-6, 41)
    for kind, scores, color in (
        ("impostor", result.roc.impostor, _IMPOSTOR),
        ("genuine", result.roc.genuine, _GENUINE),
    ):
        panel.hist(scores, bins, alpha=0.6, color=color, density=True, label=f"{len(scores):,} {kind} pairs")
    panel.axvline(result.threshold, color="black", linewidth=1, label=f"threshold {result.threshold:.2f}")
    panel.set(xlabel="score: cosine of the two embeddings", ylabel="density")
    panel.margins(y=0.35)  # room for the legend
    panel.legend(loc="upper left", fontsize=9)


def _draw_groups(results: Mapping[str, GroupResult]) -> Any:
    names = list(next(iter(results.values())).groups)
    for model, result in results.items():
        if list(result.groups) != names:
            raise ValueError(f"results must have the groups {names}. Received: {list(result.groups)} of {model!r}")
    figure = _figure((10, 1.6 + len(names) * (0.2 + 0.2 * len(results))))
    panels = figure.subplots(1, 2, sharey=True)
    for number, (model, result) in enumerate(results.items()):
        color = _MODEL_COLORS[number % len(_MODEL_COLORS)]
        places = np.arange(len(names)) + (number - (len(results) - 1) / 2) * 0.7 / len(results)
        for panel, rate in zip(panels, ("fnmr", "fmr"), strict=True):
            values = np.array([getattr(rates, rate) for rates in result.groups.values()])
            low, high = np.transpose([getattr(rates, f"{rate}_interval") for rates in result.groups.values()])
            overall = getattr(result.overall, rate)
            label = f"{_escape(model)}, threshold {result.threshold:.3f}; line: all groups" if rate == "fnmr" else None
            panel.errorbar(values, places, xerr=[values - low, high - values], fmt="o", color=color, label=label)
            panel.axvline(overall, color=color, linewidth=0.8, linestyle="--")
    panels[0].set(title="False non-matches", xlabel="FNMR = 1 - TAR: genuine pairs rejected")
    panels[1].set(title="False matches", xlabel="FMR = FAR: impostor pairs accepted")
    panels[0].set_yticks(np.arange(len(names)), [_escape(name) for name in names])
    panels[0].invert_yaxis()
    for panel in panels:
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3, axis="x")
    _legend_below(figure)
    return figure


def _draw_angles(panel: Any, noise: LabelNoise, cleaned: np.ndarray) -> None:
    bins = np.linspace(0, max(120, np.rad2deg(noise.angles.max())), 100)
    for name, chosen, color in (
        ("kept", cleaned == noise.labels, _GENUINE),
        ("dropped", cleaned == -1, _IMPOSTOR),
        ("relabeled", (cleaned >= 0) & (cleaned != noise.labels), _RELABELED),
    ):
        if chosen.any():
            label = f"{name}: {chosen.sum():,}"
            panel.hist(np.rad2deg(noise.angles[chosen]), bins, color=color, alpha=0.7, label=label)
    panel.set(xlabel="angle to the dominant sub-center of the class (degrees)", ylabel="images")
    panel.set_title("Below: the farthest images, each next to the image nearest to the sub-center")
    panel.legend(loc="upper right")  # the best place takes time to find, and matplotlib warns about it
