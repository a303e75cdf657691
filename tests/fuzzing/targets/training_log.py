"""Continues a `steps.csv`, and reads its columns for the plot."""

import tempfile
from pathlib import Path

from fuzzing.named_errors import named_errors

from keras_arcface.training import training_log
from keras_arcface.training import training_plot

COVERS = ("keras_arcface/training/training_log.py", "keras_arcface/training/training_plot.py")
ALLOWED = (ValueError,)
MAX_MIB = 64

_PATH = Path(tempfile.mkdtemp()) / "steps.csv"
_ROWS = ({"step": 11, "loss": 0.25}, {"step": 12, "loss": 0.125, "accuracy": 1.0})


def seeds():
    return [b"step,loss\r\n10,0.5\r\n20,0.25\r\n", b'step,"a,b"\r\n1,\r\n2,0.5\r\n3,"1', b"step\n", b""]


def run(data):
    _PATH.write_bytes(data)
    with named_errors(_PATH, 2000):
        _, rows = training_log.read_log(_PATH)
        training_log._remove_rows_after(_PATH, 10)
        kept = [row for row in rows if int(row["step"]) <= 10]
        for row in _ROWS:
            training_log._append_row(_PATH, row)
        continued = training_log.read_log(_PATH)[1]
        assert [{name: row[name] for name in old} for row, old in zip(continued, kept, strict=False)] == kept
        assert [row["step"] for row in continued[len(kept) :]] == ["11", "12"]
        training_plot._read_columns(_PATH)
