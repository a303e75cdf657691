"""Conversion, embedding and alignment on Apache Beam: equal files, skipped records, failures and killed workers."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import encode
from conftest import make_face
from faces.detectors import SquareDetector
from faces.detectors import photo_with_squares

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import faces
from keras_arcface._shard_runner import JOB_FILE

apache_beam = pytest.importorskip("apache_beam")

from keras_arcface.beam import BeamRunner  # noqa: E402
from keras_arcface.beam import runner as beam_runner  # noqa: E402

SHA256 = "0123456789abcdef" * 4


def content_of(directory):
    """Returns the content of all files except for locks."""
    paths = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith("lock")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(paths)}


def embed(images):
    return np.asarray(images, np.float32).reshape(len(images), -1)[:, :24] + 1


def test_a_dataset_has_the_same_bytes(face_folder, tmp_path):
    source = data.ImageFolder(face_folder)
    local = data.write_dataset(source, tmp_path / "local", examples_per_shard=3)
    assert data.write_dataset(source, tmp_path / "beam", examples_per_shard=3, runner=BeamRunner()) == local
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")
    data.check_dataset(tmp_path / "beam")


def test_embeddings_have_the_same_bytes(face_folder, tmp_path):
    pytest.importorskip("pyarrow")
    options = {"images_per_shard": 5, "progress": False}
    for name, runner in (("local", None), ("beam", BeamRunner())):
        evaluation.write_embeddings(
            data.ImageFolder(face_folder), tmp_path / name, embed, SHA256, **options, runner=runner
        )
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")
    assert len(content_of(tmp_path / "beam")) == 4


@pytest.fixture
def photos(tmp_path):
    """Two people with two photos each, one of which is damaged."""
    for person in ("ann", "bob"):
        (tmp_path / "photos" / person).mkdir(parents=True)
        for number in range(2):
            photo = photo_with_squares((100, 60 + number, 120), (20, 20, 30))
            (tmp_path / "photos" / person / f"{number}.png").write_bytes(encode(photo))
    (tmp_path / "photos" / "bob" / "0.png").write_bytes(b"damaged")
    return tmp_path / "photos"


def align(photos, output, runner=None):
    return faces.align_folder(photos, output, SquareDetector(), progress=False, runner=runner)


def test_aligned_faces_have_the_same_bytes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(faces.aligned_folder, "_PHOTOS_PER_BLOCK", 3)
    local = align(photos, tmp_path / "local")
    found = align(photos, tmp_path / "beam", BeamRunner())
    assert found == local._replace(directory=tmp_path / "beam")
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")


def test_aligned_blocks_of_a_failed_run_are_kept(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(faces.aligned_folder, "_PHOTOS_PER_BLOCK", 1)
    align(photos, tmp_path / "local")

    class Failing(BeamRunner):
        def write_shards(self, write, read, job, shards, progress):
            super().write_shards(write, read, job, shards[:2], progress)
            raise RuntimeError("the cluster is gone")

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        align(photos, tmp_path / "beam", Failing())
    numbers = []

    class Counting(BeamRunner):
        def write_shards(self, write, read, job, shards, progress):
            numbers.extend(number for number, _ in shards if read(job, number) is None)
            super().write_shards(write, read, job, shards, progress)

    align(photos, tmp_path / "beam", Counting())
    assert numbers == [2, 3]
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")


def test_skipped_records_are_a_side_output_with_name_and_reason(face_folder, tmp_path):
    (face_folder / "person_1" / "damaged.jpg").write_bytes(b"damaged")
    lines = tmp_path / "skipped"
    sink = apache_beam.Map(json.dumps) | apache_beam.io.WriteToText(str(lines), shard_name_template="")
    runner = BeamRunner(skipped=sink)
    info = data.write_dataset(data.ImageFolder(face_folder), tmp_path / "beam", damaged="skip", runner=runner)
    record = json.loads(lines.read_text())
    assert record == {"directory": str(tmp_path / "beam"), "shard": 0, "message": info.skipped[0]}
    assert "person_1/damaged.jpg is not a readable image" in record["message"]


def test_a_damaged_image_is_named_and_the_run_can_continue(face_folder, tmp_path):
    damaged = face_folder / "person_1" / "damaged.jpg"
    damaged.write_bytes(b"damaged")
    source = data.ImageFolder(face_folder)
    with pytest.raises(RuntimeError, match=r"must not fail.*person_1/damaged\.jpg is not a readable image"):
        data.write_dataset(source, tmp_path / "beam", examples_per_shard=1, runner=BeamRunner())
    assert not (tmp_path / "beam" / JOB_FILE).exists()
    data.write_dataset(source, tmp_path / "beam", examples_per_shard=1, damaged="skip")
    data.write_dataset(source, tmp_path / "local", examples_per_shard=1, damaged="skip")
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")


class Interrupted(data.ImageFolder):
    """A folder whose image 7 cannot be read until `repaired` exists."""

    repaired = None

    def __getitem__(self, index):
        if index == 7 and not self.repaired.exists():
            raise OSError("the disk is gone")
        return super().__getitem__(index)


def test_finished_shards_are_not_written_again(face_folder, tmp_path):
    source = Interrupted(face_folder)
    source.repaired = tmp_path / "repaired"
    with pytest.raises(RuntimeError, match="the disk is gone"):
        data.write_dataset(source, tmp_path / "beam", examples_per_shard=1, runner=BeamRunner())
    source.repaired.touch()
    finished = {path: path.stat().st_ino for path in (tmp_path / "beam").glob("*.tfrecord")}
    assert 0 < len(finished) < 12
    data.write_dataset(source, tmp_path / "beam", examples_per_shard=1, runner=BeamRunner())
    assert {path: path.stat().st_ino for path in finished} == finished
    data.write_dataset(source, tmp_path / "whole", examples_per_shard=1)
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "whole")


class NoSharedFiles:
    """A runner whose workers write to another disk."""

    def write_shards(self, write, read, job, shards, progress):
        pass

    def __repr__(self):
        return "<NoSharedFiles>"


def test_missing_shards_are_noticed(face_folder, tmp_path):
    message = r"out must contain all shards after the run of <NoSharedFiles>.*Received: 4 of 4 shards are missing"
    with pytest.raises(RuntimeError, match=message):
        data.write_dataset(
            data.ImageFolder(face_folder), tmp_path / "out", examples_per_shard=3, runner=NoSharedFiles()
        )
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_a_worker_of_an_earlier_run_does_not_write(tmp_path):
    (tmp_path / JOB_FILE).write_bytes(b"the job of a later run")
    step = beam_runner._WriteShard(str(tmp_path / JOB_FILE), SHA256)
    with pytest.raises(ValueError, match="must be the file of this pipeline"):
        list(step.process(0))
    (tmp_path / JOB_FILE).unlink()
    with pytest.raises(FileNotFoundError, match="must be on a file system that all workers share"):
        list(step.process(0))


def test_a_repeated_part_of_a_pipeline_leaves_the_shard_unchanged(face_folder, tmp_path):
    """A runner may run the same part of a pipeline twice, after a failure or to be faster."""

    class Twice(BeamRunner):
        def write_shards(self, write, read, job, shards, progress):
            super().write_shards(write, read, job, shards, progress)
            before = {number: job.path(number).stat().st_ino for number, _ in shards}
            super().write_shards(write, read, job, shards, progress)
            assert {number: job.path(number).stat().st_ino for number, _ in shards} == before

    info = data.write_dataset(data.ImageFolder(face_folder), tmp_path / "out", examples_per_shard=3, runner=Twice())
    assert info.num_examples == 12


def test_options_must_be_a_list():
    with pytest.raises(TypeError, match="options must be a list of texts"):
        BeamRunner("--runner=FlinkRunner")


SLOW_IMAGES = """
import sys, time
from keras_arcface import data
from keras_arcface.beam import BeamRunner

class SlowFolder(data.ImageFolder):
    def __getitem__(self, index):
        time.sleep(0.1)
        return super().__getitem__(index)

def convert(source, output):
    options = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    data.write_dataset(SlowFolder(source), output, examples_per_shard=1, runner=BeamRunner(options))
"""


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_the_rerun_completes(tmp_path):
    for person in range(10):
        (tmp_path / "faces" / f"person_{person}").mkdir(parents=True)
        for image in range(4):
            path = tmp_path / "faces" / f"person_{person}" / f"{image}.jpg"
            path.write_bytes(encode(make_face(person, image), ".jpg"))
    (tmp_path / "slow_images.py").write_text(SLOW_IMAGES)
    out = tmp_path / "out"
    command = f"import slow_images; slow_images.convert({str(tmp_path / 'faces')!r}, {str(out)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "-c", command], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 120
        while len(list(out.glob("*.tfrecord"))) < 4:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(workers_of(process.pid)[-1], signal.SIGKILL)
        _, error = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert "RuntimeError: The pipeline of Apache Beam that writes to" in error
    assert "Worker subprocess exited with return code" in error
    remaining = len(list(out.glob("*.tfrecord")))
    assert 4 <= remaining < 40
    assert not (out / "dataset.json").exists()
    data.write_dataset(data.ImageFolder(tmp_path / "faces"), tmp_path / "whole", examples_per_shard=1)
    done = subprocess.run([sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shards = {name: content for name, content in content_of(out).items() if name.endswith(".tfrecord")}
    assert len(shards) == 40
    whole = content_of(tmp_path / "whole")
    assert shards == {name: whole[name] for name in shards}


def workers_of(launcher):
    """Returns the ids of Beam's worker processes of a session."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    command = file.read()
                is_worker = b"sdk_worker_main" in command and not command.startswith(b"/bin/sh")
                if is_worker and os.getsid(int(entry)) == launcher:
                    found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                pass
    return sorted(found)


@pytest.mark.slow
def test_a_job_service_with_a_pool_of_workers_writes_the_same(face_folder, tmp_path):
    """Flink and Spark run pipelines through the same interfaces: a job service, and external workers."""
    pytest.importorskip("grpc")
    from apache_beam.runners.portability import local_job_service
    from apache_beam.runners.worker import worker_pool_main

    source = data.ImageFolder(face_folder)
    data.write_dataset(source, tmp_path / "local", examples_per_shard=3)
    environment = {**os.environ, "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    address, pool = worker_pool_main.BeamFnExternalWorkerPoolServicer.start(use_process=True)
    service = local_job_service.LocalJobServicer(str(tmp_path / "staging"))
    port = service.start_grpc_server()
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("PATH", "PYTHONPATH"):
                patch.setenv(name, environment[name])
            options = ["--runner=PortableRunner", f"--job_endpoint=localhost:{port}"]
            options += ["--environment_type=EXTERNAL", f"--environment_config={address}"]
            data.write_dataset(source, tmp_path / "beam", examples_per_shard=3, runner=BeamRunner(options))
    finally:
        service.stop()
        pool.stop(0)
    assert content_of(tmp_path / "beam") == content_of(tmp_path / "local")
