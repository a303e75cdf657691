"""Reading of image files from folders whose content is not trusted.

A folder from elsewhere can contain a FIFO or a device, or a link to a private file, which would become part of a
dataset.
"""

import errno
import os
from pathlib import Path

from keras_arcface._image_headers import MAX_FILE_BYTES
from keras_arcface._regular_files import describe_link
from keras_arcface._regular_files import open_regular

# Folders whose check is remembered: MegaFace has 700,000 folders, which would take 100 MB.
_MAX_REMEMBERED = 2**16


def read_image_file(path: str | os.PathLike) -> bytes:
    """Reads a regular file of at most `MAX_FILE_BYTES` bytes. Links are followed.

    Raises:
        FileNotFoundError: if the file does not exist. The message names the target of a link.
        ValueError: if the path is not a regular file, or the file is larger. The message names the file.
    """
    path = os.fspath(path)
    try:
        file = open_regular(path, buffering=0)
    except OSError as error:
        raise _missing_or_loop(error, path) from None
    with file:
        size = os.fstat(file.fileno()).st_size
        _check_length(size, path)
        content = file.read(size + 1)
        # A file that is being written, or one in /proc, can be longer than its size.
        while len(content) > size and (more := file.read(2**20)):
            content += more
            _check_length(len(content), path)
    return content


class ImageFiles:
    """Reader of the image files in a folder.

    Args:
        root: path of the folder, which may be a link.
        follow_links: whether to follow links to files and folders outside of `root`. Links within it are always
            followed.
    """

    def __init__(self, root: str | os.PathLike, follow_links: bool):
        self.root, self.follow_links = Path(root), follow_links
        self._real_root = os.path.realpath(root)
        self._checked: set[str] = set()

    def read(self, name: str) -> bytes:
        """Reads a file.

        Args:
            name: path of the file, relative to the folder.

        Raises:
            FileNotFoundError: if the file does not exist.
            ValueError: if the file is not a regular file inside of the folder, or has more than `MAX_FILE_BYTES` bytes.
                The message names the file.
        """
        path = os.path.join(self.root, name)
        self.check_folder(os.path.dirname(path))
        if not self.follow_links and os.path.islink(path):
            self._check_target(path)
        return read_image_file(path)

    def check_folder(self, folder: str | os.PathLike) -> None:
        """Raises a ValueError if a folder is outside of `root`, or a link leads there."""
        folder = os.fspath(folder)
        if folder in self._checked:
            return
        if not _is_inside(os.path.abspath(folder), os.path.abspath(self.root)):
            raise ValueError(f"{folder} must be inside of the folder {self.root}. Received: a path that leaves it")
        if not self.follow_links:
            self._check_target(folder)
        if len(self._checked) >= _MAX_REMEMBERED:
            self._checked.clear()
        self._checked.add(folder)

    def _check_target(self, path: str) -> None:
        target = os.path.realpath(path)
        if not _is_inside(target, self._real_root):
            raise ValueError(
                f"{path} must be inside of the folder {self.root}; pass follow_links=True to follow links that leave "
                f"it. Received: a link to {target}"
            )


def _is_inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _check_length(length: int, path: str) -> None:
    if length > MAX_FILE_BYTES:
        raise ValueError(f"{path} must have at most {MAX_FILE_BYTES} bytes. Received: {length} bytes or more")


def _missing_or_loop(error: OSError, path: str) -> Exception:
    if error.errno == errno.ELOOP:
        return ValueError(f"{path} must be a regular file. Received: a link that leads to itself{describe_link(path)}")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f"{path} must be an existing image file. Received: no such file{describe_link(path)}")
    return error
