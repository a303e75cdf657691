"""Re-identification in the folders of Market-1501 and DukeMTMC-reID."""

import argparse
from pathlib import Path
from typing import Any

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import describe_size
from keras_arcface.cli.protocols.shared import embed_all
from keras_arcface.cli.protocols.shared import show


def reidentification(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    query, gallery = data.CameraFolder(path / "query"), data.CameraFolder(path / "bounding_box_test")
    results = {}
    for model, embed in models.items():
        queries = embed_all(embed, query, arguments, lambda row: str(query.files[row]))
        images = embed_all(embed, gallery, arguments, lambda row: str(gallery.files[row]))
        results[model] = evaluation.reidentify(queries, query.ids, query.cameras, images, gallery.ids, gallery.cameras)
    note = f"{len(query):,} queries, {len(gallery):,} gallery images.{describe_size(arguments)}"
    show(name, evaluation.results_table(results), note, report, say)
    return results
