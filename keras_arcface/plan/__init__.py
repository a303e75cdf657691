"""Estimates of memory, time and machines, before the work starts.

`estimate` is about the head of a training. `estimate_stages` and `estimate_searches` are about many images: their
conversion, their embeddings, and the search among them.
"""

from keras_arcface.plan.head import Estimate
from keras_arcface.plan.head import Setup
from keras_arcface.plan.head import estimate
from keras_arcface.plan.head import fastest
from keras_arcface.plan.head import format_table
from keras_arcface.plan.images import ImageSetup
from keras_arcface.plan.images import Search
from keras_arcface.plan.images import Stage
from keras_arcface.plan.images import estimate_searches
from keras_arcface.plan.images import estimate_stages
from keras_arcface.plan.images import format_image_tables
from keras_arcface.plan.sizes import parse_size

__all__ = [
    "Estimate",
    "ImageSetup",
    "Search",
    "Setup",
    "Stage",
    "estimate",
    "estimate_searches",
    "estimate_stages",
    "fastest",
    "format_image_tables",
    "format_table",
    "parse_size",
]
