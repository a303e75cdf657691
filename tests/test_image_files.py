"""Only regular files inside of the folder are read as images."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface import _image_files
from keras_arcface._image_files import ImageFiles
from keras_arcface._image_files import read_image_file
from keras_arcface.data import CameraFolder
from keras_arcface.data import ImageFolder
from keras_arcface.data import ImageList
from keras_arcface.data import PairSet
from keras_arcface.data import write_dataset
from keras_arcface.evaluation import embed_images

IMAGE = encode(make_face(0, 0))


@pytest.fixture
def folder(tmp_path):
    """Folder of one class with one image, beside a folder with a private image."""
    for name in ("faces/ann", "private"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "0.png").write_bytes(IMAGE)
    return tmp_path / "faces"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


NOT_REGULAR = {
    "a FIFO": os.mkfifo,
    "a socket": make_socket,
    r"a device \(a link to /dev/zero\)": lambda path: path.symlink_to("/dev/zero"),
    r"a link that leads to itself \(a link to 1.png\)": lambda path: path.symlink_to("1.png"),
    r"a folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("kind", NOT_REGULAR)
def test_a_special_file_is_refused_and_does_not_block(kind, folder, monkeypatch):
    monkeypatch.chdir(folder / "ann")  # the path of a socket must be short
    NOT_REGULAR[kind](Path("1.png"))
    for read in (read_image_file, ImageFiles(folder, follow_links=True).read):
        with pytest.raises(ValueError, match=rf"1.png must be a regular file. Received: {kind}$"):
            read(os.path.join(folder, "ann", "1.png"))
    with pytest.raises(ValueError, match=rf"1.png must be a regular file. Received: {kind}$"):
        embed_images(np.asarray, [folder / "ann" / "1.png"], progress=False)


def test_every_source_refuses_a_fifo(folder, tmp_path):
    os.mkfifo(folder / "ann" / "ann_0001.png")
    os.mkfifo(folder / "ann" / "0001_c1.png")
    (folder / "list.csv").write_text("ann/ann_0001.png,0\n")
    (folder / "pairs.txt").write_text("1\nann\t1\t1\nann\t1\tann\t1\n")
    message = "must be a regular file. Received: a FIFO"
    with pytest.raises(ValueError, match=message):
        write_dataset(ImageFolder(folder), tmp_path / "written")
    with pytest.raises(ValueError, match=message):
        ImageList(folder / "list.csv")[0]
    with pytest.raises(FileNotFoundError, match="expected image"):
        PairSet.from_pairs_txt(folder / "pairs.txt", folder)
    (folder / "ann" / "0.png").unlink()
    (folder / "ann" / "ann_0001.png").unlink()
    with pytest.raises(ValueError, match=message):
        CameraFolder(folder / "ann")[0]


OUTSIDE = r"must be inside of the folder .*faces.*; pass follow_links=True .* Received: a link to .*private"


def test_a_link_to_a_file_outside_is_followed_only_if_allowed(folder, tmp_path):
    (folder / "ann" / "1.png").symlink_to(tmp_path / "private" / "0.png")
    with pytest.raises(ValueError, match=rf"ann/1.png {OUTSIDE}"):
        ImageFolder(folder)[1]
    assert ImageFolder(folder, follow_links=True)[1].image == IMAGE
    (folder / "list.csv").write_text("ann/1.png,0\n")
    with pytest.raises(ValueError, match=rf"ann/1.png {OUTSIDE}"):
        ImageList(folder / "list.csv")[0]
    assert ImageList(folder / "list.csv", follow_links=True)[0].image == IMAGE


def test_a_link_to_a_folder_outside_is_followed_only_if_allowed(folder, tmp_path):
    (folder / "bob").symlink_to(tmp_path / "private")
    with pytest.raises(ValueError, match=rf"faces/bob {OUTSIDE}"):
        ImageFolder(folder)
    assert len(ImageFolder(folder, follow_links=True)) == 2
    (folder / "list.csv").write_text("bob/0.png,0\n")
    with pytest.raises(ValueError, match=rf"faces/bob {OUTSIDE}"):
        ImageList(folder / "list.csv")[0]
    (folder / "bob" / "bob_0001.png").write_bytes(IMAGE)
    (folder / "pairs.txt").write_text("1\nbob\t1\t1\nbob\t1\tbob\t1\n")
    with pytest.raises(ValueError, match=rf"faces/bob {OUTSIDE}"):
        PairSet.from_pairs_txt(folder / "pairs.txt", folder)
    assert len(PairSet.from_pairs_txt(folder / "pairs.txt", folder, follow_links=True)) == 2


def test_links_within_the_folder_are_followed(folder, tmp_path):
    (folder / "ann" / "1.png").symlink_to("0.png")
    (folder / "bob").symlink_to("ann")
    (tmp_path / "link").symlink_to(folder)
    for root in (folder, tmp_path / "link"):
        assert [record.name for record in ImageFolder(root)] == ["ann/0.png", "ann/1.png", "bob/0.png", "bob/1.png"]


def test_a_dangling_link_is_named(folder):
    (folder / "ann" / "1.png").symlink_to("absent.png")
    with pytest.raises(FileNotFoundError, match=r"ann/1.png must be .* no such file \(a link to absent.png\)"):
        ImageFolder(folder)[1]


@pytest.mark.parametrize("name", ["../private/0.png", "ann/../../private/0.png", "{parent}/private/0.png"])
def test_a_listed_path_outside_of_the_root_is_refused(name, folder, tmp_path):
    name = name.format(parent=tmp_path)
    (folder / "list.csv").write_text(f"{name},0\n{folder}/ann/0.png,1\n")
    for follow_links in (False, True):
        faces = ImageList(folder / "list.csv", follow_links=follow_links)
        with pytest.raises(ValueError, match=r"private must be inside of the folder .*faces\. Received: a path that"):
            faces[0]
        assert faces[1].image == IMAGE
    assert ImageList(folder / "list.csv", root="/")[1].image == IMAGE


def test_a_large_file_is_refused_before_it_is_read(folder, monkeypatch):
    with open(folder / "ann" / "0.png", "wb") as file:
        file.truncate(_image_files.MAX_FILE_BYTES + 1)
    with pytest.raises(ValueError, match=r"ann/0.png must have at most 134217728 bytes. Received: 134217729 bytes"):
        ImageFolder(folder)[0]
    monkeypatch.setattr(_image_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(ValueError, match=r"must have at most 100 bytes. Received: .* bytes or more"):
        read_image_file("/proc/self/smaps")  # a regular file of 0 bytes with content


def test_checks_of_many_folders_are_not_all_remembered(folder, monkeypatch):
    monkeypatch.setattr(_image_files, "_MAX_REMEMBERED", 2)
    files = ImageFiles(folder, follow_links=False)
    (folder / "link").symlink_to(folder.parent / "private")
    for number in range(5):
        (folder / str(number)).mkdir()
        (folder / str(number) / "0.png").write_bytes(IMAGE)
        assert files.read(f"{number}/0.png") == files.read("ann/0.png") == IMAGE
        assert len(files._checked) <= 2
        with pytest.raises(ValueError, match=r"link.*Received: a link to"):
            files.read("link/0.png")
