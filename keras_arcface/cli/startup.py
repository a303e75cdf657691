"""Import of TensorFlow without the messages that it prints on a machine without a GPU."""

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

# Printed to the standard error before TensorFlow reads TF_CPP_MIN_LOG_LEVEL.
_EXPECTED = re.compile(
    r"WARNING: All log messages before absl::InitializeLog\(\)"
    r"|Could not find cuda drivers on your machine"
    r"|failed call to cuInit: (INTERNAL: CUDA error: Failed call to cuInit: )?UNKNOWN ERROR \(303\)"
)


def load_tensorflow() -> None:
    """Imports TensorFlow and finds its devices. A command calls it before it imports the rest of the package."""
    if "tensorflow" in sys.modules:
        return
    with _filtered_stderr():
        import tensorflow as tf

        tf.config.list_physical_devices()


@contextlib.contextmanager
def _filtered_stderr() -> Iterator[None]:
    """Drops the expected lines from what this process, including its C++ code, writes to the standard error."""
    try:
        descriptor = sys.stderr.fileno()
    except (AttributeError, OSError):  # it has no file descriptor, as in a notebook
        yield
        return
    sys.stderr.flush()
    original = os.dup(descriptor)
    with tempfile.TemporaryFile() as captured:
        os.dup2(captured.fileno(), descriptor)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, descriptor)
            os.close(original)
            captured.seek(0)
            for line in captured.read().decode("utf-8", "replace").splitlines(keepends=True):
                if not _EXPECTED.search(line):
                    sys.stderr.write(line)
