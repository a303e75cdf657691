"""Self-contained HTML pages: one file without links to other files, for the report, the album and contact sheets."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from keras_arcface._files import replacing

# Style of a page with sections of faces, in light and dark mode.
FACES_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --wash: #f5f7f9; --page: #fff;
        --link: #0067ad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6eaf0; --soft: #a3adba; --line: #343c47; --wash: #20262e; --page: #14181d; --link: #6cb6f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px 16px 64px; color: var(--ink); background: var(--page);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 8px; overflow-wrap: anywhere; }
h2 small { font-weight: normal; font-size: .9rem; color: var(--soft); margin-left: 8px; }
p { margin: 4px 0 12px; max-width: 75ch; color: var(--soft); }
section { padding: 16px 0; border-top: 1px solid var(--line); content-visibility: auto;
          contain-intrinsic-size: auto 220px; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(112px, 1fr)); gap: 12px; margin: 0; padding: 0;
         list-style: none; }
.faces img { display: block; width: 100%; height: auto; aspect-ratio: 1; object-fit: contain; border-radius: 8px;
             background: var(--wash); margin-bottom: 4px; }
.faces span { display: block; overflow-wrap: anywhere; font-size: .8rem; line-height: 1.3; color: var(--soft); }
@media (max-width: 480px) {
  body { font-size: 15px; padding: 16px 12px 48px; }
  .faces { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); gap: 8px; } }
"""


def write_page(path, title: str, style: str, body: Iterable[str]) -> Path:
    """Writes a page to a file, which is replaced if it exists.

    Args:
        path: path of the HTML file.
        title: title of the page.
        style: CSS of the page.
        body: parts of the content of `<main>`, as HTML. They are written one by one, so a page can be long.

    Returns:
        The path.

    Raises:
        OSError: if the file cannot be written.
    """
    path = Path(path)
    with replacing(path) as file:
        head = (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n<main>\n"
        )
        file.write(head.encode())
        for part in body:
            file.write(f"{part}\n".encode())
        file.write(b"</main>\n</body>\n</html>\n")
    return path


def escape(text: str) -> str:
    r"""Returns a text as HTML. Bytes of a file name that are not UTF-8 become escapes.

    >>> escape("<b> & \udcff")
    '&lt;b&gt; &amp; \\udcff'
    """
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def data_uri(content: bytes, media_type: str) -> str:
    """Returns the address of an image that contains the image itself.

    >>> data_uri(b"abc", "image/png")
    'data:image/png;base64,YWJj'
    """
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
