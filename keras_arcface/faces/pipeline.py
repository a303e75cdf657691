"""From photos to embeddings of their faces."""

import dataclasses
import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from keras_arcface._alignment import align
from keras_arcface._arguments import check_integer
from keras_arcface.faces.detection import MAX_SIDE
from keras_arcface.faces.detection import detect
from keras_arcface.faces.face import Detector
from keras_arcface.faces.face import Face
from keras_arcface.faces.photos import read_photo
from keras_arcface.faces.quality import Quality
from keras_arcface.faces.quality import QualityLimits
from keras_arcface.faces.quality import face_quality

_LOOKAHEAD = 16  # photos that are read and searched while faces are embedded


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoFace(Face):
    """A face of a photo with its crop and its embedding.

    Attributes:
        box: see `Face`.
        landmarks: see `Face`.
        score: see `Face`.
        crop: aligned face, uint8 `(height, width, 3)` of RGB.
        quality: its `Quality`.
        embedding: `(dim,)` float32, not normalized. None for a rejected face.
        reason: why the limits of the pipeline reject the face, or None.

    Examples:
        >>> (result,) = FacePipeline(detector, embedder)(["party/group.jpg"], progress=False)
        >>> face = result.faces[0]
        >>> face.crop.shape, face.embedding.shape, round(face.quality.size)
        ((32, 32, 3), (8,), 35)
    """

    crop: np.ndarray
    quality: Quality
    embedding: np.ndarray | None = None
    reason: str | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class PhotoFaces:
    """The faces of a photo.

    Attributes:
        photo: path of the photo, or its number if it has no path.
        size: `(height, width)` of the photo, None if it cannot be read.
        faces: faces within the limits of the pipeline, the highest score of the detector first.
        rejected: all other faces, with the reason.
        error: why the photo cannot be read, or None.

    Examples:
        >>> (result,) = FacePipeline(detector, embedder)(["party/group.jpg"], progress=False)
        >>> result.size, len(result.faces), result.main is result.faces[1]
        ((160, 300), 2, True)
    """

    photo: str
    size: tuple[int, int] | None
    faces: tuple[PhotoFace, ...] = ()
    rejected: tuple[PhotoFace, ...] = ()
    error: str | None = None

    @property
    def main(self) -> PhotoFace | None:
        """The largest face, where a face far from the center counts less. None if there is none, or it is rejected."""
        main = main_face([*self.faces, *self.rejected], self.size)
        return main if main is not None and main.reason is None else None

    @property
    def problem(self) -> str | None:
        """Why there is no main face, with the photo. None if there is one."""
        if self.error is not None:
            return self.error
        main = main_face([*self.faces, *self.rejected], self.size)
        if main is None:
            return f"{self.photo}: no face was found"
        return None if main.reason is None else f"{self.photo}: the main face is rejected: {main.reason}"


class Comparison(NamedTuple):
    """Result of `FacePipeline.compare`.

    Attributes:
        score: cosine of the embeddings.
        threshold: cosine from which on two faces are of the same person.
        same: whether the score is at least the threshold.
        first: main face of the first photo.
        second: main face of the second photo.

    Examples:
        >>> photo = read_photo("party/group.jpg")
        >>> comparison = FacePipeline(detector, embedder, threshold=0.4).compare(photo, photo)
        >>> comparison.same, comparison.threshold
        (True, 0.4)
    """

    score: float
    threshold: float
    same: bool
    first: PhotoFace
    second: PhotoFace


class FacePipeline:
    """Finds, aligns and embeds the faces of photos.

    Photos are read and searched in a thread while the faces of earlier photos are embedded in batches. A photo that
    cannot be read does not stop the others: its result has an `error`.

    Args:
        detector: function from a photo to its faces, such as `YuNet()`.
        embedder: name of a published network, such as "sface"; path of a file or folder that `pretrained.load` or
            `serving.load_embedder` reads; a Keras model; a `serving.FaceClient`, so that a server embeds the faces; or
            a function from RGB images `(batch, height, width, 3)` in 0..255 to embeddings `(batch, dim)`.
        limits: limits of the quality of a face. None accepts all faces.
        threshold: cosine from which on `compare` accepts two faces as the same person. None takes that of a published
            network or of a folder of `pretrained.save_preset`.
        image_size: height and width of the crops. None takes that of the embedder, or 112 if it is not known.
        batch_size: number of faces that are embedded at once.
        max_side: see `detect`.
        tiles: see `detect`.

    Raises:
        FileNotFoundError: if `embedder` is a path that does not exist.
        ValueError: if an argument is not valid, or the embedder takes images that are not square.

    Examples:
        A detector and a published network:

        >>> pipeline = FacePipeline(YuNet(), "sface")  # doctest: +SKIP

        Any detector and embedder, here an embedder for crops of 32 x 32:

        >>> pipeline = FacePipeline(detector, embedder, threshold=0.4)
        >>> for result in pipeline(["party/group.jpg", "pairs.txt"], progress=False):
        ...     print(result.photo, len(result.faces), result.error is None)
        party/group.jpg 2 True
        pairs.txt 0 False
        >>> comparison = pipeline.compare("party/group.jpg", "party/group.jpg")
        >>> comparison.same, comparison.first.embedding.shape
        (True, (8,))
    """

    def __init__(
        self,
        detector: Detector,
        embedder: Any,
        limits: QualityLimits | None = None,
        threshold: float | None = None,
        image_size: int | None = None,
        batch_size: int = 64,
        max_side: int = MAX_SIDE,
        tiles: bool = False,
    ):
        check_integer("batch_size", batch_size, minimum=1)
        check_integer("max_side", max_side, minimum=64)
        self.detector, self.limits, self.threshold = detector, limits or QualityLimits(), threshold
        self.max_side, self.tiles, self._batch_size = max_side, tiles, batch_size
        if isinstance(embedder, str | os.PathLike):
            if threshold is None:
                self.threshold = published_threshold(embedder)
            embedder = _load(embedder)
        self._embedder = embedder
        size = getattr(embedder, "input_shape", (None, None, None))[1:3]
        if size[0] != size[1]:
            raise ValueError(f"embedder must take square images. Received: images of {size[0]} x {size[1]} pixels")
        self.image_size: int = image_size or size[0] or 112
        self._embed = _as_function(embedder)

    @property
    def embedder_sha256(self) -> str:
        """SHA-256 hash of the weights of the embedder, which `gallery.Gallery` stores to refuse those of another one.

        It is `weights_sha256` in the metadata of an export. A client whose server adds mirror images has another hash.

        Raises:
            ValueError: if the embedder is neither a Keras model nor a client.
            ServingError: if the server does not return its metadata.
        """
        from keras_arcface.serving.client.face_client import FaceClient
        from keras_arcface.serving.embedder_facts import weights_sha256

        if isinstance(self._embedder, FaceClient):
            metadata = self._embedder.metadata()
            sha256 = metadata["weights_sha256"]
            return hashlib.sha256(f"{sha256} mirrored".encode()).hexdigest() if metadata["mirrored"] else sha256
        if not hasattr(self._embedder, "get_weights"):
            raise ValueError(
                f"embedder must be a Keras model or a FaceClient, whose weights have a hash. Received: {self._embedder}"
            )
        return weights_sha256(self._embedder)

    def __call__(self, photos: Iterable, progress: bool = True) -> list[PhotoFaces]:
        """Embeds the faces of photos.

        Args:
            photos: paths, encoded photos (bytes) or RGB pixels, see `read_photo`.
            progress: if true, shows a progress bar.

        Returns:
            One `PhotoFaces` for each photo, in their order.
        """
        photos = list(photos)
        disable = {} if progress else {"disable": True}  # an explicit False would override TQDM_DISABLE
        return list(tqdm(self.stream(photos), total=len(photos), unit="photo", desc="faces", **disable))

    def stream(self, photos: Iterable) -> Iterator[PhotoFaces]:
        """Embeds the faces of any number of photos, and yields their results in the same order.

        Args:
            photos: see `__call__`. Some photos are read ahead.

        Yields:
            One `PhotoFaces` for each photo.
        """
        waiting: list[PhotoFaces] = []
        faces = 0
        for found in self._search(photos):
            waiting.append(found)
            faces += len(found.faces)
            if faces >= self._batch_size or len(waiting) >= 4 * self._batch_size:
                yield from self._embedded(waiting)
                waiting, faces = [], 0
        yield from self._embedded(waiting)

    def compare(self, first, second) -> Comparison:
        """Compares the main faces of two photos.

        Args:
            first: photo, see `read_photo`.
            second: photo.

        Returns:
            The score, the threshold and the two faces.

        Raises:
            ValueError: if the pipeline has no threshold, a photo cannot be read, or has no face within the limits.
        """
        if self.threshold is None:
            raise ValueError(
                "compare requires a threshold. Pass FacePipeline(..., threshold=...), such as one of evaluation.verify "
                "or of FaceClient.threshold. Received: threshold=None"
            )
        results = list(self.stream([first, second]))
        for name, result in zip(("first", "second"), results, strict=True):
            if result.error is not None:
                raise ValueError(f"{name} must be a readable photo. Received: {result.error}")
            if result.problem is not None:
                raise ValueError(f"{name} must show a face. Received: {result.problem}")
        faces = [result.main for result in results]
        score = float(np.dot(*(face.embedding / np.linalg.norm(face.embedding) for face in faces)))
        return Comparison(score, self.threshold, score >= self.threshold, *faces)

    def find(self, photo: Any, name: str = "photo") -> PhotoFaces:
        """Finds and aligns the faces of one photo, without embeddings."""
        try:
            pixels = read_photo(photo)
        except (ValueError, OSError, ModuleNotFoundError) as error:
            return PhotoFaces(name, None, error=str(error))
        return find_faces(pixels, self.detector, self.limits, self.image_size, name, self.max_side, self.tiles)

    def _search(self, photos: Iterable) -> Iterator[PhotoFaces]:
        """Finds the faces of the next photos in a thread."""
        numbered = enumerate(photos)
        pending: deque[Future[PhotoFaces]] = deque()
        with ThreadPoolExecutor(1) as executor:
            try:
                while True:
                    for number, photo in itertools.islice(numbered, _LOOKAHEAD - len(pending)):
                        name = os.fspath(photo) if isinstance(photo, str | os.PathLike) else str(number)
                        pending.append(executor.submit(self.find, photo, name))
                    if not pending:
                        return
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()

    def _embedded(self, photos: list[PhotoFaces]) -> Iterator[PhotoFaces]:
        crops = [face.crop for photo in photos for face in photo.faces]
        batches = [crops[start : start + self._batch_size] for start in range(0, len(crops), self._batch_size)]
        embeddings = iter(np.concatenate([self._embed(np.stack(batch)) for batch in batches]) if crops else ())
        for photo in photos:
            accepted, rejected = [], list(photo.rejected)
            for face in photo.faces:
                embedding = next(embeddings)
                quality = dataclasses.replace(face.quality, norm=float(np.linalg.norm(embedding)))
                reason = self.limits.reason(quality)
                if reason is None:
                    accepted.append(dataclasses.replace(face, quality=quality, embedding=embedding))
                else:
                    rejected.append(dataclasses.replace(face, quality=quality, reason=reason))
            yield dataclasses.replace(photo, faces=tuple(accepted), rejected=tuple(rejected))


def find_faces(
    pixels: np.ndarray,
    detector: Detector,
    limits: QualityLimits,
    image_size: int,
    name: str,
    max_side: int = MAX_SIDE,
    tiles: bool = False,
) -> PhotoFaces:
    """Finds and aligns the faces of a photo, and separates those that are outside of the limits."""
    accepted, rejected = [], []
    for face in detect(pixels, detector, max_side, tiles):
        crop = align(pixels, face.landmarks, image_size)
        quality = face_quality(face, crop)
        reason = limits.reason(quality)
        found = PhotoFace(face.box, face.landmarks, face.score, crop, quality, reason=reason)
        (accepted if reason is None else rejected).append(found)
    return PhotoFaces(name, pixels.shape[:2], tuple(accepted), tuple(rejected))


def main_face(faces: Iterable[PhotoFace], size: tuple[int, int] | None) -> PhotoFace | None:
    """Returns the largest face, where a face far from the center of the photo of `(height, width)` counts less."""

    def weight(face: PhotoFace) -> float:
        assert size is not None
        x, y, width, height = face.box
        offset = (x + width / 2 - size[1] / 2) ** 2 + (y + height / 2 - size[0] / 2) ** 2
        return float(width * height - 2 * offset)

    return max(faces, key=weight, default=None)


def _load(embedder: str | os.PathLike) -> Any:
    from keras_arcface import pretrained
    from keras_arcface import serving

    path = Path(embedder)
    if (path / "saved_model.pb").is_file() or path.suffix in (".xml", ".tflite"):
        return serving.load_embedder(path)
    return pretrained.load(embedder)


def published_threshold(embedder: str | os.PathLike) -> float | None:
    """Returns the threshold of a published network or of a folder of `pretrained.save_preset`; None if unknown."""
    from keras_arcface.pretrained import preset_files

    path = Path(embedder)
    if str(embedder) in preset_files.names():
        thresholds = preset_files.get(str(embedder)).thresholds
    elif (path / preset_files.PRESET_FILE).is_file():
        thresholds = preset_files.read(path / preset_files.PRESET_FILE).thresholds
    else:
        return None
    return thresholds[0].threshold if thresholds else None


def _as_function(embedder: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function from uint8 images to unnormalized float32 embeddings."""
    from keras_arcface.evaluation import embed_images
    from keras_arcface.serving.client.face_client import FaceClient

    if isinstance(embedder, FaceClient):

        def embed_remotely(images: np.ndarray) -> np.ndarray:
            answer = embedder.embed(images)
            return answer.embedding * answer.norm[:, np.newaxis]

        return embed_remotely
    if not callable(embedder):
        raise ValueError(
            "embedder must be the name of a published network, a path, a Keras model, a FaceClient or a function. "
            f"Received: {embedder!r}"
        )
    return lambda images: embed_images(embedder, images, flip=False, batch_size=len(images), progress=False)
