"""Source that reads the images listed in a CSV or `.lst` file."""

from pathlib import Path

from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import cut
from keras_arcface.data.list_files import read_csv
from keras_arcface.data.list_files import read_lst
from keras_arcface.data.sources import Record
from keras_arcface.data.sources import Source
from keras_arcface.data.sources import fingerprint_files


class ImageList(Source):
    """Source that reads the images and labels listed in a text file.

    A CSV file has one `path,label` per line. Labels are either integers of at least 0, or names, which are numbered in
    sorted order. A mixture of both raises an error. The first line is a header if its cells are common column names
    (`path,label`, `image,class` ...), or if its path is not the name of an image while all others are. An ambiguous
    first line raises an error.

    A file with the suffix `.lst` is separated by tabs and has one of two layouts: `index label path`, as mxnet's im2rec
    writes it, or `aligned path label`, as InsightFace does, optionally followed by a box and landmarks. An image that
    is not aligned (0) raises an error.

    Args:
        path: path of the text file, encoded as UTF-8.
        root: folder to which the listed paths are relative, and which contains all images. None selects the folder of
            the text file. "/" allows all absolute paths.
        follow_links: whether to follow links to files and folders outside of `root`. Links within it are always
            followed.

    Attributes:
        num_classes: largest label plus 1, or number of names.
        class_names: sorted names if labels are names, otherwise None. The label of a class is the index of its name.
        labels: labels of all images, `(len,)` int64 array.

    Raises:
        FileNotFoundError: if the text file does not exist, or when a missing image is read.
        ValueError: if a line has another layout or an invalid label, or if no image is listed. The message names the
            file and line. Reading an image that is not a regular file, has more than 128 MiB, or is outside of `root`
            also raises an error. The message names the image.

    Examples:
        >>> from pathlib import Path
        >>> print(Path("photos.csv").read_text())
        photos/ann/0.jpg,0
        photos/ann/1.jpg,0
        ...
        photos/bob/3.jpg,1
        >>> faces = ImageList("photos.csv")
        >>> faces
        <ImageList('photos.csv'): 8 images of 2 classes>
        >>> image, label, name = faces[4]
        >>> label, name
        (1, 'photos/bob/0.jpg')
    """

    def __init__(self, path, root=None, follow_links: bool = False):
        self.path = Path(path)
        self.root = self.path.parent if root is None else Path(root)
        self._files = ImageFiles(self.root, follow_links)
        if not self.path.is_file():
            raise FileNotFoundError(
                f"path must be a CSV file with lines of path,label, or a .lst file. Received: path={str(path)!r}"
            )
        if self.path.suffix.lower() == ".lst":
            self._names, self.labels = read_lst(self.path)
        else:
            self._names, self.labels, self.class_names = read_csv(self.path)
        for name in self._names:
            if "\0" in name:
                received = cut(repr(name), 80)
                raise ValueError(f"{self.path} must contain paths without NUL characters. Received: {received}")
        self.num_classes = int(self.labels.max()) + 1 if self.class_names is None else len(self.class_names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        name = self._names[index]
        return Record(self._files.read(name), self.labels.item(index), name)

    def __str__(self) -> str:
        return f"ImageList({str(self.path)!r})"

    def __repr__(self) -> str:
        return f"<{self}: {len(self):,} images of {self.num_classes:,} classes>"

    def fingerprint(self) -> str:
        """Returns a hash that changes if a file is added, removed or written, but not if all files are moved."""
        return fingerprint_files(self.root, self._names)
