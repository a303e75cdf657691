"""Pictures of verification results."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_arcface.evaluation.verification import VerificationResult


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
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Pictures need matplotlib: pip install 'keras-arcface[plots]'") from error
    figure = Figure(figsize=(5 + 4.5 * len(results), 4.8), layout="constrained")
    panels = figure.subplots(1, 1 + len(results), squeeze=False)[0]
    _draw_roc(panels[0], results)
    for panel, (name, result) in zip(panels[1:], results.items(), strict=True):
        _draw_histograms(panel, name, result)
    path = Path(path)
    figure.savefig(path, dpi=120)
    return path


def _draw_roc(panel, results):
    for name, result in results.items():
        panel.plot(result.far_curve, result.tar_curve, label=f"{name}: AUC {result.auc:.3f}", drawstyle="steps-post")
    panel.plot([0, 1], [0, 1], color="grey", linewidth=0.8, linestyle=":", label="guessing: AUC 0.500")
    panel.set(xlim=(0, 1), ylim=(0, 1.01), title="ROC curve")
    panel.set(xlabel="false accept rate (impostors accepted)", ylabel="true accept rate (genuine accepted)")
    panel.grid(alpha=0.3)
    panel.legend(loc="lower right")


def _draw_histograms(panel, name, result):
    genuine, impostor = result.scores[result.same], result.scores[~result.same]
    bins = np.linspace(min(result.scores.min(), result.threshold), 1, 41)
    panel.hist(impostor, bins, alpha=0.6, color="tab:red", density=True, label=f"{len(impostor)} impostor pairs")
    panel.hist(genuine, bins, alpha=0.6, color="tab:green", density=True, label=f"{len(genuine)} genuine pairs")
    panel.axvline(result.threshold, color="black", linewidth=1, label=f"threshold {result.threshold:.2f}")
    panel.set(title=f"{name}: accuracy {result.accuracy:.1%} ± {result.accuracy_std:.1%}")
    panel.set(xlabel="cosine of the two embeddings", ylabel="density")
    panel.margins(y=0.35)  # room for the legend
    panel.legend(loc="upper left")
