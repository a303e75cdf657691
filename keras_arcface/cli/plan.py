"""Estimates the memory, communication and time of a head with many classes.

    keras-arcface plan --classes 10e6 --dim 512 --batch-size 1024 --devices 8 --gpu-memory 80G
    keras-arcface plan --classes 10e6 --batch-size 1024 --devices 8 --sample-rate 0.1

The estimates include only the head: class centers, their gradient, the slots of the optimizer, the temporary memory of
a step, and the bytes that a step sends between devices. --other-memory reserves memory for the network.
"""

import argparse
import dataclasses
from typing import Any

from keras_arcface import plan
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    integer: dict[str, Any] = {"type": _integer, "metavar": "N"}
    size: dict[str, Any] = {"type": _size, "metavar": "BYTES"}
    parser.add_argument("--classes", required=True, help="number of classes, such as 10e6", **integer)
    parser.add_argument(
        "--batch-size",
        dest="batch",
        default=1024,
        help="images per step, on all devices together; default 1024",
        **integer,
    )
    parser.add_argument("--dim", default=512, help="length of an embedding; default 512", **integer)
    parser.add_argument("--devices", default=1, help="number of devices; default 1", **integer)
    parser.add_argument("--gpu-memory", help="memory of a device, such as 80G", **size)
    parser.add_argument(
        "--other-memory", default=0.0, help="memory of a device that is reserved for the network; default 0", **size
    )
    parser.add_argument(
        "--sample-rate", type=float, default=0.1, metavar="X", help="fraction of the classes per step; default 0.1"
    )
    parser.add_argument("--sub-centers", default=1, help="number of centers per class; default 1", **integer)
    parser.add_argument(
        "--slots",
        default=1,
        help="slots of the optimizer per weight: 1 for SGD with momentum (default), 2 for Adam",
        **integer,
    )
    parser.add_argument(
        "--max-cache-bytes", default=2**28, help="memory limit for cached cosines, as for a head; default 256M", **size
    )
    parser.add_argument(
        "--update",
        choices=plan.UPDATE_TEMPORARIES,
        default="xla",
        help="implementation of the optimizer update; default xla",
    )
    parser.add_argument(
        "--tflops",
        type=float,
        default=50.0,
        metavar="X",
        help="speed of matrix products per device, in TFLOP/s; default 50",
    )
    parser.add_argument(
        "--memory-bandwidth",
        default=1.5e12,
        help="memory bandwidth of a device, in bytes per second; default 1.5e12",
        **size,
    )
    parser.add_argument(
        "--link-bandwidth",
        default=5e10,
        help="bandwidth at which a device sends, in bytes per second; default 5e10",
        **size,
    )
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    names = {field.name for field in dataclasses.fields(plan.Setup)}
    setup = plan.Setup(**{name: value for name, value in vars(arguments).items() if name in names})
    found = plan.estimate(setup)
    available = None if arguments.gpu_memory is None else arguments.gpu_memory - arguments.other_memory
    best = None if available is None else plan.fastest(found, available)
    if arguments.json:
        estimates = [{**dataclasses.asdict(estimate), "memory": estimate.memory} for estimate in found]
        print_json({"estimates": estimates, "fastest_that_fits": best and best.name})
        return
    devices = f"{setup.devices} device{'s' if setup.devices > 1 else ''}"
    print(f"{setup.classes:,} classes, {setup.dim} dimensions, batch {setup.batch:,} on {devices}; per device:")
    print(plan.format_table(found, available))
    print(f"\nms: estimated with {setup.tflops:g} TFLOP/s and {setup.link_bandwidth / 1e9:g} GB/s between devices")
    if available is not None:
        print("Nothing fits." if best is None else f"Fastest that fits: {best.name}")


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
