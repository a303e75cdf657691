"""Reader of Cars196, photos of 196 models of cars."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from keras_arcface._messages import cut
from keras_arcface._messages import short
from keras_arcface._optional import optional_import
from keras_arcface.data.retrieval_set import Listing
from keras_arcface.data.retrieval_set import RetrievalSet

_TRAINING_CLASSES = range(1, 99)
_MAX_BYTES = 16 * 2**20  # of the file of annotations, which has less than 1 MiB


class Cars196(RetrievalSet):
    """Source that reads a subset of Cars196, photos of 196 models of cars.

    The directory contains `cars_annos.mat` and the folder `car_ims`, as distributed with all images in one folder. The
    other distribution, with the folders `cars_train` and `cars_test`, numbers the images differently. Images are in the
    order of the file. Metric learning trains on classes 1 to 98 and tests on the others. The split of the benchmark
    into training and test images and the bounding boxes are not used.

    Args:
        directory: path of the directory.
        subset: `"train"` (8,054 images of 98 classes) or `"test"` (8,131 images of 98 classes). Another number logs a
            warning.
        follow_links: whether to follow links to files and folders outside of the directory.

    Attributes:
        num_classes: number of classes of the subset.
        class_names: name of each class, such as `"AM General Hummer SUV 2000"`.
        labels: labels of all images, `(len,)` int64 array. Label 0 is class 1 or 99.

    Raises:
        FileNotFoundError: if the directory does not contain `cars_annos.mat`.
        ModuleNotFoundError: if SciPy is not installed. The message says what to install.
        ValueError: if the file has another content. The message names the file and the entry. Reading an image that is
            not a regular file, has more than 128 MiB, or is outside of the directory also raises an error. The message
            names the image.

    Examples:
        >>> cars = Cars196("cars196", subset="test")
        >>> cars
        <Cars196('cars196', subset='test'): 4 images of 98 classes>
        >>> image, label, name = cars[0]
        >>> label, cars.class_names[label], name
        (0, 'Dodge Ram 2009', 'car_ims/000005.jpg')

    References:
        - [3D Object Representations for Fine-Grained Categorization](https://doi.org/10.1109/ICCVW.2013.77)
        - [Deep Metric Learning via Lifted Structured Feature Embedding](https://arxiv.org/abs/1511.06452): the subsets
    """

    title = "Cars196"
    list_files = ("cars_annos.mat",)
    published: ClassVar = {"train": (8054, 98), "test": (8131, 98)}

    def _list_images(self) -> Listing:
        path = self.directory / self.list_files[0]
        annotations, texts = _read_annotations(path)
        is_training = self.subset == "train"
        all_names = dict(enumerate(texts, start=1))
        class_names = {key: name for key, name in all_names.items() if (key in _TRAINING_CLASSES) == is_training}
        names, classes = [], []
        for number, (name, class_id) in enumerate(annotations, start=1):
            if not isinstance(name, str) or not name or class_id not in all_names:
                raise ValueError(
                    f"{path}, annotation {number}: expected a path, and a class in [1, {len(all_names)}]. "
                    f"Received: {short(name)} and {short(class_id)}"
                )
            if class_id in class_names:
                names.append(name)
                classes.append(int(class_id))
        return Listing(self.directory, names, classes, class_names)


def _read_annotations(path: Path) -> tuple[list[tuple[Any, Any]], list[str]]:
    """Returns the path and class of each image, which are not checked, and the names of the classes."""
    with optional_import("retrieval", "Cars196"):
        import scipy.io
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_BYTES} bytes. Received: {size} bytes")
    try:
        content = scipy.io.loadmat(path, squeeze_me=True, variable_names=["annotations", "class_names"])
        annotations, names = np.atleast_1d(content["annotations"]), np.atleast_1d(content["class_names"])
        pairs = list(zip(annotations["relative_im_path"].tolist(), annotations["class"].tolist(), strict=True))
    except Exception as error:  # SciPy raises errors of many types for other content
        raise ValueError(
            f"{path} must be the file of Cars196, with the arrays annotations, of structs with relative_im_path and "
            f"class, and class_names. Received: {type(error).__name__}: {cut(str(error))}"
        ) from error
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path} must contain texts in class_names. Received: {short(names.tolist())}")
    return pairs, [str(name) for name in names]
