"""Embeddings in Parquet files: content, resumption, damage."""

import json
import re

import cv2
import numpy as np
import pytest

from keras_arcface import data
from keras_arcface.evaluation import StoredEmbeddings
from keras_arcface.evaluation import embed_images
from keras_arcface.evaluation import write_embeddings

pytest.importorskip("pyarrow")

SHA256 = "0123456789abcdef" * 4


class Images(data.Source):
    """Random images, whose records of `damaged` are no images."""

    def __init__(self, count=10, damaged=(), seed=0):
        self.pixels = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)
        self.damaged, self.seed = damaged, seed

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        _, png = cv2.imencode(".png", self.pixels[index][..., ::-1])
        return data.Record(b"none" if index in self.damaged else png.tobytes(), index // 2, f"image {index}")

    def fingerprint(self):
        return f"{self.seed} {self.damaged}"

    def __str__(self):
        return f"Images({len(self)})"


def embed(images):
    """Returns different embeddings for an image and its mirror image."""
    return np.asarray(images, np.float32).reshape(len(images), -1)[:, :24] + 1


def write(directory, source=None, **options):
    options = {"images_per_shard": 4, "batch_size": 3, "progress": False, **options}
    return write_embeddings(
        Images() if source is None else source, directory, options.pop("embedder", embed), SHA256, **options
    )


def test_what_is_written_is_read(tmp_path):
    stored = write(tmp_path)
    source = Images()
    expected = embed_images(embed, source, progress=False)
    np.testing.assert_allclose(stored.embeddings(), expected, rtol=1e-6)
    assert stored.labels().tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert stored.names() == [f"image {index}" for index in range(10)]
    assert (len(stored), stored.dim, stored.dtype, stored.flip, stored.skipped) == (10, 24, "float32", True, ())
    assert (stored.embedder_sha256, stored.source) == (SHA256, "Images(10)")
    batches = list(stored.batches(batch_size=3))
    assert [len(names) for *_, names in batches] == [3, 1, 3, 1, 2]  # a batch does not cross files
    np.testing.assert_array_equal(np.concatenate([rows for rows, *_ in batches]), stored.embeddings())
    plain = write(tmp_path / "plain", flip=False)
    np.testing.assert_allclose(plain.embeddings(), embed(source.pixels), rtol=1e-6)


def test_other_programs_read_the_files(tmp_path):
    import pyarrow.parquet

    write(tmp_path)
    table = pyarrow.parquet.read_table(tmp_path / "00001-of-00003.parquet").to_pydict()
    assert table.keys() == {"name", "label", "embedding", "norm"}
    expected = embed_images(embed, Images(), progress=False)[4:8]
    np.testing.assert_allclose(np.linalg.norm(table["embedding"], axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(table["norm"], np.linalg.norm(expected, axis=1), rtol=1e-6)


def test_int8_rounds_each_number_by_half_a_step_at_most(tmp_path):
    stored = write(tmp_path, dtype="int8")
    expected = embed_images(embed, Images(), progress=False)
    steps = np.abs(expected).max(axis=1, keepdims=True) / 127
    assert np.abs(stored.embeddings() - expected).max() > 0
    assert (np.abs(stored.embeddings() - expected) <= 0.501 * steps).all()


def test_int8_takes_a_quarter_of_the_bytes(tmp_path):
    def embed_in_many_dimensions(images):
        return np.tile(embed(images), 40)

    sizes = {}
    for dtype in ("float32", "int8"):
        options = {"images_per_shard": 100, "embedder": embed_in_many_dimensions, "dtype": dtype}
        write(tmp_path / dtype, Images(100), **options)
        sizes[dtype] = (tmp_path / dtype / "00000-of-00001.parquet").stat().st_size
    assert sizes["int8"] < 0.28 * sizes["float32"]


class Stopping:
    """Embedder that fails at a call, as if the process ended."""

    def __init__(self, call):
        self.calls, self.call = 0, call

    def __call__(self, images):
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return embed(images)


@pytest.mark.parametrize("call", [1, 4, 6, 9])
def test_an_interrupted_run_continues_with_identical_files(tmp_path, call):
    write(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "resumed", embedder=Stopping(call))
    with pytest.raises(FileNotFoundError, match=r"resumed must be a directory with embeddings\.json"):
        StoredEmbeddings(tmp_path / "resumed")
    rest = Stopping(None)
    write(tmp_path / "resumed", embedder=rest)
    assert rest.calls < 12 or call < 4  # 2 calls per batch and mirror batch, 2 + 2 + 1 batches
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "resumed").iterdir())
    for name in names:
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "resumed" / name).read_bytes()
    assert len(write(tmp_path / "resumed", embedder=None)) == 10  # finished embeddings are only read


def test_several_processes_write_the_same(tmp_path):
    alone, together = write(tmp_path / "one"), write(tmp_path / "two", processes=2)
    np.testing.assert_array_equal(alone.embeddings(), together.embeddings())
    assert alone.names() == together.names()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"flip": False}, "flip was True, now False"),
        ({"dtype": "int8"}, "dtype was float32, now int8"),
        ({"images_per_shard": 5}, "images_per_shard was 4, now 5"),
        ({"size": (4, 8)}, r"size was \[\], now \[4, 8\]"),
        ({"source": Images(seed=1)}, "fingerprint was "),
    ],
)
def test_other_embeddings_in_the_directory_are_refused(tmp_path, options, named):
    write(tmp_path)
    with pytest.raises(FileExistsError, match=f"must contain no embeddings, or those of the same .*{named}"):
        write(tmp_path, **options)
    (tmp_path / "embeddings.json").unlink()
    if "images_per_shard" not in options:
        with pytest.raises(FileExistsError, match=r"00000-of-00003.parquet contains embeddings with another "):
            write(tmp_path, **options)


def test_damaged_images_are_named_or_skipped(tmp_path):
    source = Images(damaged=(1, 9))
    with pytest.raises(ValueError, match="image 1"):
        write(tmp_path, source)
    last = Images(damaged=(9,))
    with pytest.raises(ValueError, match="image 9"):
        write(tmp_path / "last", last)  # two shards are finished
    assert len(write(tmp_path / "last", last, damaged="skip")) == 9
    with pytest.raises(FileExistsError, match='damaged was "skip", which left out 1 images; now "raise"'):
        write(tmp_path / "last", last)
    (tmp_path / "last" / "embeddings.json").unlink()
    with pytest.raises(ValueError, match=r"must have no skipped images with damaged='raise'.*image 9"):
        write(tmp_path / "last", last)
    stored = write(tmp_path / "skipped", source, damaged="skip")
    assert stored.names() == [f"image {index}" for index in range(10) if index not in (1, 9)]
    assert [message.split(" ")[:2] for message in stored.skipped] == [["image", "1"], ["image", "9"]]
    kept = [index for index in range(10) if index not in (1, 9)]
    expected = embed_images(embed, Images(), progress=False)[kept]
    np.testing.assert_allclose(stored.embeddings(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="images 4 to 7, all of which were skipped"):
        write(tmp_path / "none", Images(damaged=(4, 5, 6, 7)), damaged="skip")


def test_a_damaged_file_is_named(tmp_path):
    import pyarrow.parquet

    write(tmp_path)
    path = tmp_path / "00001-of-00003.parquet"
    content = path.read_bytes()
    metadata = pyarrow.parquet.read_metadata(path)
    names = [metadata.schema.column(column).name for column in range(metadata.num_columns)]
    column = metadata.row_group(0).column(names.index("norm"))
    at = column.data_page_offset + column.total_compressed_size - 1
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} must be an undamaged Parquet file"):
        StoredEmbeddings(tmp_path).embeddings()
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=f"00001-of-00003.parquet must have {len(content):,} bytes"):
        StoredEmbeddings(tmp_path)


def test_a_changed_description_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "embeddings.json"
    facts = json.loads(path.read_text())
    damages = ({"shards": []}, {"dtype": "float64"}, {"version": 2}, {"num_images": True}, {"class_names": [1]})
    for changed in damages:
        path.write_text(json.dumps({**facts, **changed}))
        with pytest.raises(ValueError, match=r"embeddings.json must be an unmodified file"):
            StoredEmbeddings(tmp_path)
    facts["shards"][0]["file"] = "../00000-of-00003.parquet"
    path.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="a file name without a path"):
        StoredEmbeddings(tmp_path)


def test_wrong_arguments_are_named(tmp_path):
    for options, named in (
        ({"dtype": "float16"}, "dtype"),
        ({"processes": 0}, "processes"),
        ({"damaged": "no"}, "dam"),
    ):
        with pytest.raises(ValueError, match=named):
            write(tmp_path, **options)
    with pytest.raises(ValueError, match="embedder_sha256 must be 64 hexadecimal digits"):
        write_embeddings(Images(), tmp_path, embed, "abc")
    with pytest.raises(ValueError, match="source must contain an image"):
        write(tmp_path, Images(count=0))
