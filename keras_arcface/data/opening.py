"""Opening of a path as the source of images that it contains."""

from collections.abc import Iterable
from pathlib import Path

from keras_arcface.data.camera_folder import CameraFolder
from keras_arcface.data.cars196 import Cars196
from keras_arcface.data.cub200 import Cub200
from keras_arcface.data.image_folder import ImageFolder
from keras_arcface.data.image_list import ImageList
from keras_arcface.data.in_shop import InShop
from keras_arcface.data.info import FILE_NAME
from keras_arcface.data.online_products import StanfordOnlineProducts
from keras_arcface.data.recordio import RecordIO
from keras_arcface.data.sources import Source
from keras_arcface.data.tfrecord_source import TFRecords

_RETRIEVAL_SETS = (Cub200, Cars196, StanfordOnlineProducts, InShop)
# Folders of Market-1501 and DukeMTMC-reID by the name of the subset.
_CAMERA_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}


def open_source(path, follow_links: bool = False, subset: str | None = None) -> Source:
    """Opens a path as the source of labeled images that it contains.

    | path | source |
    |---|---|
    | a directory with `dataset.json` | `TFRecords` |
    | a `.rec` file, or a folder with `train.rec` | `RecordIO` |
    | a `.csv` or `.lst` file | `ImageList` |
    | a folder with the lists of CUB-200-2011, Cars196, SOP or In-Shop | `Cub200`, `Cars196`, ... with a `subset` |
    | a folder with `bounding_box_train`, as Market-1501 | `CameraFolder` of a `subset`: `train`, `query` or `gallery` |
    | any other folder | `ImageFolder` |

    Args:
        path: path of a file or folder in the table above.
        follow_links: whether to follow links to files and folders outside of the folder of images.
        subset: subset of a benchmark. None for all other sources.

    Returns:
        The `Source`.

    Raises:
        FileNotFoundError: if the path does not exist.
        ValueError: if the path is a file with another suffix, or the source raises an error; if `subset` is missing,
            unknown, or given for another source. The message names the path.

    Examples:
        >>> open_source("photos")
        <ImageFolder('photos'): 8 images of 2 classes>
        >>> open_source("faces")
        <TFRecords('faces'): 8 images of 2 classes>
        >>> open_source("CUB_200_2011", subset="train")
        <Cub200('CUB_200_2011', subset='train'): 4 images of 1 classes>
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"path must be an existing file or folder of images. Received: path={str(path)!r}")
    benchmark = next((benchmark for benchmark in _RETRIEVAL_SETS if benchmark.is_in(path)), None)
    if benchmark is not None:
        return benchmark(path, _check_subset(subset, benchmark.subsets, path), follow_links)
    if (path / _CAMERA_FOLDERS["train"]).is_dir():
        return CameraFolder(path / _CAMERA_FOLDERS[_check_subset(subset, _CAMERA_FOLDERS, path)], follow_links)
    if subset is not None:
        raise ValueError(f"subset must be None for {path}, which is not a benchmark. Received: subset={subset!r}")
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


def _check_subset(subset: str | None, subsets: Iterable[str], path: Path) -> str:
    if subset is None or subset not in subsets:
        raise ValueError(
            f"subset must be one of {', '.join(subsets)}, to choose images of the benchmark in {path}. "
            f"Received: subset={subset!r}"
        )
    return subset
