"""Answers with a SavedModel through TensorFlow in Python, where neither Keras nor this package can be imported.

python python.py SAVED_MODEL REQUESTS.npz ANSWERS.npz
"""

import sys

import npz_requests as arrays

_HIDDEN = ("keras", "keras_arcface", "tf_keras")


class _Hiding:
    """A finder that knows nothing of what is hidden. One that raised would break TensorFlow's own search for Keras."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in _HIDDEN:
            return None
        return self._finder.find_spec(name, path, target)


def main():
    directory, source, target = sys.argv[1:]
    sys.meta_path = [_Hiding(finder) for finder in sys.meta_path]
    import tensorflow as tf

    model = tf.saved_model.load(directory)
    answers = []
    for signature, inputs in arrays.load(source):
        if signature not in model.signatures:
            sys.exit(f"There is no signature {signature!r}, only {sorted(model.signatures)}")
        outputs = model.signatures[signature](**{name: tf.constant(value) for name, value in inputs.items()})
        values = {name: value.numpy() for name, value in outputs.items()}
        answers.append((signature, {n: v.tolist() if v.dtype == object else v for n, v in values.items()}))
    imported = {name.split(".")[0] for name in sys.modules} & set(_HIDDEN)
    if imported:
        sys.exit(f"{sorted(imported)} were imported")
    arrays.save(target, answers)


if __name__ == "__main__":
    main()
