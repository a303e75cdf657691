import errno
import logging
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from keras_arcface._locks import FileLock
from keras_arcface.serving.deploy import base_path_lock
from keras_arcface.serving.deploy import publication
from keras_arcface.serving.deploy import staging
from keras_arcface.serving.deploy.publication import publish
from keras_arcface.serving.deploy.rollback import rollback
from keras_arcface.serving.deploy.versions import MAX_VERSION
from keras_arcface.serving.deploy.versions import next_version
from keras_arcface.serving.deploy.versions import version_number
from keras_arcface.serving.deploy.versions import versions

FILES = {
    "saved_model.pb": b"graph" * 1000,
    "fingerprint.pb": b"",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": bytes(range(256)) * 1000,
    "assets.extra/metadata.json": b"{}",
}


def make_model(directory):
    for name, content in FILES.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
    return directory


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "exported")


@pytest.fixture
def base(tmp_path):
    return tmp_path / "models" / "faces"


def publish_times(times, model, base, **options):
    for _ in range(times):
        publish(model, base, check=False, **options)


def files_of(directory):
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def names(base):
    return sorted(path.name for path in base.iterdir())


# Publishing.


def test_versions_count_from_1_and_are_complete(model, base):
    assert publish(model, base, check=False) == base / "1"
    assert publish(str(model), str(base), check=False) == base / "2"
    assert names(base) == ["1", "2"]
    assert files_of(base / "1") == files_of(base / "2") == FILES == files_of(model)
    assert versions(base) == [1, 2]


def test_other_users_can_read_a_version(model, base):
    previous = os.umask(0o022)
    try:
        publish(model, base, check=False)
    finally:
        os.umask(previous)
    assert {path.stat().st_mode & 0o777 for path in (base / "1").rglob("*") if path.is_dir()} == {0o755}
    assert (base / "1").stat().st_mode & 0o777 == 0o755
    assert (base / "1" / "saved_model.pb").stat().st_mode & 0o777 == 0o644


def test_links_to_files_are_followed_and_others_refused(model, base, tmp_path):
    shutil.move(model / "saved_model.pb", tmp_path / "elsewhere.pb")
    (model / "saved_model.pb").symlink_to(tmp_path / "elsewhere.pb")
    publish(model, base, check=False)
    assert not (base / "1" / "saved_model.pb").is_symlink()
    assert files_of(base / "1") == FILES
    (model / "more").symlink_to(tmp_path)
    with pytest.raises(ValueError, match=r"must contain only files and directories. Received: .*exported/more"):
        publish(model, base, check=False)
    assert names(base) == ["1"]


@pytest.mark.parametrize("kind", ["fifo", "link to a fifo", "link to a device", "link to itself", "link to nothing"])
@pytest.mark.parametrize("name", ["variables/more", "saved_model.pb"])
def test_special_files_are_refused(kind, name, model, base, tmp_path):
    publish(model, base, check=False)
    path = model / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link to a fifo":
        os.mkfifo(tmp_path / "fifo")
        path.symlink_to(tmp_path / "fifo")
    else:
        path.symlink_to({"device": "/dev/zero", "itself": path.name, "nothing": "nowhere"}[kind.rpartition(" ")[2]])
    refused(ValueError, "must contain only files and|must be a directory with saved_model.pb", model, base)


def test_nested_directories_are_limited(model, base):
    publish(model, base, check=False)
    (model / "/".join("d" * 40)).mkdir(parents=True)
    refused(ValueError, r"A SavedModel must have at most 32 nested directories. Received: .*/d/d", model, base)


def test_a_linked_base_path(model, base, tmp_path):
    base.mkdir(parents=True)
    (tmp_path / "link").symlink_to(base)
    assert publish(model, tmp_path / "link", check=False) == tmp_path / "link" / "1"
    publish(model, base, check=False)
    assert rollback(tmp_path / "link") == tmp_path / "link" / "1"
    assert names(base) == [".withdrawn-2", "1"]


def test_negative_numbers_and_special_files_are_old_versions(model, base):
    base.mkdir(parents=True)
    make_model(base / "-3")
    os.mkfifo(base / "2")
    assert publish(model, base, keep=2, check=False) == base / "3"
    assert versions(base) == [-3, 2, 3]
    assert rollback(base) == base / "-3"
    assert publish(model, base, keep=1, check=False) == base / "4"
    assert names(base) == ["4"]


def test_every_number_is_used_once(model, base):
    publish_times(3, model, base)
    rollback(base, to=1)
    assert publish(model, base, check=False) == base / "4"
    assert names(base) == [".withdrawn-2", ".withdrawn-3", "1", "4"]
    for number in (1, 2, 4):
        for dry_run in (False, True):
            with pytest.raises(FileExistsError, match=rf"never used in .*faces. Received: version={number}$"):
                publish(model, base, version=number, check=False, dry_run=dry_run)
    assert publish(model, base, version=20, check=False) == base / "20"
    assert publish(model, base, check=False) == base / "21"


@pytest.mark.parametrize("name", ["7", "007", "+7", ".withdrawn-7"])
@pytest.mark.parametrize("kind", ["empty directory", "file"])
def test_names_that_the_server_reads_as_a_version_count_as_used(name, kind, model, base):
    base.mkdir(parents=True)
    if kind == "file":
        (base / name).write_text("")
    else:
        (base / name).mkdir()
    with pytest.raises(FileExistsError, match=r"Received: version=7$"):
        publish(model, base, version=7, check=False)
    assert publish(model, base, check=False) == base / "8"
    assert not list((base / name).iterdir()) if kind != "file" else (base / name).read_text() == ""


def test_a_number_below_a_used_one_is_refused_because_retention_may_have_removed_it(model, base):
    publish_times(3, model, base, keep=1)
    assert names(base) == ["3"]
    with pytest.raises(FileExistsError, match=r"version must be larger than 3, .* in .*faces. Received: version=1$"):
        publish(model, base, version=1, check=False)
    rollback_target = publish(model, base, version=9, check=False)
    rollback(base)
    shutil.rmtree(base / "3")
    with pytest.raises(FileExistsError, match=r"version must be larger than 9, "):
        publish(model, base, version=5, check=False)
    assert rollback_target == base / "9"
    assert names(base) == [".withdrawn-9"]


def test_no_number_follows_the_largest_one(model, base):
    publish(model, base, version=MAX_VERSION - 1, check=False)
    assert publish(model, base, check=False) == base / str(MAX_VERSION)
    match = r"faces must not contain version 9223372036854775807, because a server cannot read larger numbers"
    refused(ValueError, match, model, base)
    refused(ValueError, match, model, base, dry_run=True)
    refused(FileExistsError, r"version must be larger than 9223372036854775807", model, base, version=MAX_VERSION)
    with pytest.raises(ValueError, match=match):
        next_version(base)
    rollback(base)  # the number of a withdrawn version is not used again
    refused(ValueError, match, model, base)


# Several at once.


def test_concurrent_publishers_get_different_numbers(model, base, monkeypatch):
    at_once = 8
    barrier, copy_tree, results = threading.Barrier(at_once), staging.copy_tree, []

    def copy_and_wait(source, target, *levels):
        copy_tree(source, target, *levels)
        if source == model:
            barrier.wait(timeout=10)  # all publishers choose a number at the same time

    monkeypatch.setattr(staging, "copy_tree", copy_and_wait)
    threads = [
        threading.Thread(target=lambda: results.append(publish(model, base, check=False))) for _ in range(at_once)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [base / str(number) for number in range(1, at_once + 1)]
    assert all(files_of(path) == FILES for path in results)
    assert len(names(base)) == at_once


def test_the_number_is_chosen_after_the_copy(model, base, monkeypatch):
    copy_tree, version = staging.copy_tree, 1

    def copy_while_another_publishes(source, target, *levels):
        copy_tree(source, target, *levels)
        if not (base / str(version)).exists():
            (base / str(version)).mkdir()

    monkeypatch.setattr(staging, "copy_tree", copy_while_another_publishes)
    assert publish(model, base, check=False) == base / "2"
    version = 3
    with pytest.raises(FileExistsError, match=r"Received: version=3$"):
        publish(model, base, version=3, check=False)
    assert names(base) == ["1", "2", "3"]


def test_the_lock_is_held_while_versions_are_renamed_and_not_while_a_model_is_copied(model, base, monkeypatch):
    copyfile, rename, seen = shutil.copyfile, os.rename, []

    def record(name, function):
        def call(source, target):
            seen.append((name, Path(source).name[:5], (base / ".lock").exists()))
            function(source, target)

        return call

    publish(model, base, check=False)
    monkeypatch.setattr(shutil, "copyfile", record("copy", copyfile))
    monkeypatch.setattr(os, "rename", record("rename", rename))
    publish(model, base, keep=1, check=False)
    assert {entry[2] for entry in seen if entry[0] == "copy"} == {False}
    assert [entry for entry in seen if entry[0] == "rename"] == [("rename", ".tmp-", True), ("rename", "1", True)]
    assert names(base) == ["2"]


def test_a_process_that_holds_the_lock_is_named(model, base, monkeypatch):
    publish_times(2, model, base)
    monkeypatch.setattr(base_path_lock, "_TIMEOUT", 0)
    match = r"faces must not be in use by another process. Received: .lock, which process \d+ on .* has locked"
    with FileLock(base / ".lock"):
        with pytest.raises(BlockingIOError, match=match):
            publish(model, base, check=False)
        with pytest.raises(BlockingIOError, match=match):
            rollback(base)
    assert names(base) == ["1", "2"]


def test_leftovers_of_a_killed_publisher_are_removed(model, base):
    make_model(base / ".tmp-dead")
    (base / ".tmp-dead.lock").write_text("")
    publish(model, base, check=False)
    assert names(base) == ["1"]


# Retention.


def test_keep_keeps_the_newest_versions(model, base):
    publish_times(4, model, base, keep=2)
    assert names(base) == ["3", "4"]
    publish(model, base, check=False)
    assert names(base) == ["3", "4", "5"]


def test_protected_versions_stay_and_older_withdrawn_ones_are_removed(model, base):
    publish_times(2, model, base)
    rollback(base)
    publish_times(3, model, base)
    publish(model, base, keep=2, protect=[1], check=False)
    assert names(base) == ["1", "5", "6"]
    rollback(base)
    publish(model, base, keep=2, check=False)
    assert names(base) == [".withdrawn-6", "5", "7"]
    assert publish(model, base, keep=1, check=False) == base / "8"
    assert names(base) == ["8"]


def test_a_version_is_renamed_before_it_is_removed(model, base, monkeypatch):
    publish(model, base, check=False)
    rmtree, seen = shutil.rmtree, []

    def look(path, **options):
        seen.append((names(base), files_of(path) == FILES))
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", look)
    publish(model, base, keep=1, check=False)
    ((there, complete),) = seen
    assert complete
    assert [name for name in there if version_number(name) is not None] == ["2"]


def test_names_without_a_model_are_not_counted_as_kept_versions(model, base):
    publish_times(2, model, base)
    (base / "3").write_text("a file")
    (base / "04").mkdir()
    (base / "5").symlink_to("nothing")
    assert publish(model, base, keep=2, check=False) == base / "6"
    assert names(base) == ["04", "2", "3", "5", "6"]
    assert publish(model, base, keep=1, check=False) == base / "7"
    assert names(base) == ["7"]


def test_a_linked_version_is_removed_without_its_target(model, base):
    base.mkdir(parents=True)
    (base / "1").symlink_to(model)
    publish(model, base, keep=2, check=False)
    assert versions(base) == [1, 2]
    assert rollback(base) == base / "1"
    publish(model, base, keep=1, check=False)
    assert names(base) == ["3"]
    assert files_of(model) == FILES


def test_a_protected_version_that_is_withdrawn_meanwhile_stays(model, base, monkeypatch):
    publish_times(2, model, base)
    copy_tree = staging.copy_tree

    def copy_while_another_rolls_back(source, target, *levels):
        copy_tree(source, target, *levels)
        if source == model:
            rollback(base)

    monkeypatch.setattr(staging, "copy_tree", copy_while_another_rolls_back)
    publish(model, base, keep=1, protect=[2], check=False)
    assert names(base) == [".withdrawn-2", "3"]


def test_a_version_that_cannot_be_removed_leads_to_a_warning(model, base, monkeypatch, caplog):
    publish(model, base, check=False)
    rename = os.rename

    def refuse(source, target):
        if source.name == "1":
            raise PermissionError(errno.EACCES, "Permission denied")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    assert publish(model, base, keep=1, check=False) == base / "2"
    assert "faces/1 could not be removed: Permission denied" in caplog.text
    assert names(base) == ["1", "2"]


# Rolling back.


def test_rollback_withdraws_the_newest(model, base):
    publish_times(3, model, base)
    assert rollback(base) == base / "2"
    assert names(base) == [".withdrawn-3", "1", "2"]
    assert files_of(base / ".withdrawn-3") == FILES
    assert rollback(base) == base / "1"
    with pytest.raises(ValueError, match=r"must contain at least two versions. Received: versions 1"):
        rollback(base)


def test_rollback_to_a_version_withdraws_all_newer_ones_the_newest_first(model, base, monkeypatch):
    publish_times(4, model, base)
    renamed, rename = [], os.rename

    def record(source, target):
        renamed.append(source.name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", record)
    assert rollback(base, to=2) == base / "2"
    assert renamed == ["4", "3"]
    with pytest.raises(ValueError, match=r"to must be a version in .*faces, which has versions 1, 2. Received: to=3"):
        rollback(base, to=3)
    with pytest.raises(ValueError, match=r"to must be older than the newest version in .*faces. Received: to=2"):
        rollback(base, to=2)
    with pytest.raises(
        FileNotFoundError, match=r"base_path must be an existing directory. Received: base_path='.*nothing'"
    ):
        rollback(base / "nothing")


def test_a_rollback_needs_a_version_that_a_server_can_load(model, base):
    publish(model, base, check=False)
    (base / "2").write_text("a file")
    assert publish(model, base, check=False) == base / "3"
    with pytest.raises(ValueError, match=r"to must be a version with saved_model.pb in .*faces. Received: to=2"):
        rollback(base, to=2)
    assert rollback(base) == base / "1"
    assert names(base) == [".withdrawn-2", ".withdrawn-3", "1"]
    (base / "1" / "saved_model.pb").unlink()
    publish(model, base, check=False)
    with pytest.raises(ValueError, match=r"must contain an older version with saved_model.pb. Received: versions 1, 4"):
        rollback(base)


def test_a_version_that_is_published_and_withdrawn_is_not_withdrawn_again(model, base):
    publish_times(3, model, base)
    (base / ".withdrawn-2").mkdir()
    with pytest.raises(ValueError, match=r"must not also exist as a withdrawn version. Received: 2 and .withdrawn-2"):
        rollback(base, to=1)
    assert names(base) == [".withdrawn-2", "1", "2", "3"]


def test_a_failed_rollback_names_the_withdrawn_versions(model, base, monkeypatch):
    publish_times(3, model, base)
    rename = os.rename

    def fail(source, target):
        if source.name == "2":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(source))
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match=r"faces withdrew only 3 and failed: .*Input/output error: .*faces/2"):
        rollback(base, to=1)
    with pytest.raises(OSError, match=r"faces withdrew no version and failed: .*Input/output error: .*faces/2"):
        rollback(base, to=1)
    assert names(base) == [".withdrawn-3", "1", "2"]


# Refusals: nothing is changed.


def state(*directories):
    return [sorted(map(str, directory.rglob("*"))) for directory in directories]


def refused(error, match, model, base, **options):
    before = state(model.parent)
    with pytest.raises(error, match=match) as raised:
        publish(model, base, **{"check": False, **options})
    assert state(model.parent) == before
    return str(raised.value)


def test_invalid_paths_are_refused(model, base, tmp_path):
    refused(
        FileNotFoundError,
        r"saved_model must be an existing directory. Received: saved_model='.*nothing'",
        tmp_path / "nothing",
        base,
    )
    (tmp_path / "other").mkdir()
    refused(
        ValueError,
        r"must be a directory with saved_model.pb. Received: .*other, an empty directory",
        tmp_path / "other",
        base,
    )
    refused(ValueError, r", \['exported', 'other'\]", tmp_path, base)
    refused(
        ValueError,
        r"must not contain each other.*Received: saved_model='.*exported', base_path='.*exported/inner'",
        model,
        model / "inner",
    )
    refused(ValueError, r"must not contain each other", model, tmp_path)
    refused(ValueError, r"base_path must be .* not an integer. Received: base_path='.*faces/3'", model, base / "3")
    make_model(tmp_path / "another")
    refused(
        ValueError,
        r"base_path must be .* without saved_model.pb .* Received: base_path='.*another'",
        model,
        tmp_path / "another",
    )
    refused(ValueError, r"base_path must be .*Received: base_path=", model, model)
    (tmp_path / "file").write_text("")
    refused(
        NotADirectoryError,
        r"must be a directory or not exist. Received: base_path='.*file', a file",
        model,
        tmp_path / "file",
    )
    (tmp_path / "dangling").symlink_to("nowhere")
    refused(NotADirectoryError, r"Received: base_path='.*dangling', a link to nothing", model, tmp_path / "dangling")
    link = tmp_path / "link"
    link.symlink_to(model)
    refused(ValueError, r"must not contain each other", model, link / "inner")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"version": 0}, "Received: version=0"),
        ({"version": -1}, "Received: version=-1"),
        ({"version": 2**63}, "Received: version=9223372036854775808"),
        ({"keep": 0}, "Received: keep=0"),
        ({"protect": [1, 4]}, r"which has versions 1, 2. Received: protect=\[1, 4\]"),
    ],
)
def test_invalid_numbers_are_refused(options, match, model, base):
    publish_times(2, model, base)
    refused(ValueError, match, model, base, **options)


def test_a_model_that_fails_the_check_is_not_published(model, base, monkeypatch):
    checked = []

    class Checking:
        @staticmethod
        def check_saved_model(directory):
            checked.append((directory, files_of(directory)))
            if (directory / "bad").exists():
                raise ValueError(f"{directory} does not load")
            return ["a loader"]

    monkeypatch.setitem(sys.modules, "keras_arcface.serving.saved_model.export_check", Checking)
    monkeypatch.setattr("keras_arcface.serving.saved_model.export_check", Checking, raising=False)
    publish(model, base)
    directory, files = checked.pop()
    assert directory.parent == base
    assert directory.name.startswith(".tmp-")
    assert files == FILES
    publish(model, base, dry_run=True)
    assert checked.pop()[0] == model
    (model / "bad").write_text("")
    assert "does not load" in refused(
        ValueError, r"exported failed the check and is not published: ", model, base, check=True
    )
    refused(ValueError, r"exported failed the check and is not published: ", model, base, check=True, dry_run=True)


def test_a_full_disk_is_explained_and_no_copy_remains(model, base, monkeypatch):
    publish(model, base, check=False)
    copyfile = shutil.copyfile

    def run_full(source, target):
        if source.endswith("variables.index"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source), None, str(target))
        copyfile(source, target)

    monkeypatch.setattr(shutil, "copyfile", run_full)
    refused(
        OSError,
        r"exported could not be published to .*faces, and the incomplete copy was removed. No space left on device, "
        r"while writing \d{3},\d{3} bytes with [\d,]+ bytes free$",
        model,
        base,
    )


def test_an_error_after_the_publication_says_that_the_version_is_published(model, base, monkeypatch):
    publish(model, base, check=False)

    def fail(directory):
        if directory == base:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(publication, "sync_directory", fail)
    with pytest.raises(OSError, match=r"exported is published as .*faces/2, but a later step failed. Input/output"):
        publish(model, base, keep=1, check=False)
    assert names(base) == ["1", "2"]


def test_a_model_that_changes_while_it_is_published_is_refused(model, base, monkeypatch):
    publish(model, base, check=False)
    copy_tree = staging.copy_tree

    def copy_while_another_exports(source, target, *levels):
        copy_tree(source, target, *levels)
        (target / "saved_model.pb").unlink(missing_ok=True)

    monkeypatch.setattr(staging, "copy_tree", copy_while_another_exports)
    refused(ValueError, r"must not change while it is published. Received: .*exported", model, base, keep=1)


def test_no_permission_is_explained(model, base):
    if os.geteuid():
        folder = base
        base.mkdir(parents=True)
        base.chmod(0o555)
        refused(PermissionError, r"the incomplete copy was removed. Permission denied: .*\.tmp-", model, base)
        return
    folder = Path(tempfile.mkdtemp())  # root may write everywhere, so an unprivileged user publishes
    try:
        folder.chmod(0o755)
        make_model(folder / "exported")
        (folder / "faces").mkdir()
        os.seteuid(65534)
        try:
            refused(PermissionError, r"Permission denied: .*faces/\.tmp-", folder / "exported", folder / "faces")
            refused(PermissionError, r"Permission denied: .*/new", folder / "exported", folder / "new")
        finally:
            os.seteuid(0)
    finally:
        shutil.rmtree(folder)


def test_next_version_creates_nothing(base, tmp_path):
    assert next_version(base) == base / "1"
    assert not tmp_path.joinpath("models").exists()
    for version in (3, 9):
        make_model(base / str(version))
    rollback(base)
    assert next_version(str(base)) == base / "10"  # the number of a withdrawn version is not used again
    with pytest.raises(ValueError, match=r"base_path must be .*Received: base_path='.*faces/3'"):
        next_version(base / "3")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="must be a directory"):
        next_version(tmp_path / "file")


def test_a_dry_run_logs_the_plan_and_changes_nothing(model, base, caplog):
    caplog.set_level(logging.INFO)
    assert publish(model, base, keep=1, check=False, dry_run=True) == base / "1"
    assert not base.parent.exists()
    publish_times(4, model, base)
    rollback(base)
    before = state(base)
    caplog.clear()
    assert publish(model, base, keep=2, protect=[1], check=False, dry_run=True) == base / "5"
    assert rollback(base, to=1, dry_run=True) == base / "1"
    assert state(base) == before
    assert caplog.messages == [
        f"would publish {model} as {base}/5",
        f"would remove {base}/2",
        f"would withdraw {base}/3",
        f"would withdraw {base}/2",
    ]
    caplog.clear()
    publish(model, base, keep=2, protect=[1], check=False)
    rollback(base, to=1)
    assert caplog.messages == [
        f"published {model} as {base}/5",
        f"removed {base}/2",
        f"withdrew {base}/5",
        f"withdrew {base}/3",
    ]
