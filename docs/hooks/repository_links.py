"""Hook of MkDocs: links of the pages work in the repository and on the site.

A link to a file outside of docs/, such as `../examples/evaluate.py`, becomes a link to the repository, whose address is
`$GITHUB_SERVER_URL/$GITHUB_REPOSITORY`, or plain text if GITHUB_REPOSITORY is not set. CONTRIBUTING.md and CHANGELOG.md
become pages of the site.
"""

import os
import re
from pathlib import Path

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# The text of a link may contain brackets in pairs, as in `[![image](a)](b)`.
_LINK = re.compile(r"(?<!!)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^( *)(`{3,}).*?^\1\2 *$", re.MULTILINE | re.DOTALL)

log = get_plugin_logger(__name__)


def on_config(config):
    if "GITHUB_REPOSITORY" in os.environ:
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        config.repo_url = f"{server}/{os.environ['GITHUB_REPOSITORY']}"
        config.repo_name = os.environ["GITHUB_REPOSITORY"]
    return config


def on_files(files, config):
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, config, files):
    names = {uri: name for name, uri in PAGES.items()}
    # The folder of the page in the repository, from which its links lead.
    folder = ROOT if page.file.src_uri in names else (Path(config.docs_dir) / page.file.src_uri).parent
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_replace_links(markdown[end : fence.start()], folder, page, config), fence[0]]
        end = fence.end()
    return "".join([*parts, _replace_links(markdown[end:], folder, page, config)])


def _replace_links(text, folder, page, config):
    def replace(match):
        label, target = match.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return match[0]
        file = (folder / path).resolve()
        docs = Path(config.docs_dir).resolve()
        if not file.exists():
            log.warning("%s: the link to %r leads to no file", page.file.src_uri, target)
            return match[0]
        if not file.is_relative_to(ROOT):
            log.warning("%s: the link to %r leads out of the repository", page.file.src_uri, target)
            return match[0]
        suffix = f"#{anchor}" if anchor else ""
        if file.is_relative_to(docs):
            uri = file.relative_to(docs).as_posix()
        elif file.relative_to(ROOT).as_posix() in PAGES:
            uri = PAGES[file.relative_to(ROOT).as_posix()]
        elif config.repo_url:
            kind = "tree" if file.is_dir() else "blob"
            return f"[{label}]({config.repo_url}/{kind}/main/{file.relative_to(ROOT).as_posix()}{suffix})"
        else:
            return label
        start = Path(page.file.src_uri).parent
        return f"[{label}]({os.path.relpath(uri, start)}{suffix})"

    return _LINK.sub(replace, text)
