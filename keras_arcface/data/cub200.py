"""Reader of CUB-200-2011, photos of 200 species of birds."""

from pathlib import Path
from typing import ClassVar

from keras_arcface._messages import cut
from keras_arcface.data.retrieval_set import Listing
from keras_arcface.data.retrieval_set import RetrievalSet
from keras_arcface.data.retrieval_set import read_rows
from keras_arcface.data.retrieval_set import to_number

_TRAINING_CLASSES = range(1, 101)


class Cub200(RetrievalSet):
    """Source that reads a subset of CUB-200-2011, photos of 200 species of birds.

    The directory contains `images.txt` (`image_id path`), `image_class_labels.txt` (`image_id class_id`), `classes.txt`
    (`class_id name`) and the folder `images`. Images are in the order of `images.txt`. Metric learning trains on
    classes 1 to 100 and tests on the others. The split of the benchmark into training and test images and the bounding
    boxes are not used.

    Args:
        directory: path of the directory, which is named `CUB_200_2011` in the archive.
        subset: `"train"` (5,864 images of 100 classes) or `"test"` (5,924 images of 100 classes). Another number logs
            a warning.
        follow_links: whether to follow links to files and folders outside of the directory.

    Attributes:
        num_classes: number of classes of the subset.
        class_names: name of each class, such as `"001.Black_footed_Albatross"`.
        labels: labels of all images, `(len,)` int64 array. Label 0 is class 1 or 101.

    Raises:
        FileNotFoundError: if the directory does not contain the files.
        ValueError: if a line is invalid, or two files have different images or classes. The message names the file and
            line. Reading an image that is not a regular file, has more than 128 MiB, or is outside of `images` also
            raises an error. The message names the image.

    Examples:
        >>> birds = Cub200("CUB_200_2011", subset="train")
        >>> birds
        <Cub200('CUB_200_2011', subset='train'): 4 images of 1 classes>
        >>> birds.class_names
        ['001.Black_footed_Albatross']
        >>> image, label, name = birds[0]
        >>> label, name
        (0, '001.Black_footed_Albatross/Black_Footed_Albatross_0001.jpg')

    References:
        - [The Caltech-UCSD Birds-200-2011 Dataset](https://www.vision.caltech.edu/datasets/cub_200_2011/)
        - [Deep Metric Learning via Lifted Structured Feature Embedding](https://arxiv.org/abs/1511.06452): the subsets
    """

    title = "CUB-200-2011"
    list_files = ("images.txt", "image_class_labels.txt", "classes.txt")
    published: ClassVar = {"train": (5864, 100), "test": (5924, 100)}

    def _list_images(self) -> Listing:
        images, image_classes, class_names = (self.directory / name for name in self.list_files)
        known = _read_numbered(class_names, "class_id name")
        paths = _read_numbered(images, "image_id path")
        class_of = {}
        for image_id, (where, text) in _read_numbered(image_classes, "image_id class_id").items():
            class_of[image_id] = class_id = to_number(text, where, "class")
            if class_id not in known:
                raise ValueError(f"{where}: expected a class of {class_names.name}. Received: {class_id}")
            if image_id not in paths:
                raise ValueError(f"{where}: expected an image of {images.name}. Received: {image_id}")
        is_training = self.subset == "train"
        name_of = {key: name for key, (_, name) in known.items() if (key in _TRAINING_CLASSES) == is_training}
        names, classes = [], []
        for image_id, (where, path) in paths.items():
            if image_id not in class_of:
                raise ValueError(
                    f"{where}: expected an image with a class in {image_classes.name}. Received: {image_id}"
                )
            if class_of[image_id] in name_of:
                names.append(path)
                classes.append(class_of[image_id])
        return Listing(self.directory / "images", names, classes, name_of)


def _read_numbered(path: Path, columns: str) -> dict[int, tuple[str, str]]:
    """Reads lines of a number and a text, and returns number -> (file and line, text)."""
    found: dict[int, tuple[str, str]] = {}
    for where, (text, value) in read_rows(path, columns):
        number = to_number(text, where, columns.split()[0])
        if number in found:
            raise ValueError(f"{where}: expected another number than in {found[number][0]}. Received: {cut(text, 80)}")
        found[number] = where, value
    return found
