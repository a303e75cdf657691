"""Check that an error names the file, shared by targets."""

import contextlib
from pathlib import Path


@contextlib.contextmanager
def named_errors(path: Path, limit: int = 1000):
    """Raises an AssertionError for a ValueError without the path, or with a text longer than `limit`."""
    try:
        yield
    except ValueError as error:
        text = str(error)
        if str(path) not in text or len(text) > limit:
            raise AssertionError(f"expected an error that names {path} in at most {limit} characters") from error
        raise
