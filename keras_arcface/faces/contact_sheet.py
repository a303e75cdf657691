"""A page with the kept and rejected faces of a folder of photos."""

import os
import urllib.parse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from keras_arcface._html import escape
from keras_arcface._html import write_page
from keras_arcface.faces.manifest import Entry

CONTACT_SHEET = "contact_sheet.html"
_MAX_SHOWN = 500  # faces of a section
_STYLE = """
:root { color-scheme: light dark; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 16px 64px; font: 16px/1.5 system-ui, sans-serif; }
h2 { margin: 40px 0 4px; font-size: 1.25rem; }
p { margin: 4px 0 12px; opacity: .75; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 8px;
     grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); }
img { width: 100%; max-width: 112px; aspect-ratio: 1; display: block; margin-bottom: 4px; border-radius: 4px;
      background: #8884; }
a { display: block; color: inherit; text-decoration: none; font-size: .75rem; line-height: 1.3;
    overflow-wrap: anywhere; }
"""


def write_contact_sheet(directory: Path, photos: Path, entries: Sequence[Entry]) -> Path:
    """Writes the page of a folder of `align_folder`, with at most 500 faces for each reason.

    Args:
        directory: folder of the manifest.
        photos: folder of the photos, for links to them.
        entries: what the manifest says.

    Returns:
        The path of the page.
    """
    groups: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        groups[entry.group].append(entry)
    prefix = Path(os.path.relpath(photos, directory)).as_posix()
    kept = groups.pop("", [])
    parts = [_section("Kept", kept, prefix)]
    parts += [
        _section(f"Rejected: {reason}", groups[reason], prefix)
        for reason in sorted(groups, key=lambda reason: -len(groups[reason]))
    ]
    total = len({entry.photo for entry in entries})
    heading = f"<h1>Aligned faces</h1>\n<p>{total:,} photos, {len(kept):,} kept faces.</p>"
    return write_page(directory / CONTACT_SHEET, "Aligned faces", _STYLE, [heading, *parts])


def _section(title: str, entries: list[Entry], photos: str) -> str:
    shown = entries
    note = f"{len(entries):,}"
    if len(entries) > _MAX_SHOWN:
        shown = [entries[index] for index in np.linspace(0, len(entries) - 1, _MAX_SHOWN).astype(int)]
        note += f", of which {_MAX_SHOWN} are shown"
    items = "\n".join(_item(entry, photos) for entry in shown)
    return f"<h2>{escape(title)}</h2>\n<p>{note}</p>\n<ul>\n{items}\n</ul>"


def _item(entry: Entry, photos: str) -> str:
    link = urllib.parse.quote(f"{photos}/{entry.photo}")
    image = f'<img loading="lazy" alt="" src="{urllib.parse.quote(entry.crop)}">' if entry.crop else ""
    details = "" if entry.score is None else f"<br>score {entry.score:.2f}"
    if not entry.crop and ":" in entry.reason:
        details = f"<br>{escape(entry.reason.partition(':')[2].strip()[:200])}"
    return f'<li><a href="{link}">{image}{escape(entry.photo)}{details}</a></li>'
