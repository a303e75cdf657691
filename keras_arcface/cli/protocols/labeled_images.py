"""Retrieval among images with labels."""

import argparse
from collections.abc import Callable
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import describe_size
from keras_arcface.cli.protocols.shared import embed_labeled
from keras_arcface.cli.protocols.shared import show
from keras_arcface.cli.stored_embeddings import is_stored

RECALL_AT = (1, 2, 4, 8, 10, 100, 1000)


class Embedded(NamedTuple):
    """Embeddings and labels of the queries, and of a separate gallery if it exists."""

    embeddings: np.ndarray
    labels: np.ndarray
    gallery: np.ndarray | None = None
    gallery_labels: np.ndarray | None = None

    def gallery_size(self) -> int:
        """Returns the number of images with which each query is compared."""
        return len(self.labels) - 1 if self.gallery is None else len(self.gallery)

    def nmi(self) -> float:
        """Returns the NMI of a clustering of all images, queries and gallery."""
        embeddings = [self.embeddings] if self.gallery is None else [self.embeddings, self.gallery]
        labels = [self.labels] if self.gallery_labels is None else [self.labels, self.gallery_labels]
        return evaluation.clustering_nmi(np.concatenate(embeddings), np.concatenate(labels))


def retrieval(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    if is_stored(path):
        return _retrieve_stored(name, path, models, arguments, report, say)

    def embed_set(embed: Callable) -> Embedded:
        return Embedded(*embed_labeled(embed, path, arguments))

    return retrieve_with_models(name, embed_set, RECALL_AT, models, arguments, report, say)


def _retrieve_stored(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    stored = evaluation.StoredEmbeddings(path)
    embedded = Embedded(stored.embeddings(), stored.labels())
    note = f" Stored embeddings, {'with' if stored.flip else 'without'} those of mirror images."
    models = models or {"stored": stored.embeddings}
    return retrieve_with_models(name, lambda _: embedded, RECALL_AT, models, arguments, report, say, note)


def retrieve_with_models(
    name: str,
    embed_set: Callable[[Callable], Embedded],
    ks: Sequence[int],
    models: Models,
    arguments: argparse.Namespace,
    report: evaluation.Report,
    say: Say,
    images_note: str | None = None,
) -> dict[str, Any]:
    """Evaluates all models on one set, and prints and reports a table.

    Args:
        name: name of the set.
        embed_set: function from a model to the embeddings of the set.
        ks: values of K for Recall@K. Those above the number of gallery images are left out.
        models: models by name.
        arguments: arguments of the command.
        report: report to which the table is added.
        say: function that prints.
        images_note: sentence about the images. None describes their preprocessing by the options.

    Returns:
        The figures of each model.
    """
    results, nmi, note = {}, {}, ""
    images_note = describe_size(arguments) if images_note is None else images_note
    for model, embed in models.items():
        embedded = embed_set(embed)
        ks_in_gallery = [k for k in ks if k <= embedded.gallery_size()]
        result = evaluation.retrieve(
            *(embedded.embeddings, embedded.labels, ks_in_gallery), embedded.gallery, embedded.gallery_labels
        )
        results[model], nmi[model] = result, embedded.nmi() if arguments.nmi else None
        others = "all other" if embedded.gallery is None else f"{embedded.gallery_size():,} gallery"
        skipped = f" Skipped: {result.skipped:,} images without another image of their class." if result.skipped else ""
        note = f"{result.queries:,} queries, each against {others} images.{skipped}{images_note}"
    table = evaluation.results_table(results)
    if arguments.nmi:
        rows = [[*row, f"{value:.2%}"] for row, value in zip(table.rows, nmi.values(), strict=True)]
        table = evaluation.Table([*table.columns, "NMI"], rows)
    show(name, table, note, report, say)
    return {model: {**evaluation.to_json(result), "nmi": nmi[model]} for model, result in results.items()}
