import dataclasses
import errno
import functools
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
import tensorflow as tf
from conftest import encode
from conftest import make_face
from tqdm import tqdm

from keras_arcface._locks import FileLock
from keras_arcface.data import ImageFolder
from keras_arcface.data import ImageList
from keras_arcface.data import Record
from keras_arcface.data import Source
from keras_arcface.data import check_dataset
from keras_arcface.data import drop_small_classes
from keras_arcface.data import load_dataset
from keras_arcface.data import load_info
from keras_arcface.data import schema
from keras_arcface.data import split_identities
from keras_arcface.data import tfrecord
from keras_arcface.data import write_dataset
from keras_arcface.data.info import Shard


def read_records(directory, info):
    serialized = [record for shard in info.shards for record in tf.data.TFRecordDataset(str(directory / shard.file))]
    images, labels, names = schema.parse(tf.stack(serialized))
    return sorted(zip(images.numpy(), labels.numpy().tolist(), map(bytes.decode, names.numpy()), strict=True))


def test_every_image_is_written_unchanged(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    info = write_dataset(faces, tmp_path / "out", examples_per_shard=5)
    assert read_records(tmp_path / "out", info) == sorted(tuple(record) for record in faces)


def test_dataset_json_describes_the_shards(face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", examples_per_shard=5)
    assert load_info(tmp_path / "out") == info
    assert (info.num_classes, info.num_examples, info.image_size) == (3, 12, (32, 32))
    assert info.class_names == ("person_0", "person_1", "person_2")
    assert [shard.num_examples for shard in info.shards] == [4, 4, 4]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000-of-00003.tfrecord",
        "00001-of-00003.tfrecord",
        "00002-of-00003.tfrecord",
        "dataset.json",
    ]
    for shard in info.shards:
        content = (tmp_path / "out" / shard.file).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard.num_bytes, shard.sha256)


def test_alignment_is_recorded_and_never_inferred(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    for alignment in (None, "none", "five_points"):
        write_dataset(faces, tmp_path / str(alignment), alignment=alignment)
        assert load_info(tmp_path / str(alignment)).alignment == alignment
    with pytest.raises(ValueError, match='alignment must be "five_points", "none" or None'):
        write_dataset(faces, tmp_path / "eyes", alignment="eyes")
    assert not (tmp_path / "eyes").exists()


def test_the_seed_determines_the_shuffle(face_folder, tmp_path):
    def labels_in_order(name, seed):
        info = write_dataset(ImageFolder(face_folder), tmp_path / name, seed=seed)
        serialized = list(tf.data.TFRecordDataset(str(tmp_path / name / info.shards[0].file)))
        return schema.parse(tf.stack(serialized))[1].numpy().tolist(), info.shards

    first, again, other = labels_in_order("a", 1), labels_in_order("b", 1), labels_in_order("c", 2)
    assert first == again
    assert first[0] != other[0]
    assert first[0] != sorted(first[0])


def test_an_unchanged_dataset_is_reused(face_folder, tmp_path, caplog, monkeypatch):
    written = write_dataset(ImageFolder(face_folder), tmp_path / "out", examples_per_shard=5)
    before = content_of(tmp_path / "out")
    caplog.set_level("INFO", "keras_arcface.data.existing_dataset")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ImageFolder, "__getitem__", None)  # no image is read
    again = write_dataset(ImageFolder("faces"), "out", examples_per_shard=5, processes=2, damaged="skip")
    assert again == written
    assert "out contains this dataset already: <DatasetInfo: 12 images of 3 classes" in caplog.text
    assert content_of(tmp_path / "out") == before


def test_alignment_can_be_added_later_but_not_changed(face_folder, tmp_path):
    def write(**options):
        return write_dataset(ImageFolder(face_folder), tmp_path / "out", **options)

    assert write().alignment is None
    assert write(alignment="five_points").alignment == "five_points"
    assert write().alignment == load_info(tmp_path / "out").alignment == "five_points"
    with pytest.raises(FileExistsError, match="alignment was five_points, now none"):
        write(alignment="none")


def add_image(folder):
    (folder / "person_1" / "3.png").write_bytes(encode(make_face(1, 3)))


def write_image(folder):
    (folder / "person_1" / "2.png").write_bytes(encode(make_face(1, 9)))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (
            add_image,
            {},
            r"the number of images was 12, now 13; files of ImageFolder\(.*\) were added, removed or written",
        ),
        (write_image, {}, r"files of ImageFolder\(.*faces'\) were added, removed or written since"),
        (
            lambda folder: (folder / "person_1").rename(folder / "person_9"),
            {},
            r"labels or class names have changed; files of ImageFolder",
        ),
        (
            lambda folder: None,
            {"seed": 1},
            r"seed was 0, now 1$",
        ),
        (lambda folder: None, {"examples_per_shard": 5}, r"examples_per_shard was 10000, now 5$"),
        (lambda folder: None, {"min_images": 4}, r"the number of images was 12, now 9; min_images was 1, now 4$"),
        (lambda folder: None, {"check": False}, r"check was True, now False$"),
    ],
)
def test_another_dataset_is_never_overwritten(change, options, message, face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "out")
    before = content_of(tmp_path / "out")
    change(face_folder)
    with pytest.raises(
        FileExistsError, match=rf"out must contain no dataset, .* load_info.*cannot be reused: {message}"
    ):
        write_dataset(ImageFolder(face_folder), tmp_path / "out", **options)
    assert content_of(tmp_path / "out") == before


def test_the_other_source_is_named(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "out")
    rows = "\n".join(f"faces/{record.name},{record.label}" for record in ImageFolder(face_folder))
    (tmp_path / "faces.csv").write_text(rows)
    with pytest.raises(FileExistsError, match=r"the source was ImageFolder\(.*faces'\), now ImageList\(.*faces.csv'\)"):
        write_dataset(ImageList(tmp_path / "faces.csv"), tmp_path / "out")


def test_a_source_without_fingerprint_is_not_reused(face_folder, tmp_path):
    faces = Interrupted(ImageFolder(face_folder), fail_at=0)
    write_dataset(faces, tmp_path / "out")
    message = r"out must contain no dataset, .*that cannot be reused: Faces has no fingerprint\(\) that shows"
    with pytest.raises(FileExistsError, match=message):
        write_dataset(faces, tmp_path / "out")
    write_dataset(drop_small_classes(faces, 4), tmp_path / "selected")
    with pytest.raises(FileExistsError, match=r"2 classes of Faces has no fingerprint\(\)"):
        write_dataset(drop_small_classes(faces, 4), tmp_path / "selected")


def test_other_names_for_the_same_labels_are_a_change(face_folder, tmp_path):
    for names in (("Ann", "Bo"), ("Amy", "Bo")):
        (face_folder / "faces.csv").write_text(f"person_0/0.png,{names[0]}\nperson_1/0.png,{names[1]}\n")
        if names[0] == "Ann":
            write_dataset(ImageList(face_folder / "faces.csv"), tmp_path / "out")
    with pytest.raises(FileExistsError, match=r"cannot be reused: labels or class names have changed$"):
        write_dataset(ImageList(face_folder / "faces.csv"), tmp_path / "out")


def test_a_dataset_with_skipped_images_is_only_reused_with_skip(face_folder, tmp_path):
    (face_folder / "person_2" / "4.png").write_bytes(b"broken")
    written = write_dataset(ImageFolder(face_folder), tmp_path / "out", damaged="skip")
    assert write_dataset(ImageFolder(face_folder), tmp_path / "out", damaged="skip") == written
    with pytest.raises(FileExistsError, match=r'damaged was "skip", which left out 1 images; now "raise"'):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


def test_a_dataset_without_a_shard_is_not_reused(face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out")
    (tmp_path / "out" / info.shards[0].file).unlink()
    with pytest.raises(ValueError, match=r"00000-of-00001.tfrecord is damaged.*Received: no such file"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


def test_a_single_class_logs_a_warning(face_folder, tmp_path, caplog):
    write_dataset(drop_small_classes(ImageFolder(face_folder), 5), tmp_path / "out")
    assert "has only one class. Training requires at least two" in caplog.text


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an image"])
def test_a_broken_image_is_named_and_no_dataset_json_is_written(damage, face_folder, tmp_path):
    path = face_folder / "person_1" / "1.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"person_1/1.jpg is not a readable image. Expected: an undamaged JPEG"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="written last, so writing did not finish if it is missing"):
        load_info(tmp_path / "out")


def test_an_image_of_another_size_is_named(face_folder, tmp_path):
    (face_folder / "person_2" / "1.jpg").write_bytes(encode(make_face(2, 1, size=(40, 32)), ".jpg"))
    with pytest.raises(
        ValueError, match=r"person_2/1.jpg must have the size of the other images, 32 x 32.*Received: 40 x 32"
    ):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


class Faces(list, Source):
    """Source from a list of records."""

    num_classes = 2


def test_a_label_outside_the_range_is_named(tmp_path):
    faces = Faces(Record(encode(make_face(label, 0)), label, f"face {label}") for label in (0, 1, 2))
    with pytest.raises(ValueError, match=r"face 2 must have a label in \[0, 2\). Received: label=2"):
        write_dataset(faces, tmp_path / "out")


def test_an_empty_source_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"source must contain an image. Received: source="):
        write_dataset(Faces(), tmp_path / "out")


def content_of(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize(("suffix", "dtype"), [(".pgm", np.uint8), (".tiff", np.uint8), (".tiff", np.uint16)])
@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_tensorflow_cannot_decode_become_png_without_loss(suffix, dtype, channels, tmp_path):
    if suffix == ".pgm" and channels == 3:
        suffix = ".ppm"
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, (32, 32, channels)).astype(dtype)
    (tmp_path / "faces" / "person").mkdir(parents=True)
    (tmp_path / "faces" / "person" / f"0{suffix}").write_bytes(cv2.imencode(suffix, pixels)[1].tobytes())
    info = write_dataset(ImageFolder(tmp_path / "faces"), tmp_path / "out")
    [(image, label, name)] = read_records(tmp_path / "out", info)
    assert image.startswith(b"\x89PNG")
    assert (label, name) == (0, f"person/0{suffix}")
    stored = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == dtype
    np.testing.assert_array_equal(stored.reshape(pixels.shape), pixels)


def test_an_image_that_png_cannot_store_is_named(face_folder, tmp_path):
    floats = cv2.imencode(".tiff", np.zeros((32, 32), np.float32))[1].tobytes()
    (face_folder / "person_0" / "9.tiff").write_bytes(floats)
    with pytest.raises(ValueError, match=r"person_0/9.tiff is not a readable image.*\(1 samples per pixel, of 32 bits"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


def test_an_image_that_declares_too_many_pixels_is_rejected_before_decoding(face_folder, tmp_path):
    path = face_folder / "person_1" / "0.png"
    bomb = bytearray(path.read_bytes())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    path.write_bytes(bomb)
    with pytest.raises(ValueError, match=r"person_1/0.png is not a readable image.*60000 x 60000 pixels; the limit"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")


BROKEN = {
    "person_0/0.png": b"not an image",
    "person_1/1.jpg": encode(make_face(1, 1), ".jpg")[:300],
    "person_2/2.png": encode(make_face(2, 2, size=(40, 32))),
    "person_2/4.png": b"",
}


@pytest.mark.parametrize("examples_per_shard", [1, 4, 100])
def test_damaged_images_can_be_skipped_and_are_reported(examples_per_shard, face_folder, tmp_path, caplog):
    for name, content in BROKEN.items():
        (face_folder / name).write_bytes(content)
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", examples_per_shard, damaged="skip")
    assert info.num_examples == 8
    assert sum(shard.num_examples for shard in info.shards) == 8
    assert sorted(reason.split()[0] for reason in info.skipped) == sorted(BROKEN)
    assert len(caplog.records) == 4
    names = {name for *_, name in read_records(tmp_path / "out", info)}
    assert not names & set(BROKEN)
    assert load_info(tmp_path / "out") == info


def test_without_the_check_images_are_not_decoded(face_folder, tmp_path):
    image = face_folder / "person_1" / "1.jpg"
    image.write_bytes(image.read_bytes()[:200] + b"broken behind its header")
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", check=False)
    assert info.num_examples == 12


def test_small_classes_are_left_out_and_the_mapping_is_kept(face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", min_images=4)
    assert (info.num_classes, info.num_examples) == (2, 9)
    assert info.source_labels == (0, 2)
    assert info.class_names == ("person_0", "person_2")
    assert load_info(tmp_path / "out") == info
    labels = {name.split("/")[0]: label for _, label, name in read_records(tmp_path / "out", info)}
    assert labels == {"person_0": 0, "person_2": 1}


def test_labels_become_contiguous(tmp_path):
    faces = Faces(Record(encode(make_face(label, 0)), label, f"face {label}") for label in (2**40, 5, 2**24 + 1))
    faces.num_classes = 2**40 + 1
    info = write_dataset(faces, tmp_path / "out")
    assert info.source_labels == (5, 2**24 + 1, 2**40)
    assert {name: label for _, label, name in read_records(tmp_path / "out", info)} == {
        "face 5": 0,
        f"face {2**24 + 1}": 1,
        f"face {2**40}": 2,
    }


class Interrupted(list, Source):
    """Source that raises KeyboardInterrupt once, as if the program were interrupted."""

    def __init__(self, faces, fail_at):
        super().__init__(faces)
        self.num_classes, self.labels, self.class_names = faces.num_classes, faces.labels, faces.class_names
        self.reads, self.fail_at = 0, fail_at

    def __getitem__(self, index):
        self.reads += 1
        if self.reads == self.fail_at:
            raise KeyboardInterrupt
        return super().__getitem__(index)

    def __str__(self):
        return "Faces"


@pytest.mark.parametrize("fail_at", [1, 2, 4, 8, 13])
def test_an_interrupted_run_continues_to_the_same_bytes(fail_at, face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    write_dataset(Interrupted(faces, fail_at=0), tmp_path / "whole", examples_per_shard=3)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(Interrupted(faces, fail_at), tmp_path / "out", examples_per_shard=3)
    finished = len(list((tmp_path / "out").glob("*.tfrecord")))
    assert finished == max(0, fail_at - 2) // 3
    assert not list((tmp_path / "out").glob("*.tmp"))
    with pytest.raises(FileNotFoundError):
        load_info(tmp_path / "out")
    again = Interrupted(faces, fail_at=0)
    write_dataset(again, tmp_path / "out", examples_per_shard=3)
    assert again.reads == 1 + 12 - 3 * finished
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_an_interrupted_run_continues_without_a_progress_bar(face_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_arcface.data.writer.tqdm", functools.partial(tqdm, disable=True))  # as TQDM_DISABLE=1
    faces = ImageFolder(face_folder)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(Interrupted(faces, 9), tmp_path / "out", examples_per_shard=3)
    assert write_dataset(Interrupted(faces, 0), tmp_path / "out", examples_per_shard=3).num_examples == 12


@pytest.mark.parametrize("other", [{"seed": 1}, {"examples_per_shard": 4}, {"min_images": 4}, {"check": False}])
def test_an_interrupted_run_cannot_continue_with_other_arguments(other, face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(Interrupted(faces, 5), tmp_path / "out", examples_per_shard=3)
    before = content_of(tmp_path / "out")
    with pytest.raises(FileExistsError, match=f"unfinished dataset with other (images|{next(iter(other))})"):
        write_dataset(Interrupted(faces, 0), tmp_path / "out", **{"examples_per_shard": 3, **other})
    with pytest.raises(FileExistsError, match=r"unfinished dataset with other source.*Expected.*'Faces'"):
        write_dataset(faces, tmp_path / "out", examples_per_shard=3)
    assert content_of(tmp_path / "out") == before


@pytest.mark.parametrize("report", ["", "[]", '{"num_examples": 3}', "[" * 100_000])
def test_a_shard_with_a_damaged_report_is_written_again(report, face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    write_dataset(Interrupted(faces, fail_at=0), tmp_path / "whole", examples_per_shard=3)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(Interrupted(faces, fail_at=8), tmp_path / "out", examples_per_shard=3)
    (tmp_path / "out" / ".00000.report.json").write_text(report)
    write_dataset(Interrupted(faces, fail_at=0), tmp_path / "out", examples_per_shard=3)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_run_that_was_interrupted_while_removing_its_files(face_folder, tmp_path, monkeypatch):
    faces = ImageFolder(face_folder)
    write_dataset(faces, tmp_path / "whole", examples_per_shard=3)

    def stop(directory, patterns):
        if (directory / "dataset.json").exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("keras_arcface.data.writer._remove_files", stop)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(faces, tmp_path / "out", examples_per_shard=3)
    shutil.copytree(tmp_path / "out", tmp_path / "aligned")
    assert write_dataset(faces, tmp_path / "out", examples_per_shard=3) == load_info(tmp_path / "whole")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")

    stopped = (tmp_path / "aligned" / "unfinished.json").read_bytes()
    info = write_dataset(faces, tmp_path / "aligned", examples_per_shard=3, alignment="none")
    assert info.alignment == load_info(tmp_path / "aligned").alignment == "none"
    (tmp_path / "aligned" / "unfinished.json").write_bytes(stopped)
    with pytest.raises(FileExistsError, match="alignment was none, now five_points"):
        write_dataset(faces, tmp_path / "aligned", examples_per_shard=3, alignment="five_points")


def test_two_runs_cannot_write_to_one_directory(face_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_arcface.data.writer._LOCK_TIMEOUT", 0.2)
    (tmp_path / "out").mkdir()
    with (
        FileLock(tmp_path / "out" / ".lock"),
        pytest.raises(
            BlockingIOError,
            match=rf"out must not be in use by another process. Received: .lock, which process {os.getpid()} on .* has",
        ),
    ):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")
    write_dataset(ImageFolder(face_folder), tmp_path / "out")


def test_finished_shards_survive_a_full_disk(face_folder, tmp_path, monkeypatch):
    faces = ImageFolder(face_folder)
    write_dataset(faces, tmp_path / "whole", examples_per_shard=3)
    writes = []

    def full(file, data):
        writes.append(file.write(data))
        if len(writes) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("keras_arcface.data.shard_writer.write_all", full)
        with pytest.raises(OSError, match=r"No space left on device, while writing.*00002-of-00004.tfrecord") as caught:
            write_dataset(faces, tmp_path / "out", examples_per_shard=3)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.__notes__ == [
        f"2 of 4 shards in {tmp_path / 'out'} are finished. The same call continues from there"
    ]
    finished = {name for name in content_of(tmp_path / "out") if name.endswith(".tfrecord")}
    assert finished == {"00000-of-00004.tfrecord", "00001-of-00004.tfrecord"}
    write_dataset(faces, tmp_path / "out", examples_per_shard=3)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_several_processes_write_the_same_bytes(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    one = write_dataset(faces, tmp_path / "one", examples_per_shard=3)
    two = write_dataset(faces, tmp_path / "two", examples_per_shard=3, processes=2)
    assert one == two
    assert content_of(tmp_path / "one") == content_of(tmp_path / "two")
    (face_folder / "person_1" / "1.jpg").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"person_1/1.jpg is not a readable image"):
        write_dataset(ImageFolder(face_folder), tmp_path / "three", examples_per_shard=3, processes=2)


KILLED = """
import os, sys, time, threading
from keras_arcface import data

def kill():
    while not os.path.exists(sys.argv[2] + "/00001-of-00012.tfrecord"):
        time.sleep(0.001)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    threading.Thread(target=kill, daemon=True).start()
    data.write_dataset(data.ImageFolder(sys.argv[1]), sys.argv[2], examples_per_shard=1, processes=2)
"""


def test_a_killed_run_of_two_processes_continues(face_folder, tmp_path):
    (tmp_path / "killed.py").write_text(KILLED)
    faces = ImageFolder(face_folder)
    write_dataset(faces, tmp_path / "whole", examples_per_shard=1)
    command = [sys.executable, tmp_path / "killed.py", face_folder, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "out" / "dataset.json").exists()
    write_dataset(faces, tmp_path / "out", examples_per_shard=1)
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"damaged": "ignore"}, "damaged must be one of raise, skip. Received: damaged='ignore'"),
        (
            {"examples_per_shard": 0},
            "examples_per_shard must be an integer of at least 1. Received: examples_per_shard=0",
        ),
        ({"processes": 0}, "processes must be an integer of at least 1. Received: processes=0"),
    ],
)
def test_invalid_arguments(arguments, message, face_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_dataset(ImageFolder(face_folder), tmp_path / "out", **arguments)


def test_check_dataset(face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", examples_per_shard=3)
    assert check_dataset(tmp_path / "out") == info
    damaged, missing = (tmp_path / "out" / info.shards[number].file for number in (1, 3))
    content = bytearray(damaged.read_bytes())
    content[200] ^= 1
    damaged.write_bytes(content)
    missing.unlink()
    with pytest.raises(
        ValueError,
        match=r"(?s)undamaged shards. Received:.*00001-of-00004.* is damaged. Expected: sha256 .*Received: .*offset 0",
    ):
        check_dataset(tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"00003-of-00004.tfrecord is damaged. Expected: \d+ bytes. Received: no such file"
    ):
        check_dataset(tmp_path / "out")


@pytest.mark.parametrize(
    ("label", "change", "message"),
    [
        (0, {"num_examples": 3}, r"00000-of-00001.tfrecord must have 3 records, as in dataset.json. Received: 2"),
        (0, {"num_examples": 1}, r"00000-of-00001.tfrecord must have 1 records, as in dataset.json. Received: 2"),
        (
            0,
            {"num_bytes": 10**9},
            r"00001.tfrecord is damaged. Expected: 1000000000 bytes. Received: \d+ bytes",
        ),
        (1, {}, None),
        (2, {}, r"damaged record between offsets 0 and \d+: expected a label in \[0, 2\). Received: label=2"),
        (0, {}, r"must have images of all classes, .* images of 1 classes and 0 skipped images, num_classes=2"),
    ],
)
def test_check_dataset_reads_the_records(label, change, message, face_folder, tmp_path):
    info = write_dataset(ImageFolder(face_folder), tmp_path, examples_per_shard=100)
    content = b"".join(
        piece for number in (0, label) for piece in tfrecord.frame(*schema.encode(encode(make_face(0, 0)), number, "a"))
    )
    (tmp_path / info.shards[0].file).write_bytes(content)
    fields = {"num_examples": 2, "num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest(), **change}
    shard = Shard(info.shards[0].file, **fields)
    num_classes = min(2, shard.num_examples)
    changed = {"num_classes": num_classes, "num_examples": shard.num_examples, "shards": (shard,), "class_names": None}
    dataclasses.replace(info, **changed).save(tmp_path)
    if message is None:
        assert check_dataset(tmp_path).num_examples == 2
        return
    with pytest.raises(ValueError, match=message):
        check_dataset(tmp_path)


def test_without_finished_shards_another_run_may_start(face_folder, tmp_path):
    (face_folder / "person_0" / "0.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"person_0/0.png is not a readable image"):
        write_dataset(ImageFolder(face_folder), tmp_path / "out")
    (face_folder / "person_0" / "0.png").write_bytes(encode(make_face(0, 0)))
    assert write_dataset(ImageFolder(face_folder), tmp_path / "out").num_examples == 12


def test_shards_without_a_description_are_rejected(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(Interrupted(faces, 9), tmp_path / "out", examples_per_shard=3)
    (tmp_path / "out" / "unfinished.json").unlink()
    for _ in range(2):
        with pytest.raises(
            FileExistsError,
            match=r"out must be a new or empty directory, or contain unfinished.json. Received: shards without",
        ):
            write_dataset(Interrupted(faces, 0), tmp_path / "out", examples_per_shard=3, seed=1)


def test_a_run_that_waited_for_another_checks_its_dataset(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    write_dataset(faces, tmp_path / "out", examples_per_shard=3)
    (tmp_path / "out" / "unfinished.json").touch()
    with pytest.raises(FileExistsError, match="Received: a directory with a dataset that cannot be reused"):
        write_dataset(faces, tmp_path / "out", seed=1)
    assert not (tmp_path / "out" / "unfinished.json").exists()
    (tmp_path / "out" / "unfinished.json").touch()
    assert write_dataset(faces, tmp_path / "out", examples_per_shard=3) == load_info(tmp_path / "out")
    assert not (tmp_path / "out" / "unfinished.json").exists()


def test_a_run_that_raised_for_damage_can_continue_with_skip(face_folder, tmp_path):
    (face_folder / "person_2" / "4.png").write_bytes(b"broken")
    faces = ImageFolder(face_folder)
    first = np.random.default_rng(2).permutation(12).tolist().index(11)
    assert first >= 2, "the test requires shards before the damaged image"
    with pytest.raises(ValueError, match=r"person_2/4.png is not a readable image"):
        write_dataset(faces, tmp_path / "out", examples_per_shard=1, seed=2)
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) == first
    info = write_dataset(faces, tmp_path / "out", examples_per_shard=1, seed=2, damaged="skip")
    assert info == write_dataset(faces, tmp_path / "whole", examples_per_shard=1, seed=2, damaged="skip")
    assert content_of(tmp_path / "out") == content_of(tmp_path / "whole")


def test_a_run_with_skipped_images_cannot_continue_without_skip(face_folder, tmp_path):
    (face_folder / "person_2" / "4.png").write_bytes(b"broken")
    faces = Interrupted(ImageFolder(face_folder), fail_at=3)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(faces, tmp_path / "out", examples_per_shard=11, damaged="skip")
    strict = Interrupted(ImageFolder(face_folder), fail_at=0)
    with pytest.raises(ValueError, match=r"person_2/4.png is not a readable image"):
        write_dataset(strict, tmp_path / "out", examples_per_shard=11)


def test_with_skip_the_most_frequent_size_is_expected(face_folder, tmp_path):
    (face_folder / "person_0" / "0.png").write_bytes(encode(make_face(0, 0, size=(40, 32))))
    info = write_dataset(ImageFolder(face_folder), tmp_path / "out", damaged="skip")
    assert (info.image_size, info.num_examples) == ((32, 32), 11)


def test_finished_shards_with_another_size_are_written_again(face_folder, tmp_path):
    (face_folder / "person_0" / "0.png").write_bytes(encode(make_face(0, 0, size=(40, 32))))
    faces = ImageFolder(face_folder)
    seed = next(seed for seed in range(100) if np.random.default_rng(seed).permutation(12)[0] == 0)
    with pytest.raises(
        ValueError, match="must have the size of the other images"
    ):  # the first image, alone in its shard, determined the size
        write_dataset(faces, tmp_path / "out", examples_per_shard=1, seed=seed)
    assert len(list((tmp_path / "out").glob("*.tfrecord"))) == 1
    info = write_dataset(faces, tmp_path / "out", examples_per_shard=1, seed=seed, damaged="skip")
    assert (info.image_size, info.num_examples) == ((32, 32), 11)
    assert len(list(load_dataset(tmp_path / "out", 1))) == 11


def test_if_all_images_are_skipped_it_raises(face_folder, tmp_path):
    for path in face_folder.glob("*/*"):
        path.write_bytes(b"\xff\xd8\xff broken")
    faces = Interrupted(ImageFolder(face_folder), fail_at=0)
    faces.image_size = (32, 32)
    with pytest.raises(
        ValueError, match=r"Faces must .*: 12 images, all of which were skipped. The first: .* is not a readable image"
    ):
        write_dataset(faces, tmp_path / "out", damaged="skip")


@pytest.mark.parametrize("damaged", ["raise", "skip"])
def test_a_wrong_image_size_of_the_source_is_named(damaged, face_folder, tmp_path):
    faces = Interrupted(ImageFolder(face_folder), fail_at=0)
    faces.image_size = (99, 98)
    message = r"image_size of Faces must be .*Received: 99 x 98 .*none of 12 tested images .*most are 32 x 32"
    with pytest.raises(ValueError, match=message):
        write_dataset(faces, tmp_path / "out", damaged=damaged)


def test_an_unreadable_source_image_is_not_mistaken_for_a_full_disk(face_folder, tmp_path):
    (face_folder / "faces.csv").write_text("person_0/0.png,0\nperson_0/absent.png,1\n")
    with pytest.raises(
        ValueError, match=r"record 1 of .*ImageList.* must be readable. Received: FileNotFoundError: .*absent.png"
    ):
        write_dataset(ImageList(face_folder / "faces.csv"), tmp_path / "out")
    info = write_dataset(ImageList(face_folder / "faces.csv"), tmp_path / "out", damaged="skip")
    assert info.num_examples == 1


def test_other_files_in_the_directory_are_kept(face_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.tmp").write_text("mine")
    write_dataset(ImageFolder(face_folder), tmp_path / "out")
    assert (tmp_path / "out" / "notes.tmp").read_text() == "mine"


def test_any_integer_is_a_seed(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    assert write_dataset(faces, tmp_path / "a", seed=np.int64(3)) == write_dataset(faces, tmp_path / "b", seed=3)
    assert write_dataset(faces, tmp_path / "negative", seed=-1).num_examples == 12
    with pytest.raises(TypeError, match="NoneType"):
        write_dataset(faces, tmp_path / "c", seed=None)


def test_source_labels_of_nested_subsets(face_folder, tmp_path):
    training, validation = split_identities(drop_small_classes(ImageFolder(face_folder), 4), 0.5)
    infos = [write_dataset(part, tmp_path / name) for name, part in (("t", training), ("v", validation))]
    labels = [info.source_labels or tuple(range(info.num_classes)) for info in infos]
    assert sorted(labels) == [(0,), (2,)]
    assert all(info.class_names == (f"person_{label}",) for info, (label,) in zip(infos, labels, strict=True))
