"""Reader of the galleries and probes of IJB-B and IJB-C, the protocol 1:N, in the layout of InsightFace."""

import logging
from pathlib import Path

import numpy as np

from keras_arcface._messages import short
from keras_arcface.data.ijb_images import IjbImages

_GALLERIES = (("G1", "G2"), ("S1", "S2"))  # of IJB-C and IJB-B
_log = logging.getLogger(__name__)


class IjbIdentificationSet(IjbImages):
    """Images, galleries and probes of IJB-B or IJB-C. Slicing the set returns aligned faces.

    `directory` has the layout of InsightFace: the images and their templates as for `IjbSet`, two galleries,
    `meta/<name>_1N_gallery_G1.csv` and `G2` (`S1` and `S2` for IJB-B), and the probes of all media,
    `meta/<name>_1N_probe_mixed.csv`. A CSV file has a heading and one line per image, whose first two fields are the
    template id and the subject id.

    The galleries have different people. A probe whose subject is not in a gallery is a nonmated probe of this gallery,
    which decides the thresholds of the open set.

    Args:
        directory: path of the directory of the set.
        name: `"ijbb"` or `"ijbc"`. None selects the name whose files exist.
        size: height and width of the aligned faces, in pixels.
        undetected: treatment of images without a detected face, as for `IjbSet`. "skip" also skips the templates
            without a remaining image. If such a template is in a gallery, its probes become nonmated, which makes the
            results too bad.
        follow_links: whether to follow links to images outside of `loose_crop`. If false, such an image raises an error
            when it is read. Links within the folder are always followed.

    Attributes:
        names: names of the n images.
        templates: template id of each image, `(n,)` int64 array.
        media: medium id of each image, `(n,)` int64 array.
        landmarks: landmarks in pixels of the loose crop, `(n, 5, 2)` float32 array.
        detector_scores: score of the face detector for each image, `(n,)` float32 array.
        probes: template ids of the p probes, `(p,)` int64 array.
        probe_subjects: subject id of each probe, `(p,)` int64 array.
        galleries: mapping from the name of each gallery, such as `"G1"`, to its template ids, `(g,)` int64 array.
        gallery_subjects: mapping from the name of each gallery to its subject ids, `(g,)` int64 array.
        detected: mask of the images with a detected face, which are aligned, `(n,)` bool array.
        skipped: names of the skipped images.
        skipped_templates: number of skipped templates of the galleries and probes.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if a line is invalid, two files have different images, a template has no image or two subjects, an
            image has no detected face and `undetected` is "raise", or no template of a file remains. The message names
            the file and line.

    Examples:
        >>> ijbc = IjbIdentificationSet("IJBC", size=32)
        >>> ijbc
        <IjbIdentificationSet('IJBC'): 8 images of 4 templates, 2 probes, galleries G1 of 1 and G2 of 1>
        >>> embeddings = embed_images(embedder, ijbc, progress=False)
        >>> ids, pooled = pool_templates(embeddings, ijbc.templates, ijbc.media)
        >>> probes = pooled[np.searchsorted(ids, ijbc.probes)]
        >>> results = []
        >>> for name, gallery in ijbc.galleries.items():
        ...     entries, subjects = pooled[np.searchsorted(ids, gallery)], ijbc.gallery_subjects[name]
        ...     results.append(identify(probes, ijbc.probe_subjects, entries, subjects, progress=False))
        >>> IdentificationResult.mean(results).rank(1)
        1.0

    References:
        - [IARPA Janus Benchmark - C](https://doi.org/10.1109/ICB2018.2018.00033)
    """

    def __init__(
        self, directory, name: str | None = None, size: int = 112, undetected: str = "raise", follow_links: bool = False
    ):
        super().__init__(directory, name, size, undetected, follow_links)
        self.skipped_templates = 0
        galleries = self._find_galleries()
        self.probes, self.probe_subjects = self._read_subjects(self._meta / f"{self._name}_1N_probe_mixed.csv")
        self.galleries: dict[str, np.ndarray] = {}
        self.gallery_subjects: dict[str, np.ndarray] = {}
        for gallery, path in galleries.items():
            self.galleries[gallery], self.gallery_subjects[gallery] = self._read_subjects(path)
        if self.skipped:
            _log.warning(
                "%s: skipped %d images without a detected face, and %d templates without a remaining image",
                *(self.directory, len(self.skipped), self.skipped_templates),
            )

    def __repr__(self) -> str:
        galleries = " and ".join(f"{name} of {len(ids):,}" for name, ids in self.galleries.items())
        return (
            f"<IjbIdentificationSet({str(self.directory)!r}): {len(self):,} images of "
            f"{len(np.unique(self.templates)):,} templates, {len(self.probes):,} probes, galleries {galleries}>"
        )

    def _find_galleries(self) -> dict[str, Path]:
        paths = [{g: self._meta / f"{self._name}_1N_gallery_{g}.csv" for g in names} for names in _GALLERIES]
        found = [galleries for galleries in paths if any(path.is_file() for path in galleries.values())]
        return (found or paths)[0]

    def _read_subjects(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """Returns the ids of the templates with images in a CSV file, and their subjects."""
        subjects, lines = _read_csv(path)
        templates = np.fromiter(subjects, np.int64, len(subjects))
        has_images = np.isin(templates, self.templates)
        unknown = np.flatnonzero(~has_images & ~np.isin(templates, self._skipped_templates))
        if len(unknown):
            template = int(templates[unknown[0]])
            raise ValueError(
                f"{path}, line {lines[template]}: expected a template of {self._name}_face_tid_mid.txt. "
                f"Received: template {template}, which has no image"
            )
        self.skipped_templates += int(np.sum(~has_images))
        if not has_images.any():
            raise ValueError(
                f"{path} must contain a template with a detected face. Received: {len(templates)} templates without one"
            )
        return templates[has_images], np.fromiter(subjects.values(), np.int64, len(subjects))[has_images]


def _read_csv(path: Path) -> tuple[dict[int, int], dict[int, int]]:
    """Returns the subject and the first line number of each template."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a file of the protocol 1:N of IJB-B or IJB-C. Received: no such file")
    subjects: dict[int, int] = {}
    lines: dict[int, int] = {}
    try:
        with open(path, encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                fields = [field.strip() for field in text.split(",", 2)]
                is_heading = number == 1 and not _is_id(fields[0])
                if is_heading or not text.strip():
                    continue
                if len(fields) < 2 or not all(map(_is_id, fields[:2])):
                    raise ValueError(
                        f"{path}, line {number}: expected a template id and a subject id as the first fields, "
                        f"separated by commas. Received: {short(text.rstrip())}"
                    )
                template, subject = int(fields[0]), int(fields[1])
                lines.setdefault(template, number)
                if subjects.setdefault(template, subject) != subject:
                    raise ValueError(
                        f"{path}, line {number}: expected subject {subjects[template]} for template {template}, as in "
                        f"line {lines[template]}. Received: subject {subject}"
                    )
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    if not subjects:
        raise ValueError(f"{path} must contain templates and their subjects. Received: no template")
    return subjects, lines


def _is_id(text: str) -> bool:
    return text.isdecimal() and len(text) < 19  # int64
