"""Verification of pairs of images."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.groups import compare_groups
from keras_arcface.cli.protocols.groups import read_groups
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.evaluation import tables


def verification(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    pairs = data.PairSet.load(path)
    groups = read_groups(arguments.groups, len(pairs)) if arguments.groups else None
    results = {}
    for model, embed in models.items():
        embeddings = evaluation.embed_pairs(embed, pairs, arguments.flip, arguments.batch_size)
        results[model] = evaluation.verify(embeddings, pairs.same, arguments.folds, shuffle_seed=arguments.shuffle_seed)
    note = "" if arguments.shuffle_seed is None else f"Pairs in random order (seed {arguments.shuffle_seed})."
    say(f"{np.sum(pairs.same):,} genuine and {np.sum(~pairs.same):,} impostor pairs. {note}")
    say(tables.verification_table(results, intervals=False))
    report.add_verification(name, results, pairs, note)
    if groups is None:
        return results
    scores = {model: result.scores for model, result in results.items()}
    compared = compare_groups(name, scores, pairs.same, groups, arguments, report, say)
    return {model: {**evaluation.to_json(result), "groups": compared[model]} for model, result in results.items()}
