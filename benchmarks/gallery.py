"""Measures a gallery of a million people beside faiss and a bare product, with synthetic embeddings.

    python benchmarks/gallery.py                                   # about 20 minutes on 2 cores, 12 GB of disk
    python benchmarks/gallery.py --people 20000 --probes 1000 --kills 2

People are random directions around the centers of groups, because people resemble each other; images are directions
around people. Each round measures all programs one after the other, so that a ratio compares the same seconds; the
table has the medians over the rounds. faiss is `IndexFlatIP`. The bare product is that of NumPy with the same matrix,
without the search for the highest scores.

The last rows kill processes that change a small gallery (`tests/gallery/killed_writers.py`).
"""

import argparse
import importlib.util
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from keras_arcface.gallery import Gallery

DIM = 512
GROUPS = 1000
CHUNK = 10_000


def people_chunk(number, size):
    """Returns the people `(size, DIM)` of a chunk: their directions, without the noise of an image."""
    groups = np.random.default_rng(0).standard_normal((GROUPS, DIM), dtype=np.float32)
    rng = np.random.default_rng([1, number])
    own = rng.standard_normal((size, DIM), dtype=np.float32)
    return 0.6 * groups[rng.integers(0, GROUPS, size)] + 0.8 * own


def images_of(people, seed):
    """Returns one image of each person. Two images of a person have a cosine of about 0.6."""
    return people + 0.8 * np.random.default_rng(seed).standard_normal(people.shape, dtype=np.float32)


def all_people(count):
    for number, start in enumerate(range(0, count, CHUNK)):
        size = min(CHUNK, count - start)
        images = images_of(people_chunk(number, size), [2, number])
        yield from ((f"person {start + row}", images[row : row + 1], None) for row in range(size))


def make_probes(count, people):
    """Returns images of people, a tenth of whom are not in the gallery."""
    per_chunk = max(1, count // max(1, people // CHUNK))
    chunks = [people_chunk(number, min(CHUNK, people))[:per_chunk] for number in range(-(-count // per_chunk))]
    probes = images_of(np.concatenate(chunks)[:count], [3])
    strangers = slice(0, count, 10)
    probes[strangers] = images_of(people_chunk(10**6, len(probes[strangers])), [4])
    return probes


def seconds(function):
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def row(label, value, note=""):
    print(f"{label:58}{value:>16}  {note}", flush=True)


def files(folder, arguments):
    path = folder / "people.db"
    with Gallery.open(path) as gallery:
        taken = seconds(lambda: gallery.enroll_many(all_people(arguments.people)))
    row(f"enroll {arguments.people:,} people", f"{taken:.1f} s", f"{arguments.people / taken:,.0f}/s")
    size, of_embeddings = (count / 2**20 for count in (path.stat().st_size, 4 * DIM * arguments.people))
    row("  people.db", f"{size:,.0f} MiB", f"embeddings alone {of_embeddings:,.0f} MiB")
    probe = make_probes(64, arguments.people)[1:2]
    sizes = {}
    for precision in ("float32", "int8"):

        def search(precision=precision):
            with Gallery.open(path, precision=precision) as gallery:
                gallery.search(probe)
                matrix = gallery._matrix
                sizes[precision] = matrix.rows.nbytes + (0 if matrix.scales is None else matrix.scales.nbytes)

        row(f"open and search, {precision}, creating its matrix", f"{seconds(search):.2f} s")
        row(f"  memory of the {precision} matrix", f"{sizes[precision] / 2**20:,.0f} MiB")
        row(f"open and search, {precision}", f"{min(seconds(search) for _ in range(3)) * 1e3:,.0f} ms")

        def opens(precision=precision):
            Gallery.open(path, precision=precision).close()

        row(f"open, {precision}", f"{min(seconds(opens) for _ in range(3)) * 1e3:,.1f} ms")
    row("memory of int8 / float32", f"{sizes['int8'] / sizes['float32']:.3f}")
    return path


def agreement(path, arguments):
    probes = make_probes(arguments.probes, arguments.people)
    found = {}
    for precision in ("float32", "int8"):
        with Gallery.open(path, precision=precision) as gallery:
            found[precision] = [[match.person for match in matches] for matches in gallery.search(probes)]
            if precision == "int8":
                candidates = [len(slots) for slots, _ in gallery._engine.search(normalize(probes[:64]), 5)]
    same = np.mean([first == second for first, second in zip(found["float32"], found["int8"], strict=True)])
    as_sets = np.mean([set(first) == set(second) for first, second in zip(*found.values(), strict=True)])
    row(f"identical top 5 of int8, {arguments.probes:,} probes", f"{same:.3%}", f"as sets {as_sets:.3%}")
    row("  rows of int8 compared again per probe", f"{np.mean(candidates):.0f}", f"at most {max(candidates)}")


def normalize(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def speed(path, arguments):
    probes = make_probes(64, arguments.people)
    units = normalize(probes)
    with Gallery.open(path) as gallery, Gallery.open(path, precision="int8") as quantized:
        gallery.search(probes[:1])
        matrix = gallery._matrix.rows
        programs = {
            "gallery, float32": gallery.search,
            "gallery, int8": quantized.search,
            "bare product": lambda rows: matrix @ normalize(rows).T,
        }
        if importlib.util.find_spec("faiss") and not arguments.no_faiss:
            import faiss

            index = faiss.IndexFlatIP(DIM)
            for start in range(0, len(matrix), CHUNK):
                index.add(np.ascontiguousarray(matrix[start : start + CHUNK]))
            programs["faiss IndexFlatIP"] = lambda rows: index.search(normalize(rows), 5)
            expected = index.search(units, 5)[1]
            ours = [[int(match.person.split()[1]) for match in matches] for matches in gallery.search(probes)]
            row("top 5 of faiss identical", f"{np.mean((np.array(ours) == expected).all(axis=1)):.3%}")
        for count in (1, 64):
            taken = {name: [] for name in programs}
            for number in range(arguments.rounds + 1):
                for name, program in programs.items():
                    took = seconds(lambda program=program, count=count: program(probes[:count]))
                    if number:  # the first round loads the matrices
                        taken[name].append(took)
            for name, values in taken.items():
                ratios = {
                    other: statistics.median(b / a for a, b in zip(values, taken[other], strict=True))
                    for other in ("faiss IndexFlatIP", "bare product")
                    if other in taken and other != name
                }
                note = ", ".join(f"{ratio:.2f} of the rate of {other}" for other, ratio in ratios.items())
                rate = count / statistics.median(values)
                row(f"{count} at once: {name}", f"{rate:,.1f}/s", f"{1e3 * statistics.median(values):,.1f} ms; {note}")
        for name, change in {
            "enroll one person, then search": lambda: gallery.enroll("new", probes[:1]),
            "remove one person, then search": lambda: gallery.remove("new"),
        }.items():
            took = seconds(change)
            row(name, f"{1e3 * took:,.1f} ms", f"search {1e3 * seconds(lambda: gallery.search(probes[:1])):,.1f} ms")


def kills(arguments):
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "gallery"))
    import killed_writers

    with tempfile.TemporaryDirectory() as folder:
        acknowledged = killed_writers.run(Path(folder, "people.db"), arguments.kills)
    row(f"kill -9 of {arguments.kills} writers", "none lost", f"{acknowledged} acknowledged operations, none came back")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=1_000_000)
    parser.add_argument("--probes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--no-faiss", action="store_true")
    parser.add_argument("--folder", help="folder for the files of the gallery; a temporary one by default")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = files(Path(folder), arguments)
        speed(path, arguments)
        agreement(path, arguments)
    if arguments.kills:
        kills(arguments)


if __name__ == "__main__":
    main()
