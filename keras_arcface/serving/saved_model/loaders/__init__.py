"""Ways to answer with a SavedModel in a process of its own, for checking it as a server would find it.

`cpp.py` and `python.py` are run as scripts, not imported: importing this package would load Keras, and what they
show is that a SavedModel wants neither Keras nor this package.
"""
