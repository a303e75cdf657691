"""Recognizes a dataset that exists already, so that the same call of `write_dataset` reuses it."""

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
    """Describes a call of `write_dataset`; `subset` has the classes of `source` that are written."""
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
    """Returns the dataset in a directory, if it is the one that this call of `write_dataset` would write.

    An alignment that the dataset does not record yet is added to it.

    Raises:
        FileExistsError: naming the differences, or the reason why the dataset cannot be recognized.
    """
    info = load_info(directory)
    if info.conversion is None:
        difference = "it does not record how it was written"
    elif source.fingerprint() is None:
        difference = f"{source} has no fingerprint() that shows whether its images are the same"
    else:
        difference = "; ".join(_changes(info, info.conversion, source, conversion, damaged, alignment))
    if difference:
        raise FileExistsError(
            f"{directory} contains a dataset that cannot be reused: {difference}. To write it again, remove the "
            "directory or choose another. To use the dataset as it is, call load_info"
        )
    check_sizes(directory, info)
    if alignment is not None and info.alignment is None:
        info = dataclasses.replace(info, alignment=alignment)
        info.save(directory)
    _log.info("%s contains this dataset already: %r", directory, info)
    return info


def _changes(
    info: DatasetInfo, former: Conversion, source: Source, conversion: Conversion, damaged: str, alignment: str | None
) -> list[str]:
    """Returns a description of each difference between a dataset and the one to write."""
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
