"""Pictures of verification results: ROC and DET curves, scores, folds."""

import io
from collections.abc import Callable
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_arcface.evaluation.label_noise import LabelNoise
from keras_arcface.evaluation.verification import VerificationResult

# Okabe and Ito's colors, which everyone can tell apart.
GENUINE, IMPOSTOR = "#0072B2", "#D55E00"
_MODELS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINES = ("-", "--", "-.", ":")
_SIZE = (4.8, 4.2)  # inches: at 10 points its letters are still readable on a telephone
_MOST_POINTS = 2000


def plot_verification(results: Mapping[str, VerificationResult], path) -> Path:
    """Draws the ROC curves of one or more models, and for each how genuine and impostor scores lie.

    Args:
        results: name of the model -> what `verify` gave, best first.
        path: where to write; the suffix says the format, such as `.png`.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: saying what to install, if matplotlib is absent.
    """
    figure = _figure((5 + 4.5 * len(results), 4.8))
    panels = figure.subplots(1, 1 + len(results), squeeze=False)[0]
    _draw_roc(panels[0], results)
    for panel, (name, result) in zip(panels[1:], results.items(), strict=True):
        _draw_scores(panel, result)
        panel.set(title=f"{_plain(name)}: accuracy {result.accuracy:.1%} ± {result.accuracy_std:.1%}")
    path = Path(path)
    figure.savefig(path, dpi=120)
    return path


def plot_label_noise(noise: LabelNoise, cleaned: np.ndarray, image_of: Callable[[int], np.ndarray], path) -> Path:
    """Draws how far images are from their class, and those farthest from it beside one in the middle of it.

    Args:
        noise: what `find_label_noise` gave.
        cleaned: `(n,)`, the labels that it gave without noise, -1 for what is dropped.
        image_of: number of an image -> `(height, width, 3)` uint8.
        path: where to write; the suffix says the format, such as `.png`.

    Returns:
        The path.

    Raises:
        ModuleNotFoundError: saying what to install, if matplotlib is absent.
    """
    columns, rows = 8, 3
    figure = _figure((12, 9))
    grid = figure.add_gridspec(1 + rows, columns, height_ratios=[2] + [1] * rows)
    panel = figure.add_subplot(grid[0, :])
    edges = np.linspace(0, max(120, np.rad2deg(noise.angles.max())), 100)
    for name, chosen, color in (
        ("kept", cleaned == noise.labels, GENUINE),
        ("dropped", cleaned == -1, IMPOSTOR),
        ("relabeled", (cleaned >= 0) & (cleaned != noise.labels), _MODELS[2]),
    ):
        if chosen.any():
            label = f"{name}: {chosen.sum():,}"
            panel.hist(np.rad2deg(noise.angles[chosen]), edges, color=color, alpha=0.7, label=label)
    panel.set(xlabel="degrees to the dominant sub-center of the own class", ylabel="images")
    panel.set_title("The farthest, below: each beside the image that is nearest to that center")
    panel.legend()
    farthest = np.argsort(-noise.angles, kind="stable")[: columns * rows]
    for place, image in enumerate(farthest.tolist()):
        of_class = np.flatnonzero(noise.labels == noise.labels[image])
        middle = of_class[np.argmin(noise.angles[of_class])].item()
        panel = figure.add_subplot(grid[1 + place // columns, place % columns])
        panel.imshow(np.concatenate([image_of(image), image_of(middle)], axis=1))
        verdict = {-1: "dropped", noise.labels.item(image): "kept"}.get(cleaned.item(image), "relabeled")
        panel.set_title(f"class {noise.labels[image]}, {np.rad2deg(noise.angles[image]):.0f}°: {verdict}", fontsize=8)
        panel.axis("off")
    path = Path(path)
    figure.savefig(path, dpi=120)
    return path


def roc_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """ROC curves over a logarithmic FAR axis, as SVG: where the differences between good models are."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    lowest = _lowest_far(results)
    for (name, result), style in _styled(results):
        far, tar = _steps(result.roc.far, result.roc.tar, lowest)
        panel.plot(far, tar, label=f"{_plain(name)}: AUC {result.auc:.4f}", **style)
    panel.set(xscale="log", xlim=(lowest, 1), ylim=(0, 1.02), title="ROC")
    panel.set(xlabel="FAR: impostor pairs accepted (log scale)", ylabel="TAR: genuine pairs accepted")
    panel.grid(alpha=0.3, which="both")
    _legend_below(figure)
    return _svg(figure)


def det_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """DET curves, both axes logarithmic, as SVG; the dot is the equal error rate."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    lowest = _lowest_far(results)
    fewest = min(1 / len(result.roc.genuine) for result in results.values())
    for (name, result), style in _styled(results):
        far, tar = _steps(result.roc.far, result.roc.tar, lowest)
        panel.plot(far, np.maximum(1 - tar, fewest / 2), label=f"{_plain(name)}: EER {result.eer:.2%}", **style)
        panel.plot([result.eer], [result.eer], "o", color=style["color"], markersize=5)
    panel.set(xscale="log", yscale="log", xlim=(lowest, 1), ylim=(fewest / 2, 1.2), title="DET")
    panel.set(xlabel="FAR: impostor pairs accepted (log scale)", ylabel="1 - TAR: genuine pairs refused (log)")
    panel.grid(alpha=0.3, which="both")
    _legend_below(figure)
    return _svg(figure)


def scores_svg(name: str, result: VerificationResult) -> bytes:
    """How the scores of genuine and impostor pairs of one model lie, as SVG."""
    figure = _figure(_SIZE)
    panel = figure.subplots()
    _draw_scores(panel, result)
    panel.set(title=_plain(name))
    return _svg(figure)


def folds_svg(results: Mapping[str, VerificationResult]) -> bytes:
    """Accuracy and threshold of every fold, as SVG."""
    figure = _figure(_SIZE)
    upper, lower = figure.subplots(2, 1, sharex=True)
    for (name, result), style in _styled(results):
        folds = np.arange(1, len(result.grid.accuracies) + 1)
        upper.plot(folds, result.grid.accuracies, "o", label=_plain(name), **style)
        lower.plot(folds, result.grid.thresholds, "o", **style)
    upper.set(title="Folds", ylabel="accuracy")
    lower.set(xlabel="fold", ylabel="threshold (cosine)")
    for panel in (upper, lower):
        panel.grid(alpha=0.3)
        panel.margins(y=0.15)
    upper.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(figure)
    return _svg(figure)


def _figure(size):
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'keras-arcface[plots]'") from error
    return Figure(figsize=size, layout="constrained")


def _plain(name: str) -> str:
    """Keeps matplotlib from reading mathematics between dollars, and from hiding what starts with an underscore."""
    return (" " if name.startswith("_") else "") + name.replace("$", r"\$")


def _legend_below(figure):
    """Where it hides no curve."""
    figure.legend(loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _svg(figure) -> bytes:
    import matplotlib

    stream = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "keras_arcface"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _styled(results):
    for number, entry in enumerate(results.items()):
        yield entry, {"color": _MODELS[number % len(_MODELS)], "linestyle": _LINES[number % len(_LINES)]}


def _lowest_far(results) -> float:
    """Below one impostor pair there is nothing to see."""
    return min(0.5, *(1 / len(result.roc.impostor) for result in results.values()))


def _steps(far, tar, lowest):
    """A curve from the lowest FAR of a logarithmic axis on, of no more points than the eye can part."""
    first = np.searchsorted(far, lowest, side="left")
    start = tar[max(first - 1, 0)]
    far, tar = np.concatenate([[lowest], far[first:]]), np.concatenate([[start], tar[first:]])
    if len(far) > _MOST_POINTS:
        places = np.geomspace(lowest, 1, _MOST_POINTS)
        kept = np.unique(np.concatenate([[0], np.searchsorted(far, places, side="right") - 1, [len(far) - 1]]))
        far, tar = far[kept], tar[kept]
    return far, tar


def _draw_roc(panel, results):
    for (name, result), style in _styled(results):
        panel.plot(result.roc.far, result.roc.tar, label=f"{_plain(name)}: AUC {result.auc:.3f}", **style)
    panel.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":", label="guessing: AUC 0.500")
    panel.set(xlim=(0, 1), ylim=(0, 1.01), title="ROC curve")
    panel.set(xlabel="FAR: impostor pairs accepted", ylabel="TAR: genuine pairs accepted")
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right")


def _draw_scores(panel, result):
    lowest, highest = result.scores.min(), max(result.scores.max(), result.threshold)
    bins = np.linspace(min(lowest, result.threshold), highest + 1e-6, 41)
    for kind, scores, color in (("impostor", result.roc.impostor, IMPOSTOR), ("genuine", result.roc.genuine, GENUINE)):
        panel.hist(scores, bins, alpha=0.6, color=color, density=True, label=f"{len(scores):,} {kind} pairs")
    panel.axvline(result.threshold, color="black", linewidth=1, label=f"threshold {result.threshold:.2f}")
    panel.set(xlabel="score: cosine of the two embeddings", ylabel="density")
    panel.margins(y=0.35)  # room for the legend
    panel.legend(loc="upper left", fontsize=9)
