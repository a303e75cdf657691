import pytest
import recordio_files
import retrieval_trees
from conftest import encode
from conftest import make_face

from keras_arcface.data import CameraFolder
from keras_arcface.data import Cars196
from keras_arcface.data import Cub200
from keras_arcface.data import ImageFolder
from keras_arcface.data import ImageList
from keras_arcface.data import InShop
from keras_arcface.data import RecordIO
from keras_arcface.data import StanfordOnlineProducts
from keras_arcface.data import TFRecords
from keras_arcface.data import open_source
from keras_arcface.data import write_dataset


def test_a_path_is_opened_as_what_it_contains(face_folder, tmp_path):
    write_dataset(ImageFolder(face_folder), tmp_path / "dataset")
    (tmp_path / "rec").mkdir()
    recordio_files.write(tmp_path / "rec" / "train.rec", recordio_files.ms1m_layout([[encode(make_face(0, 0))]]))
    (tmp_path / "list.csv").write_text("faces/person_0/0.png,0\n")
    (tmp_path / "list.LST").write_text("0\t0\tfaces/person_0/0.png\n")
    for name, source in (
        ("faces", ImageFolder),
        ("dataset", TFRecords),
        ("rec", RecordIO),
        ("rec/train.rec", RecordIO),
        ("list.csv", ImageList),
        ("list.LST", ImageList),
    ):
        assert type(open_source(str(tmp_path / name))) is source
    assert len(open_source(face_folder)) == 12


def test_a_benchmark_is_opened_by_its_subset(tmp_path):
    images = [[encode(make_face(person, image)) for image in range(4)] for person in range(2)]
    retrieval_trees.write_all(tmp_path, images)
    retrieval_trees.write_market(tmp_path / "Market-1501", {1: images[0]}, {2: images[1]}, {2: images[1]})
    for name, kind, subsets in (
        ("CUB_200_2011", Cub200, "train, test"),
        ("cars196", Cars196, "train, test"),
        ("Stanford_Online_Products", StanfordOnlineProducts, "train, test"),
        ("In-shop", InShop, "train, query, gallery"),
        ("Market-1501", CameraFolder, "train, query, gallery"),
    ):
        for subset in subsets.split(", "):
            source = open_source(tmp_path / name, subset=subset)
            assert (type(source), source.num_classes % 97) == (kind, 1)
            assert source.subset == subset if kind is not CameraFolder else source.path.parent == tmp_path / name
        for other in (None, "val"):
            with pytest.raises(
                ValueError, match=rf"subset must be one of {subsets}, .*{name}. Received: subset={other!r}"
            ):
                open_source(tmp_path / name, subset=other)
    assert open_source(tmp_path / "Market-1501", subset="gallery").path.name == "bounding_box_test"
    with pytest.raises(ValueError, match=r"subset must be None for .*images, which is not a benchmark. Received"):
        open_source(tmp_path / "CUB_200_2011" / "images", subset="train")


def test_links_are_followed_on_request(face_folder, tmp_path):
    (tmp_path / "link").symlink_to(face_folder / "person_0")
    (face_folder / "person_0").rename(tmp_path / "elsewhere")
    (face_folder / "person_0").symlink_to(tmp_path / "elsewhere")
    (face_folder / "list.csv").write_text("person_0/0.png,0\n")
    with pytest.raises(ValueError, match="pass follow_links=True"):
        open_source(face_folder)
    with pytest.raises(ValueError, match="pass follow_links=True"):
        open_source(face_folder / "list.csv")[0]
    assert len(open_source(face_folder, follow_links=True)) == 12
    assert open_source(face_folder / "list.csv", follow_links=True)[0].name == "person_0/0.png"


def test_other_paths_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be an existing file or folder.*Received: path='.*absent'"):
        open_source(tmp_path / "absent")
    (tmp_path / "faces.txt").write_text("")
    with pytest.raises(ValueError, match=r"path must be a .rec, .csv or .lst file, a folder.*faces.txt'"):
        open_source(tmp_path / "faces.txt")
