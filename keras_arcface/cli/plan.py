"""Estimates the memory and time of a head with many classes, and the bytes, time and machines for many images.

    keras-arcface plan --classes 10e6 --dim 512 --batch-size 1024 --devices 8 --gpu-memory 80G
    keras-arcface plan --classes 10e6 --batch-size 1024 --devices 8 --sample-rate 0.1
    keras-arcface plan --images 1e8 --people 10e6 --cores 32 --memory 128G --hours 12 --embed-rate 25

With --classes, the estimates include only the head: class centers, their gradient, the slots of the optimizer, the
temporary memory of a step, and the bytes that a step sends between devices. --other-memory reserves memory for the
network.

With --images, they include the conversion to TFRecords, the embedding, and a gallery. The speeds are those measured on
cores of an AMD EPYC. The network decides the speed of embedding: measure it with some thousand images, `keras-arcface
embed` and --embed-rate.
"""

import argparse
import dataclasses
from typing import Any

from keras_arcface import plan
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.parser import Alternative
from keras_arcface.plan.head import UPDATE_TEMPORARIES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = plan.ImageSetup(images=1)
    integer: dict[str, Any] = {"type": _integer, "metavar": "N"}
    size: dict[str, Any] = {"type": _size, "metavar": "BYTES"}
    parser.add_argument("--dim", default=512, help="length of an embedding; default 512", **integer)
    head = parser.add_argument_group("heads")
    head.add_argument("--classes", required=True, help="number of classes, such as 10e6", **integer)
    head.add_argument(
        "--batch-size",
        dest="batch",
        default=1024,
        help="images per step, on all devices together; default 1024",
        **integer,
    )
    head.add_argument("--devices", default=1, help="number of devices; default 1", **integer)
    head.add_argument("--gpu-memory", help="memory of a device, such as 80G", **size)
    head.add_argument(
        "--other-memory", default=0.0, help="memory of a device that is reserved for the network; default 0", **size
    )
    head.add_argument(
        "--sample-rate", type=float, default=0.1, metavar="X", help="fraction of the classes per step; default 0.1"
    )
    head.add_argument("--sub-centers", default=1, help="number of centers per class; default 1", **integer)
    head.add_argument(
        "--slots",
        default=1,
        help="slots of the optimizer per weight: 1 for SGD with momentum (default), 2 for Adam",
        **integer,
    )
    head.add_argument(
        "--max-cache-bytes", default=2**28, help="memory limit for cached cosines, as for a head; default 256M", **size
    )
    head.add_argument(
        "--update",
        choices=UPDATE_TEMPORARIES,
        default="xla",
        help="implementation of the optimizer update; default xla",
    )
    head.add_argument(
        "--tflops",
        type=float,
        default=50.0,
        metavar="X",
        help="speed of matrix products per device, in TFLOP/s; default 50",
    )
    head.add_argument(
        "--memory-bandwidth",
        default=1.5e12,
        help="memory bandwidth of a device, in bytes per second; default 1.5e12",
        **size,
    )
    head.add_argument(
        "--link-bandwidth",
        default=5e10,
        help="bandwidth at which a device sends, in bytes per second; default 5e10",
        **size,
    )
    images = parser.add_argument_group("many images")
    alone: dict[str, Any] = {"action": Alternative, "instead_of": ("classes",)}
    images.add_argument("--images", help="number of images, such as 1e8", **alone, **integer)
    images.add_argument("--people", help="number of people in the gallery; default: one for each image", **integer)
    images.add_argument(
        "--image-bytes", default=defaults.image_bytes, help="mean size of an image; default 5732", **size
    )
    images.add_argument("--cores", default=defaults.cores, help="cores of a machine; default 16", **integer)
    images.add_argument("--memory", default=defaults.memory, help="memory of a machine; default 64G", **size)
    images.add_argument(
        "--hours",
        type=float,
        default=defaults.hours,
        metavar="X",
        help="time in which the conversion, and the embedding, must end; default 24",
    )
    images.add_argument(
        "--embed-rate",
        type=float,
        default=defaults.embed_rate,
        metavar="X",
        help=f"images that a core embeds per second; default {defaults.embed_rate:g}, of SFace",
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    plans: list[tuple[str, dict[str, Any]]] = []
    if arguments.classes is not None:
        plans.append(plan_head(plan.Setup(**_options_of(plan.Setup, arguments)), arguments))
    if arguments.images is not None:
        plans.append(plan_images(plan.ImageSetup(**_options_of(plan.ImageSetup, arguments))))
    if arguments.json:
        print_json({name: value for _, values in plans for name, value in values.items()})
    else:
        print("\n\n".join(text for text, _ in plans))


def plan_head(setup: plan.Setup, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Returns the estimates of the head as a text, and for `--json`."""
    found = plan.estimate(setup)
    available = None if arguments.gpu_memory is None else arguments.gpu_memory - arguments.other_memory
    best = None if available is None else plan.fastest(found, available)
    devices = f"{setup.devices} device{'s' if setup.devices > 1 else ''}"
    lines = [
        f"{setup.classes:,} classes, {setup.dim} dimensions, batch {setup.batch:,} on {devices}; per device:",
        plan.format_table(found, available),
        f"\nms: estimated with {setup.tflops:g} TFLOP/s and {setup.link_bandwidth / 1e9:g} GB/s between devices",
    ]
    if available is not None:
        lines.append("Nothing fits." if best is None else f"Fastest that fits: {best.name}")
    estimates = [{**dataclasses.asdict(estimate), "memory": estimate.memory} for estimate in found]
    return "\n".join(lines), {"estimates": estimates, "fastest_that_fits": best and best.name}


def plan_images(setup: plan.ImageSetup) -> tuple[str, dict[str, Any]]:
    """Returns the estimates for many images as a text, and for `--json`."""
    machines = f"machines with {setup.cores} cores and {setup.memory / 2**30:g} GiB"
    rates = f"{setup.convert_rate:,.0f} converted and {setup.embed_rate:g} embedded images"
    lines = [
        f"{setup.images:,} images, {setup.dim} dimensions; {machines}, and {setup.hours:g} hours:",
        plan.format_image_tables(setup),
        f"\nhours: estimated with {rates} per second and core",
    ]
    stages, searches = plan.estimate_stages(setup), plan.estimate_searches(setup)
    return "\n".join(lines), {
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "searches": [dataclasses.asdict(search) for search in searches],
    }


def _options_of(setup: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the options that have the name of a field of a setup."""
    names = {field.name for field in dataclasses.fields(setup)}
    return {name: value for name, value in vars(arguments).items() if name in names}


def _integer(text: str) -> int:
    """Parses an integer that may be written as 10e6."""
    try:
        number = float(text)
        if number == int(number):
            return int(number)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"expected an integer, such as 1000000 or 10e6. Received: {text}")


def _size(text: str) -> float:
    try:
        return plan.parse_size(text)
    except ValueError:
        message = f"expected a number of bytes, such as 80G or 512M. Received: {text}"
        raise argparse.ArgumentTypeError(message) from None
