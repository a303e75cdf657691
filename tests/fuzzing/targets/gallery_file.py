"""Opens and uses a gallery whose database or matrix file is damaged."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from fuzzing.named_errors import named_errors

from keras_arcface.gallery import Gallery

COVERS = tuple(
    f"keras_arcface/gallery/{name}.py" for name in ("database", "schema", "records", "matrix", "matrix_file")
)
ALLOWED = (ValueError, LookupError, OSError)
MAX_MIB = 64

_ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
_FOLDER = Path(tempfile.mkdtemp())
_PATH = _FOLDER / "people.db"


def _written():
    # A gallery of few pages, whose file is small.
    with Gallery.open(_PATH) as gallery:
        gallery._database.connection.execute("PRAGMA journal_mode = DELETE")
        gallery._database.connection.execute("PRAGMA page_size = 512")
        gallery._database.connection.execute("VACUUM")
    with Gallery.open(_PATH, embedder_sha256="a" * 64) as gallery:
        for person, rows in zip(("ann", "bob", "cem"), np.split(_ROWS, 3), strict=True):
            gallery.enroll(person, rows)
        gallery.calibrate(_ROWS, fpir=0.5)
        found = [match.person for match in gallery.search(_ROWS[:1])[0]]
    return _PATH.read_bytes(), Path(f"{_PATH}.float32").read_bytes(), found


_DATABASE, _MATRIX, _EXPECTED = _written()


def seeds():
    """The first byte selects the file: the database, or the matrix beside an undamaged database."""
    return [b"\0" + _DATABASE, b"\1" + _MATRIX[:4096]]


def run(data):
    kind, content = data[0] % 2 if data else 0, data[1:]
    shutil.rmtree(_FOLDER)
    _FOLDER.mkdir()
    _PATH.write_bytes(_DATABASE if kind else content)
    if kind:
        # The header, in a file of the full size.
        Path(f"{_PATH}.float32").write_bytes(content[:4096] + _MATRIX[len(content[:4096]) :])
    with named_errors(_PATH, 2000), Gallery.open(_PATH) as gallery:
        found = gallery.search(_ROWS[:1])
        for person in filter(str.isprintable, filter(None, gallery.people())):
            gallery.images(person)
            gallery.embeddings(person)
        gallery.thresholds()
        gallery.enroll("new", _ROWS[:1])
        gallery.remove("new")
        gallery.search(_ROWS)
    assert not kind or [match.person for match in found[0]] == _EXPECTED
