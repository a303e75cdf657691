"""Exports an embedder as a SavedModel for TensorFlow Serving, and verifies the export."""
