"""Description of a dataset directory, as text and for `--json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from keras_arcface._messages import counted

if TYPE_CHECKING:
    from keras_arcface.data import DatasetInfo


def dataset_facts(info: DatasetInfo) -> dict[str, Any]:
    """Returns the numbers of a dataset that a program would read."""
    return {
        "num_examples": info.num_examples,
        "num_classes": info.num_classes,
        "image_size": list(info.image_size),
        "shards": len(info.shards),
        "num_bytes": sum(shard.num_bytes for shard in info.shards),
        "alignment": info.alignment,
        "skipped": len(info.skipped),
    }


def dataset_summary(info: DatasetInfo) -> str:
    """Returns the same in a few words."""
    height, width = info.image_size
    images, classes = counted(info.num_examples, "image"), counted(info.num_classes, "class", "classes")
    return f"{images} of {classes}, {height} x {width}, in {counted(len(info.shards), 'shard')}"
