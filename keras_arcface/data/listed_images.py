"""Sequence of the encoded images of a folder."""

from collections.abc import Sequence

from keras_arcface._image_files import ImageFiles


class ListedImages(Sequence):
    """Sequence of the encoded images (bytes) of a folder, in the order of a list of names.

    `keras_arcface.evaluation.embed_images` accepts the sequence. Images are read when they are accessed.

    Args:
        files: reader of the files of the folder.
        names: paths of the images, relative to the folder.

    Attributes:
        names: paths of the images, relative to the folder.
    """

    def __init__(self, files: ImageFiles, names: list[str]):
        self._files, self.names = files, names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self._files.read(name) for name in self.names[index]]
        return self._files.read(self.names[index])

    def part(self, rows: slice) -> "ListedImages":
        """Returns the sequence of a slice of the images, without reading them."""
        return ListedImages(self._files, self.names[rows])
