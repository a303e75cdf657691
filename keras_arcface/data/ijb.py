"""Reader of the pairs of templates of IJB-B and IJB-C, the protocol 1:1, in the layout of InsightFace."""

import logging
from pathlib import Path

import numpy as np

from keras_arcface.data.ijb_images import IjbImages
from keras_arcface.data.ijb_images import read_table

_log = logging.getLogger(__name__)


class IjbSet(IjbImages):
    """Images, templates and pairs of IJB-B or IJB-C. Slicing the set returns aligned faces.

    `directory` has the layout of InsightFace: `meta/<name>_face_tid_mid.txt` (image, template, medium),
    `meta/<name>_template_pair_label.txt` (template, template, 1 or 0), `meta/<name>_name_5pts_score.txt` (image, ten
    coordinates, detector score), and the images in `loose_crop/`. `keras_arcface.evaluation.embed_images` accepts the
    set.

    Args:
        directory: path of the directory of the set.
        name: `"ijbb"` or `"ijbc"`. None selects the name whose files exist.
        size: height and width of the aligned faces, in pixels.
        undetected: treatment of images without a detected face. Their landmarks are -1, not finite, or all the same
            point. "raise" raises an error. "skip" skips these images and the pairs of templates without a remaining
            image. "crop" uses the central square of the loose crop, resized but not aligned, because the files contain
            no boxes, and a loose crop is a box with a margin. The files of InsightFace have landmarks for all images.
            Skipping makes the results too good, so report the number of skipped images with them.
        follow_links: whether to follow links to images outside of `loose_crop`. If false, such an image raises an error
            when it is read. Links within the folder are always followed.

    Attributes:
        names: names of the n images.
        templates: template id of each image, `(n,)` int64 array.
        media: medium id of each image, `(n,)` int64 array.
        landmarks: landmarks in pixels of the loose crop, `(n, 5, 2)` float32 array.
        detector_scores: score of the face detector for each image, `(n,)` float32 array.
        pairs: pairs of template ids, `(m, 2)` int64 array.
        same: mask of the genuine pairs, `(m,)` bool array.
        detected: mask of the images with a detected face, which are aligned, `(n,)` bool array.
        skipped: names of the skipped images.
        skipped_pairs: number of skipped pairs.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a line is invalid, two files have different images, an image has no detected face and
            `undetected` is "raise", or no pair remains. The message names the file and line.

    Examples:
        >>> ijbc = IjbSet("IJBC", size=32)
        >>> ijbc
        <IjbSet('IJBC'): 8 images of 4 templates, 4 pairs>
        >>> faces = ijbc[:2]
        >>> faces.shape
        (2, 32, 32, 3)
        >>> embeddings = embed_images(embedder, ijbc)
        >>> ids, pooled = pool_templates(embeddings, ijbc.templates, ijbc.media)
        >>> result = verify_templates(pooled, ids, ijbc.pairs, ijbc.same, fars=[0.5])

    References:
        - [IARPA Janus Benchmark - C](https://doi.org/10.1109/ICB2018.2018.00033)
    """

    def __init__(
        self, directory, name: str | None = None, size: int = 112, undetected: str = "raise", follow_links: bool = False
    ):
        super().__init__(directory, name, size, undetected, follow_links)
        self._read_pairs(self._meta / f"{self._name}_template_pair_label.txt")
        self.skipped_pairs = 0
        if self.skipped:
            self._skip_pairs()

    def __repr__(self) -> str:
        templates = len(np.unique(self.templates))
        return (
            f"<IjbSet({str(self.directory)!r}): {len(self):,} images of {templates:,} templates, "
            f"{len(self.pairs):,} pairs>"
        )

    def _read_pairs(self, path: Path) -> None:
        _, numbers = read_table(path, 3, np.int64, has_names=False)
        self.pairs, self.same = numbers[:, :2], numbers[:, 2] == 1
        invalid = np.flatnonzero(~np.isin(numbers[:, 2], (0, 1)))
        if len(invalid):
            raise ValueError(
                f"{path}, line {invalid[0] + 1}: expected 1 or 0 as the last field. Received: {numbers[invalid[0], 2]}"
            )

    def _skip_pairs(self) -> None:
        has_images = np.isin(self.pairs, self.templates).all(axis=1)
        self.skipped_pairs = int(np.sum(~has_images))
        self.pairs, self.same = self.pairs[has_images], self.same[has_images]
        if not len(self.pairs):
            raise ValueError(
                f"{self.directory} must have a pair of templates with detected faces. Received: {len(self.skipped)} "
                f"images without a detected face, {len(self)} with one"
            )
        _log.warning(
            "%s: skipped %d images without a detected face, and %d pairs of templates without a remaining image",
            *(self.directory, len(self.skipped), self.skipped_pairs),
        )
