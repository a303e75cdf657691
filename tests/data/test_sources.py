import pickle
import tracemalloc

import numpy as np
import pytest
from conftest import encode
from conftest import make_face

from keras_arcface.data import ImageFolder
from keras_arcface.data import ImageList
from keras_arcface.data import Relabeled
from keras_arcface.data import TFRecords
from keras_arcface.data import drop_small_classes
from keras_arcface.data import load_dataset
from keras_arcface.data import write_dataset


def test_labels_number_the_folders_in_order(face_folder):
    faces = ImageFolder(face_folder)
    assert (len(faces), faces.num_classes) == (12, 3)
    assert faces.class_names == ["person_0", "person_1", "person_2"]
    records = list(faces)
    assert [record.label for record in records] == [0] * 4 + [1] * 3 + [2] * 5
    assert records[4].name == "person_1/0.png"
    assert records[4].image == (face_folder / "person_1" / "0.png").read_bytes()


def test_hidden_files_and_text_files_beside_the_folders_are_ignored(face_folder):
    (face_folder / ".DS_Store").write_text("")
    (face_folder / "person_0" / ".DS_Store").write_text("")
    (face_folder / "README.txt").write_text("")
    assert len(ImageFolder(face_folder)) == 12


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"one sub-folder per class. Received: path=.*absent"):
        ImageFolder(tmp_path / "absent")


def test_no_images(tmp_path):
    with pytest.raises(
        ValueError, match=r"must contain one sub-folder of images per class.*Received: a folder without sub-folders"
    ):
        ImageFolder(tmp_path)


def test_an_empty_person_is_named_and_left_out_when_written(face_folder, tmp_path, caplog):
    (face_folder / "person_1b").mkdir()
    (face_folder / "person_1b" / "Thumbs.db").write_text("")
    faces = ImageFolder(face_folder)
    assert f"{face_folder}: 1 of 4 sub-folders contain no images: person_1b" in caplog.text
    assert faces.class_names == ["person_0", "person_1", "person_1b", "person_2"]
    assert faces.labels.tolist() == [0] * 4 + [1] * 3 + [3] * 5
    info = write_dataset(faces, tmp_path / "out")
    assert (info.class_names, info.source_labels) == (("person_0", "person_1", "person_2"), (0, 1, 3))


def test_people_without_any_image(tmp_path):
    (tmp_path / "person").mkdir()
    with pytest.raises(ValueError, match=r"must contain images \(.jpg, .jpeg.*Received: 1 sub-folders without images"):
        ImageFolder(tmp_path)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.png"])
def test_files_of_operating_systems_are_ignored(name, face_folder):
    (face_folder / "person_1" / name).write_bytes(b"")
    (face_folder / name).write_bytes(b"")
    for folder in ("__MACOSX", "person_0/@eaDir"):
        (face_folder / folder).mkdir()
        (face_folder / folder / "0.png").write_bytes(b"")
    faces = ImageFolder(face_folder)
    assert (len(faces), faces.num_classes) == (12, 3)


@pytest.mark.parametrize("above", ["train", "data/train"])
def test_for_nested_folders_the_right_one_is_suggested(above, face_folder, tmp_path):
    (tmp_path / "root" / above).parent.mkdir(parents=True)
    face_folder.rename(tmp_path / "root" / above)
    with pytest.raises(ValueError, match=r"(train|data) must contain only the images of one class") as caught:
        ImageFolder(tmp_path / "root")
    suggested = f"ImageFolder({str(tmp_path / 'root' / above)!r})"
    assert f"If person_0, person_1, person_2 are the classes, use {suggested}, or" in str(caught.value)
    assert len(ImageFolder(tmp_path / "root" / above)) == 12
    depth = 2 + above.count("/")
    assert f"ImageFolder({str(tmp_path / 'root')!r}, depth={depth}) for the classes of all folders" in str(caught.value)
    assert len(ImageFolder(tmp_path / "root", depth=depth)) == 12


def in_groups(face_folder, root):
    """Moves people 0 and 1 to one group and person 2 to another, beside a file and an ignored folder."""
    for group, people in (("left", (0, 1)), ("right", (2,))):
        (root / group).mkdir(parents=True)
        for person in people:
            (face_folder / f"person_{person}").rename(root / group / f"person_{person}")
        (root / group / "LICENSE").write_text("")
    (root / "__MACOSX" / "left").mkdir(parents=True)
    return root


def test_folders_of_classes_in_folders(face_folder, tmp_path):
    groups = ImageFolder(in_groups(face_folder, tmp_path / "groups"), depth=2)
    assert groups.class_names == ["left/person_0", "left/person_1", "right/person_2"]
    assert groups.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 5
    assert groups[7].name == "right/person_2/0.png"
    assert groups[7].image == (tmp_path / "groups" / "right" / "person_2" / "0.png").read_bytes()
    face_folder.rmdir()
    assert ImageFolder(tmp_path, depth=3).class_names[0] == "groups/left/person_0"
    written = write_dataset(groups, tmp_path / "records")
    assert written.class_names == tuple(groups.class_names)


def test_a_depth_that_does_not_fit_is_named(face_folder, tmp_path):
    with pytest.raises(ValueError, match=r"depth must be an integer of at least 1. Received: depth=0"):
        ImageFolder(face_folder, depth=0)
    with pytest.raises(ValueError, match=r"person_0 must contain one sub-folder.*Received: image 0.png outside of a"):
        ImageFolder(face_folder, depth=2)
    root = in_groups(face_folder, tmp_path / "groups")
    with pytest.raises(ValueError, match=r"or ImageFolder\('[^']*groups', depth=2\) for the classes of all folders"):
        ImageFolder(root)
    (root / "middle").mkdir()
    with pytest.raises(ValueError, match=r"middle must contain one sub-folder.*Received: a folder without sub-folders"):
        ImageFolder(root, depth=2)


def test_a_group_that_leads_out_of_the_folder_is_refused(face_folder, tmp_path):
    (tmp_path / "groups").mkdir()
    (tmp_path / "groups" / "group").symlink_to(face_folder)
    with pytest.raises(ValueError, match=r"group must be inside of the folder .*Received: a link to"):
        ImageFolder(tmp_path / "groups", depth=2)
    assert len(ImageFolder(tmp_path / "groups", follow_links=True, depth=2)) == 12


def test_a_fingerprint_does_not_depend_on_where_the_folder_is(face_folder, tmp_path, monkeypatch):
    before = ImageFolder(face_folder).fingerprint()
    monkeypatch.chdir(tmp_path)
    assert ImageFolder("faces").fingerprint() == before


def test_a_file_that_is_not_an_image_is_named(face_folder):
    (face_folder / "person_1" / "notes.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"notes.txt must have one of the suffixes .jpg, .jpeg, .png.* Received: suffix='.txt'"
    ):
        ImageFolder(face_folder)


def test_an_image_outside_the_folders_is_named(face_folder):
    (face_folder / "stray.jpg").write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"one sub-folder of images per class. Received: image stray.jpg outside of a sub-folder"
    ):
        ImageFolder(face_folder)


def test_images_that_only_opencv_reads_are_included(face_folder):
    (face_folder / "person_1" / "7.PGM").write_bytes(encode(make_face(1, 7)[:, :, :1], ".pgm"))
    assert ImageFolder(face_folder)[7].name == "person_1/7.PGM"
    assert ImageFolder(face_folder).labels.tolist() == [0] * 4 + [1] * 4 + [2] * 5


def test_the_fingerprint_changes_when_an_image_does(face_folder):
    before = ImageFolder(face_folder).fingerprint()
    assert ImageFolder(face_folder).fingerprint() == before
    (face_folder / "person_1" / "1.jpg").write_bytes(b"other")
    assert ImageFolder(face_folder).fingerprint() != before


def write_list(folder, text, encoding="utf-8"):
    path = folder / "faces.csv"
    path.write_bytes(text.encode(encoding))
    return path


def test_a_list_with_numbers_for_labels(face_folder):
    faces = ImageList(write_list(face_folder, "path,label\nperson_0/0.png,3\n\nperson_2/1.jpg, 0\n"))
    assert (len(faces), faces.num_classes) == (2, 4)
    assert faces.class_names is None
    assert list(faces) == [
        ((face_folder / "person_0" / "0.png").read_bytes(), 3, "person_0/0.png"),
        ((face_folder / "person_2" / "1.jpg").read_bytes(), 0, "person_2/1.jpg"),
    ]


@pytest.mark.parametrize(
    "heading", ["path,label", "image,label", "Image Path,Class ID", "file_name,target", "src,cls", "name, id"]
)
@pytest.mark.parametrize("labels", [("10", "2.0", "2"), ("Bo", "Ann", "Ann")])
def test_a_header_is_not_an_image(heading, labels, tmp_path):
    if heading == "src,cls" and labels[0] == "Bo":
        pytest.skip("unknown words above names are refused")
    paths = ["a.jpg", "b.PNG", "c.bmp"]
    faces = ImageList(write_list(tmp_path, "\n".join([heading, *map(",".join, zip(paths, labels, strict=True))])))
    assert len(faces) == 3
    assert faces.labels.tolist() == ([10, 2, 2] if labels[0] == "10" else [1, 0, 0])
    assert faces.num_classes == (11 if labels[0] == "10" else 2)


LST = {
    "mxnet": "5\t3.000000\tperson_0/0.png\n9\t0.000000\tperson_2/1.jpg\n",
    "InsightFace": "1\tperson_0/0.png\t3\n\n1\tperson_2/1.jpg\t0\n",
    "InsightFace with boxes": "1\tperson_0/0.png\t3\t1\t2\t3\t4\n1\tperson_2/1.jpg\t0\t1\t2\t3\t4\n",
    "InsightFace with landmarks": "".join(
        f"1\t{name}\t{label}\t" + "\t".join(["7", "8", "9", "10", *["-1.5e1"] * 10]) + "\n"
        for name, label in (("person_0/0.png", 3), ("person_2/1.jpg", 0))
    ),
}


@pytest.mark.parametrize("layout", LST)
def test_lists_of_mxnet_and_insightface(layout, face_folder, tmp_path):
    (tmp_path / "train.lst").write_text(LST[layout])
    faces = ImageList(tmp_path / "train.lst", root=face_folder)
    assert (len(faces), faces.num_classes, faces.labels.dtype) == (2, 4, np.int64)
    assert list(faces) == [
        ((face_folder / "person_0" / "0.png").read_bytes(), 3, "person_0/0.png"),
        ((face_folder / "person_2" / "1.jpg").read_bytes(), 0, "person_2/1.jpg"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            r"train.lst must contain lines of index<tab>label<tab>path \(mxnet\) or aligned<tab>path",
        ),
        ("a.jpg\t1\n", r"line 1: expected index<tab>label<tab>path .*Received: 'a.jpg<tab>1'"),
        ("0 1 a.jpg\n", r"line 1: expected index<tab>label<tab>path"),
        ("0\t1\ta.jpg\n0\t1\t7\n", r"line 2: expected .*and a path that is not a number. Received: '0<tab>1<tab>7'"),
        (
            "0\t1\ta.jpg\n1\tb.jpg\t1\n",
            r"line 2: expected index<tab>label<tab>path, as in the lines before. Received: aligned<tab>path",
        ),
        ("0\ta.jpg\t1\n", r"line 1: a.jpg must be an aligned face.*Received: aligned=0"),
        ("7\ta.jpg\t1\n", r"line 1: expected aligned<tab>path<tab>label, where aligned is 0 or 1.*the first '7'"),
        (f"0\t{'a' * 10**6}.jpg\t1\n", r"line 1: a{80}\.\.\. must be an aligned face"),
        (f"0\t1\t0.5\t{'a' * 10**6}.jpg\n", r"Received: 2 labels for a{80}\.\.\.$"),
        ("0\t1\t0.5\ta.jpg\n", r"line 1: expected one label per image. Received: 2 labels for a.jpg"),
        ("0\t0.5\ta.jpg\n", r"line 1: expected an integer label from 0 to .*Received: '0.5'"),
        ("\n1\ta.jpg\t-1\n", r"line 2: expected an integer label from 0 to .*Received: '-1'"),
    ],
)
def test_an_invalid_lst_file_is_named(text, message, tmp_path):
    (tmp_path / "train.lst").write_text(text)
    with pytest.raises(ValueError, match=message):
        ImageList(tmp_path / "train.lst")


def test_a_list_with_names_for_labels(face_folder, tmp_path):
    path = write_list(tmp_path, '\ufeffperson_1/0.png,Zoë\r\n"person_2/1.jpg","Adams, Ann"\r\nperson_1/1.jpg,Zoë\r\n')
    faces = ImageList(path, root=face_folder)
    assert faces.class_names == ["Adams, Ann", "Zoë"]
    assert faces.labels.tolist() == [1, 0, 1]
    assert faces.num_classes == 2
    assert faces[1].image == (face_folder / "person_2" / "1.jpg").read_bytes()


def test_one_long_name_does_not_make_every_label_long(tmp_path):
    path = tmp_path / "faces.csv"
    path.write_text("".join(f"{number}.jpg,{'a' * 50_000 if number == 0 else 'b'}\n" for number in range(2000)))
    tracemalloc.start()
    faces = ImageList(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert faces.class_names == ["a" * 50_000, "b"]
    assert faces.labels.tolist() == [0, *[1] * 1999]
    assert peak < 10 << 20


def test_labels_of_a_list_above_the_precision_of_float32(face_folder):
    faces = ImageList(write_list(face_folder, f"person_0/0.png,{2**24 + 1}\nperson_0/1.jpg,{2**24}\n"))
    assert faces.labels.tolist() == [2**24 + 1, 2**24]
    assert faces[0].label == 2**24 + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg,1\nb.jpg\n", r"faces.csv, line 2: expected path,label. Received: 'b.jpg'"),
        (f"a.jpg,1\n{'b' * 10**4}\n", r"line 2: expected path,label. Received: 'b{80}\.\.\.'$"),
        ("a.jpg,1\nb.jpg,1,2\n", r"line 2: expected path,label. Received: 'b.jpg,1,2'"),
        ("a.jpg,1\n,2\n", r"line 2: expected path,label. Received: ',2'"),
        ("a.jpg,1\nb.jpg, \n", r"line 2: expected path,label. Received"),
        ("a.jpg,1\nb\0.jpg,2\n", r"faces.csv must contain paths without NUL characters. Received: 'b\\x00.jpg'"),
        ("", "must contain lines of path,label. Received: no such lines"),
        ("path,label\n", "must contain lines of path,label. Received: no such lines"),
        (
            "a.jpg,Ann\nb.jpg,1\n",
            r"line 1: the label is not a number, unlike in all other lines.*Received: 'a.jpg,Ann'",
        ),
        ("src,cls\n001,1\n002,0\n", r"line 1: the label is not a number.*Expected: a header such as path,label"),
        ("001,Ann\nb.jpg,Bo\n", r"line 1: the path is not the name of an image.*Received: '001,Ann'"),
        (
            "a.jpg,0\nb.jpg,1\nc.jpg,Ann\n",
            r"line 3: labels must be all numbers or all names.*Received: 'Ann', after '0' in line 1",
        ),
        ("a.jpg,0\nb.jpg,-1\n", r"line 2: expected an integer label from 0 to 9223372036854775807. Received: '-1'"),
        ("path,label\na.jpg,9223372036854775808\n", r"line 2: expected an integer label .*'9223372036854775808'"),
        (f"a.jpg,{'9' * 5000}\n", r"line 1: expected an integer label from 0"),
        ("label,path\n0,a.jpg\n1,b.jpg\n", r"line 1: the label is the name of an image. Expected: path,label in this"),
    ],
)
def test_an_invalid_list_is_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ImageList(write_list(tmp_path, text))


def test_a_list_that_is_not_utf8(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"faces.csv, line 0: expected path,label, encoded as UTF-8. Received: 'utf-8' codec can't decode",
    ):
        ImageList(write_list(tmp_path, "Zoë.jpg,1\n", "latin1"))


def test_no_list(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"path must be a CSV file with lines of path,label, or a .lst file. Received"
    ):
        ImageList(tmp_path / "absent.csv")


def test_a_listed_image_that_is_missing(tmp_path):
    faces = ImageList(write_list(tmp_path, "absent.jpg,1\n"))
    assert isinstance(faces.fingerprint(), str)
    with pytest.raises(FileNotFoundError, match=r"absent.jpg"):
        faces[0]


def test_a_written_dataset_is_a_source(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "records", examples_per_shard=5)
    faces = TFRecords(tmp_path / "records")
    assert (len(faces), faces.num_classes, faces.image_size) == (12, 3, (32, 32))
    assert list(faces.class_names) == ["person_0", "person_1", "person_2"]
    records = list(faces)
    assert sorted(records) == sorted(ImageFolder(face_folder))
    assert [record.label for record in records] == faces.labels.tolist()
    labels = np.concatenate([labels for _, labels in load_dataset(tmp_path / "records", batch_size=5)])
    np.testing.assert_array_equal(labels, faces.labels)
    assert faces[-1] == records[-1]
    with pytest.raises(IndexError):
        faces[12]
    again = write_dataset(pickle.loads(pickle.dumps(faces)), tmp_path / "again")
    assert sorted(TFRecords(tmp_path / "again")) == sorted(records)
    assert again.class_names == ("person_0", "person_1", "person_2")
    assert TFRecords(tmp_path / "again").fingerprint() != faces.fingerprint()


def test_reprs(face_folder, tmp_path):
    faces = ImageFolder(face_folder)
    assert repr(faces) == f"<ImageFolder({str(face_folder)!r}): 12 images of 3 classes>"
    path = write_list(face_folder, "person_0/0.png,3\n")
    assert repr(ImageList(path)) == f"<ImageList({str(path)!r}): 1 images of 4 classes>"
    info = write_dataset(faces, tmp_path / "records", examples_per_shard=5)
    assert repr(info) == f"<DatasetInfo: 12 images of 3 classes, 32 x 32, in 3 shards, from {faces}>"
    assert repr(TFRecords(tmp_path / "records")) == f"<TFRecords('{tmp_path / 'records'}'): 12 images of 3 classes>"
    assert repr(drop_small_classes(faces, 4)) == f"<ClassSubset: 9 images, 2 classes of {faces}>"
    assert repr(Relabeled(faces, [0] * 11 + [-1])) == f"<Relabeled: 3 classes, 11 images of {faces}>"


def test_a_record_needs_no_other_shard(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "records", examples_per_shard=4)
    expected = list(TFRecords(tmp_path / "records"))
    damaged = tmp_path / "records" / "00001-of-00003.tfrecord"
    damaged.write_bytes(bytes(damaged.stat().st_size))
    faces = TFRecords(tmp_path / "records")
    readable = [*range(4), *range(8, 12)]
    assert [faces[row] for row in readable] == [expected[row] for row in readable]
    for read in (lambda: faces[4], lambda: faces.labels):
        with pytest.raises(ValueError, match=r"00001-of-00003\.tfrecord"):
            read()
