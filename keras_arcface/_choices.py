"""Choices that the library and the command line share. This file imports nothing, so that `--help` is fast."""

# Alignments that a dataset can record. "five_points" is the alignment of `data.align`.
ALIGNMENTS = ("five_points", "none")

# Layers between the feature map of a backbone and the embedding.
NECKS = ("E", "linear", "BNNeck", "LayerNorm")

# Devices to train on, and the precision of the computation.
STRATEGIES = ("auto", "mirrored", "one-device", "jax")
PRECISIONS = ("auto", "float32", "mixed_float16", "mixed_bfloat16", "onednn_bfloat16")

# Precisions of the exported files.
ONNX_PRECISIONS = ("float32", "float16", "int8")
OPENVINO_PRECISIONS = ("float32", "float16", "bfloat16", "int8")
LITERT_PRECISIONS = ("float32", "float16", "int8")

# Device of a server, and the sizes to which it pads a batch.
DEVICES = ("cpu", "gpu")
BATCH_SIZES = (1, 2, 4, 8, 16, 32)

# Types of stored embeddings.
EMBEDDING_DTYPES = ("float32", "int8")

# Methods of `gallery.cluster`.
CLUSTERING_METHODS = ("agglomerative", "hdbscan")
