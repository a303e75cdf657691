"""Reads the files of IJB-B or IJB-C (first byte 0 to 2), or a file name of Market-1501 (3)."""

import tempfile
from pathlib import Path

from fuzzing.named_errors import named_errors

from keras_arcface.data import CameraFolder
from keras_arcface.data import IjbSet

COVERS = tuple(f"keras_arcface/data/{name}.py" for name in ("ijb", "ijb_images", "camera_folder"))
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 32

_FOLDER = Path(tempfile.mkdtemp())
_CONTENTS = {
    "face_tid_mid": b"1.jpg 1 7\n2.jpg 1 8\n3.jpg 2 9\n",
    "template_pair_label": b"1 2 1\n1 1 0\n",
    "name_5pts_score": b"".join(b"%d.jpg 1 2 3.5 4 5 6 7e1 8 9 10 0.9\n" % number for number in (1, 2, 3)),
}
_FILES = [_FOLDER / "ijb" / "meta" / f"ijbb_{name}.txt" for name in _CONTENTS]
_FILES[0].parent.mkdir(parents=True)


def seeds():
    tables = [bytes([number]) + content for number, content in enumerate(_CONTENTS.values())]
    return [*tables, b"\3" + b"0002_c1s1_000451_03.jpg", b"\3" + b"-1_c12.png"]


def run(data):
    number, data = (data[0] % 4, data[1:]) if data else (0, b"")
    with named_errors(_FOLDER):
        if number == 3:
            _camera_folder(data)
            return
        for index, (file, content) in enumerate(zip(_FILES, _CONTENTS.values(), strict=True)):
            file.write_bytes(data if index == number else content)
        faces = IjbSet(_FOLDER / "ijb", undetected="crop")
    assert len(faces.names) == len(faces.templates) == len(faces.media) == len(faces.landmarks)
    assert len(faces.pairs) == len(faces.same)


def _camera_folder(name):
    name = name.replace(b"/", b"").replace(b"\0", b"")[:200] + b".jpg"
    folder = _FOLDER / "cameras"
    folder.mkdir(exist_ok=True)
    file = Path(str(folder), name.decode("utf-8", "surrogateescape"))
    file.touch()
    try:
        assert len(CameraFolder(folder).ids) == 1
    finally:
        file.unlink()
