"""Reads the `preset.toml` of `save_preset`, and writes what was read."""

import tempfile
from pathlib import Path

from fuzzing.named_errors import named_errors

from keras_arcface.pretrained import model_card
from keras_arcface.pretrained import preset_files

COVERS = ("keras_arcface/pretrained/preset.py", "keras_arcface/pretrained/preset_files.py")
ALLOWED = (ValueError,)
MAX_SECONDS = 2
MAX_MIB = 64

_PATH = Path(tempfile.mkdtemp(), "preset.toml")


def seeds():
    published = preset_files.presets().values()
    return [*(preset_files.to_toml(preset).encode() for preset in published), b"a = [" * 2000, b"dim = nan"]


def run(data):
    _PATH.write_bytes(data)
    with named_errors(_PATH):
        preset = preset_files.read(_PATH)
    assert model_card.model_card(preset)
    _PATH.write_text(preset_files.to_toml(preset))
    assert preset_files.read(_PATH) == preset
