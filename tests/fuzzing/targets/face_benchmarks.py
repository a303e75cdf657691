"""Reads a file of YouTube Faces (first byte 0), of IJB 1:N (1), of MegaFace (2 to 4), or a file of a feature (5)."""

import struct
import tempfile
from pathlib import Path

from fuzzing.named_errors import named_errors

from keras_arcface.data import FeatureFiles
from keras_arcface.data import IjbIdentificationSet
from keras_arcface.data import MegaFaceSet
from keras_arcface.data import YtfSet

COVERS = tuple(f"keras_arcface/data/{name}.py" for name in ("ytf", "ijb_galleries", "megaface", "feature_files"))
ALLOWED = (ValueError, FileNotFoundError)
MAX_SECONDS = 2
MAX_MIB = 32

_FOLDER = Path(tempfile.mkdtemp())
_LISTS = "mega/devkit/templatelists"
_CONTENTS = {
    "ytf/splits.txt": b"a, heading\n1, 1, a/0, a/1, 1\n1, 2, a/0, b/0, 0\n2, 1, b/0, b/1, 1\n2, 2, a/1, b/1, 0\n",
    "ijb/meta/ijbc_1N_probe_mixed.csv": b"TEMPLATE_ID,SUBJECT_ID,FILENAME\n1,7,a.jpg\n1,7,b.jpg\n2,8,c.jpg\n",
    f"{_LISTS}/facescrub_features_list.json": b'{"path": ["a/a_1.png", "b/b_2.png"], "id": ["a", "b"]}',
    f"{_LISTS}/megaface_features_list.json_2_1": b'{"path": ["1/2@N00/3.jpg", "1/3@N00/4.jpg"]}',
    "mega/megaface_noises.txt": b"# noise\n0\t1/2@N00/3.jpg\n1/5@N00/6.jpg\n",
    "features/a.png_x.bin": struct.pack("<4i3f", 3, 1, 4, 5, 1, 2, 3),
}
_OTHERS = {
    **{f"ytf/aligned_images_DB/{video}/1.jpg": b"" for video in ("a/0", "a/1", "b/0", "b/1")},
    "ijb/meta/ijbc_face_tid_mid.txt": b"1.jpg 1 7\n2.jpg 2 8\n3.jpg 3 9\n",
    "ijb/meta/ijbc_name_5pts_score.txt": b"".join(b"%d.jpg 1 2 3 4 5 6 7 8 9 10 0.9\n" % n for n in (1, 2, 3)),
    "ijb/meta/ijbc_1N_gallery_G1.csv": b"T,S\n3,7\n",
    "ijb/meta/ijbc_1N_gallery_G2.csv": b"T,S\n3,8\n",
    "mega/facescrub_noises.txt": b"b_2.png\n",
}
for _name, _content in {**_CONTENTS, **_OTHERS}.items():
    (_FOLDER / _name).parent.mkdir(parents=True, exist_ok=True)
    (_FOLDER / _name).write_bytes(_content)


def seeds():
    return [bytes([number]) + content for number, content in enumerate(_CONTENTS.values())]


def run(data):
    number, data = (data[0] % 6, data[1:]) if data else (0, b"")
    for index, (name, content) in enumerate(_CONTENTS.items()):
        (_FOLDER / name).write_bytes(data if index == number else content)
    with named_errors(_FOLDER):
        if number == 0:
            ytf = YtfSet(_FOLDER / "ytf")
            assert len(ytf.pairs) == len(ytf.same)
            assert len(ytf.names) == len(ytf.videos)
        elif number == 1:
            ijb = IjbIdentificationSet(_FOLDER / "ijb")
            assert len(ijb.probes) == len(ijb.probe_subjects)
        elif number < 5:
            megaface = MegaFaceSet(_FOLDER / "mega", refined=True)
            assert len(megaface.probes) == len(megaface.labels)
        else:
            assert FeatureFiles(_FOLDER / "features", ["a.png"])[:].shape[0] == 1
