"""Opening of a path as the source of images that it contains."""

from pathlib import Path

from keras_arcface.data.image_folder import ImageFolder
from keras_arcface.data.image_list import ImageList
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.recordio import RecordIO
from keras_arcface.data.sources import Source
from keras_arcface.data.tfrecord_source import TFRecords


def open_source(path, follow_links: bool = False) -> Source:
    """Opens a path as the source of labeled images that it contains.

    | path | source |
    |---|---|
    | a directory with `dataset.json` | `TFRecords` |
    | a `.rec` file, or a folder with `train.rec` | `RecordIO` |
    | a `.csv` or `.lst` file | `ImageList` |
    | any other folder | `ImageFolder` |

    Args:
        path: path of a file or folder in the table above.
        follow_links: argument of `ImageFolder` and `ImageList`.

    Returns:
        The `Source`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if the path is a file with another suffix, or the source raises an error. The message names the
            path.

    Examples:
        >>> open_source("photos")
        <ImageFolder('photos'): 8 images of 2 classes>
        >>> open_source("faces")
        <TFRecords('faces'): 8 images of 2 classes>
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file or folder of images. Received: path={str(path)!r}")
    if (path / FILE_NAME).is_file():
        return TFRecords(path)
    if suffix == ".rec" or (path / "train.rec").is_file():
        return RecordIO(path)
    if path.is_dir():
        return ImageFolder(path, follow_links)
    if suffix in (".csv", ".lst"):
        return ImageList(path, follow_links=follow_links)
    raise ValueError(
        "path must be a .rec, .csv or .lst file, a folder with one sub-folder of images per class, or the directory of "
        f"a dataset. Received: path={str(path)!r}, a file with another suffix"
    )
