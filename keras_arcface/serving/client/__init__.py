"""Client of an exported embedder on TensorFlow Serving, over gRPC or REST."""
