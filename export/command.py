"""Command line of to_onnx.py, to_openvino.py and to_litert.py."""

import argparse
from collections.abc import Callable
from pathlib import Path

import keras

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import serving
from keras_arcface.data.list_files import IMAGE_SUFFIXES
from keras_arcface.serving.embedder_facts import image_size_of


def main(export: Callable, precisions: tuple[str, ...], description: str):
    arguments = parse_arguments(precisions, description)
    try:
        embedder = keras.saving.load_model(arguments.embedder, compile=False)
        calibration = None
        if arguments.calibration is not None:
            source = open_source(arguments.calibration)
            calibration = serving.calibration_images(source, image_size_of(embedder), arguments.images)
        export(embedder, arguments.output, arguments.precision, calibration, arguments.mirror)
        print(f"{arguments.output}: images -> embedding, norm; {arguments.precision}, checked against the embedder")
        if arguments.pairs is not None:
            verify(embedder, arguments)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise SystemExit(f"error: {error}") from error


def open_source(path: Path):
    """Opens a source of images: TFRecords, a .rec file, a list, a folder per person, or a folder of images."""
    if (path / "dataset.json").is_file():
        return data.TFRecords(path)
    if path.suffix in (".rec", ".csv"):
        return {".rec": data.RecordIO, ".csv": data.ImageList}[path.suffix](path)
    files = sorted(file for file in path.glob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    return UnlabeledFiles(files) if files else data.ImageFolder(path)


class UnlabeledFiles:
    """Source of calibration images without labels."""

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        return data.Record(self.files[index].read_bytes(), 0, str(self.files[index]))


def verify(embedder, arguments):
    """Prints the verification accuracy of the embedder and of the export, with mirror images as in the LFW protocol."""
    pairs = data.PairSet.load(arguments.pairs)
    exported = serving.load_embedder(arguments.output)
    embeddings = (
        evaluation.embed_pairs(embedder, pairs),
        evaluation.embed_pairs(exported, pairs, flip=not arguments.mirror),
    )
    before, after = (evaluation.verify(e, pairs.same, shuffle_seed=arguments.shuffle_seed) for e in embeddings)
    print(f"{'':12}{'accuracy':>9}{'AUC':>9}")
    for name, result in (("embedder", before), (arguments.precision, after)):
        print(f"{name:12}{result.accuracy:9.2%}{result.auc:9.4f}")
    print(f"The export loses {100 * (before.accuracy - after.accuracy):.2f} points of accuracy.")


def parse_arguments(precisions, description):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedder", type=Path, help="an embedder saved with `embedder.save('embedder.keras')`")
    parser.add_argument("output", type=Path, help="path of the exported file")
    parser.add_argument("--precision", choices=precisions, default="float32")
    parser.add_argument(
        "--calibration",
        type=Path,
        help="images for int8: TFRecords, a .rec file, a list, folders of persons, or a folder of images",
    )
    parser.add_argument("--images", type=int, default=256, help="number of calibration images (default: 256)")
    parser.add_argument("--mirror", action="store_true", help="add the embedding of the mirror image in the graph")
    parser.add_argument("--pairs", type=Path, help="verification set, .bin or .npz, to compare embedder and export")
    parser.add_argument("--shuffle-seed", type=int, help="seed to shuffle the pairs if they are not stored in folds")
    return parser.parse_args()
