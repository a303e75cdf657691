"""Reader of Stanford Online Products, photos of products on sale."""

from typing import ClassVar

from keras_arcface.data.retrieval_set import Listing
from keras_arcface.data.retrieval_set import RetrievalSet
from keras_arcface.data.retrieval_set import read_rows
from keras_arcface.data.retrieval_set import to_number


class StanfordOnlineProducts(RetrievalSet):
    """Source that reads a subset of Stanford Online Products (SOP), photos of products on sale.

    The directory contains `Ebay_train.txt` and `Ebay_test.txt` (`image_id class_id super_class_id path`, with this
    heading), and folders such as `bicycle_final`. A class is a product, with a few photos.

    Args:
        directory: path of the directory, which is named `Stanford_Online_Products` in the archive.
        subset: `"train"` (59,551 images of 11,318 classes) or `"test"` (60,502 images of 11,316 classes). Another
            number logs a warning.
        follow_links: whether to follow links to files and folders outside of the directory.

    Attributes:
        num_classes: number of classes of the subset.
        class_names: `class_id` of each class as a text, in ascending order.
        labels: labels of all images, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the directory does not contain both lists.
        ValueError: if a line is invalid. The message names the file and line. Reading an image that is not a regular
            file, has more than 128 MiB, or is outside of the directory also raises an error. The message names the
            image.

    Examples:
        >>> products = StanfordOnlineProducts("Stanford_Online_Products", subset="test")
        >>> products
        <StanfordOnlineProducts('Stanford_Online_Products', subset='test'): 4 images of 1 classes>
        >>> image, label, name = products[0]
        >>> label, products.class_names[label], name
        (0, '11319', 'chair_final/0.jpg')

    References:
        - [Deep Metric Learning via Lifted Structured Feature Embedding](https://arxiv.org/abs/1511.06452)
    """

    title = "Stanford Online Products"
    list_files = ("Ebay_train.txt", "Ebay_test.txt")
    published: ClassVar = {"train": (59551, 11318), "test": (60502, 11316)}

    def _list_images(self) -> Listing:
        names, classes = [], []
        path = self.directory / f"Ebay_{self.subset}.txt"
        for where, (_, class_id, _, name) in read_rows(path, "image_id class_id super_class_id path", heading_line=1):
            names.append(name)
            classes.append(to_number(class_id, where, "class_id"))
        return Listing(self.directory, names, classes, {class_id: str(class_id) for class_id in classes})
