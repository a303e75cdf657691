"""Verification and identification of the templates of IJB-B and IJB-C."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.cli.protocols.shared import show

Ijb = data.IjbSet | data.IjbIdentificationSet


def templates(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    ijb = data.IjbSet(path, size=_size(arguments), undetected=arguments.undetected)
    results = {}
    for model, embed in models.items():
        ids, pooled = _pool(embed, ijb, arguments)
        results[model] = evaluation.verify_templates(pooled, ids, ijb.pairs, ijb.same)
    note = (
        f"{len(ijb.pairs):,} pairs of templates; images {_weighting(arguments)}. "
        "In parentheses: TAR at the nearest FAR, as in published results."
        f"{_undetected(ijb, f'{ijb.skipped_pairs:,} pairs')}"
    )
    show(name, evaluation.results_table(results), note, report, say)
    return results


def identification(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    ijb = data.IjbIdentificationSet(path, size=_size(arguments), undetected=arguments.undetected)
    both = "+".join(ijb.galleries)
    rows: dict[str, evaluation.IdentificationResult] = {}
    results = {}
    for model, embed in models.items():
        ids, pooled = _pool(embed, ijb, arguments)
        galleries = {gallery: _search(ijb, ids, pooled, [gallery]) for gallery in ijb.galleries}
        mean = evaluation.IdentificationResult.mean(list(galleries.values()))
        galleries[both] = _search(ijb, ids, pooled, list(ijb.galleries))
        rows |= {model: mean, **{f"{model}, {gallery}": result for gallery, result in galleries.items()}}
        results[model] = {**evaluation.to_json(mean), "galleries": evaluation.to_json(galleries)}
    # Both galleries have a mate for every probe, hence no DIR.
    no_dir = dict.fromkeys(next(iter(rows.values())).dir, np.nan)
    rows = {row: dataclasses.replace(result, dir=result.dir or no_dir) for row, result in rows.items()}
    note = (
        f"{len(ijb.probes):,} probes, galleries of {' and '.join(f'{len(ids):,}' for ids in ijb.galleries.values())} "
        f"templates; images {_weighting(arguments)}. First the mean over the galleries, as published for IJB-B and "
        f"IJB-C. {both}: one search in both galleries, as in InsightFace's program."
        f"{_undetected(ijb, f'{ijb.skipped_templates:,} templates')}"
    )
    show(name, evaluation.results_table(rows), note, report, say)
    return results


def _search(
    ijb: data.IjbIdentificationSet, ids: np.ndarray, pooled: np.ndarray, galleries: list[str]
) -> evaluation.IdentificationResult:
    """Searches the probes in the union of some galleries. `pooled` has the embeddings of the templates `ids`."""
    entries = np.concatenate([ijb.galleries[name] for name in galleries])
    subjects = np.concatenate([ijb.gallery_subjects[name] for name in galleries])
    probes = pooled[np.searchsorted(ids, ijb.probes)]
    return evaluation.identify(probes, ijb.probe_subjects, pooled[np.searchsorted(ids, entries)], subjects)


def _size(arguments: argparse.Namespace) -> int:
    return arguments.size[0] if arguments.size else 112


def _pool(embed: Callable, ijb: Ijb, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids and the embeddings of all templates."""
    embeddings = embed_all(embed, ijb, arguments, ijb.names.__getitem__)
    detector_scores = ijb.detector_scores if arguments.detector_score else None
    return evaluation.pool_templates(embeddings, ijb.templates, ijb.media, arguments.norm, detector_scores)


def _weighting(arguments: argparse.Namespace) -> str:
    weights = [word for word, on in (("norm", arguments.norm), ("detector score", arguments.detector_score)) if on]
    return f"weighted by {' and '.join(weights)}" if weights else "not weighted"


def _undetected(ijb: Ijb, skipped: str) -> str:
    """Returns a sentence on images without a detected face, or an empty text."""
    if ijb.skipped:
        return f" Skipped: {len(ijb.skipped):,} images without a detected face, and {skipped}."
    if not ijb.detected.all():
        return f" Not aligned: {np.sum(~ijb.detected):,} images without a detected face."
    return ""
