"""Stores of `fault_injection.py`: versions in a base path, the server's configuration, and exported files."""

import contextlib
import os

from fault_injection import Store
from publication_histories import FILES
from publication_histories import make_model

from keras_arcface._unfinished import move_directory
from keras_arcface._unfinished import move_files
from keras_arcface._unfinished import unfinished_directory
from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.served_models import ServedModel
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


class ServerConfiguration(Store):
    """Configuration files of a server, which are replaced by those for another model and port.

    Each file is replaced atomically, in the order of `Configuration.files`: the scripts that start a server are the
    last ones, so that a new script never starts a server with old settings.
    """

    name = "server configuration"
    may_be_mixed = True

    def prepare(self, directory):
        self._template = directory
        self._new = self._contents(directory, self._write(directory, 9500))
        self._old = self._contents(directory, self._write(directory, 8500))

    def run(self, directory):
        self._write(directory, 9500)

    def state(self, directory):
        found = self._contents(directory, self._old)
        states = []
        for name, content in found.items():
            if content not in (self._old[name], self._new[name]):
                return f"damaged {name}"
            if self._old[name] != self._new[name]:
                states.append("new" if content == self._new[name] else "old")
        if len(set(states)) == 1:
            return states[0]
        return "mixed" if states == sorted(states) else f"a new file after an old one: {states}"

    def _write(self, directory, port):
        models = [ServedModel("faces", f"/srv/{port}/faces")]
        return [path.name for path in write_configuration(directory / "config", models, grpc_port=port).files]

    def _contents(self, directory, names):
        """Returns the contents without the path of the directory, which differs between the template and the run."""
        contents = {}
        for name in names:
            path = directory / "config" / name
            text = path.read_text() if path.exists() else ""
            contents[name] = text.replace(str(directory), "").replace(str(self._template), "")
        return contents


class ExportedFiles(Store):
    """File of a model that is exported to a runtime."""

    name = "exported file"

    def run(self, directory):
        path = directory / "model.onnx"
        with unfinished_directory(path) as unfinished:
            (unfinished / path.name).write_text("a model")
            move_files(unfinished, path)

    def rerun(self, directory):
        with contextlib.suppress(FileExistsError):
            self.run(directory)

    def state(self, directory):
        path = directory / "model.onnx"
        return "old" if not path.exists() else "new" if path.read_text() == "a model" else "damaged"

    def litter(self, directory):
        return [name for name in os.listdir(directory) if name != "model.onnx"]


class ExportedSavedModel(Store):
    """SavedModel that is moved to its final path."""

    name = "exported SavedModel"

    def run(self, directory):
        with unfinished_directory(directory / "exported") as unfinished:
            make_model(unfinished, "model")
            move_directory(unfinished, directory / "exported")

    def rerun(self, directory):
        with contextlib.suppress(OSError):  # the directory is not empty
            self.run(directory)

    def state(self, directory):
        models = {file.read_text() for file in directory.glob("exported/**/*") if file.is_file()}
        return "old" if not models else "new" if models == {"model"} else "damaged"

    def litter(self, directory):
        return [name for name in os.listdir(directory) if name != "exported"]


STORES = [
    *(Publication(), FirstPublication(), Rollback()),
    *(ServerConfiguration(), ExportedFiles(), ExportedSavedModel()),
]
