"""Alignment of a folder of photos."""

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from tqdm import tqdm

from keras_arcface._arguments import check_choice
from keras_arcface._arguments import check_integer
from keras_arcface._files import write_atomically
from keras_arcface._image_files import ImageFiles
from keras_arcface._json import parse_object
from keras_arcface._locks import FileLock
from keras_arcface._shard_runner import JOB_FILE
from keras_arcface._shard_runner import ShardRunner
from keras_arcface._shard_runner import write_shards
from keras_arcface.faces import manifest
from keras_arcface.faces.contact_sheet import CONTACT_SHEET
from keras_arcface.faces.contact_sheet import write_contact_sheet
from keras_arcface.faces.detection import MAX_SIDE
from keras_arcface.faces.face import Detector
from keras_arcface.faces.photos import read_photo
from keras_arcface.faces.pipeline import PhotoFace
from keras_arcface.faces.pipeline import find_faces
from keras_arcface.faces.pipeline import main_face
from keras_arcface.faces.quality import QualityLimits

SELECTIONS = ("main", "all")
CROPS, REJECTED = "faces", "rejected"
PHOTO_SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm"),
    *(".heic", ".heif", ".gif", ".avif"),  # those that cannot be read are rejected by name
)
_SETTINGS = "align.json"
_LOCK = ".align.lock"
_JPEG_QUALITY = 95  # as in the published training sets
_AHEAD = 8  # photos of each process that wait
_PHOTOS_PER_BLOCK = 256  # of a runner
_BLOCKS = ".block-*.json"


class AlignedFolder(NamedTuple):
    """Result of `align_folder`.

    Attributes:
        directory: the folder, with `faces/`, `rejected/`, `manifest.csv` and `contact_sheet.html`.
        photos: number of photos.
        kept: number of crops in `faces/`.
        rejected: number of photos and faces by reason.

    Examples:
        >>> result = align_folder("party", "aligned", detector, QualityLimits(min_size=40), progress=False)
        >>> result.kept, result.rejected
        (0, {'size is below 40': 2})
        >>> result.contact_sheet.name
        'contact_sheet.html'
    """

    directory: Path
    photos: int
    kept: int
    rejected: dict[str, int]

    @property
    def contact_sheet(self) -> Path:
        """Path of the page with the kept and rejected faces."""
        return self.directory / CONTACT_SHEET


class _Job(NamedTuple):
    """What a process needs to align photos."""

    photos: ImageFiles
    detector: Detector
    limits: QualityLimits
    image_size: int
    select: str
    max_side: int
    tiles: bool


class _Blocks(NamedTuple):
    """What a worker of a runner needs to align blocks of photos."""

    job: _Job
    directory: Path
    names: dict[int, list[str]]

    def path(self, number: int) -> Path:
        return self.directory / _BLOCKS.replace("*", f"{number:08d}")


class _Block(NamedTuple):
    """Aligned photos of a block.

    Attributes:
        names: the photos.
        rows: lines of the manifest.
        skipped: one message per photo that cannot be read.
    """

    names: list[str]
    rows: str
    skipped: list[str]


class _Found(NamedTuple):
    """Kept and rejected faces of a photo with their JPEG files."""

    kept: list[tuple[PhotoFace, bytes]]
    rejected: list[tuple[PhotoFace, bytes]]
    error: str


def align_folder(
    photos: str | os.PathLike,
    output: str | os.PathLike,
    detector: Detector,
    limits: QualityLimits | None = None,
    select: str | None = None,
    image_size: int = 112,
    max_side: int = MAX_SIDE,
    tiles: bool = False,
    processes: int = 1,
    progress: bool = True,
    runner: ShardRunner | None = None,
) -> AlignedFolder:
    """Aligns the faces of a folder of photos.

    A killed call loses nothing: the same call continues after the last photo of the manifest.

        output/faces/ann/1.jpg.0.jpg     aligned faces. data.ImageFolder and `keras-arcface convert` read this folder
        output/rejected/ann/...          aligned faces outside of the limits, or that were not selected
        output/manifest.csv              one line for each face: photo, crop, reason, score, quality, box, landmarks
        output/contact_sheet.html        kept and rejected faces to look at

    Args:
        photos: folder of photos, or of one folder of photos for each person. Deeper folders and files of other types
            are an error.
        output: new folder, or that of an unfinished call with the same arguments.
        detector: function from a photo to its faces, such as `YuNet()`. It must be picklable for several processes.
        limits: limits of the quality of a face. None accepts all faces.
        select: "main" keeps the main face of each photo, see `PhotoFaces.main`; "all" keeps all faces. None is "main"
            for one folder for each person, and "all" for a folder of photos.
        image_size: height and width of the crops.
        max_side: see `detect`.
        tiles: see `detect`.
        processes: number of processes.
        progress: if true, shows a progress bar.
        runner: what aligns blocks of photos instead of this process and `processes`, such as `beam.BeamRunner`. The
            detector must support pickling.

    Returns:
        The counts, with the reasons of all rejections.

    Raises:
        BlockingIOError: if another process writes to `output`.
        FileNotFoundError: if `photos` does not exist or contains no photo.
        RuntimeError: if a process died, or `runner` failed.
        ValueError: if an argument is not valid, `output` is inside of `photos` or was written with other arguments, or
            one of its files is damaged.

    Examples:
        >>> limits = QualityLimits(min_size=20)
        >>> result = align_folder("party", "crops", detector, limits, progress=False)
        >>> result.photos, result.kept, result.rejected
        (1, 2, {})
    """
    limits = limits or QualityLimits()
    check_integer("image_size", image_size, minimum=16)
    check_integer("processes", processes, minimum=1)
    if select is not None:
        check_choice("select", select, SELECTIONS)
    root, directory = Path(photos), Path(output)
    if directory.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"output must be outside of the folder of the photos. Received: photos={root}, output={output}"
        )
    names, is_flat = _list_photos(root)
    select = select or ("all" if is_flat else "main")
    job = _Job(ImageFiles(root, follow_links=False), detector, limits, image_size, select, max_side, tiles)
    directory.mkdir(parents=True, exist_ok=True)
    with FileLock(directory / _LOCK):
        _check_settings(directory / _SETTINGS, job)
        path = directory / manifest.MANIFEST
        done = _resume(path)
        todo = [name for name in names if _printable(name) not in done]
        disable = {} if progress else {"disable": True}  # an explicit False would override TQDM_DISABLE
        with tqdm(total=len(names), initial=len(names) - len(todo), unit="photo", desc="align", **disable) as bar:
            if runner is not None:
                _align_by_runner(runner, job, directory, names, set(todo), bar)
            else:
                for name, found in _align_all(job, todo, processes):
                    manifest.add(path, _write_crops(directory, name, found))
                    bar.update()
        for left in [*directory.glob(_BLOCKS), *directory.glob(JOB_FILE)]:
            left.unlink()
        entries, _ = manifest.read(path)
        write_contact_sheet(directory, root, entries)
    rejected: dict[str, int] = {}
    for entry in entries:
        if entry.reason:
            rejected[entry.group] = rejected.get(entry.group, 0) + 1
    return AlignedFolder(directory, len(names), sum(not entry.reason for entry in entries), rejected)


def _list_photos(root: Path) -> tuple[list[str], bool]:
    """Returns the relative paths of all photos with slashes, and whether they are not in folders of people."""
    if not root.is_dir():
        raise FileNotFoundError(f"photos must be a folder of photos. Received: photos={str(root)!r}")
    names = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        relative = Path(folder).relative_to(root)
        if subfolders and relative.parts:
            raise ValueError(
                f"photos must be a folder of photos, or of one folder for each person. Received: {folder}, which "
                f"contains the folder {subfolders[0]}"
            )
        for file in sorted(name for name in files if not name.startswith(".")):
            if Path(file).suffix.lower() not in PHOTO_SUFFIXES:
                raise ValueError(
                    f"photos must contain only files with the suffixes {', '.join(PHOTO_SUFFIXES)}. "
                    f"Received: {os.path.join(folder, file)}"
                )
            names.append((relative / file).as_posix())
    if not names:
        raise FileNotFoundError(f"photos must contain at least one photo. Received: photos={str(root)!r}")
    in_folders = {"/" in name for name in names}
    if len(in_folders) == 2:
        raise ValueError(
            f"photos must be a folder of photos, or of one folder for each person. Received: {root}, which contains "
            f"both, such as {min(names, key=lambda name: name.count('/'))}"
        )
    return sorted(names), in_folders == {False}


def _check_settings(path: Path, job: _Job) -> None:
    """Records the arguments of the first call, and compares those of later calls."""
    settings: dict[str, Any] = {
        # The representation of a function has its address.
        "detector": getattr(job.detector, "__qualname__", repr(job.detector)),
        **dataclasses.asdict(job.limits),
        "select": job.select,
        "image_size": job.image_size,
        "max_side": job.max_side,
        "tiles": job.tiles,
    }
    if not path.exists():
        write_atomically(path, json.dumps(settings, indent=2) + "\n")
        return
    try:
        written = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise ValueError(f"{path} must contain the arguments of the first call. Received: a damaged file") from None
    changed = [key for key in settings if written.get(key) != settings[key]]
    if changed:
        raise ValueError(
            f"output must be a new folder, or one that was written with the same arguments. Received: {path.parent}, "
            f"whose {changed[0]} is {written.get(changed[0])!r} instead of {settings[changed[0]]!r}"
        )


def _resume(path: Path) -> set[str]:
    """Returns the photos that are finished, and removes a last one that is not."""
    if not path.exists():
        manifest.start(path)
        return set()
    entries, complete = manifest.read(path)
    os.truncate(path, complete)
    return {entry.photo for entry in entries}


def _write_crops(directory: Path, name: str, found: _Found) -> str:
    """Writes the crops of a photo, and returns the lines of the manifest."""
    rows = []
    for folder, faces in ((CROPS, found.kept), (REJECTED, found.rejected)):
        for number, (face, encoded) in enumerate(faces, start=len(rows)):
            crop = f"{folder}/{name}.{number}.jpg"
            target = directory / crop
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encoded)
            rows.append((face, _printable(crop), face.reason or ""))
    return manifest.rows_of_photo(_printable(name), rows, found.error)


def _printable(name: str) -> str:
    """Returns a name for a line of the manifest: line breaks, bytes that are not UTF-8 and backslashes are escaped."""
    return "".join(char if char.isprintable() and char != "\\" else f"\\u{ord(char):06x}" for char in name)


def _align_all(job: _Job, names: list[str], processes: int) -> Iterator[tuple[str, _Found]]:
    """Aligns photos in their order, in this process or in several."""
    if processes == 1 or len(names) <= 1:
        for name in names:
            yield name, _align(job, name)
        return
    context = multiprocessing.get_context("forkserver")
    executor = concurrent.futures.ProcessPoolExecutor(min(processes, len(names)), context, _initialize, (job,))
    try:
        pending = []
        for position, name in enumerate(names):
            pending.append((name, executor.submit(_align_in_process, name)))
            if position >= _AHEAD * processes:
                first, future = pending.pop(0)
                yield first, future.result()
        for name, future in pending:
            yield name, future.result()
    except concurrent.futures.BrokenExecutor as error:
        raise RuntimeError(
            "The processes that align photos must not exit early. Possible causes: a process was killed or ran out of "
            'memory, or the script lacks `if __name__ == "__main__":`. The same call continues. '
            f"Received: {type(error).__name__}: {error}"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _align_by_runner(
    runner: ShardRunner, job: _Job, directory: Path, names: list[str], todo: set[str], bar: tqdm
) -> None:
    """Aligns photos in blocks. Blocks that an interrupted call has finished are not repeated."""
    blocks = {}
    for number, start in enumerate(range(0, len(names), _PHOTOS_PER_BLOCK)):
        block = [name for name in names[start : start + _PHOTOS_PER_BLOCK] if name in todo]
        if block:
            blocks[number] = block
    task = _Blocks(job, directory, blocks)
    for number, block in write_shards(runner, _write_block, _read_block, task, list(blocks.items()), bar).items():
        manifest.add(directory / manifest.MANIFEST, block.rows)
        task.path(number).unlink()


def _write_block(blocks: _Blocks, number: int, names: list[str], progress: Callable[[int], object]) -> _Block:
    """Aligns a block of photos. Only the call that runs the runner writes to the manifest."""
    rows, skipped = [], []
    for name in names:
        found = _align(blocks.job, name)
        rows.append(_write_crops(blocks.directory, name, found))
        if not found.kept and not found.rejected:
            skipped.append(f"{name}: {found.error}")
        progress(1)
    block = _Block(names, "".join(rows), skipped)
    # JSON escapes the surrogates of names that are not UTF-8.
    write_atomically(blocks.path(number), json.dumps(block._asdict()))
    return block


def _read_block(blocks: _Blocks, number: int) -> _Block | None:
    """Returns a finished block, or None if it must be aligned."""
    try:
        block = _Block(**parse_object(blocks.path(number).read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return block if block.names == blocks.names[number] else None


class _Worker:
    """Global state of a process."""

    job: _Job


def _initialize(job: _Job) -> None:
    cv2.setNumThreads(1)  # the processes already use all cores
    _Worker.job = job


def _align_in_process(name: str) -> _Found:
    return _align(_Worker.job, name)


def _align(job: _Job, name: str) -> _Found:
    """Finds, aligns and selects the faces of a photo."""
    try:
        pixels = read_photo(job.photos.read(name))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        return _Found([], [], f"cannot be read: {error}")
    try:
        found = find_faces(pixels, job.detector, job.limits, job.image_size, name, job.max_side, job.tiles)
    except Exception as error:
        error.add_note(f"The photo is {name}.")
        raise
    kept, rejected = list(found.faces), list(found.rejected)
    if job.select == "main":
        # The main face is that of the person even if it is rejected. Another face must not take its place.
        main = main_face([*kept, *rejected], found.size)
        rejected += [dataclasses.replace(face, reason="not the main face") for face in kept if face is not main]
        kept = [face for face in kept if face is main]
    if not kept and not rejected:
        return _Found([], [], "no face was found")
    return _Found(*([(face, _encode(face)) for face in faces] for faces in (kept, rejected)), "")


def _encode(face: PhotoFace) -> bytes:
    bgr = cv2.cvtColor(face.crop, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes()
