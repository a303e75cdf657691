"""Reader of Cars196, photos of 196 models of cars."""

from typing import Any, ClassVar

import numpy as np

from keras_arcface._messages import short
from keras_arcface.data.mat_file import read_mat
from keras_arcface.data.retrieval_set import Listing
from keras_arcface.data.retrieval_set import RetrievalSet

_TRAINING_CLASSES = range(1, 99)


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
        variables = read_mat(path, fields=("relative_im_path", "class"))
        annotations: Any = variables.get("annotations")
        texts: Any = variables.get("class_names")
        is_struct = isinstance(annotations, dict) and annotations.keys() == {"relative_im_path", "class"}
        if not is_struct or not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{path} must contain annotations, structs with relative_im_path and class, and class_names, cells of "
                f"texts. Received: {short(variables, 200)}"
            )
        is_training = self.subset == "train"
        all_names = dict(enumerate(texts, start=1))
        class_names = {key: name for key, name in all_names.items() if (key in _TRAINING_CLASSES) == is_training}
        names, classes = [], []
        entries = zip(annotations["relative_im_path"], annotations["class"], strict=True)
        for number, (name, value) in enumerate(entries, start=1):
            class_id = value.item() if isinstance(value, np.ndarray) and value.size == 1 else None
            if not isinstance(name, str) or "\0" in name or class_id not in all_names:
                raise ValueError(
                    f"{path}, annotation {number}: expected a path, and a class in [1, {len(all_names)}]. "
                    f"Received: {short(name)} and {short(value if class_id is None else class_id)}"
                )
            if class_id in class_names:
                names.append(name)
                classes.append(class_id)
        return Listing(self.directory, names, classes, class_names)
