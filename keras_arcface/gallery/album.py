"""Album of faces by person, as one HTML page."""

import numbers
import os
import urllib.parse
from collections import Counter
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from keras_arcface._html import FACES_STYLE
from keras_arcface._html import data_uri
from keras_arcface._html import escape
from keras_arcface._html import write_page
from keras_arcface._messages import counted
from keras_arcface._messages import short
from keras_arcface.evaluation.clustering import NOISE

_JPEG_QUALITY = 90
_STYLE = f"""{FACES_STYLE}
.faces a {{ display: block; text-decoration: none; }}
.faces a:hover span, .faces a:focus-visible span {{ color: var(--link); text-decoration: underline; }}
"""


class _Face(NamedTuple):
    photo: str
    name: str
    jpeg: bytes


def write_album(path, faces: Iterable[tuple], title: str = "Album", note: str = "", root=None) -> Path:
    """Writes an album of faces as one HTML page, with a section for each person.

    The page contains the crops, about 6 KB for each face of 112 x 112 pixels, and links to the photos relative to its
    own folder. It needs no other file and no network, works on small screens, and in light and dark mode.

    Args:
        path: path of the HTML file, which is replaced if it exists.
        faces: `(photo, crop, cluster)` of each face: the path of the photo, the face as RGB pixels, uint8
            `(height, width, 3)`, and its cluster, such as one of `cluster`. The sections are in the order of the
            clusters. Faces of cluster -1 are in a last section.
        title: title of the page.
        note: text below the title.
        root: folder of the photos. The page shows the names of the photos relative to it; with None, as in `faces`.

    Returns:
        The path.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if a crop or a cluster has another type. The message names the photo.

    Examples:
        >>> crops = np.zeros((3, 112, 112, 3), "uint8")
        >>> photos = ["photos/ann/0.jpg", "photos/ann/1.jpg", "photos/bob/0.jpg"]
        >>> write_album("album.html", zip(photos, crops, [0, 0, -1]), title="Summer")
        PosixPath('album.html')
    """
    path = Path(path)
    # Only the encoded crops stay in memory.
    encoded = [_encode(*face) for face in faces]
    names = face_names([photo if root is None else os.path.relpath(photo, root) for photo, _, _ in encoded])
    sections: dict[int, list[_Face]] = {}
    for (photo, jpeg, cluster), name in zip(encoded, names, strict=True):
        sections.setdefault(cluster, []).append(_Face(photo, name, jpeg))
    return write_page(path, title, _STYLE, _body(sections, title, note, path.parent))


def face_names(photos: Sequence[str | os.PathLike]) -> list[str]:
    """Returns a name for each face: the path of its photo, and the number of the face if the photo has several.

    Args:
        photos: photo of each face.

    Returns:
        The names.

    Examples:
        >>> face_names(["a.jpg", "b.jpg", "b.jpg"])
        ['a.jpg', 'b.jpg#1', 'b.jpg#2']
    """
    paths = [os.fspath(photo) for photo in photos]
    totals, seen, names = Counter(paths), Counter[str](), []
    for path in paths:
        seen[path] += 1
        names.append(path if totals[path] == 1 else f"{path}#{seen[path]}")
    return names


def _encode(photo: str | os.PathLike, crop: np.ndarray, cluster: int) -> tuple[str, bytes, int]:
    """Checks a face, and returns its photo, its crop as JPEG, and its cluster."""
    photo, pixels = os.fspath(photo), np.asarray(crop)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise ValueError(
            "Each crop must be RGB pixels, uint8 (height, width, 3). "
            f"Received: shape {pixels.shape}, {pixels.dtype}, for a face of {photo}"
        )
    if not isinstance(cluster, numbers.Integral) or cluster < NOISE:
        raise ValueError(
            f"Each cluster must be an integer of at least -1. Received: {short(cluster)}, for a face of {photo}"
        )
    _, jpeg = cv2.imencode(".jpg", pixels[:, :, ::-1], (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
    return photo, jpeg.tobytes(), int(cluster)


def _body(sections: dict[int, list[_Face]], title: str, note: str, folder: Path) -> Iterator[str]:
    unsure = sections.get(NOISE, [])
    people = [sections[cluster] for cluster in sorted(sections.keys() - {NOISE})]
    in_groups = sum(map(len, people))
    yield f"<h1>{escape(title)}</h1>"
    grouped = f"{counted(in_groups, 'face')} of {counted(len(people), 'person', 'people')}"
    summary = f"{grouped}, and {counted(len(unsure), 'face')} that belong to no group."
    yield f"<p>{summary}</p>" if sections else "<p>No faces.</p>"
    if note:
        yield f"<p>{escape(note)}</p>"
    for number, faces in enumerate(people, start=1):
        yield from _section(f"Person {number}", faces, "", folder)
    if unsure:
        yield from _section("Unsure", unsure, "Faces of people who occur once, or that are too different.", folder)


def _section(heading: str, faces: list[_Face], note: str, folder: Path) -> Iterator[str]:
    photos = len({face.photo for face in faces})
    count = f"{counted(len(faces), 'face')} in {counted(photos, 'photo')}"
    yield f"<section>\n<h2>{heading}<small>{count}</small></h2>"
    if note:
        yield f"<p>{note}</p>"
    yield '<ul class="faces">'
    for face in faces:
        name = escape(face.name)
        yield (
            f'<li><a href="{escape(_address(face.photo, folder))}" title="{name}">'
            f'<img src="{data_uri(face.jpeg, "image/jpeg")}" alt="face in {name}" loading="lazy" decoding="async">'
            f"<span>{name}</span></a></li>"
        )
    yield "</ul>\n</section>"


def _address(photo: str, folder: Path) -> str:
    """Returns the link to a photo, relative to the folder of the page."""
    try:
        relative = os.path.relpath(photo, folder)
    except ValueError:  # another drive of Windows
        return Path(photo).absolute().as_uri()
    return urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
