"""Export of an embedder as a SavedModel for TensorFlow Serving, and verification of the export."""
