"""Adds the address of the repository to the files of a release, whose page on PyPI cannot resolve relative links.

    GITHUB_REPOSITORY=owner/name GITHUB_REF_NAME=v0.1.0 python .github/prepare_release.py

The links and images of README.md refer to the tag, setup.cfg gets `project_urls`. The tag must be the version of the
package. Only .github/workflows/release.yml runs this, in a clone that is built and then discarded.
"""

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# `](target)` in Markdown and `src="target"` in HTML, without addresses and links within the page.
LINK = re.compile(r"""(\]\(|\b(?:src|href)=")(?![a-z]+:|//|#)([^)\s"]+)""")
IMAGES = (".png", ".jpg", ".svg", ".gif")


def main():
    repository, tag = os.environ["GITHUB_REPOSITORY"], os.environ["GITHUB_REF_NAME"]
    server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "keras_arcface" / "__init__.py").read_text(), re.MULTILINE)[
        1
    ]
    if tag != f"v{version}":
        sys.exit(f"error: the tag must be v{version}, the version of the package. Received: {tag}")
    readme, settings = ROOT / "README.md", ROOT / "setup.cfg"
    readme.write_text(with_absolute_links(readme.read_text(), f"{server}/{repository}", tag))
    settings.write_text(with_project_urls(settings.read_text(), f"{server}/{repository}"))


def with_absolute_links(text: str, address: str, tag: str) -> str:
    """Returns Markdown whose relative links and images refer to the tag of a repository."""

    def absolute(match):
        start, target = match.groups()
        kind = "raw" if target.lower().endswith(IMAGES) else "blob"
        return f"{start}{address}/{kind}/{tag}/{target}"

    return LINK.sub(absolute, text)


def with_project_urls(text: str, address: str) -> str:
    """Returns setup.cfg with the addresses of the project."""
    server, owner, name = re.fullmatch(r"(https://[^/]+)/([^/]+)/([^/]+)", address).groups()
    urls = {"Source": address, "Changelog": f"{address}/blob/main/CHANGELOG.md", "Issues": f"{address}/issues"}
    if server == "https://github.com":
        urls["Documentation"] = f"https://{owner.lower()}.github.io/{name}/"
    lines = "".join(f"    {title} = {url}\n" for title, url in urls.items())
    return text.replace("[metadata]\n", f"[metadata]\nproject_urls =\n{lines}", 1)


if __name__ == "__main__":
    main()
