"""Rename operation that does not replace existing files or directories."""

import ctypes
import errno
import os
from pathlib import Path

_WORKING_DIRECTORY, _NO_REPLACE = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of Linux
_NOT_SUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def rename_exclusively(source: Path, target: Path) -> None:
    """Renames a file or directory if the target does not exist.

    `os.rename` would replace an empty directory. On NFS and on systems other than Linux, the check and the renaming are
    two steps. A directory that another process creates between them is replaced only if it is empty.

    Raises:
        FileExistsError: if the target exists.
        OSError: if the source cannot be renamed.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is not None:
        paths = [ctypes.c_char_p(os.fsencode(path)) for path in (source, target)]
        directory = ctypes.c_int(_WORKING_DIRECTORY)
        if renameat2(directory, paths[0], directory, paths[1], ctypes.c_uint(_NO_REPLACE)) == 0:
            return
        code = ctypes.get_errno()
        if code not in _NOT_SUPPORTED:
            raise OSError(code, os.strerror(code), str(source), None, str(target))
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        raise
