"""Publishes versions of a model for TensorFlow Serving, and configures and starts the server."""
