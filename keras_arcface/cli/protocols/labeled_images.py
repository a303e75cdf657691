"""Retrieval among images with labels."""

import argparse
from pathlib import Path
from typing import Any

from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import embed_labeled
from keras_arcface.cli.protocols.shared import show

RECALL_AT = (1, 2, 4, 8, 10, 100, 1000)


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
