"""Reader of Racial Faces in the Wild (RFW): pairs of faces in four groups, with landmarks."""

from pathlib import Path

import cv2
import numpy as np

from keras_arcface._alignment import align
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import short
from keras_arcface.data import encoded_images
from keras_arcface.data.pairs import find_image
from keras_arcface.data.pairs import parse_pair

GROUPS = ("African", "Asian", "Caucasian", "Indian")


class RfwSet:
    """Images and pairs of Racial Faces in the Wild (RFW), in four groups. Slicing the set returns aligned faces.

    `directory` has the layout of the distributed test set, with these files for each of the groups African, Asian,
    Caucasian and Indian (6000 pairs each):

        txts/African/African_pairs.txt      a pair per line, as in LFW without its first line, separated by tabs:
                                            `person i j` (genuine) or `person i other j` (impostor)
        txts/African/African_lmk.txt        a line per image: path, label, and x and y of five landmarks
        data/African/<person>/<person>_0001.jpg

    `keras_arcface.evaluation.embed_images` accepts the set.

    Args:
        directory: path of the directory with `txts` and `data`.
        size: height and width of the aligned faces, in pixels.
        aligned: whether the images in `data` are aligned faces already. If false, they are aligned by the landmarks of
            the `_lmk.txt` files. If true, these files are not read, and images of another size are resized.
        follow_links: whether to follow links to images outside of `data`. If false, such an image raises an error when
            it is read. Links within the folder are always followed.

    Attributes:
        names: paths of the n images in `data`, in the order of the pairs. An image of several pairs occurs once.
        pairs: `(m, 2)` int64, indices of the two images of each pair, group by group, in the order of the files.
        same: `(m,)` bool, a mask of the genuine pairs.
        groups: `(m,)` str, the group of each pair.
        people: `(m, 2)` str, the people of each pair.

    Raises:
        FileNotFoundError: if a file does not exist. For an image, the message names the line of its pair.
        ValueError: if a line is invalid, an image has no landmarks, or a file has no pairs. The message names the file
            and line.

    Examples:
        >>> rfw = RfwSet("RFW", size=32)
        >>> rfw
        <RfwSet('RFW'): 16 images, 16 pairs of African, Asian, Caucasian, Indian>
        >>> rfw.groups[:3].tolist(), rfw.same[:3].tolist()
        (['African', 'African', 'African'], [True, True, False])
        >>> rfw[:2].shape
        (2, 32, 32, 3)
        >>> embeddings = embed_images(embedder, rfw, progress=False)
        >>> african = rfw.groups == "African"
        >>> verify(embeddings, rfw.same[african], folds=2, pairs=rfw.pairs[african]).scores.shape
        (4,)

    References:
        - [Racial Faces in-the-Wild: Reducing Racial Bias by Information Maximization Adaptation
          Network](https://arxiv.org/abs/1812.00194), Wang et al., 2019
    """

    def __init__(self, directory, size: int = 112, aligned: bool = False, follow_links: bool = False):
        self.directory, self.size, self.aligned = Path(directory), size, aligned
        self._files = ImageFiles(self.directory / "data", follow_links)
        self._row_of: dict[str, int] = {}
        self._landmarks: dict[str, np.ndarray] = {}
        pairs: list[tuple[int, int]] = []
        same: list[bool] = []
        groups: list[str] = []
        for group in GROUPS:
            for pair, is_same in self._read_pairs(group):
                pairs.append(pair)
                same.append(is_same)
                groups.append(group)
        self.names = list(self._row_of)
        self.pairs, self.same, self.groups = np.array(pairs, np.int64), np.array(same), np.array(groups)
        self.people = np.array([name.split("/")[1] for name in self.names])[self.pairs]

    def __repr__(self) -> str:
        return (
            f"<RfwSet({str(self.directory)!r}): {len(self):,} images, {len(self.pairs):,} pairs of {', '.join(GROUPS)}>"
        )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Returns the RGB faces of a slice of n images, uint8 array `(n, size, size, 3)`."""
        return np.stack([self._read_face(self.names[row]) for row in range(*rows.indices(len(self)))])

    def _read_pairs(self, group: str) -> list[tuple[tuple[int, int], bool]]:
        """Returns the image rows of each pair of a group, and whether it is genuine."""
        path = self.directory / "txts" / group / f"{group}_pairs.txt"
        landmarks_path = path.with_name(f"{group}_lmk.txt")
        landmarks = {} if self.aligned else _read_landmarks(landmarks_path)
        found = []
        for line, text in _lines(path, "a list of pairs of RFW"):
            where = f"{path}, line {line}"
            first, second, is_same = parse_pair(text, where)
            rows = []
            for person, number in (first, second):
                file = find_image(self._files.root / group, person, number, where)
                name = file.relative_to(self._files.root).as_posix()
                if not self.aligned:
                    if file.stem not in landmarks:
                        raise ValueError(f"{landmarks_path} must have landmarks of {file.name}, as {where}")
                    self._landmarks[name] = landmarks[file.stem]
                rows.append(self._row_of.setdefault(name, len(self._row_of)))
            found.append(((rows[0], rows[1]), is_same))
        if not found:
            raise ValueError(f"{path} must contain at least one pair. Received: no pairs")
        return found

    def _read_face(self, name: str) -> np.ndarray:
        path = str(self._files.root / name)
        image = encoded_images.decode(encoded_images.to_jpeg_or_png(self._files.read(name), path), path)
        if not self.aligned:
            return align(image, self._landmarks[name], self.size)
        if image.shape[:2] == (self.size, self.size):
            return image
        return cv2.resize(image, (self.size, self.size), interpolation=cv2.INTER_AREA)


def _lines(path: Path, description: str) -> list[tuple[int, str]]:
    """Returns the lines of a text file that are not blank, with their numbers."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be {description}. Received: no such file")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_landmarks(path: Path) -> dict[str, np.ndarray]:
    """Returns the landmarks `(5, 2)` of each image, by its file name without suffix."""
    landmarks = {}
    for number, line in _lines(path, "a list of landmarks of RFW, or pass aligned=True for images of aligned faces"):
        fields = line.split()
        try:
            points = np.array(fields[2:], np.float32)
        except ValueError:
            points = np.empty(0, np.float32)
        if len(points) != 10 or not np.isfinite(points).all():
            raise ValueError(
                f"{path}, line {number}: expected a path, a label and 10 finite numbers. Received: {short(line)}"
            )
        landmarks[Path(fields[0]).stem] = points.reshape(5, 2)
    return landmarks
