"""Estimates of bytes, time and machines for many images: their conversion, their embeddings, and a gallery of them."""

import dataclasses
import math

from keras_arcface import _arguments

# Bytes that are stored for each image beside the image or the embedding and its name, measured by
# benchmarks/planned_images.py: framing, checksums and field names of a TFRecord; length of the name, label, norm and
# page headers of a Parquet file.
RECORD_BYTES, ROW_BYTES = 69, 22

# The same for the file of a gallery, whose rows and index each contain the name, and its pages with the embeddings.
PERSON_BYTES, IMAGE_BYTES = 46, 55
PAGE_BYTES, CELL_BYTES = 16384, 9

# Memory of an HNSW index of Milvus as a multiple of its float32 vectors. For 8 million vectors of 768 dimensions, 22.9
# GB, Milvus's sizing tool gives 31.2 GB.
MILVUS_FACTOR = 1.36

_FLOAT_BYTES, _SCALE_BYTES = 4, 4


@dataclasses.dataclass(frozen=True)
class ImageSetup:
    """Images, machines and speeds for an estimate.

    The default speeds are those measured on 2 cores of an AMD EPYC with AVX-512, in benchmarks/results: `convert_rate`
    in data_2_cores.md, `embed_rate` in backbones_2_cores.md, for SFace and two images, and those of the gallery in
    gallery_2_cores.md. Other cores have other speeds, and the network decides `embed_rate`. So measure with some
    thousand images. `disk_bandwidth` is an assumption.

    Args:
        images: number of images.
        people: number of people in the gallery. None for one image of each person.
        dim: dimension of the embeddings.
        image_bytes: mean size of an encoded image; the default is that of 112 x 112 JPEG files of quality 95.
        name_bytes: mean length of the names of images and people.
        cores: number of cores of a machine.
        memory: memory of a machine for the search, in bytes.
        disk_bandwidth: bytes per second that a machine reads and writes, on its disks or over the network.
        hours: time in which the conversion, and the embedding, must end.
        convert_rate: images that a core converts per second, with a check of each.
        embed_rate: images that a core embeds per second, with the embedding of the mirror image.
        enroll_rate: images that the one writer of a gallery enrolls per second.
        float32_open_rate: bytes of the float32 matrix of a gallery that the first search creates per second.
        int8_open_rate: the same for the int8 matrix.
        float32_search_rate: bytes of the float32 matrix that a search for one probe reads per second.
        int8_search_rate: the same for the int8 matrix.

    Examples:
        A hundred million images on machines with 16 cores, converted and embedded in a day each:

        >>> setup = ImageSetup(images=100_000_000)
        >>> for stage in estimate_stages(setup):
        ...     print(f"{stage.name}: {stage.num_bytes / 2**30:,.0f} GiB, {stage.machines} machines")
        convert: 542 GiB, 1 machines
        embed, float32: 194 GiB, 4 machines
        embed, int8: 52 GiB, 4 machines
        enroll: 233 GiB, 1 machines
    """

    images: int
    people: int | None = None
    dim: int = 512
    image_bytes: float = 5732.0
    name_bytes: float = 16.0
    cores: int = 16
    memory: float = 2.0**36
    disk_bandwidth: float = 1e9
    hours: float = 24.0
    convert_rate: float = 6500.0
    embed_rate: float = 19.0
    enroll_rate: float = 8750.0
    float32_open_rate: float = 186e6
    int8_open_rate: float = 58e6
    float32_search_rate: float = 24.2e9
    int8_search_rate: float = 5.4e9


@dataclasses.dataclass(frozen=True)
class Stage:
    """Estimate for a stage of the work on images.

    Attributes:
        name: name of the stage, such as "convert".
        num_bytes: size of the files that it writes.
        core_hours: time of one core.
        machines: number of machines for the time of the setup. A gallery in a file has one writer.
        hours: time on these machines.

    Examples:
        >>> convert = estimate_stages(ImageSetup(images=1_000_000))[0]
        >>> convert.name, convert.machines
        ('convert', 1)
    """

    name: str
    num_bytes: float
    core_hours: float
    machines: int
    hours: float


@dataclasses.dataclass(frozen=True)
class Search:
    """Estimate for the search among the people of a gallery.

    Attributes:
        name: kind of gallery, such as "Gallery, int8".
        num_bytes: memory of all machines.
        machines: number of machines whose memory it fits into.
        opening_seconds: time of the first search, which creates the matrix. None for Milvus.
        searches_per_second: exact searches for one probe. None for Milvus, whose index is approximate.

    Examples:
        >>> for search in estimate_searches(ImageSetup(images=1_000_000)):
        ...     print(f"{search.name}: {search.num_bytes / 2**20:,.0f} MiB")
        Gallery, float32: 1,953 MiB
        Gallery, int8: 492 MiB
        Milvus, HNSW: 5,312 MiB
    """

    name: str
    num_bytes: float
    machines: int
    opening_seconds: float | None
    searches_per_second: float | None


def estimate_stages(setup: ImageSetup) -> list[Stage]:
    """Estimates the stages from images to a gallery: conversion, embedding to either type, and enrollment.

    A machine needs for the conversion and for the embedding the longer one of two times: that of its cores, and that
    of its disk, which reads the input and writes the output.

    Args:
        setup: images, machines and speeds.

    Returns:
        The `Stage` of each.

    Raises:
        ValueError: if a number of the setup is out of its range.

    Examples:
        >>> [stage.name for stage in estimate_stages(ImageSetup(images=1_000_000))]
        ['convert', 'embed, float32', 'embed, int8', 'enroll']
    """
    _check(setup)
    encoded = setup.images * setup.image_bytes
    records = encoded + setup.images * (RECORD_BYTES + setup.name_bytes)
    stages = [_parallel(setup, "convert", setup.convert_rate, encoded, records)]
    for dtype in ("float32", "int8"):
        rows = setup.images * (_vector_bytes(setup.dim, dtype) + ROW_BYTES + setup.name_bytes)
        stages.append(_parallel(setup, f"embed, {dtype}", setup.embed_rate, records, rows))
    hours = setup.images / setup.enroll_rate / 3600
    return [*stages, Stage("enroll", _database_bytes(setup), hours, 1, hours)]


def estimate_searches(setup: ImageSetup) -> list[Search]:
    """Estimates the search among the people, in a gallery of either precision on one machine, and in Milvus on several.

    A search among the rows of a matrix reads all of them, so its time is their size divided by the speed of reading.
    Milvus stores a vector for each image and for each person.

    Args:
        setup: images, machines and speeds.

    Returns:
        The `Search` of each. A gallery whose `machines` are above 1 does not fit: it searches on one machine.

    Raises:
        ValueError: if a number of the setup is out of its range.

    Examples:
        >>> machines = [search.machines for search in estimate_searches(ImageSetup(images=100_000_000))]
        >>> machines  # only the int8 matrix fits into a machine
        [3, 1, 9]
    """
    _check(setup)
    people = _people(setup)
    searches = []
    for dtype in ("float32", "int8"):
        num_bytes = people * _vector_bytes(setup.dim, dtype)
        opened, searched = (getattr(setup, f"{dtype}_{kind}_rate") for kind in ("open", "search"))
        machines = _machines(num_bytes, setup)
        searches.append(Search(f"Gallery, {dtype}", num_bytes, machines, num_bytes / opened, searched / num_bytes))
    num_bytes = MILVUS_FACTOR * (setup.images + people) * _vector_bytes(setup.dim, "float32")
    return [*searches, Search("Milvus, HNSW", num_bytes, _machines(num_bytes, setup), None, None)]


def format_image_tables(setup: ImageSetup) -> str:
    """Formats the estimates of a setup as two tables, of the stages and of the searches.

    Args:
        setup: images, machines and speeds.

    Returns:
        The tables, without a line break at the end.

    Raises:
        ValueError: if a number of the setup is out of its range.

    Examples:
        >>> print(format_image_tables(ImageSetup(images=100_000_000)))
                                   GiB    core hours  machines     hours
        convert                  541.8          4.27         1      0.32
        embed, float32           194.3      1,461.99         4     22.84
        embed, int8               51.6      1,461.99         4     22.84
        enroll                   233.3          3.17         1      3.17
        <BLANKLINE>
                                   GiB  first search, s  searches/s  machines
        Gallery, float32         190.7                                         does not fit
        Gallery, int8             48.1              890        0.10         1
        Milvus, HNSW             518.8                                      9
    """
    lines = [f"{'':18}{'GiB':>12}{'core hours':>14}{'machines':>10}{'hours':>10}"]
    for stage in estimate_stages(setup):
        size = stage.num_bytes / 2**30
        lines.append(f"{stage.name:18}{size:12,.1f}{stage.core_hours:14,.2f}{stage.machines:10,}{stage.hours:10,.2f}")
    lines += ["", f"{'':18}{'GiB':>12}{'first search, s':>17}{'searches/s':>12}{'machines':>10}"]
    for search in estimate_searches(setup):
        row = f"{search.name:18}{search.num_bytes / 2**30:12,.1f}"
        if search.opening_seconds is None or search.searches_per_second is None:
            lines.append(f"{row}{'':29}{search.machines:10,}")
        elif search.machines > 1:
            lines.append(f"{row}{'':39}  does not fit")
        else:
            lines.append(f"{row}{search.opening_seconds:17,.0f}{search.searches_per_second:12,.2f}{1:10}")
    return "\n".join(lines)


def _check(setup: ImageSetup) -> None:
    for name in ("images", "dim", "cores"):
        _arguments.check_integer(name, getattr(setup, name), minimum=1)
    if setup.people is not None:
        _arguments.check_integer("people", setup.people, minimum=1)
    integers = ("images", "people", "dim", "cores")
    for name in (field.name for field in dataclasses.fields(setup) if field.name not in integers):
        _arguments.check_number(name, getattr(setup, name), lambda value: 0 < value < math.inf, "finite and above 0")


def _people(setup: ImageSetup) -> int:
    return setup.images if setup.people is None else setup.people


def _vector_bytes(dim: int, dtype: str) -> int:
    return dim * _FLOAT_BYTES if dtype == "float32" else dim + _SCALE_BYTES


def _parallel(setup: ImageSetup, name: str, rate: float, num_read: float, num_written: float) -> Stage:
    """Returns the estimate of a stage whose files are independent."""
    core_hours = setup.images / rate / 3600
    disk_hours = (num_read + num_written) / setup.disk_bandwidth / 3600
    hours = max(core_hours / setup.cores, disk_hours)
    machines = math.ceil(hours / setup.hours)
    return Stage(name, num_written, core_hours, machines, hours / machines)


def _database_bytes(setup: ImageSetup) -> float:
    """Returns the size of `people.db`: pages with as many embeddings as fit, and tables of images and people."""
    vector = setup.dim * _FLOAT_BYTES
    per_page = (PAGE_BYTES - 2 * CELL_BYTES) // (vector + CELL_BYTES)
    paged = PAGE_BYTES / per_page if per_page else max(vector, PAGE_BYTES)
    names = 2 * setup.name_bytes  # in the table and in its index
    return setup.images * (paged + IMAGE_BYTES + names) + _people(setup) * (PERSON_BYTES + names)


def _machines(num_bytes: float, setup: ImageSetup) -> int:
    return math.ceil(num_bytes / setup.memory)
