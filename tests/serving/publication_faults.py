"""Stores of `fault_injection.py`: versions in a base path, the server's configuration, and exported files."""

import contextlib
import os

from fault_injection import Store
from publication_histories import FILES
from publication_histories import make_model

from keras_arcface.serving.deploy.configuration import write_configuration
from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.served_models import ServedModel
from keras_arcface.serving.deploy.versions import versions
from keras_arcface.serving.unfinished import move_directory
from keras_arcface.serving.unfinished import move_files
from keras_arcface.serving.unfinished import unfinished_directory


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
    """Configuration files of a server, which are replaced by those for other ports.

    Each file is replaced atomically, and the scripts that start a server are the last ones.
    """

    name = "server configuration"

    def prepare(self, directory):
        self._write(directory, 8500)
        self._old = self._contents(directory)

    def run(self, directory):
        self._write(directory, 9500)

    def state(self, directory):
        contents = self._contents(directory)
        is_complete = all(contents[name].endswith("\n") for name in self._old) and set(contents) >= set(self._old)
        is_new = all("9500" in contents[name] for name in ("serve.sh", "serve_docker.sh", "docker-compose.yml"))
        return "damaged" if not is_complete else "new" if is_new else "old"

    def _write(self, directory, port):
        write_configuration(directory / "config", [ServedModel("faces", "/srv/faces")], grpc_port=port)

    def _contents(self, directory):
        # The paths in the files are those of the template or of the run.
        return {path.name: path.read_text() for path in (directory / "config").iterdir()}


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
