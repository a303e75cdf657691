"""Verification of the four groups of Racial Faces in the Wild (RFW)."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.groups import compare_groups
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.cli.protocols.shared import show
from keras_arcface.data.rfw import GROUPS


def rfw(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    faces = data.RfwSet(path, arguments.size[0] if arguments.size else 112, arguments.aligned)
    results: dict[str, dict[str, evaluation.VerificationResult]] = {}
    for model, embed in models.items():
        embeddings = embed_all(embed, faces, arguments, faces.names.__getitem__)
        results[model] = {}
        for group in GROUPS:
            of_group = faces.groups == group
            results[model][group] = evaluation.verify(
                embeddings, faces.same[of_group], arguments.folds, pairs=faces.pairs[of_group]
            )
    rows = []
    for model, by_group in results.items():
        accuracies = [f"{result.accuracy:.2%} ± {result.accuracy_std:.2%}" for result in by_group.values()]
        rows.append([model, *accuracies, f"{np.mean([result.accuracy for result in by_group.values()]):.2%}"])
    note = f"{len(faces.pairs):,} pairs. Accuracy of each group over {arguments.folds} folds, with its own thresholds."
    show(name, evaluation.Table(["", *GROUPS, "mean"], rows), note, report, say)
    scores = {
        model: np.concatenate([result.scores for result in by_group.values()]) for model, by_group in results.items()
    }
    compared = compare_groups(name, scores, faces.same, faces.groups, arguments, report, say, faces.people)
    return {model: {"accuracy": results[model], "groups": compared[model]} for model in models}
