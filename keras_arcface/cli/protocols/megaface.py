"""Identification and verification among the distractors of MegaFace."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import describe_size
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.cli.protocols.shared import show
from keras_arcface.data.listed_images import ListedImages


def distractors(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    megaface = data.MegaFaceSet(path, refined=arguments.refined)
    results = {}
    for model, embed in models.items():
        probes = embed_all(embed, megaface.probes, arguments, megaface.probes.names.__getitem__)
        images = _EmbeddedImages(embed, megaface.distractors, arguments, say)
        results[model] = evaluation.identify_among_distractors(probes, megaface.labels, images, progress=False)
    for model, (folder, ending) in arguments.megaface_features.items():
        probes = data.FeatureFiles(folder / "facescrub", megaface.probes.names, ending)[:]
        files = data.FeatureFiles(folder / "megaface", megaface.distractors.names, ending)
        results[model] = evaluation.identify_among_distractors(probes, megaface.labels, files)
    probes_of_people = f"{len(megaface.probes):,} probes of {len(megaface.people):,} people"
    note = f"{probes_of_people}, {len(megaface.distractors):,} distractors."
    if arguments.refined:
        note += (
            f" Left out as noisy: {len(megaface.noisy_probes):,} probes and {len(megaface.noisy_distractors):,} "
            "distractors."
        )
    if models:
        note += describe_size(arguments)
    show(name, evaluation.results_table(results), note, report, say)
    return results


class _EmbeddedImages:
    """Embeddings of images that are computed when a slice is read, so that those of a million are never in memory."""

    def __init__(self, embed: Callable, images: ListedImages, arguments: argparse.Namespace, say: Say):
        self._embed, self._images, self._arguments, self._say = embed, images, arguments, say

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(len(self))
        self._say(f"distractors {start + 1:,} to {stop:,} of {len(self):,}")
        images = self._images.part(rows)
        return embed_all(self._embed, images, self._arguments, images.names.__getitem__)
