"""Errors and warnings of galleries."""


class GalleryFileError(ValueError):
    """A file is not a gallery, has another version, or is damaged. The message names it.

    Examples:
        >>> Gallery.open("photos.csv")
        Traceback (most recent call last):
        GalleryFileError: photos.csv must be the undamaged file of a gallery. Received: file is not a database
    """


class EmbedderMismatchError(ValueError):
    """Embeddings are not from the embedder of a gallery: its checksum or the dimension differs.

    Examples:
        >>> with Gallery.open("people.db") as gallery:
        ...     gallery.enroll("ann", [[1.0, 0.1]])
        ...     gallery.enroll("bob", [[1.0, 0.1, 0.2]])
        Traceback (most recent call last):
        EmbedderMismatchError: embeddings must have the dimension of people.db, 2. Received: dimension 3
    """


class UnknownPersonError(LookupError):
    """A person, or an image of a person, is not in a gallery. The message names it.

    Examples:
        >>> with Gallery.open("empty.db") as gallery:
        ...     gallery.remove("ann")
        Traceback (most recent call last):
        UnknownPersonError: person must be one of the 0 people in empty.db. Received: person='ann'
    """


class StaleThresholdWarning(UserWarning):
    """A threshold was calibrated for a gallery of another size.

    Examples:
        >>> import warnings
        >>> with Gallery.open("growing.db") as gallery:
        ...     _ = gallery.enroll("ann", [[1.0, 0.1]])
        ...     _ = gallery.calibrate([[0.0, 1.0]], fpir=1.0)
        ...     _ = gallery.enroll("bob", [[0.5, 1.0]])
        ...     with warnings.catch_warnings(record=True, action="always") as caught:
        ...         _ = gallery.search([[1.0, 0.0]], threshold="fpir=1")
        >>> caught[0].category.__name__
        'StaleThresholdWarning'
    """
