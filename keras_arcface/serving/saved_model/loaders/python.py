"""Script that runs a SavedModel through TensorFlow's Python API, without access to Keras and this package.

python python.py SAVED_MODEL REQUESTS.npz OUTPUTS.npz
"""

import sys

import npz_requests

_HIDDEN = ("keras", "keras_arcface", "tf_keras")


class _HidingFinder:
    """Finder that does not find the hidden packages. An error instead of None would stop the import of TensorFlow."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in _HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)


def main():
    directory, source, target = sys.argv[1:]
    sys.meta_path = [_HidingFinder(finder) for finder in sys.meta_path]
    import tensorflow as tf

    model = tf.saved_model.load(directory)
    results = []
    for signature, inputs in npz_requests.load(source):
        if signature not in model.signatures:
            sys.exit(f"signature must be one of {sorted(model.signatures)}. Received: signature={signature!r}")
        outputs = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        values = {name: value.numpy() for name, value in outputs.items()}
        results.append((signature, {n: v.tolist() if v.dtype == object else v for n, v in values.items()}))
    imported = {name.split(".")[0] for name in sys.modules} & set(_HIDDEN)
    if imported:
        sys.exit(f"Keras and this package must not be imported. Received: {sorted(imported)}")
    npz_requests.save(target, results)


if __name__ == "__main__":
    main()
