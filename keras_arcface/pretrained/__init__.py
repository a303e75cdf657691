"""Published networks as embedders of this package, and embedders with a model card."""

from typing import TYPE_CHECKING, Any

from keras_arcface.pretrained.preset import Preset
from keras_arcface.pretrained.preset_files import presets

if TYPE_CHECKING:
    from keras_arcface.pretrained.insightface import load_insightface
    from keras_arcface.pretrained.loading import load
    from keras_arcface.pretrained.onnx_converter import load_onnx
    from keras_arcface.pretrained.saving import save_preset

__all__ = ["Preset", "load", "load_insightface", "load_onnx", "presets", "save_preset"]


def __getattr__(name: str) -> Any:
    """Imports what needs Keras on first access, so that the command line can list the presets without it."""
    if name not in __all__:
        raise AttributeError(f"module 'keras_arcface.pretrained' has no attribute {name!r}")
    from keras_arcface.pretrained import insightface
    from keras_arcface.pretrained import loading
    from keras_arcface.pretrained import onnx_converter
    from keras_arcface.pretrained import saving

    modules = {
        "load": loading,
        "load_insightface": insightface,
        "load_onnx": onnx_converter,
        "save_preset": saving,
    }
    return getattr(modules[name], name)
