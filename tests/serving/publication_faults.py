"""Stores of `fault_injection.py`: versions in a base path, the server's configuration, and exported files."""

import contextlib

from fault_injection import Store
from publication_histories import FILES
from publication_histories import make_model

from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.versions import versions


def models_in(base):
    """Returns the models of all versions, from the oldest to the newest, with "incomplete" for a part of a model."""
    models = []
    for number in versions(base):
        texts = {path.read_text() if (path := base / str(number) / file).is_file() else "" for file in FILES}
        models.append(texts.pop() if len(texts) == 1 else "incomplete")
    return models


class Publication(Store):
    """A third version, whose publication removes the first one."""

    name = "publication"

    def prepare(self, directory):
        for name in ("first", "second"):
            publish(make_model(directory / name, name), directory / "faces", check=False)
        make_model(directory / "third", "third")

    def run(self, directory):
        publish(directory / "third", directory / "faces", keep=2, check=False)

    def state(self, directory):
        models = models_in(directory / "faces")
        if models[-1:] == ["third"]:  # also published again, after an error that says that it is published
            return "new" if set(models) <= {"first", "second", "third"} else str(models)
        return "old" if models == ["first", "second"] else str(models)

    def litter(self, directory):
        # A removed version remains under a temporary name if its renaming could not be flushed to the disk.
        copies = [path.name for path in directory.glob(f"faces/.tmp-*/{FILES[0]}") if path.read_text() == "third"]
        return [*super().litter(directory), *copies]


class FirstPublication(Store):
    """A version in a base path that does not exist."""

    name = "first publication"

    def prepare(self, directory):
        make_model(directory / "first", "first")

    def run(self, directory):
        publish(directory / "first", directory / "faces", check=False)

    def state(self, directory):
        models = models_in(directory / "faces") if (directory / "faces").exists() else []
        return "old" if not models else "new" if set(models) == {"first"} else str(models)

    def litter(self, directory):
        return [*super().litter(directory), *(path.name for path in directory.glob("faces/.tmp-*"))]


class Rollback(Store):
    """A base path whose newest version is withdrawn."""

    name = "rollback"

    def prepare(self, directory):
        for name in ("first", "second"):
            publish(make_model(directory / name, name), directory / "faces", check=False)

    def run(self, directory):
        rollback(directory / "faces")

    def rerun(self, directory):
        with contextlib.suppress(ValueError):  # the version is withdrawn already
            rollback(directory / "faces", to=1)

    def state(self, directory):
        models = models_in(directory / "faces")
        return {("first", "second"): "old", ("first",): "new"}.get(tuple(models), str(models))


STORES = [Publication(), FirstPublication(), Rollback()]
