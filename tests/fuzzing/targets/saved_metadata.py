"""Reads the metadata of a SavedModel."""

import tempfile
from pathlib import Path

from keras_arcface.serving.saved_model.metadata import METADATA_FILE
from keras_arcface.serving.saved_model.metadata import read_metadata

COVERS = ("keras_arcface/serving/saved_model/metadata.py",)
ALLOWED = ()
MAX_SECONDS = 1
MAX_MIB = 64

_SAVED_MODEL = Path(tempfile.mkdtemp())
(_SAVED_MODEL / METADATA_FILE).parent.mkdir()


def seeds():
    return [b'{"format": 1, "warmup_batch_sizes": [1, 64], "computes_in": ["float32"]}', b"{}", b"[" * 2000]


def run(data):
    (_SAVED_MODEL / METADATA_FILE).write_bytes(data)
    fields = refused = None
    try:
        fields = read_metadata(_SAVED_MODEL)
    except ValueError as error:
        refused = error
    if refused is not None:
        assert str(refused).startswith(str(_SAVED_MODEL / METADATA_FILE))
        assert len(str(refused)) < 2000
    else:
        max(fields["warmup_batch_sizes"], default=0)
        set(fields["computes_in"])
