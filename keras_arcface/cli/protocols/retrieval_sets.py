"""Benchmarks of image retrieval, with the values of K of their papers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface.cli.protocols.labeled_images import Embedded
from keras_arcface.cli.protocols.labeled_images import retrieve_with_models
from keras_arcface.cli.protocols.shared import Models
from keras_arcface.cli.protocols.shared import Say
from keras_arcface.cli.protocols.shared import embed_all

# Values of K for Recall@K.
FINE_GRAINED_KS = (1, 2, 4, 8)
PRODUCT_KS = (1, 10, 100, 1000)
CLOTHES_KS = (1, 10, 20, 30)


def cub200(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    parts = [data.Cub200(path, "test")]
    return retrieve_with_models(name, _embed(parts, arguments), FINE_GRAINED_KS, models, arguments, report, say)


def cars196(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    parts = [data.Cars196(path, "test")]
    return retrieve_with_models(name, _embed(parts, arguments), FINE_GRAINED_KS, models, arguments, report, say)


def online_products(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    parts = [data.StanfordOnlineProducts(path, "test")]
    return retrieve_with_models(name, _embed(parts, arguments), PRODUCT_KS, models, arguments, report, say)


def in_shop(
    name: str, path: Path, models: Models, arguments: argparse.Namespace, report: evaluation.Report, say: Say
) -> dict[str, Any]:
    parts = [data.InShop(path, "query"), data.InShop(path, "gallery")]
    return retrieve_with_models(name, _embed(parts, arguments), CLOTHES_KS, models, arguments, report, say)


def _embed(parts: list[Any], arguments: argparse.Namespace) -> Callable[[Callable], Embedded]:
    """Returns a function from a model to the embeddings and labels of the queries, and of the gallery if it exists."""

    def embed_set(embed: Callable) -> Embedded:
        embedded = []
        for part in parts:
            embedded += [embed_all(embed, part, arguments), part.labels]
        return Embedded(*embedded)

    return embed_set
