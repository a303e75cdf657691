"""Scripts that run a SavedModel in a separate process.

`cpp.py` and `python.py` are executed, not imported. Importing them as modules of this package would load Keras, and the
verification must show that a SavedModel requires neither Keras nor this package.
"""
