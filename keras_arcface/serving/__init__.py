"""From an embedder to something that a server answers with."""

from keras_arcface.serving.checking import check_saved_model
from keras_arcface.serving.export import export_saved_model

__all__ = ["check_saved_model", "export_saved_model"]
