"""Reader of YouTube Faces: its frames, videos and ten splits of pairs."""

import itertools
import os
from pathlib import Path

import numpy as np

from keras_arcface._files import is_file_name
from keras_arcface._image_files import ImageFiles
from keras_arcface._messages import short
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.listed_images import ListedImages
from keras_arcface.data.sources import suffix
from keras_arcface.data.sources import visible_entries

_IMAGE_FOLDERS = ("aligned_images_DB", "frame_images_DB")


class YtfSet(ListedImages):
    """Frames, videos and pairs of YouTube Faces (YTF). Items of the set are encoded frames.

    `directory` contains the list of pairs, and the frames in `aligned_images_DB/<person>/<video>/` or, without this
    folder, in `frame_images_DB/<person>/<video>/`. The list has lines of `split, pair, first video, second video, is
    same`, optionally after a heading, where a video is `<person>/<number>` and the last field is 1 or 0. In
    `splits_corrected.txt`, a sixth field is the corrected label, which is used instead. Only videos of the list are
    read.

    The frames of YTF are images of different sizes, with more than the face. For published figures, align them as the
    training images of the model, or pass `size` to `keras_arcface.evaluation.embed_images`.

    Args:
        directory: path of the directory.
        splits: name of the list of pairs in the directory.
        follow_links: whether to follow links to files and folders outside of the folder of the frames. Links within it
            are always followed.

    Attributes:
        names: paths of the n frames, relative to the folder of the frames.
        videos: index of the video of each frame, `(n,)` int64 array.
        video_names: names of the videos, such as `"Ann_Smith/2"`.
        pairs: indices of the two videos of each pair, `(m, 2)` int64 array. The pairs of a split are consecutive.
        same: mask of the genuine pairs, `(m,)` bool array.
        folds: number of splits, which have the same number of pairs.

    Raises:
        FileNotFoundError: if the list, the folder of the frames or the folder of a video does not exist. For a video,
            the message names the line.
        ValueError: if a line is invalid, a video has no frames, the pairs of a split are not consecutive, or the splits
            have different numbers of pairs. The message names the file and line.

    Examples:
        The mean embedding of each video, and the accuracy over the splits:

        >>> ytf = YtfSet("YouTubeFaces")
        >>> ytf
        <YtfSet('YouTubeFaces/aligned_images_DB'): 8 frames of 4 videos, 4 pairs in 2 splits>
        >>> frames = embed_images(embedder, ytf, progress=False)
        >>> ids, videos = pool_templates(frames, ytf.videos, weight_by_norm=False)
        >>> result = verify(videos, ytf.same, folds=ytf.folds, pairs=ytf.pairs)
        >>> result.scores.shape
        (4,)

    References:
        - [YouTube Faces](https://www.cs.tau.ac.il/~wolf/ytfaces/WolfHassnerMaoz_CVPR11.pdf)
    """

    def __init__(self, directory, splits: str = "splits.txt", follow_links: bool = False):
        directory = Path(directory)
        folders = [directory / name for name in _IMAGE_FOLDERS if (directory / name).is_dir()]
        if not folders:
            raise FileNotFoundError(
                f"{directory} must contain a folder {' or '.join(_IMAGE_FOLDERS)}. Received: no such folder"
            )
        files = ImageFiles(folders[0], follow_links)
        self._folder = folders[0]
        path = directory / splits
        rows = _read_lines(path)
        first_lines: dict[str, str] = {}
        for line, _, *pair, _ in rows:
            for name in pair:
                first_lines.setdefault(name, f"{path}, line {line}")
        self.video_names = list(first_lines)
        index = {name: number for number, name in enumerate(self.video_names)}
        self.pairs = np.array([(index[first], index[second]) for _, _, first, second, _ in rows], np.int64)
        self.same = np.array([same for *_, same in rows], bool)
        self.folds = _count_splits(path, [(line, split) for line, split, *_ in rows])
        frames = [_find_frames(files, name, where) for name, where in first_lines.items()]
        super().__init__(files, list(itertools.chain.from_iterable(frames)))
        self.videos = np.repeat(np.arange(len(frames)), [len(names) for names in frames])

    def __repr__(self) -> str:
        return (
            f"<YtfSet({str(self._folder)!r}): {len(self):,} frames of {len(self.video_names):,} videos, "
            f"{len(self.pairs):,} pairs in {self.folds} splits>"
        )


def _read_lines(path: Path) -> list[tuple[int, int, str, str, bool]]:
    """Returns the line number, the split, both videos and the label of each pair."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a list of pairs of YouTube Faces. Received: no such file")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    rows = []
    num_fields = None
    for number, line in enumerate(lines, start=1):
        fields = [field.strip() for field in line.split(",")]
        is_heading = number == 1 and not fields[0].isdecimal()
        if is_heading or not line.strip():
            continue
        where = f"{path}, line {number}"
        num_fields = num_fields or len(fields)
        if len(fields) not in (5, 6) or len(fields) != num_fields:
            expected = num_fields if num_fields in (5, 6) else "5 or 6"
            raise ValueError(f"{where}: expected {expected} fields, separated by commas. Received: {short(line)}")
        split, pair, first, second = fields[:4]
        is_pair = all(text.isdecimal() and len(text) < 10 for text in (split, pair))
        if not is_pair or not all(map(_is_video, (first, second))) or fields[-1] not in ("0", "1"):
            raise ValueError(
                f"{where}: expected `split, pair, person/video, person/video, 1 or 0`. Received: {short(line)}"
            )
        rows.append((number, int(split), first, second, fields[-1] == "1"))
    if not rows:
        raise ValueError(f"{path} must contain pairs of videos. Received: no pair")
    return rows


def _is_video(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(map(is_file_name, parts))


def _count_splits(path: Path, splits: list[tuple[int, int]]) -> int:
    """Returns the number of splits of `(line, split)` entries, which must be consecutive and have equal sizes.

    `keras_arcface.evaluation.verify` divides the pairs into consecutive folds of equal sizes.
    """
    sizes: dict[int, int] = {}
    previous = None
    for line, split in splits:
        if split != previous and split in sizes:
            raise ValueError(
                f"{path}, line {line}: expected all pairs of a split in consecutive lines. Received: split {split} "
                f"after split {previous}"
            )
        sizes[split] = sizes.get(split, 0) + 1
        previous = split
    if len(sizes) < 2 or len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} in split {split}" for split, size in list(sizes.items())[:20])
        raise ValueError(f"{path} must have two or more splits with the same number of pairs. Received: {listed}")
    return len(sizes)


def _find_frames(files: ImageFiles, video: str, where: str) -> list[str]:
    folder = files.root / video
    if not os.path.isdir(folder):  # false for a name that is too long, too
        raise FileNotFoundError(f"{where}: expected the frames of video {video} in {folder}. Received: no such folder")
    files.check_folder(folder)
    frames = [f"{video}/{entry.name}" for entry in visible_entries(folder) if suffix(entry) in IMAGE_SUFFIXES]
    if not frames:
        raise ValueError(
            f"{where}: expected the frames of video {video} in {folder}. Received: a folder without images"
        )
    return frames
