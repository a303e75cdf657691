"""Detection of the instructions of the CPU."""

from pathlib import Path

import pytest

from keras_arcface import _processor


@pytest.mark.parametrize(
    ("flags", "expected"), [("avx2 avx512_bf16", True), ("avx2 amx_bf16 amx_tile", True), ("avx2 avx512f", False)]
)
def test_bfloat16(flags, expected, monkeypatch):
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}")
    _processor.has_bfloat16.cache_clear()
    try:
        assert _processor.has_bfloat16() is expected
    finally:
        _processor.has_bfloat16.cache_clear()


def test_without_linux_there_is_none(monkeypatch):
    def missing(path):
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", missing)
    _processor.has_bfloat16.cache_clear()
    try:
        assert not _processor.has_bfloat16()
    finally:
        _processor.has_bfloat16.cache_clear()
