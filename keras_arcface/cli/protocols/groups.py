"""Comparison of groups of people at a common threshold."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.evaluation import tables


def read_groups(path: Path, num_pairs: int) -> np.ndarray:
    """Returns the group of each pair, from a file with a line per pair. An empty line is a pair without a group.

    Raises:
        ValueError: if the file is not UTF-8, or has another number of lines than there are pairs.
    """
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    if len(lines) != num_pairs:
        raise ValueError(f"{path} must have {num_pairs} lines, one for each pair. Received: {len(lines)} lines")
    return np.array([line.strip() for line in lines])


def compare_groups(
    name: str,
    scores: Mapping[str, np.ndarray],
    same: np.ndarray,
    groups: np.ndarray,
    arguments: argparse.Namespace,
    report: evaluation.Report,
    say: Say,
    people: np.ndarray | None = None,
) -> dict[str, evaluation.GroupResult]:
    """Compares the groups by the scores of each model. Pairs without a group are left out, and counted."""
    kept = groups != ""
    results = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the note names the groups that are too small
        for model, its_scores in scores.items():
            results[model] = evaluation.by_group(
                its_scores[kept],
                same[kept],
                groups[kept],
                far=arguments.group_far,
                people=None if people is None else people[kept],
            )
    note = f"One threshold for all groups, at FAR {arguments.group_far:g} of the impostor pairs of all groups."
    if people is None:
        note += " Pairs are treated as independent; if they share people, intervals and p-values are too small."
    if not kept.all():
        note += f" Left out: {np.sum(~kept):,} of {len(kept):,} pairs without a group."
    for model, result in results.items():
        for rate, small in result.too_small.items():
            if small:
                note += f" {model}: too few pairs to compare the {rate.upper()} of {', '.join(small)}."
    say(note)
    say(tables.group_table(results))
    say(tables.group_difference_table(results))
    report.add_groups(f"{name}: groups", results, note)
    return results
