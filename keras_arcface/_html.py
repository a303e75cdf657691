"""Self-contained HTML pages: one file without links to other files, for the report and the album."""

import base64
import html
from collections.abc import Iterable
from pathlib import Path

from keras_arcface._files import replacing


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
