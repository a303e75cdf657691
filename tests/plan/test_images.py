"""Estimates for many images, against files that are written and sums done by hand."""

import dataclasses

import cv2
import numpy as np
import pytest

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import plan
from keras_arcface.gallery import Gallery

GIB = 2**30


def by_name(**setup):
    setup = plan.ImageSetup(**{"images": 1_000_000, **setup})
    return {found.name: found for found in [*plan.estimate_stages(setup), *plan.estimate_searches(setup)]}


class Images(data.Source):
    """Random images of 16 x 16, with names of 12 characters."""

    labels = np.zeros(300, np.int64)

    def __len__(self):
        return 300

    def __getitem__(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), np.uint8)
        return data.Record(cv2.imencode(".jpg", pixels)[1].tobytes(), 0, f"image {index:06}")


def size_of(directory, suffix):
    return sum(path.stat().st_size for path in directory.glob(f"*{suffix}"))


def test_bytes_of_a_dataset(tmp_path):
    image_bytes = float(np.mean([len(record.image) for record in Images()]))
    data.write_dataset(Images(), tmp_path / "out")
    planned = by_name(images=300, image_bytes=image_bytes, name_bytes=12)["convert"].num_bytes
    assert planned == pytest.approx(size_of(tmp_path / "out", ".tfrecord"), rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_bytes_of_stored_embeddings(tmp_path, dtype):
    pytest.importorskip("pyarrow")

    def embed(images):
        return np.asarray(images, np.float32).reshape(len(images), -1)[:, :384] - 127.5

    evaluation.write_embeddings(Images(), tmp_path / "out", embed, "a" * 64, dtype, progress=False)
    planned = by_name(images=300, dim=384, name_bytes=12)[f"embed, {dtype}"].num_bytes
    # A file of few rows has some kilobytes of facts about all of them.
    assert planned == pytest.approx(size_of(tmp_path / "out", ".parquet") - 3000, rel=0.03)


@pytest.mark.parametrize(("people", "per_person", "dim"), [(2000, 1, 64), (300, 8, 128), (200, 2, 1024)])
def test_bytes_of_a_gallery(tmp_path, people, per_person, dim):
    rng = np.random.default_rng(0)
    with Gallery.open(tmp_path / "people.db") as gallery:
        gallery.enroll_many(
            (
                f"person {person:05}",
                rng.standard_normal((per_person, dim), np.float32),
                [f"image {image:06}" for image in range(per_person)],
            )
            for person in range(people)
        )
    found = by_name(images=people * per_person, people=people, dim=dim, name_bytes=12)
    # A small gallery has a page for each of its tables and indices, which are not full.
    written = (tmp_path / "people.db").stat().st_size - 16 * plan.images.PAGE_BYTES
    assert found["enroll"].num_bytes == pytest.approx(written, rel=0.1)


def test_cores_or_disks_limit_a_machine():
    found = by_name(images=36_000_000, convert_rate=1000, cores=10, disk_bandwidth=1e12, hours=0.25)["convert"]
    assert (found.core_hours, found.machines, found.hours) == (10, 4, 0.25)
    found = by_name(images=36_000_000, image_bytes=9949, name_bytes=33, cores=10**6, disk_bandwidth=1e8, hours=24)
    assert found["convert"].hours == pytest.approx(2 * 1e4 * 36e6 / 1e8 / 3600, rel=0.01)
    assert found["embed, float32"].core_hours == found["embed, int8"].core_hours
    assert found["enroll"].machines == 1


def test_published_sizes_of_a_million_people():
    """benchmarks/results/gallery_2_cores.md, a million people with 512 dimensions."""
    found = by_name()
    assert found["enroll"].num_bytes == pytest.approx(2358 * 2**20, rel=0.02)
    assert found["Gallery, float32"].num_bytes == pytest.approx(1953 * 2**20, rel=1e-3)
    assert found["Gallery, int8"].num_bytes == pytest.approx(492 * 2**20, rel=1e-3)
    assert found["Gallery, float32"].opening_seconds == pytest.approx(11.0, rel=0.01)
    assert found["Gallery, int8"].opening_seconds == pytest.approx(8.9, rel=0.01)
    assert found["Gallery, float32"].searches_per_second == pytest.approx(11.8, rel=0.01)
    assert found["Gallery, int8"].searches_per_second == pytest.approx(10.4, rel=0.01)


def test_a_billion_images_need_more_than_a_machine():
    small, large = by_name(), by_name(images=1_000_000_000, people=100_000_000)
    assert [small[name].machines for name in ("Gallery, float32", "Gallery, int8", "Milvus, HNSW")] == [1, 1, 1]
    # 1.1 billion vectors of 2 KiB, with the graph.
    assert large["Milvus, HNSW"].num_bytes == pytest.approx(1.1e9 * 2048 * 1.36)
    assert large["Milvus, HNSW"].machines == -(-large["Milvus, HNSW"].num_bytes // (64 * GIB))
    assert [large[name].machines for name in ("Gallery, float32", "Gallery, int8")] == [3, 1]
    table = plan.format_image_tables(plan.ImageSetup(images=1_000_000_000, people=100_000_000))
    assert next(line for line in table.splitlines() if line.startswith("Gallery, float32")).endswith("does not fit")


@pytest.mark.parametrize(
    "change",
    [{"images": 0}, {"people": 0}, {"cores": 1.5}, {"hours": 0.0}, {"memory": -1}, {"embed_rate": float("nan")}],
)
def test_numbers_out_of_range_are_named(change):
    setup = dataclasses.replace(plan.ImageSetup(images=1), **change)
    ((name, value),) = change.items()
    for estimate in (plan.estimate_stages, plan.estimate_searches, plan.format_image_tables):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            estimate(setup)
