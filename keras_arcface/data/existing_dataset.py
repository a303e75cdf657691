"""Reuse of an existing dataset by a repeated call of `write_dataset`."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

from keras_arcface.data.info import Conversion
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.integrity import check_sizes
from keras_arcface.data.sources import Source
from keras_arcface.data.subsets import ClassSubset

_log = logging.getLogger(__name__)


def describe_conversion(
    source: Source, subset: ClassSubset, examples_per_shard: int, seed: int, check: bool, min_images: int
) -> Conversion:
    """Returns the description of a call of `write_dataset`.

    Args:
        source: source of the call.
        subset: classes of `source` that are written.
        examples_per_shard: argument of `write_dataset`.
        seed: argument of `write_dataset`.
        check: argument of `write_dataset`.
        min_images: argument of `write_dataset`.
    """
    labels = hashlib.sha256(subset.labels.tobytes() + subset.source_labels.tobytes())
    labels.update(json.dumps(subset.class_names).encode())
    return Conversion(
        images=len(subset),
        labels=labels.hexdigest(),
        fingerprint=hashlib.sha256((source.fingerprint() or "").encode()).hexdigest(),
        examples_per_shard=int(examples_per_shard),
        seed=seed,
        check=bool(check),
        min_images=int(min_images),
    )


def reuse_dataset(
    directory: Path, source: Source, conversion: Conversion, damaged: str, alignment: str | None
) -> DatasetInfo:
    """Returns the dataset in a directory if `write_dataset` would write the same dataset again.

    If the dataset does not record its alignment yet, `alignment` is added to it.

    Raises:
        FileExistsError: if the dataset differs or cannot be compared. The message names the differences or the reason.
    """
    info = load_info(directory)
    if info.conversion is None:
        difference = "it does not record how it was written"
    elif source.fingerprint() is None:
        difference = f"{source} has no fingerprint() that shows whether its images are the same"
    else:
        difference = "; ".join(_find_differences(info, info.conversion, source, conversion, damaged, alignment))
    if difference:
        raise FileExistsError(
            f"{directory} must contain no dataset, or one of the same source and arguments. To write it again, remove "
            "the directory or choose another. To use the existing dataset, call load_info. "
            f"Received: a directory with a dataset that cannot be reused: {difference}"
        )
    check_sizes(directory, info)
    if alignment is not None and info.alignment is None:
        info = dataclasses.replace(info, alignment=alignment)
        info.save(directory)
    _log.info("%s contains this dataset already: %r", directory, info)
    return info


def _find_differences(
    info: DatasetInfo, former: Conversion, source: Source, conversion: Conversion, damaged: str, alignment: str | None
) -> list[str]:
    """Returns a list of the differences between an existing dataset and the dataset to write."""
    changes = []
    if former.images != conversion.images:
        changes.append(f"the number of images was {former.images}, now {conversion.images}")
    for option in ("examples_per_shard", "seed", "check", "min_images"):
        before, now = getattr(former, option), getattr(conversion, option)
        if before != now:
            changes.append(f"{option} was {before}, now {now}")
    if None not in (alignment, info.alignment) and alignment != info.alignment:
        changes.append(f"alignment was {info.alignment}, now {alignment}")
    if former.labels != conversion.labels and former.images == conversion.images:
        changes.append("labels or class names have changed")
    if former.fingerprint != conversion.fingerprint:
        is_same_source = info.source == str(source)
        changes.append(
            f"files of {source} were added, removed or written since"
            if is_same_source
            else f"the source was {info.source}, now {source}"
        )
    if info.skipped and damaged == "raise":
        changes.append(f'damaged was "skip", which left out {len(info.skipped)} images; now "raise"')
    return changes
