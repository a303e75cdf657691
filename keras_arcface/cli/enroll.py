"""Adds people with their photos to a gallery, lists and removes them, and stores thresholds.

    keras-arcface enroll people.db photos
    keras-arcface enroll people.db ann-1.jpg ann-2.jpg --name ann
    keras-arcface enroll people.db faces_embeddings
    keras-arcface enroll people.db --calibrate strangers --fpir 0.01
    keras-arcface enroll people.db --list
    keras-arcface enroll people.db --remove ann

GALLERY is a file, which the first command creates. PHOTOS is a folder with one folder of photos for each person, whose
name is the person's; with --name, it is photos or folders of photos of one person. The main face of each photo is
enrolled: the largest one near the center. Photos without a face, and photos with several, are reported.

The photos of a person who is already enrolled are added to the former ones; --replace removes the former ones. A photo
that is already enrolled for the person is recognized by its content, whatever its name, and is not enrolled again. So
the same command continues after an interruption.

Instead of photos, PHOTOS can be directories that `keras-arcface embed --no-flip` wrote. All embeddings are enrolled,
under the name of their class, or their label if the images have no class names. The embedder is then not loaded, except
to compare a given --embedder.

--calibrate stores the threshold that `keras-arcface identify` uses. STRANGERS is a folder with photos of at least
1 / RATE people who are not in the gallery: one photo of each, or one folder for each. The threshold is the lowest at
which at most the share RATE of them is taken for somebody in the gallery. Calibrate again when the number of people in
the gallery has changed by more than a tenth.

Embeddings of faces are personal data. --remove erases those of a person from all files of the gallery. It does not
reach photos and backups: delete them yourself.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from keras_arcface._messages import counted
from keras_arcface.cli.embedding_enrollment import check_flip
from keras_arcface.cli.embedding_enrollment import enroll_embeddings
from keras_arcface.cli.galleries import check_gallery
from keras_arcface.cli.galleries import open_gallery
from keras_arcface.cli.output import add_json_option
from keras_arcface.cli.output import print_json
from keras_arcface.cli.output import text_printer
from keras_arcface.cli.parser import Alternative
from keras_arcface.cli.paths import check_writable
from keras_arcface.cli.photo_enrollment import enroll
from keras_arcface.cli.photo_enrollment import find_people
from keras_arcface.cli.pipelines import add_pipeline_options
from keras_arcface.cli.pipelines import check_pipeline
from keras_arcface.cli.pipelines import make_pipeline
from keras_arcface.cli.startup import load_tensorflow
from keras_arcface.cli.stored_embeddings import check_stored
from keras_arcface.cli.stored_embeddings import is_stored
from keras_arcface.cli.stored_embeddings import open_stored
from keras_arcface.cli.strangers import calibrate
from keras_arcface.cli.strangers import find_strangers

_FPIR = 0.01


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = (
        "%(prog)s GALLERY PHOTOS [PHOTOS ...] [--name NAME] [options]\n"
        "       %(prog)s GALLERY --calibrate STRANGERS [--fpir RATE] [options]\n"
        "       %(prog)s GALLERY --list\n"
        "       %(prog)s GALLERY --remove NAME"
    )
    parser.add_argument("gallery", type=Path, metavar="GALLERY", help="file of the gallery, which may be new")
    parser.add_argument(
        "photos",
        type=Path,
        nargs="+",
        default=[],
        metavar="PHOTOS",
        help="folder of folders of people, or stored embeddings; with --name: also photo, or folder of photos",
    )
    parser.add_argument("--name", metavar="NAME", help="person in all PHOTOS")
    parser.add_argument(
        "--replace", action="store_true", help="remove the former photos of each person who has a face in PHOTOS"
    )
    alone: dict[str, Any] = {"action": Alternative, "instead_of": ("photos",)}
    parser.add_argument(
        "--calibrate",
        type=Path,
        metavar="STRANGERS",
        help="folder with photos of people who are not enrolled",
        **alone,
    )
    parser.add_argument(
        "--fpir",
        type=float,
        metavar="RATE",
        help=f"share of searches for strangers that may find somebody; default {_FPIR}",
    )
    parser.add_argument("--list", nargs=0, const=True, default=False, help="print people and thresholds", **alone)
    parser.add_argument("--remove", metavar="NAME", help="remove a person with all photos", **alone)
    add_pipeline_options(parser)
    add_json_option(parser)


def run(arguments: argparse.Namespace) -> None:
    check_usage(arguments)
    is_new = bool(arguments.photos)
    check_gallery(arguments.gallery, must_exist=not is_new)
    if arguments.list:
        list_people(arguments)
        return
    if arguments.remove is not None:
        remove_person(arguments)
        return
    if any(map(is_stored, arguments.photos)):
        enroll_stored(arguments)
        return
    check_pipeline(arguments)
    people, skipped = find_people(arguments.photos, arguments.name) if arguments.photos else ({}, 0)
    fpir = _FPIR if arguments.fpir is None else arguments.fpir
    strangers = find_strangers(arguments.calibrate, fpir) if arguments.calibrate else []
    if is_new:
        arguments.gallery.parent.mkdir(parents=True, exist_ok=True)
        check_writable(arguments.gallery.parent)
    load_tensorflow()
    from keras_arcface.gallery.enrollment import check_name

    for person in people:
        check_name("name", person)
    say = text_printer(arguments)
    found: dict[str, Any] = {}
    pipeline = make_pipeline(arguments)
    with open_gallery(arguments.gallery, arguments.embedder, pipeline.embedder_sha256) as gallery:
        if people:
            found |= {**enroll(pipeline, gallery, people, arguments.replace), "skipped": skipped}
            report_people(found, say)
            say(f"{arguments.gallery} has {_people(len(gallery))}")
        if strangers:
            found["threshold"] = calibrate(pipeline, gallery, strangers, fpir)
            report_threshold(found["threshold"], say)
    if arguments.json:
        print_json(found)


def enroll_stored(arguments: argparse.Namespace) -> None:
    """Enrolls embeddings that `keras-arcface embed` stored."""
    check_stored(arguments)
    arguments.gallery.parent.mkdir(parents=True, exist_ok=True)
    check_writable(arguments.gallery.parent)
    say = text_printer(arguments)
    found = {"added": 0, "known": 0, "people": 0}
    for path in arguments.photos:
        stored = open_stored(path, arguments)
        check_flip(stored)
        with open_gallery(arguments.gallery, path, stored.embedder_sha256, "The embedder of PHOTOS") as gallery:
            counts = enroll_embeddings(stored, gallery, arguments.name)
        say(f"{path}: enrolled {counted(counts['added'], 'image')}, {counts['known']:,} were enrolled already")
        found |= {"people": counts["people"], **{key: found[key] + counts[key] for key in ("added", "known")}}
    say(f"{arguments.gallery} has {_people(found['people'])}")
    if arguments.json:
        print_json(found)


def report_people(found: dict[str, Any], say: Callable[..., None]) -> None:
    """Prints what `enroll` has done, and warnings about photos."""
    people = found["people"]
    for problem in found["problems"].values():
        print(f"WARNING: {problem}", file=sys.stderr)
    for photo, faces in found["several_faces"].items():
        print(f"WARNING: {photo}: {faces} faces, of which the main one is enrolled", file=sys.stderr)
    for person, counts in people.items():
        if not counts["images"]:
            print(f"WARNING: {person} is not enrolled, because no photo shows a face", file=sys.stderr)
    added, known = (sum(counts[key] for counts in people.values()) for key in ("added", "known"))
    say(f"Enrolled {counted(added, 'photo')} of {_people(sum(counts['added'] > 0 for counts in people.values()))}")
    if known:
        say(f"{counted(known, 'photo was', 'photos were')} enrolled already")
    if found["skipped"]:
        say(f"{counted(found['skipped'], 'file has another type', 'files have other types')}")


def report_threshold(found: dict[str, Any], say: Callable[..., None]) -> None:
    """Prints a calibrated threshold, with what it is worth."""
    if found["without_face"]:
        say(f"{counted(found['without_face'], 'stranger')} without a face")
    low, high = found["fpir_interval"]
    say(
        f"Threshold {found['name']}: {found['threshold']:.4f}, which {found['accepted']:,} of "
        f"{found['impostors']:,} strangers reach; for other people, the rate is between {low:.2g} and {high:.2g} with "
        "95% confidence"
    )
    nearest = found["nearest"]
    say(
        f"The most similar stranger is {nearest['photo']}, with a score of {nearest['score']:.4f} for "
        f"{nearest['person']}. If this is the same person, delete the photo and calibrate again"
    )


def check_usage(arguments: argparse.Namespace) -> None:
    """Ends with a usage error if options for different purposes are combined."""
    given = {
        "PHOTOS": bool(arguments.photos),
        "--calibrate": arguments.calibrate is not None,
        "--list": arguments.list,
        "--remove": arguments.remove is not None,
    }
    if any(map(is_stored, arguments.photos)):
        for option, is_used in (("--calibrate", arguments.calibrate is not None), ("--replace", arguments.replace)):
            if is_used:
                arguments.parser.error(f"{option} must not be combined with stored embeddings")
        photos = next(itertools.filterfalse(is_stored, arguments.photos), None)
        if photos is not None:
            arguments.parser.error(f"stored embeddings must not be combined with photos. Received: {photos}")
    for alone in ("--list", "--remove"):
        others = [name for name, is_given in given.items() if is_given and name != alone]
        if given[alone] and others:
            arguments.parser.error(f"{alone} must not be combined with {others[0]}")
    for option, value in (("--name", arguments.name), ("--replace", arguments.replace or None)):
        if value is not None and not arguments.photos:
            arguments.parser.error(f"{option} requires PHOTOS")
    if arguments.fpir is not None and arguments.calibrate is None:
        arguments.parser.error("--fpir requires --calibrate")
    if arguments.fpir is not None and not 0 < arguments.fpir <= 1:
        arguments.parser.error(f"--fpir must be in (0, 1]. Received: {arguments.fpir:g}")


def list_people(arguments: argparse.Namespace) -> None:
    """Prints the people of a gallery with the number of their images, and its thresholds."""
    from keras_arcface.gallery import Gallery

    with Gallery.open(arguments.gallery) as gallery:
        people = {person: [image.name for image in gallery.images(person)] for person in gallery.people()}
        thresholds = {name: dataclasses.asdict(threshold) for name, threshold in gallery.thresholds().items()}
    if arguments.json:
        print_json({"people": people, "thresholds": thresholds})
        return
    for person, images in people.items():
        print(f"{person}: {counted(len(images), 'photo')}")
    for name, threshold in thresholds.items():
        size = threshold["gallery_size"]
        print(f"Threshold {name}: {threshold['threshold']:.4f}, calibrated for {_people(size)}")


def remove_person(arguments: argparse.Namespace) -> None:
    """Removes a person, and erases the embeddings."""
    from keras_arcface.gallery import Gallery
    from keras_arcface.gallery import UnknownPersonError

    with Gallery.open(arguments.gallery) as gallery:
        try:
            gallery.remove(arguments.remove)
        except UnknownPersonError as error:
            raise ValueError(
                f"--remove must be a person that --list prints, of {_people(len(gallery))} in {arguments.gallery}. "
                f"Received: {arguments.remove}"
            ) from error
        remaining = len(gallery)
    text_printer(arguments)(
        f"Removed {arguments.remove}. {arguments.gallery} has {_people(remaining)}. Photos and backups are not removed"
    )
    if arguments.json:
        print_json({"removed": arguments.remove, "people": remaining})


def _people(number: int) -> str:
    return counted(number, "person", "people")
