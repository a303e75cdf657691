"""Installs the wheel into a new virtual environment and uses its command from photos to a served model.

    python tests/packaging/clean_environment.py --python python3.12 --extras demo,serving
    python tests/packaging/clean_environment.py --python ~/.pyenv/versions/3.13.0/bin/python --extras demo --demo

The wheel is built from the files of this repository, by an interpreter with `build` and `setuptools`. The environment
lies outside of the repository and is removed at the end. In it, `keras-arcface` converts a folder of images, trains two
steps, evaluates, exports and publishes. Then it asks tests/serving/server_double.py for the embeddings, and checks this
server. --demo also runs `keras-arcface demo`, which takes minutes. --lowest installs the lowest versions that setup.cfg
allows, with uv, and --tests runs tests of the repository against the installed package:

    python tests/packaging/clean_environment.py --python python3.11 --extras all --lowest --tests
"""

import argparse
import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from distributions import ROOT
from distributions import build
from distributions import clean_variables
from distributions import requirements
from distributions import run

FOLDER = Path(__file__).parent
TEST_TOOLS = ("hypothesis", "pillow", "pytest", "pytest-xdist", "requests", "scipy")
# Tests that together use every requirement and most of the package, in minutes.
COVERING = (
    "tests/cli",
    "tests/data/test_encoded_images.py",
    "tests/data/test_reader.py",
    "tests/data/test_writer.py",
    "tests/evaluation",
    "tests/layers/test_chunked.py",
    "tests/layers/test_every_head.py",
    "tests/pretrained/test_saving.py",
    "tests/recipes",
    "tests/serving/client/test_exported_model.py",
    "tests/serving/convert",
    "tests/serving/saved_model/test_export.py",
    "tests/serving/test_loading.py",
    "tests/test_models.py",
    "tests/test_pretrained.py",
    "tests/test_private_api.py",
    "tests/training/test_checkpoints.py",
    "tests/training/test_fine_tuning.py",
    "tests/training/test_sgd.py",
    "tests/training/test_training_log.py",
)
SHOWN = (
    "keras-arcface",
    "keras",
    "tensorflow",
    "numpy",
    "opencv-python-headless",
    "tensorflow-serving-api",
    "protobuf",
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter of the environment (default: this one)")
    parser.add_argument("--extras", default="demo,serving", help="extras to install (default: %(default)s)")
    parser.add_argument("--demo", action="store_true", help="also run the demo")
    parser.add_argument("--lowest", action="store_true", help="install the lowest versions, with uv")
    parser.add_argument(
        "--tests",
        nargs="*",
        metavar="PATH",
        help="also run these tests; without paths: those that cover most of the package",
    )
    parser.add_argument("--folder", type=Path, help="folder for everything, which is kept (default: a temporary one)")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keras_arcface-")))
        folder.mkdir(exist_ok=True)
        try:
            use(Environment(folder.resolve(), arguments), arguments)
        except (RuntimeError, AssertionError, OSError) as error:
            sys.exit(f"error: {error}")


class Environment:
    """A virtual environment with the installed wheel."""

    def __init__(self, folder, arguments):
        self.folder = folder
        self.variables = clean_variables(KERAS_HOME=str(folder / "keras"))
        self.bin = folder / "environment" / "bin"
        with step("build the wheel"):
            _, self.wheel = build(folder / "dist")
        python = shutil.which(Path(arguments.python).expanduser())
        if python is None:
            raise FileNotFoundError(f"--python must be an interpreter. Received: {arguments.python}")
        with step(f"install {self.wheel.name}[{arguments.extras}] on {python}"):
            run([Path(python).absolute(), "-m", "venv", folder / "environment"], self.variables, folder)
            if arguments.lowest:
                self.install_lowest(arguments.extras)
            else:
                self.install(f"{self.wheel}[{arguments.extras}]")
            self.python("-m", "pip", "check")

    def install(self, *requirements):
        self.python("-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)

    def install_lowest(self, extras):
        """Installs the lowest version of every requirement that has a wheel, and the package."""
        listed = self.folder / "requirements.txt"
        listed.write_text("\n".join(requirements(*extras.split(","))))
        uv = [shutil.which("uv") or Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--python"]
        resolution = ["--resolution", "lowest-direct", "--only-binary", ":all:"]
        run([*uv, self.bin / "python", *resolution, "--requirements", listed], self.variables, self.folder)
        self.install("--no-deps", self.wheel)

    def python(self, *arguments):
        return run([self.bin / "python", *arguments], self.variables, self.folder)

    def command(self, *arguments):
        """Runs `keras-arcface` and returns its standard output."""
        with step(f"keras-arcface {' '.join(map(str, arguments))}"):
            return run([self.bin / "keras-arcface", *arguments], self.variables, self.folder)

    @contextlib.contextmanager
    def server(self, base):
        """Serves the models of a folder by the test double, which uses the installed package. Returns its addresses."""
        script = ROOT / "tests" / "serving" / "server_double.py"
        process = subprocess.Popen(
            [self.bin / "python", script, base, "--grpc-port", "0", "--rest-port", "0"],
            env=self.variables,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield re.findall(r"\w+://[\d.:]+", process.stdout.readline())
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def step(name):
    """Prints the name and the time of a part."""
    start = time.perf_counter()
    print(name, end=" ", flush=True)
    yield
    print(f"({time.perf_counter() - start:.1f} s)", flush=True)


def use(environment, arguments):
    extras = set(arguments.extras.split(","))
    check_installation(environment)
    check_command(environment)
    publish_a_model(environment)
    if extras & {"serving", "demo", "all"}:
        ask_a_server(environment)
    if arguments.tests is not None:
        run_tests(environment, arguments.tests or COVERING)
    if arguments.demo:
        print(environment.command("demo", "--output", "demo"))
        assert list(environment.folder.glob("demo/**/saved_model.pb")), "The demo has not exported a model"
    print("passed")


def check_installation(environment):
    source = environment.python("-c", "import keras_arcface; print(keras_arcface.__file__)").strip()
    package = Path(source).parent
    assert environment.folder in package.parents, f"keras_arcface is imported from {source}"
    assert (package / "py.typed").is_file()
    for folder in ("recipes", "pretrained/presets"):
        assert list((package / folder).glob("*.toml")), f"The wheel has no {folder}"
    lines = environment.python("-m", "pip", "list", "--format", "freeze", "--disable-pip-version-check").splitlines()
    versions = dict(line.partition("==")[::2] for line in lines)
    print("  " + ", ".join(f"{name} {versions[name]}" for name in SHOWN if name in versions))


def check_command(environment):
    assert "COMMAND" in environment.command("--help")
    assert environment.python("-m", "keras_arcface", "--version") == environment.command("--version")
    assert "complete" in environment.command("--print-completion", "bash")
    found = json.loads(environment.command("info", "--json"))
    assert "packages" in found
    mistake = subprocess.run(
        [environment.bin / "keras-arcface", "check", "nowhere"],
        env=environment.variables,
        cwd=environment.folder,
        capture_output=True,
        text=True,
    )
    assert mistake.returncode == 1, mistake
    assert mistake.stderr.startswith("error: "), mistake.stderr
    assert "Traceback" not in mistake.stderr, mistake.stderr


def publish_a_model(environment):
    environment.python(FOLDER / "colored_faces.py", environment.folder)
    environment.command("convert", "faces", "tfrecord")
    environment.command("check", "tfrecord")
    # The network of the demo at half the size of its images, which compiles quickly.
    settings = ["--recipe", "orl", "--stem-strides", "2", "--batch-size", "8", "--steps", "2", "--verify", "pairs.npz"]
    environment.command("train", "--data", "tfrecord", *settings, "--output", "run")
    environment.command("evaluate", "run/embedder.keras", "--pairs", "pairs.npz", "--output", "evaluation")
    environment.command("export", "saved-model", "run/embedder.keras", "exported", "--pairs", "pairs.npz", "--mirror")
    environment.command("publish", "exported", "models/faces")
    environment.command("server-config", "config", "faces=models/faces")
    for file in ("run/recipe.toml", "exported/saved_model.pb", "models/faces/1/saved_model.pb"):
        assert (environment.folder / file).is_file(), f"{file} is absent"


def ask_a_server(environment):
    same, other = ["faces/person_0/0.png"] * 2, ["faces/person_0/0.png", "faces/person_1/0.png"]
    with environment.server("models") as addresses:
        assert len(addresses) == 2, f"The server has not started. Its addresses: {addresses}"
        for address in addresses:
            assert "not the same" not in environment.command("ask", address, *same, "--threshold", "0.999")
            assert "not the same" in environment.command("ask", address, *other, "--threshold", "1")
        print(environment.command("serve-check", *addresses, "--export", "models/faces"))


def run_tests(environment, tests):
    """Runs tests of the repository. `pytest`, unlike `python -m pytest`, imports the installed package."""
    with step(f"pytest {' '.join(tests)}"):
        environment.install(*TEST_TOOLS)
        # Old releases use what new ones of their own requirements deprecate, so warnings are no errors here.
        options = ["-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "-W", "default"]
        print(run([environment.bin / "pytest", *options, *tests], environment.variables, ROOT))


if __name__ == "__main__":
    main()
