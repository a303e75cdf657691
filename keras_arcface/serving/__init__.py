"""From an embedder to something that a server answers with."""

from keras_arcface.serving.export import export_saved_model

__all__ = ["export_saved_model"]
