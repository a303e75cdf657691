"""Publication of model versions for TensorFlow Serving, and configuration of the server."""
