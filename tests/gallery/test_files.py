"""The files of a gallery: damage, stale copies, and what remains after a removal."""

import os
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from keras_arcface._files import temporary_path
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import GalleryFileError
from keras_arcface.gallery import matrix
from keras_arcface.gallery import matrix_file

DIM = 48


@pytest.fixture
def rows(rng):
    rows = rng.normal(size=(20, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def filled(path, rows):
    """The path of a gallery of ten people, with both matrix files."""
    with Gallery.open(path) as gallery, Gallery.open(path, precision="int8") as quantized:
        gallery.enroll_many((str(person), rows[person : person + 1], None) for person in range(10))
        gallery.search(rows[:1])
        quantized.search(rows[:1])
    return path


def matrix_files(path):
    return [matrix.matrix_path(path, kind) for kind in ("float32", "int8")]


def found(path, rows, precision="float32"):
    """Returns the persons whom the rows find, in a newly opened gallery."""
    with Gallery.open(path, precision=precision) as gallery:
        return [row[0].person for row in gallery.search(rows, top_k=1)]


def check_finds_everybody(path, rows):
    for precision in ("float32", "int8"):
        assert found(path, rows[:10], precision) == [str(person) for person in range(10)]


def remains(path, row):
    """Returns the names of the files that contain bytes of an embedding: any eight of its numbers, in any precision."""
    scale = np.abs(row).max() / np.float32(127)
    texts = [row[start : start + 8].tobytes() for start in (0, 20, DIM - 8)]
    texts.append(np.rint(row / scale).astype(np.int8)[:16].tobytes())
    return [file.name for file in sorted(path.parent.iterdir()) if any(text in file.read_bytes() for text in texts)]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_the_matrix_is_read_from_its_file(filled, rows, precision, monkeypatch):
    monkeypatch.setattr(matrix.TemplateMatrix, "_write", None)
    assert found(filled, rows[3:4], precision) == ["3"]


def test_a_missing_or_damaged_matrix_is_created_again(filled, rows):
    for file in matrix_files(filled):
        content = file.read_bytes()
        damaged = bytearray(content)
        damaged[20] ^= 1
        for replacement in (
            None,
            b"",
            content[:30],
            content[:-1],
            content + b"\0",
            bytes(damaged),
            b"x" * len(content),
        ):
            file.unlink()
            if replacement is not None:
                file.write_bytes(replacement)
            check_finds_everybody(filled, rows)
            assert file.stat().st_size == len(content)


def test_a_matrix_of_another_gallery_is_not_used(filled, rows, tmp_path):
    (tmp_path / "other").mkdir()
    other = tmp_path / "other" / filled.name
    with Gallery.open(other) as gallery:
        gallery.enroll_many((str(person), rows[9 - person : 10 - person], None) for person in range(10))
        gallery.search(rows[:1])
    shutil.copy(matrix_files(other)[0], matrix_files(filled)[0])
    check_finds_everybody(filled, rows)


def test_a_matrix_that_is_newer_than_a_restored_backup_is_not_used(filled, rows):
    backup = filled.read_bytes()
    with Gallery.open(filled) as gallery, Gallery.open(filled, precision="int8") as quantized:
        for person in range(5):
            gallery.update(str(person), rows[10 + person : 11 + person])
        gallery.search(rows)
        quantized.search(rows)
    filled.write_bytes(backup)
    check_finds_everybody(filled, rows)


def test_rows_that_are_erased_before_a_backup_is_restored_are_read_again(filled, rows):
    backup = filled.read_bytes()
    with Gallery.open(filled) as gallery:
        gallery.remove("4")
    filled.write_bytes(backup)
    check_finds_everybody(filled, rows)


def test_a_matrix_without_the_latest_people_is_completed(filled, rows):
    size = matrix_files(filled)[0].stat().st_size
    with Gallery.open(filled) as gallery:
        gallery.enroll_many((str(person), rows[person : person + 1], None) for person in range(10, 20))
    assert found(filled, rows[15:16]) == ["15"]
    assert matrix_files(filled)[0].stat().st_size == size


def test_a_matrix_grows_when_it_is_full(filled, rows, monkeypatch):
    monkeypatch.setattr(matrix, "_MIN_SPARE", 2)
    sizes = []
    for precision, file in zip(("float32", "int8"), matrix_files(filled), strict=True):
        file.unlink()
        with Gallery.open(filled, precision=precision) as gallery:
            for person in range(20):
                if str(person) not in gallery:
                    gallery.enroll(str(person), rows[person : person + 1])
                assert gallery.search(rows[person : person + 1])[0][0].person == str(person)
                sizes.append(file.stat().st_size)
    assert len(set(sizes)) == 4  # of float32: for 12, 15 and 20 people


def test_a_matrix_with_many_stale_rows_is_replaced(filled, rows, monkeypatch):
    monkeypatch.setattr(matrix, "_MAX_STALE", 3)
    before = matrix_files(filled)[0].read_bytes()
    with Gallery.open(filled) as gallery:
        gallery.enroll_many((str(person), rows[person : person + 1], None) for person in range(10, 13))
        gallery.search(rows)
        gallery.enroll("13", rows[13:14])
        assert gallery.search(rows[13:14])[0][0].person == "13"
    assert matrix_files(filled)[0].read_bytes() == before
    assert found(filled, rows[13:14]) == ["13"]
    assert matrix_files(filled)[0].read_bytes() != before


@pytest.mark.parametrize("operation", ["remove", "image", "update"])
def test_removed_embeddings_are_erased_from_all_files(filled, rows, operation):
    with Gallery.open(filled) as gallery, Gallery.open(filled, precision="int8") as quantized:
        if operation == "image":
            gallery.enroll("4", rows[14:15])
        quantized.search(rows)
        gallery.search(rows)
        assert "people.db" in remains(filled, rows[4]) or "people.db-wal" in remains(filled, rows[4])
        {
            "remove": lambda: gallery.remove("4"),
            "image": lambda: gallery.remove("4", image="1"),
            "update": lambda: gallery.update("4", rows[14:15]),
        }[operation]()
        assert remains(filled, rows[4]) == []
        assert os.path.getsize(f"{filled}-wal") < 200_000
        for one in (gallery, quantized):
            best = one.search(rows[4:5])[0][0]
            assert best.score < 0.7
    assert remains(filled, rows[4]) == []


def test_a_removed_person_is_erased_although_another_one_took_the_place(filled, rows):
    with Gallery.open(filled) as gallery:
        gallery.remove("4")  # the last one, "9", moves
        assert len(remains(filled, rows[9])) == 1  # only in the database
        gallery.remove("9")
    assert remains(filled, rows[9]) == []
    assert found(filled, rows[8:9]) == ["8"]


def test_no_copy_of_a_removed_embedding_remains_after_many_changes(path, rng):
    removed, state = [], {}
    with Gallery.open(path) as gallery:
        for number in range(250):
            person, rows = f"person {rng.integers(40)}", rng.normal(size=(rng.integers(1, 4), DIM)).astype(np.float32)
            if person in state and rng.random() < 0.6:
                removed += state.pop(person)
                gallery.update(person, rows) if number % 2 else gallery.remove(person)
                if number % 2:
                    state[person] = list(rows)
            else:
                gallery.enroll(person, rows, [f"{number} {'x' * rng.integers(30)} {row}" for row in range(len(rows))])
                state.setdefault(person, []).extend(rows)
    content = path.read_bytes()
    assert len(removed) > 100
    assert not any(row[start : start + 8].tobytes() in content for row in removed for start in (0, 20, 40))
    assert all(row.tobytes() in content for rows in state.values() for row in rows)


def test_vacuum_also_erases_the_names(path, rows):
    with Gallery.open(path) as gallery:
        for number in range(200):
            gallery.enroll(
                f"person-{number}-{'x' * (number % 50)}", rows[:2], [f"image-{number}-a", f"image-{number}-b"]
            )
            if number % 4:
                gallery.remove(f"person-{number - 1}-{'x' * ((number - 1) % 50)}")
    connection = sqlite3.connect(path)
    connection.execute("VACUUM")
    connection.close()
    content = path.read_bytes()
    with Gallery.open(path) as gallery:
        people = gallery.people()
        assert len(gallery.search(rows[:1], top_k=100)[0]) == len(people) == 50
    for number in range(200):
        is_enrolled = f"person-{number}-{'x' * (number % 50)}" in people
        assert (f"person-{number}-".encode() in content) == (f"image-{number}-a".encode() in content) == is_enrolled


def test_removals_are_erased_by_the_next_process_if_one_was_killed(filled, rows, monkeypatch):
    monkeypatch.setattr(Gallery, "_erase_removed", lambda *_, **__: None)
    with Gallery.open(filled) as gallery:
        gallery.remove("4")
    assert remains(filled, rows[4]) == ["people.db.float32", "people.db.int8"]
    monkeypatch.undo()
    Gallery.open(filled).close()
    assert remains(filled, rows[4]) == []
    assert found(filled, rows[5:6]) == ["5"]


def test_a_removal_during_the_creation_of_a_matrix_is_erased(filled, rows, monkeypatch):
    write = matrix.TemplateMatrix._write

    def write_and_remove(self, file):
        header = write(self, file)
        file.flush()
        with Gallery.open(filled) as other:
            other.remove("4")
            other.enroll("new", rows[14:15])
        return header

    for file, precision in zip(matrix_files(filled), ("float32", "int8"), strict=True):
        file.unlink()
        if precision == "int8":
            with Gallery.open(filled) as gallery:
                gallery.remove("new")
                gallery.enroll("4", rows[4:5])
        monkeypatch.setattr(matrix.TemplateMatrix, "_write", write_and_remove)
        assert found(filled, rows[[14, 5]], precision) == ["new", "5"]
        monkeypatch.undo()
        assert remains(filled, rows[4]) == []


def test_the_last_person_who_is_removed_during_the_creation_of_a_matrix_is_erased(filled, rows, monkeypatch):
    write = matrix.TemplateMatrix._write

    def write_and_remove(self, file):
        header = write(self, file)
        with Gallery.open(filled) as other:
            other.remove("9")
        return header

    matrix_files(filled)[0].unlink()
    monkeypatch.setattr(matrix.TemplateMatrix, "_write", write_and_remove)
    assert found(filled, rows[5:6]) == ["5"]
    assert remains(filled, rows[9]) == []


def test_a_file_that_is_damaged_again_and_again_is_reported(filled, rows, monkeypatch):
    monkeypatch.setattr(matrix_file, "read_header", lambda *_: None)
    with pytest.raises(OSError, match=r"people\.db\.float32 must be a file that stays valid"):
        found(filled, rows[:1])


def test_the_temporary_matrix_of_a_killed_process_is_removed_with_a_person(filled, rows):
    unfinished = [temporary_path(file) for file in matrix_files(filled)]
    for file in unfinished:
        file.write_bytes(rows[4].tobytes())
    with Gallery.open(filled) as gallery:
        gallery.remove("4")
    assert not any(file.exists() for file in unfinished)


def test_a_search_of_another_process_prevents_that_the_log_is_emptied_and_says_so(filled, rows, caplog):
    reader = sqlite3.connect(filled, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM people").fetchone()
    with Gallery.open(filled) as gallery:
        gallery._database.connection.execute("PRAGMA busy_timeout = 10")
        gallery.remove("4")
        assert "people.db-wal may contain removed embeddings until the next removal" in caplog.text
        reader.execute("COMMIT")
        gallery.remove("5")
        assert remains(filled, rows[4]) == []
    reader.close()


def test_a_link_or_a_folder_in_place_of_a_file(tmp_path, filled):
    with pytest.raises(ValueError, match=r"must be a regular file. Received: a folder"):
        Gallery.open(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ValueError, match=r"fifo must be a regular file. Received: a FIFO"):
        Gallery.open(tmp_path / "fifo")
    with pytest.raises(FileNotFoundError, match=r"absent/people\.db"):
        Gallery.open(tmp_path / "absent" / "people.db")
    (tmp_path / "link.db").symlink_to(filled)
    with Gallery.open(tmp_path / "link.db") as gallery:
        assert len(gallery) == 10


@pytest.mark.parametrize("size", [1, 100, 5000, -5000, -1])
def test_a_truncated_database_is_refused(filled, rows, size):
    filled.write_bytes(filled.read_bytes()[:size])
    for file in matrix_files(filled):
        file.unlink()
    with pytest.raises(GalleryFileError, match=r"people\.db must be the undamaged file of a gallery. Received: "):
        found(filled, rows[:1])


def test_another_database_or_file_is_refused(path):
    path.write_text("name,age\n" * 1000)
    with pytest.raises(GalleryFileError, match=r"people\.db must be the undamaged .* Received: file is not a database"):
        Gallery.open(path)
    path.unlink()
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE people (name TEXT)")
    other.close()
    with pytest.raises(GalleryFileError, match=r"people\.db must be the file of a gallery. Received: another SQLite"):
        Gallery.open(path)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE meta SET schema_version = 2", "must have the schema version 1. Received: version 2"),
        ("DELETE FROM meta", "must have one row in the table meta. Received: 0 rows"),
        ("DROP TABLE meta", "must have one row in the table meta. Received: 0 rows"),
        (
            "DROP TABLE thresholds",
            r"Received: other definitions of \['thresholds'\]",
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON people BEGIN DELETE FROM images; END",
            r"must have the tables of a gallery. Received: other definitions of \['t'\]",
        ),
        ("UPDATE meta SET dimension = 1000000000", r"must have a dimension in .* Received: dimension 10000"),
        ("UPDATE meta SET dimension = 7", "must have embeddings of 28 bytes. Received: 192 bytes in slot 0"),
        (
            "UPDATE people SET slot = 1000000000000 WHERE slot = 9",
            "must have a person in each slot. Received: 10 p",
        ),
        ("DELETE FROM images WHERE id = 4", "must have an image of each person. Received: none of a person after slot"),
        ("DELETE FROM images WHERE id = 10", "must have an image of each person. Received: none of 1 people"),
        ("UPDATE vectors SET embedding = zeroblob(192)", "must have valid embeddings. Received: in slots from 0, "),
        ("UPDATE vectors SET embedding = x'00'", "must have embeddings of 192 bytes. Received: 1 bytes in slot 0"),
    ],
)
def test_contents_that_no_gallery_has_are_refused(filled, rows, statement, message):
    connection = sqlite3.connect(filled)
    with connection:
        connection.execute(statement)
    connection.close()
    for file in matrix_files(filled):
        file.unlink()
    with pytest.raises(GalleryFileError, match=rf"people\.db .*{message}"), Gallery.open(filled) as gallery:
        gallery.search(np.ones((1, gallery._records.dimension())))


def test_a_gallery_in_a_folder_without_permission(path, monkeypatch):
    if os.geteuid() == 0:
        monkeypatch.setattr(os, "open", _refuse)
    else:
        path.parent.chmod(0o500)
    with pytest.raises(PermissionError, match=r"people\.db"):
        Gallery.open(path)


def _refuse(file, *_, **__):
    raise PermissionError(13, "Permission denied", str(Path(file)))
