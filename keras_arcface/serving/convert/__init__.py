"""Exports an embedder to ONNX, OpenVINO and LiteRT."""
