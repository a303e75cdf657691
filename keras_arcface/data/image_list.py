"""The images that a CSV or `.lst` file lists, as a source."""

from pathlib import Path

from keras_arcface.data.list_files import read_csv
from keras_arcface.data.list_files import read_lst
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.sources import fingerprint_files


class ImageList(Source):
    """Source that reads the images and labels that a text file lists.

    A CSV file has one `path,label` per line. Labels are either integers of at least 0, or names, which are numbered in
    sorted order; a mixture raises. The first line is a header if its cells are common column names (`path,label`,
    `image,class` ...), or if its path is not the name of an image while all others are. An ambiguous first line raises.

    A file with the suffix `.lst` is separated by tabs and has one of two layouts: `index label path`, as mxnet's im2rec
    writes it, or `aligned path label`, as InsightFace does, optionally followed by a box and landmarks. An image that
    is not aligned (0) raises.

    Args:
        path: the file, encoded as UTF-8.
        root: the folder of relative paths; None for the folder of the file.

    Attributes:
        num_classes: the largest label plus 1, or the number of names.
        class_names: the names, if labels are names; the label is the index. None otherwise.
        labels: `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the file does not exist. A missing image raises it when it is read.
        ValueError: naming file and line, if a line has another layout or an invalid label; also if no image is listed.

    >>> faces = ImageList("photos.csv")
    >>> image, label, name = faces[4]
    >>> label, name
    (1, 'photos/bob/0.jpg')
    """

    def __init__(self, path, root=None):
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"path must be a CSV file with lines of path,label, or a .lst file. Received: path={str(path)!r}"
            )
        if self.path.suffix.lower() == ".lst":
            self._names, self.labels = read_lst(self.path)
        else:
            self._names, self.labels, self.class_names = read_csv(self.path)
        self.num_classes = int(self.labels.max()) + 1 if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record((self.root / name).read_bytes(), self.labels.item(index), name)

    def __str__(self) -> str:
        return f"ImageList({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Returns a hash that changes when a file is added, removed or written, but not when all files are moved."""
        return fingerprint_files(self.root, self._names)
