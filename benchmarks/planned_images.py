"""Compares the estimates of keras_arcface.plan for many images with measurements.

    python benchmarks/planned_images.py cfp324/train.rec           # about 10 minutes on 2 cores, 8 GB of disk

The planned times use the rates of a smaller run: a conversion of a fifth of the images, and a gallery of a tenth of the
people. Times are CPU seconds of all processes, because other programs that use the cores change the time by the clock,
which is beside them. `benchmarks/embedding.py` compares the embedding. The last line measures the rate of a published
network, by the difference between two runs.
"""

import argparse
import dataclasses
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import gallery
from convert import repeat
from embedding import Repeated
from embedding import embed
from embedding import num_bytes
from process_usage import Usage

from keras_arcface import data
from keras_arcface import plan
from keras_arcface.gallery import Gallery

COPIES = 20
SEARCHES = 9


def compare(label: str, planned: float, measured: float, note: str = "") -> None:
    print(f"{label:42}{planned:>15,.2f}{measured:>15,.2f}{planned / measured:>7.2f}  {note}", flush=True)


def stages_of(setup: plan.ImageSetup) -> dict[str, plan.Stage]:
    return {stage.name: stage for stage in plan.estimate_stages(setup)}


def conversion(arguments, folder: Path) -> None:
    usages, sources = {}, {}
    for copies in (COPIES // 5, COPIES):
        rec = folder / f"{copies}" / "train.rec"
        rec.parent.mkdir()
        repeat(arguments.rec, copies, rec)
        sources[copies] = data.RecordIO(rec)
        if not usages:  # the first conversion starts the processes
            data.write_dataset(sources[copies], folder / "warm-up", 2_000, processes=arguments.processes)
        with Usage() as usages[copies]:
            data.write_dataset(sources[copies], folder / f"out_{copies}", 2_000, processes=arguments.processes)
    small, large = (len(sources[copies]) for copies in usages)
    records = [sources[COPIES][row] for row in range(large // COPIES)]
    image_bytes = statistics.mean(len(record.image) for record in records)
    name_bytes = statistics.mean(len(record.name) for record in records)
    rate = small / usages[COPIES // 5].cpu_seconds
    setup = plan.ImageSetup(large, image_bytes=image_bytes, name_bytes=name_bytes, convert_rate=rate)
    planned = stages_of(setup)["convert"]
    used = usages[COPIES]
    note = f"{used.seconds:,.1f} s by the clock, {rate:,.0f} images per CPU second"
    compare(f"convert {large:,} images, CPU s", 3600 * planned.core_hours, used.cpu_seconds, note)
    compare("  MB", planned.num_bytes / 1e6, num_bytes(folder / f"out_{COPIES}", ".tfrecord") / 1e6)


@dataclasses.dataclass
class GalleryFigures:
    """Measurements of a gallery: CPU seconds and seconds, bytes, and searches per second by precision."""

    enrolled: Usage
    database_bytes: int
    opened: dict[str, Usage]
    matrix_bytes: dict[str, int]
    searches: dict[str, float]


def measure_gallery(people: int, folder: Path) -> GalleryFigures:
    path = folder / "people.db"
    with Gallery.open(path) as opened, Usage() as enrolled:
        opened.enroll_many(gallery.all_people(people))
    probes = gallery.make_probes(64, people)
    figures = GalleryFigures(enrolled, path.stat().st_size, {}, {}, {})
    for precision in ("float32", "int8"):
        with Usage() as usage, Gallery.open(path, precision=precision) as opened:
            opened.search(probes[:1])
        figures.opened[precision] = usage
        with Gallery.open(path, precision=precision) as opened:
            opened.search(probes[:1])
            taken = []
            for number in range(SEARCHES):
                begin = time.process_time()
                opened.search(probes[number : number + 1])
                taken.append(time.process_time() - begin)
            matrix = opened._matrix
            figures.matrix_bytes[precision] = matrix.rows.nbytes + (
                matrix.scales.nbytes if matrix.scales is not None else 0
            )
            figures.searches[precision] = 1 / statistics.median(taken)
    return figures


def galleries(arguments, folder: Path) -> None:
    figures = {}
    for people in (arguments.people // 10, arguments.people):
        with tempfile.TemporaryDirectory(dir=folder) as subfolder:
            figures[people] = measure_gallery(people, Path(subfolder))
    small, large = figures.values()
    rates = {"enroll_rate": arguments.people // 10 / small.enrolled.cpu_seconds}
    for dtype, num in small.matrix_bytes.items():
        rates[f"{dtype}_open_rate"] = num / small.opened[dtype].cpu_seconds
        rates[f"{dtype}_search_rate"] = num * small.searches[dtype]
    setup = plan.ImageSetup(arguments.people, dim=gallery.DIM, name_bytes=8, **rates)
    planned = stages_of(setup)["enroll"]
    note = f"{large.enrolled.seconds:,.1f} s by the clock"
    compare(f"enroll {arguments.people:,} people, CPU s", 3600 * planned.core_hours, large.enrolled.cpu_seconds, note)
    compare("  people.db, MB", planned.num_bytes / 1e6, large.database_bytes / 1e6)
    for dtype, search in zip(("float32", "int8"), plan.estimate_searches(setup), strict=False):
        note = f"{large.opened[dtype].seconds:,.1f} s by the clock"
        compare(f"  matrix, {dtype}, MB", search.num_bytes / 1e6, large.matrix_bytes[dtype] / 1e6)
        compare("    first search, CPU s", search.opening_seconds, large.opened[dtype].cpu_seconds, note)
        compare("    searches per CPU s", search.searches_per_second, large.searches[dtype])


def published_rate(arguments, folder: Path) -> None:
    source, usages = data.RecordIO(arguments.rec), {}
    # Both runs start all processes, each of which writes at least one shard.
    few = arguments.processes * arguments.images_per_shard
    for count in (few, 3 * few):
        data.write_dataset(Repeated(source, count), folder / f"dataset_{count}")
        usages[count] = embed(
            folder / f"dataset_{count}", folder / f"embeddings_{count}", arguments.embedder, arguments
        )
    _, many = usages
    rate = (many - few) / (usages[many].cpu_seconds - usages[few].cpu_seconds)
    print(f"\nembed with {arguments.embedder}, mirror images added: {rate:,.1f} images per CPU second")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rec", type=Path)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--embedder", type=Path, default=Path("sface"))
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, help="folder for the files; default: the folder for temporary files")
    arguments = parser.parse_args()
    arguments.images_per_shard = 500
    print(f"{'':42}{'planned':>15}{'measured':>15}{'ratio':>7}")
    for part in (conversion, galleries, published_rate):
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            part(arguments, folder)
        finally:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
