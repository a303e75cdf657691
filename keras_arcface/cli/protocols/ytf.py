"""Verification of the videos of YouTube Faces."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import describe_size
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.evaluation import tables


def videos(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    ytf = data.YtfSet(path.parent, path.name) if path.is_file() else data.YtfSet(path)
    results = {}
    for model, embed in models.items():
        frames = embed_all(embed, ytf, arguments, ytf.names.__getitem__)
        _, pooled = evaluation.pool_templates(frames, ytf.videos, weight_by_norm=False)
        results[model] = evaluation.verify(pooled, ytf.same, ytf.folds, pairs=ytf.pairs)
    note = (
        f"{np.sum(ytf.same):,} genuine and {np.sum(~ytf.same):,} impostor pairs of {len(ytf.video_names):,} videos, "
        f"{ytf.folds} splits. A video is the mean of the normalized embeddings of its frames ({len(ytf):,} in total)."
        f"{describe_size(arguments)}"
    )
    say(note)
    say(tables.verification_table(results, intervals=False))
    report.add_verification(name, results, note=note)
    return results
