"""Protocols of the command `evaluate`. Each evaluates all models on one set, and prints and reports a table."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.evaluation import tables

RECALL_AT = (1, 2, 4, 8, 10, 100, 1000)

Models = dict[str, Callable]
Say = Callable[..., None]


def verification(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    pairs = data.PairSet.load(path)
    results = {}
    for model, embed in models.items():
        embeddings = evaluation.embed_pairs(embed, pairs, arguments.flip, arguments.batch_size)
        results[model] = evaluation.verify(embeddings, pairs.same, arguments.folds, shuffle_seed=arguments.shuffle_seed)
    note = "" if arguments.shuffle_seed is None else f"Pairs in random order (seed {arguments.shuffle_seed})."
    say(f"{np.sum(pairs.same):,} genuine and {np.sum(~pairs.same):,} impostor pairs. {note}")
    say(tables.verification_table(results, intervals=False))
    report.add_verification(name, results, pairs, note)
    return results


def retrieval(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    results, nmi = {}, {}
    for model, embed in models.items():
        embeddings, labels = embed_labeled(embed, path, arguments)
        results[model] = evaluation.retrieve(embeddings, labels, [k for k in RECALL_AT if k < len(labels)])
        nmi[model] = evaluation.clustering_nmi(embeddings, labels) if arguments.nmi else None
    table = evaluation.results_table(results)
    if arguments.nmi:
        rows = [[*row, f"{value:.2%}"] for row, value in zip(table.rows, nmi.values(), strict=True)]
        table = evaluation.Table([*table.columns, "NMI"], rows)
    first = next(iter(results.values()))
    skipped = f" Skipped: {first.skipped:,} images without another image of their class." if first.skipped else ""
    show(name, table, f"{first.queries:,} queries, each against all other images.{skipped}", report, say)
    return {model: {**evaluation.to_json(result), "nmi": nmi[model]} for model, result in results.items()}


def reidentification(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    query, gallery = data.CameraFolder(path / "query"), data.CameraFolder(path / "bounding_box_test")
    results = {}
    for model, embed in models.items():
        queries = embed_all(embed, query, arguments, lambda row: str(query.files[row]))
        images = embed_all(embed, gallery, arguments, lambda row: str(gallery.files[row]))
        results[model] = evaluation.reidentify(queries, query.ids, query.cameras, images, gallery.ids, gallery.cameras)
    note = f"{len(query):,} queries, {len(gallery):,} gallery images."
    show(name, evaluation.results_table(results), note, report, say)
    return results


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


def embed_labeled(embed: Callable, path: Path, arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """Returns the embeddings and labels of all images of a source or dataset."""
    if (path / "dataset.json").is_file() and arguments.size is None:
        return evaluation.embed_dataset(embed, data.load_dataset(path, arguments.batch_size), arguments.flip)
    source = data.open_source(path)
    return embed_all(embed, source, arguments), source.labels


def embed_all(
    embed: Callable, images: Any, arguments: argparse.Namespace, name_of: Callable[[int], str] | None = None
) -> np.ndarray:
    return evaluation.embed_images(
        embed, images, arguments.flip, arguments.batch_size, name_of=name_of, size=arguments.size
    )


def show(name: str, table: evaluation.Table, note: str, report: evaluation.Report, say: Say) -> None:
    say(note)
    say(table)
    report.add_table(name, table, note)
