"""Photos in the files and folders that are arguments of a command."""

import os
from collections.abc import Iterable
from pathlib import Path

from keras_arcface.cli.paths import check_exists


def list_photos(paths: Iterable[Path]) -> tuple[list[str], int]:
    """Returns the photos of files, which are taken as they are, and of folders, as `list_folder` does.

    Raises:
        FileNotFoundError: if a path does not exist, or a folder contains no photo.
        OSError: if a folder cannot be read.
    """
    photos, skipped = [], 0
    for path in paths:
        check_exists(path)
        found, others = list_folder(path) if path.is_dir() else ([os.fspath(path)], 0)
        photos += found
        skipped += others
    return photos, skipped


def list_folder(folder: Path) -> tuple[list[str], int]:
    """Returns the paths of the photos in a folder and its subfolders, and the number of other files.

    Raises:
        FileNotFoundError: if there is no photo.
        OSError: if a folder cannot be read.
    """
    from keras_arcface.faces.aligned_folder import PHOTO_SUFFIXES

    photos, skipped = find_photos(folder)
    if not photos:
        raise FileNotFoundError(
            f"PHOTOS must be a folder with photos ({', '.join(PHOTO_SUFFIXES)}). Received: {folder} without any"
        )
    return photos, skipped


def find_photos(folder: Path) -> tuple[list[str], int]:
    """Returns the same as `list_folder`, also if there is no photo. Hidden files and folders do not count.

    Raises:
        OSError: if a folder cannot be read.
    """
    from keras_arcface.faces.aligned_folder import PHOTO_SUFFIXES

    def stop(error: OSError) -> None:
        raise error

    photos, skipped = [], 0
    for current, subfolders, files in os.walk(folder, onerror=stop):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(name for name in files if not name.startswith(".")):
            if os.path.splitext(name)[1].lower() in PHOTO_SUFFIXES:
                photos.append(os.path.join(current, name))
            else:
                skipped += 1
    return photos, skipped


def photos_by_folder(folder: Path) -> tuple[dict[str, list[str]], list[str], int]:
    """Returns the photos of a folder by its subfolders, such as one for each person.

    Returns:
        The photos in each subfolder and the folders below it, also of those without a photo; the photos that are not
        in a subfolder; and the number of files that are not photos.

    Raises:
        OSError: if a folder cannot be read.
    """
    photos, skipped = find_photos(folder)
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    groups: dict[str, list[str]] = {name: [] for name in names}
    loose = []
    for photo in photos:
        name, separator, _ = os.path.relpath(photo, folder).partition(os.sep)
        if separator:
            groups[name].append(photo)
        else:
            loose.append(photo)
    return groups, loose, skipped
