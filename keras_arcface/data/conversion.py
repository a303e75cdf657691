"""Recognizes a dataset that was written before, so that the same call of `write_dataset` uses it again."""

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

from keras_arcface.data.checking import check_sizes
from keras_arcface.data.info import Conversion
from keras_arcface.data.info import DatasetInfo
from keras_arcface.data.info import load_info
from keras_arcface.data.selection import Selection
from keras_arcface.data.selection import fingerprint_of
from keras_arcface.data.selection import is_recognizable
from keras_arcface.data.sources import Source

_log = logging.getLogger(__name__)


def conversion_of(
    source: Source, selection: Selection, examples_per_shard: int, seed: int, check: bool, min_images: int
) -> Conversion:
    """Describes a call of `write_dataset`; `selection` holds the classes of `source` that are written."""
    labels = hashlib.sha256(selection.labels.tobytes() + selection.source_labels.tobytes())
    labels.update(json.dumps(selection.class_names).encode())
    return Conversion(
        images=len(selection),
        labels=labels.hexdigest(),
        fingerprint=hashlib.sha256(fingerprint_of(source).encode()).hexdigest(),
        examples_per_shard=int(examples_per_shard),
        seed=seed,
        check=bool(check),
        min_images=int(min_images),
    )


def use_again(
    directory: Path, source: Source, conversion: Conversion, damaged: str, alignment: str | None
) -> DatasetInfo:
    """Returns the dataset that a directory holds, if it is the one that this call of `write_dataset` would write.

    Raises:
        FileExistsError: saying what differs, or why it cannot be told.
    """
    info = load_info(directory)
    if info.conversion is None:
        difference = ". Whether it is the one of this call cannot be told: it does not say from what it was written"
    elif not is_recognizable(source):
        difference = (
            f". Whether it is the one of this call cannot be told: {source} has no fingerprint() by which to see "
            "whether its images are the same"
        )
    else:
        changes = _changes(info, source, conversion, damaged, alignment)
        difference = f", and not the one of this call: {'; '.join(changes)}" if changes else ""
    if difference:
        raise FileExistsError(
            f"{directory} holds a dataset already{difference}. To write it again, remove the directory or choose "
            "another. To use it as it is, call load_info"
        )
    check_sizes(directory, info)
    if alignment is not None and info.alignment is None:  # has become known
        info = dataclasses.replace(info, alignment=alignment)
        info.save(directory)
    _log.info("%s holds this dataset already: %r", directory, info)
    return info


def _changes(info: DatasetInfo, source: Source, conversion: Conversion, damaged: str, alignment) -> list[str]:
    """What differs between a dataset and the one to be written, in words."""
    former = info.conversion
    changes = [
        f"{name} was {was}, now {now}"
        for name, was, now in (
            ("the number of images", former.images, conversion.images),
            *(
                (option, getattr(former, option), getattr(conversion, option))
                for option in ("examples_per_shard", "seed", "check", "min_images")
            ),
        )
        if was != now
    ]
    if None not in (alignment, info.alignment) and alignment != info.alignment:
        changes.append(f"alignment was {info.alignment}, now {alignment}")
    if former.labels != conversion.labels and former.images == conversion.images:
        changes.append("labels or names of classes were others")
    if former.fingerprint != conversion.fingerprint:
        is_same = info.source == str(source)
        changes.append(
            f"files of {source} were added, removed or written since"
            if is_same
            else f"the source was {info.source}, now {source}"
        )
    if info.skipped and damaged == "raise":
        changes.append(f'damaged was "skip", which left out {len(info.skipped)} images; now "raise"')
    return changes
