"""Reader of MegaFace's challenge 1: FaceScrub probes among distractors, by the lists of the development kit."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from keras_arcface._image_files import ImageFiles
from keras_arcface._json import parse_object
from keras_arcface._messages import short
from keras_arcface._regular_files import open_regular
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.data.listed_images import ListedImages

_PROBE_LIST = "facescrub_features_list.json"
_DISTRACTOR_LIST = "megaface_features_list.json_{}_1"
_MAX_LIST_BYTES = 2**28  # the list of a million distractors has about 50 MB
_PARTS_OF_DISTRACTOR = 3


class MegaFaceSet:
    """Probes and distractors of MegaFace's challenge 1, identification and verification with FaceScrub.

    `directory` has the layout of InsightFace:

        devkit/templatelists/facescrub_features_list.json           {"path": [...], "id": [...]}
        devkit/templatelists/megaface_features_list.json_1000000_1  {"path": [...]}
        facescrub_images/<person>/<image>
        megaface_images/<folder>/<person>/<image>
        facescrub_noises.txt, megaface_noises.txt                   for `refined` only

    The paths in the lists are relative to the folders of images. `templatelists/` may also be in `directory` itself.
    The images are only read when they are accessed, and not needed for `FeatureFiles`.

    With `refined`, the images in InsightFace's lists of noise are left out: images of FaceScrub with a wrong label, and
    distractors that show people of FaceScrub. A list has one name per line, `Ann_Smith_1.png` or
    `<folder>/<person>/<image>`, optionally after an index and a tab, and comments that start with `#`. InsightFace's
    program does not leave out noisy images of FaceScrub (25 of 3,530) but gives them the mean feature of the person's
    other images, so that its figures contain some pairs that are too easy.

    Args:
        directory: path of the directory.
        distractors: number of distractors in the name of their list. None selects the longest list that exists, which
            is that of a million in the development kit.
        refined: if true, leaves out the images in the lists of noise.
        follow_links: whether to follow links to files and folders outside of the folders of images. Links within them
            are always followed.

    Attributes:
        directory: path of the directory.
        probes: sequence of the n encoded images of FaceScrub. `probes.names` are their paths.
        labels: identity of each probe, `(n,)` int64 array.
        people: names of the identities.
        distractors: sequence of the encoded distractors. `distractors.names` are their paths.
        noisy_probes: paths of the images of FaceScrub that are left out.
        noisy_distractors: paths of the distractors that are left out.

    Raises:
        FileNotFoundError: if a list does not exist.
        ValueError: if a list has another format, contains an image of FaceScrub twice, or no image remains. The message
            names the file, and the line or the index.

    Examples:
        >>> megaface = MegaFaceSet("MegaFace", refined=True)
        >>> megaface
        <MegaFaceSet('MegaFace'): 4 probes of 2 people, 3 distractors, without 1 noisy distractor>
        >>> megaface.probes.names[0], megaface.people[megaface.labels[0]]
        ('ann/ann_0.jpg', 'ann')
        >>> probes = embed_images(embedder, megaface.probes, progress=False)
        >>> distractors = embed_images(embedder, megaface.distractors, progress=False)
        >>> result = identify_among_distractors(probes, megaface.labels, distractors, progress=False)
        >>> result.genuine, result.impostor
        (4, 12)

        From files of features:

        >>> write_feature_files("features", megaface.distractors.names, distractors, "_ours.bin")
        >>> files = FeatureFiles("features", megaface.distractors.names)
        >>> from_files = identify_among_distractors(probes, megaface.labels, files, progress=False)
        >>> from_files.rank(1) == result.rank(1)
        True

    References:
        - [The MegaFace Benchmark](https://arxiv.org/abs/1512.00596)
        - [ArcFace](https://arxiv.org/abs/1801.07698), appendix on the refined lists
    """

    def __init__(self, directory, distractors: int | None = None, refined: bool = False, follow_links: bool = False):
        self.directory = Path(directory)
        lists = _find_lists(self.directory)
        probe_list = lists / _PROBE_LIST
        probes, ids = _read_list(probe_list, with_ids=True)
        _check_unique(probe_list, probes)
        distractor_list = lists / _DISTRACTOR_LIST.format(_longest_list(lists) if distractors is None else distractors)
        distractor_names, _ = _read_list(distractor_list)
        self.noisy_probes: list[str] = []
        self.noisy_distractors: list[str] = []
        if refined:
            noise = _read_noise(self.directory / "facescrub_noises.txt", 1)
            is_noisy = [_last_parts(name, 1) in noise for name in probes]
            self.noisy_probes = [name for name, noisy in zip(probes, is_noisy, strict=True) if noisy]
            ids = [person for person, noisy in zip(ids, is_noisy, strict=True) if not noisy]
            probes = [name for name, noisy in zip(probes, is_noisy, strict=True) if not noisy]
            noise = _read_noise(self.directory / "megaface_noises.txt", _PARTS_OF_DISTRACTOR)
            self.noisy_distractors = [n for n in distractor_names if _last_parts(n, _PARTS_OF_DISTRACTOR) in noise]
            removed = set(self.noisy_distractors)
            distractor_names = [name for name in distractor_names if name not in removed]
        for path, names in ((probe_list, probes), (distractor_list, distractor_names)):
            if not names:
                raise ValueError(f"{path} must contain images that are not noisy. Received: no such image")
        self.probes = ListedImages(ImageFiles(self.directory / "facescrub_images", follow_links), probes)
        self.distractors = ListedImages(ImageFiles(self.directory / "megaface_images", follow_links), distractor_names)
        people, labels = np.unique(np.array(ids), return_inverse=True)
        self.people, self.labels = people.tolist(), labels.astype(np.int64)

    def __repr__(self) -> str:
        left_out = [
            f"{len(names):,} noisy {kind}{'s' if len(names) > 1 else ''}"
            for kind, names in (("probe", self.noisy_probes), ("distractor", self.noisy_distractors))
            if names
        ]
        without = f", without {' and '.join(left_out)}" if left_out else ""
        return (
            f"<MegaFaceSet({str(self.directory)!r}): {len(self.probes):,} probes of {len(self.people):,} people, "
            f"{len(self.distractors):,} distractors{without}>"
        )


def _find_lists(directory: Path) -> Path:
    for folder in (directory / "devkit" / "templatelists", directory / "templatelists"):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(f"{directory} must contain a folder devkit/templatelists. Received: no such folder")


def _longest_list(folder: Path) -> int:
    pattern = re.compile(re.escape(_DISTRACTOR_LIST).replace(r"\{\}", r"([1-9]\d{0,8})"), re.ASCII)
    lengths = [int(match[1]) for path in folder.iterdir() if (match := pattern.fullmatch(path.name))]
    if not lengths:
        raise FileNotFoundError(
            f"{folder} must contain a list of distractors, such as {_DISTRACTOR_LIST.format(1_000_000)}. "
            "Received: no such file"
        )
    return max(lengths)


def _read_list(path: Path, with_ids: bool = False) -> tuple[list[str], list[str]]:
    """Returns the paths and the identities in a list of the development kit."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a list of MegaFace's development kit. Received: no such file")
    with open_regular(path) as file:
        content = file.read(_MAX_LIST_BYTES + 1)
    if len(content) > _MAX_LIST_BYTES:
        raise ValueError(f"{path} must have at most {_MAX_LIST_BYTES} bytes. Received: more bytes")
    try:
        parsed = parse_object(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    names = _check_texts(path, parsed, "path")
    ids = _check_texts(path, parsed, "id") if with_ids else []
    if with_ids and len(ids) != len(names):
        raise ValueError(f'{path} must have one "id" for each "path". Received: {len(ids)} for {len(names)}')
    return names, ids


def _check_texts(path: Path, parsed: dict[str, Any], key: str) -> list[str]:
    values = parsed.get(key)
    if type(values) is not list or not values:
        raise ValueError(f'{path} must contain a list "{key}". Received: {short(values)}')
    for index, value in enumerate(values):
        if type(value) is not str or not value or not value.isprintable():
            raise ValueError(f'{path} must contain names in "{key}". Received: {short(value)} at index {index}')
    return values


def _check_unique(path: Path, names: list[str]) -> None:
    first_index: dict[str, int] = {}
    for index, name in enumerate(names):
        first = first_index.setdefault(name, index)
        if first != index:
            raise ValueError(
                f"{path} must contain every image once. Received: {short(name)} at index {first} and {index}"
            )


def _read_noise(path: Path, num_parts: int) -> set[str]:
    """Returns the last parts of the paths in a list of noise."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} must be a list of noisy images of InsightFace. Received: no such file")
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be encoded as UTF-8. Received: {error}") from error
    names = set()
    for number, line in enumerate(lines, start=1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        *index, name = text.split("\t")
        is_index = not index or (len(index) == 1 and index[0].isdecimal())
        if not is_index or not name.lower().endswith(IMAGE_SUFFIXES) or name.count("/") < num_parts - 1:
            expected = "/".join(["folder", "person", "image.jpg"][-num_parts:])
            raise ValueError(f"{path}, line {number}: expected `{expected}`. Received: {short(line)}")
        names.add(_last_parts(name, num_parts))
    return names


def _last_parts(path: str, count: int) -> str:
    return "/".join(path.split("/")[-count:])
