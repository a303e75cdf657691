"""From an embedder to something that a server answers with, and the client that asks it."""

from keras_arcface.serving.batches import Embeddings
from keras_arcface.serving.checking import check_saved_model
from keras_arcface.serving.client import FaceClient
from keras_arcface.serving.errors import ServingError
from keras_arcface.serving.export import export_saved_model

__all__ = ["check_saved_model", "export_saved_model", "FaceClient", "Embeddings", "ServingError"]
