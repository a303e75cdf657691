"""Contact sheet of the people that `find_overlap` finds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from keras_arcface._html import FACES_STYLE
from keras_arcface._html import escape
from keras_arcface._html import write_page
from keras_arcface.data.sources import Source
from keras_arcface.evaluation.overlap import Overlap
from keras_arcface.evaluation.ranking import RowsByLabel
from keras_arcface.evaluation.report import image_uri

_MAX_PAIRS = 500
_MAX_IMAGES = 4  # of a person
_STYLE = f"""{FACES_STYLE}
.people {{ display: grid; grid-template-columns: 1fr 1fr; gap: 24px; }}
.people .faces {{ grid-template-columns: repeat({_MAX_IMAGES}, 1fr); }}
.faces li:first-child img {{ outline: 3px solid var(--link); outline-offset: -3px; }}
@media (max-width: 720px) {{ .people {{ grid-template-columns: 1fr; gap: 8px; }} }}
"""


def write_overlap_page(path, overlap: Overlap, first: Source, second: Source | None = None) -> Path:
    """Writes a contact sheet: one HTML file with the images of each pair of people, the highest score first.

    A pair shows up to four images of each person, the most similar ones first. Compare them before you remove people.
    The page shows the 500 pairs with the highest scores. It contains the images, up to 50 KB for each pair of faces of
    112 x 112 pixels, and needs no other file.

    Args:
        path: path of the HTML file, which is replaced if it exists.
        overlap: result of `find_overlap`.
        first: source of the images whose embeddings and labels were compared.
        second: source of the images of the other set; None if `overlap` is of one set.

    Returns:
        The path.

    Raises:
        OSError: if the file cannot be written, or an image cannot be read.
        ValueError: if an image is damaged. The message names it.

    Examples:
        >>> photos = data.ImageFolder("photos")
        >>> embeddings = embed_images(embedder, photos, progress=False)
        >>> overlap = find_overlap(embeddings, photos.labels, threshold=0.5, progress=False)
        >>> write_overlap_page("overlap.html", overlap, photos)
        PosixPath('overlap.html')
    """
    return write_page(path, "Overlap", _STYLE, _body(overlap, first, first if second is None else second))


def person_name(source: Source, label: int) -> str:
    """Returns the name of a class, or its label as text if the source has no names."""
    return f"class {label}" if source.class_names is None else source.class_names[label]


def _body(overlap: Overlap, first: Source, second: Source) -> Iterator[str]:
    title = f"Same people in {first} and {second}" if second is not first else f"Same people in {first}"
    yield f"<h1>{escape(title)}</h1>"
    count = "1 pair" if len(overlap) == 1 else f"{len(overlap):,} pairs"
    shown = f", of which {_MAX_PAIRS} are shown" if len(overlap) > _MAX_PAIRS else ""
    yield (
        f"<p>{count} of {overlap.compared:,} have a score of at least {overlap.threshold:.3f}{shown}. "
        f"{false_alarms_text(overlap)} The score is the cosine of the mean embeddings. The framed images are the most "
        "similar ones.</p>"
    )
    rows_of = RowsByLabel(first.labels)
    other_rows_of = rows_of if second is first else RowsByLabel(second.labels)
    for pair in range(min(len(overlap), _MAX_PAIRS)):
        label, other_label = overlap.first_labels.item(pair), overlap.second_labels.item(pair)
        name, other = escape(person_name(first, label)), escape(person_name(second, other_label))
        images = f"cosine of the framed images {overlap.image_scores[pair]:.3f}"
        yield (
            f"<section>\n<h2>{pair + 1}. {name} and {other}<small>score {overlap.scores[pair]:.3f}, {images}</small>"
            '</h2>\n<div class="people">'
        )
        yield from _faces(first, overlap.first_rows.item(pair), rows_of[label])
        yield from _faces(second, overlap.second_rows.item(pair), other_rows_of[other_label])
        yield "</div>\n</section>"


def false_alarms_text(overlap: Overlap) -> str:
    """Returns a sentence with the expected number of false alarms."""
    if np.isnan(overlap.false_alarms):
        return "There are too few people to estimate how many of them are false alarms."
    return f"{overlap.false_alarms:.2g} false alarms are expected."


def _faces(source: Source, best: int, rows: np.ndarray) -> Iterator[str]:
    yield '<div>\n<ul class="faces">'
    for row in [best, *rows[rows != best][: _MAX_IMAGES - 1].tolist()]:
        image, _, name = source[row]
        text = escape(name)
        yield f'<li><img src="{image_uri(image, name)}" alt="{text}" loading="lazy"><span>{text}</span></li>'
    others = len(rows) - _MAX_IMAGES
    yield "</ul>\n</div>" if others <= 0 else f"</ul>\n<p>{others:,} more</p>\n</div>"
