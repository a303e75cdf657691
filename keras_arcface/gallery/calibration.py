"""Stored thresholds of a gallery, and their use in a search."""

import abc
import warnings
from typing import Any, NamedTuple

import numpy as np

from keras_arcface._arguments import check
from keras_arcface._messages import short
from keras_arcface.gallery.enrollment import check_name
from keras_arcface.gallery.errors import StaleThresholdWarning
from keras_arcface.gallery.thresholds import IdentificationThreshold
from keras_arcface.gallery.thresholds import identification_threshold


class Match(NamedTuple):
    """Person found by a search.

    Attributes:
        person: name of the person.
        score: cosine of the probe and the template of the person, in [-1, 1].

    Examples:
        >>> person, score = Match("ann", 0.75)
        >>> person
        'ann'
    """

    person: str
    score: float


class CalibratedSearch(abc.ABC):
    """Base class of galleries, which adds thresholds to a search."""

    @property
    @abc.abstractmethod
    def _place(self) -> str:
        """Name of the gallery in errors."""

    @abc.abstractmethod
    def __len__(self) -> int:
        """Returns the number of people."""

    @abc.abstractmethod
    def search(self, embeddings: Any, top_k: int = 5, threshold: float | str | None = None) -> list[list[Match]]:
        """Finds the people who are most similar to each probe."""

    @abc.abstractmethod
    def thresholds(self) -> dict[str, IdentificationThreshold]:
        """Returns the stored thresholds by their names."""

    @abc.abstractmethod
    def _store_threshold(self, name: str, threshold: IdentificationThreshold) -> None:
        """Stores a threshold, and replaces one of the same name."""

    def calibrate(self, impostors: Any, fpir: float, name: str | None = None) -> IdentificationThreshold:
        """Stores a threshold for a false positive identification rate (FPIR), for `search(threshold=name)`.

        Args:
            impostors: `(n, dim)` embeddings of people who are not in the gallery, best one of each person, at least
                `1 / fpir`. They should resemble those who will be searched: cameras, age, origin.
            fpir: the share of searches for people outside the gallery that may return somebody, in (0, 1].
            name: name of the threshold, which may exist already; None for `fpir=RATE`, such as `"fpir=0.01"`.

        Returns:
            The threshold, with the confidence interval of its rate.

        Raises:
            EmbedderMismatchError: if the embeddings have another dimension than those in the gallery.
            ValueError: if the gallery is empty, there are fewer than `1 / fpir` embeddings, an embedding is zero or
                not finite (the error names its row), or an argument is not valid.

        Examples:
            >>> rng = np.random.default_rng(0)
            >>> with Gallery.open("calibrated.db") as gallery:
            ...     _ = gallery.enroll_many((f"person {n}", rng.normal(size=(1, 32)), None) for n in range(100))
            ...     result = gallery.calibrate(rng.normal(size=(1000, 32)), fpir=0.01)
            ...     gallery.search(rng.normal(size=(1, 32)), threshold="fpir=0.01")
            [[]]
            >>> result.accepted, result.impostors, result.gallery_size
            (10, 1000, 100)
        """
        name = f"fpir={fpir:g}" if name is None else check_name("name", name)
        size = len(self)
        best = [matches[0].score for matches in self.search(impostors, top_k=1) if matches]
        if not best:
            raise ValueError(f"{self._place} must have at least one person. Received: none")
        result = identification_threshold(best, fpir, size)
        self._store_threshold(name, result)
        return result

    def _resolve_threshold(self, threshold: float | str | None) -> float:
        if threshold is None:
            return -np.inf
        if not isinstance(threshold, str):
            check("threshold", threshold, -1 <= threshold <= 1, "a cosine in [-1, 1]")
            return float(threshold)
        stored = self.thresholds()
        if threshold not in stored:
            raise ValueError(
                f"threshold must be a cosine or the name of a threshold that `calibrate` stored in {self._place}: "
                f"{short(sorted(stored))}. Received: threshold={short(threshold)}"
            )
        found = stored[threshold]
        if found.is_stale(len(self)):
            warnings.warn(
                f"The threshold {short(threshold)} was calibrated for {found.gallery_size:,} people, and {self._place} "
                f"now has {len(self):,}. Its false positive identification rate is another one; call `calibrate` again",
                StaleThresholdWarning,
                stacklevel=3,
            )
        return found.threshold
