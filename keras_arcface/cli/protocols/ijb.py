"""Verification of the templates of IJB-B and IJB-C."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.cli.protocols.shared import show


def templates(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    ijb = data.IjbSet(path, size=arguments.size[0] if arguments.size else 112, undetected=arguments.undetected)
    detector_scores = ijb.detector_scores if arguments.detector_score else None
    results = {}
    for model, embed in models.items():
        embeddings = embed_all(embed, ijb, arguments, ijb.names.__getitem__)
        ids, pooled = evaluation.pool_templates(embeddings, ijb.templates, ijb.media, arguments.norm, detector_scores)
        results[model] = evaluation.verify_templates(pooled, ids, ijb.pairs, ijb.same)
    weights = [word for word, on in (("norm", arguments.norm), ("detector score", arguments.detector_score)) if on]
    weighting = f"weighted by {' and '.join(weights)}" if weights else "not weighted"
    note = (
        f"{len(ijb.pairs):,} pairs of templates; images {weighting}. "
        "In parentheses: TAR at the nearest FAR, as in published results."
    )
    if ijb.skipped:
        note += f" Skipped: {len(ijb.skipped):,} images without a detected face, and {ijb.skipped_pairs:,} pairs."
    elif not ijb.detected.all():
        note += f" Not aligned: {np.sum(~ijb.detected):,} images without a detected face."
    show(name, evaluation.results_table(results), note, report, say)
    return results
