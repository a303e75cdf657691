"""Reader of the In-Shop Clothes Retrieval benchmark of DeepFashion."""

from pathlib import Path
from typing import ClassVar

from keras_arcface._messages import cut
from keras_arcface.data.retrieval_set import Listing
from keras_arcface.data.retrieval_set import RetrievalSet
from keras_arcface.data.retrieval_set import read_rows
from keras_arcface.data.retrieval_set import to_number


class InShop(RetrievalSet):
    """Source that reads a subset of the In-Shop Clothes Retrieval benchmark of DeepFashion.

    The directory contains `list_eval_partition.txt`, also in a folder `Eval`: the number of images, the heading
    `image_name item_id evaluation_status`, and lines such as
    `img/WOMEN/Dresses/id_00000002/02_1_front.jpg id_00000002 train`. The folder `img` is in the directory or in its
    folder `Img`. A class is a piece of clothing (`item_id`).

    The benchmark searches each image of the subset `query` in the subset `gallery`, whose labels have the same meaning.

    Args:
        directory: path of the directory.
        subset: `"train"` (25,882 images of 3,997 classes), `"query"` (14,218 images) or `"gallery"` (12,612 images of
            the same 3,985 classes). Another number logs a warning.
        follow_links: whether to follow links to files and folders outside of the folder of images.

    Attributes:
        num_classes: number of classes of the subset, or of both `query` and `gallery`.
        class_names: `item_id` of each class, such as `"id_00000002"`, in sorted order.
        labels: labels of all images, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the directory does not contain the list.
        ValueError: if a line is invalid, or the number of images is not that in the first line. The message names the
            file and line. Reading an image that is not a regular file, has more than 128 MiB, or is outside of the
            folder also raises an error. The message names the image.

    Examples:
        >>> query, gallery = InShop("In-shop", subset="query"), InShop("In-shop", subset="gallery")
        >>> query, gallery
        (<InShop('In-shop', subset='query'): 2 images of 1 classes>,
         <InShop('In-shop', subset='gallery'): 2 images of 1 classes>)
        >>> image, label, name = query[0]
        >>> query.class_names[label], name
        ('id_00000002', 'img/WOMEN/Dresses/id_00000002/01_1_front.jpg')

    References:
        - [DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich
          Annotations](https://www.cv-foundation.org/openaccess/content_cvpr_2016/html/Liu_DeepFashion_Powering_Robust_CVPR_2016_paper.html)
    """

    title = "In-Shop Clothes Retrieval"
    list_files = ("list_eval_partition.txt",)
    subsets = ("train", "query", "gallery")
    published: ClassVar = {"train": (25882, 3997), "query": (14218, 3985), "gallery": (12612, 3985)}

    @classmethod
    def is_in(cls, directory: Path) -> bool:
        """Returns whether a directory contains the list, also in its folder `Eval`."""
        return any(map(Path.is_file, _list_paths(directory)))

    def _list_images(self) -> Listing:
        path = next(filter(Path.is_file, _list_paths(self.directory)))
        with open(path, encoding="utf-8-sig", errors="replace") as file:
            expected = to_number(file.readline(16).strip(), f"{path}, line 1", "number of images")
        names, classes, items, num_images = [], [], set(), 0
        parts = ("train",) if self.subset == "train" else ("query", "gallery")
        for where, (name, item, part) in read_rows(path, "image_name item_id evaluation_status", heading_line=2):
            if part not in self.subsets:
                raise ValueError(f"{where}: expected train, query or gallery. Received: {cut(part, 80)!r}")
            num_images += 1
            if part in parts:
                items.add(item)
            if part == self.subset:
                names.append(name)
                classes.append(item)
        if num_images != expected:
            raise ValueError(f"{path} must list {expected} images, as in line 1. Received: {num_images} images")
        root = self.directory / "Img"
        return Listing(root if (root / "img").is_dir() else self.directory, names, classes, {i: i for i in items})


def _list_paths(directory: Path) -> list[Path]:
    return [directory / folder / InShop.list_files[0] for folder in ("", "Eval")]
