"""Detects and verifies the people of LFW's View 1 from photos, beside crops whose landmarks another program found.

    python benchmarks/photos.py lfw_dev_photos lfw_dev.bin
    python benchmarks/photos.py lfw_dev_photos lfw_dev.bin --detectors yunet mtcnn --worst worst.png

`lfw_dev_photos` contains `photos.zip`, LFW's list of pairs `pairsDevTest.txt`, and `mtcnn_landmarks.json` with the
landmarks of the central face of each photo by MTCNN in OpenCV. `lfw_dev.bin` contains the same pairs, aligned by them.

- found: share of photos with a face
- distance: mean and median distance of the five landmarks from those of the other program, in units of the distance
  between the eyes
- offset: median offset of all landmarks in x and y, and that in the first 300 photos after mirroring. An error of the
  detector has the same sign in x in both, an asymmetry of the reference opposite signs
- photos/s: detection only, in one thread of Python, after one photo
- accuracy and AUC: of SFace with mirror images over the pairs, with 95% intervals, from the crops of `FacePipeline`
"""

import argparse
import json
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
from contenders import machine

from keras_arcface import evaluation
from keras_arcface import faces
from keras_arcface import pretrained
from keras_arcface.data import PairSet
from keras_arcface.faces.pipeline import find_faces
from keras_arcface.faces.pipeline import main_face

MIRRORED = 300  # photos that are also searched after mirroring
DETECTORS = {"yunet": faces.YuNet, "mtcnn": faces.MTCNN}


def read_photos(folder):
    """Returns the photos by their LFW name, such as `AJ_Lamas/AJ_Lamas_0001.jpg`, and the landmarks."""
    landmarks = json.loads((folder / "mtcnn_landmarks.json").read_text())
    with zipfile.ZipFile(folder / "photos.zip") as archive:
        entries = {Path(name).name: name for name in archive.namelist()}
        photos = {name: faces.read_photo(archive.read(entries[Path(name).name])) for name in landmarks}
    return photos, {name: np.array(entry["landmarks"], np.float32) for name, entry in landmarks.items()}


def read_pairs(folder):
    """Returns the names of the photos of each pair, and whether it is genuine."""
    pairs, same = [], []
    for line in (folder / "pairsDevTest.txt").read_text().splitlines()[1:]:
        fields = line.split()
        people = (fields[0], fields[-2]) if len(fields) == 4 else (fields[0], fields[0])
        numbers = fields[1], fields[-1]
        pairs.append(
            [f"{person}/{person}_{int(number):04d}.jpg" for person, number in zip(people, numbers, strict=True)]
        )
        same.append(len(fields) == 3)
    return pairs, np.array(same)


def mirrored(landmarks, width):
    landmarks = landmarks[[1, 0, 2, 4, 3]].copy()
    landmarks[:, 0] = width - 1 - landmarks[:, 0]
    return landmarks


def offsets(found, references):
    """Returns the offsets `(n, 5, 2)` of the nearest face of each photo from the reference."""
    rows = []
    for name, faces_of_photo in found.items():
        reference = references[name]
        if faces_of_photo:
            nearest = min(faces_of_photo, key=lambda face: np.abs(face.landmarks - reference).sum())
            rows.append((nearest.landmarks - reference) / np.linalg.norm(reference[1] - reference[0]))
    return np.array(rows)


def mirrored_offsets(detector, photos, references):
    """Returns the offsets in mirrored photos."""
    found = {name: detector(np.ascontiguousarray(photo[:, ::-1])) for name, photo in photos.items()}
    return offsets(found, {name: mirrored(references[name], photo.shape[1]) for name, photo in photos.items()})


def figures(embeddings, same):
    result = evaluation.verify(embeddings, same, shuffle_seed=0)
    intervals = result.intervals()
    accuracy = "{:.4f} ({:.4f} to {:.4f})".format(result.accuracy, *intervals["accuracy"])
    return accuracy + " | {:.5f} ({:.5f} to {:.5f})".format(result.auc, *intervals["auc"])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="lfw_dev_photos")
    parser.add_argument("bin", type=Path, help="lfw_dev.bin")
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=["yunet"])
    parser.add_argument("--photos", type=int, default=None, help="only the first photos, without verification")
    parser.add_argument("--worst", type=Path, help="picture of the ten photos with the largest distances, to look at")
    arguments = parser.parse_args()
    photos, references = read_photos(arguments.folder)
    photos = dict(list(photos.items())[: arguments.photos])
    pairs, same = read_pairs(arguments.folder)
    embedder = pretrained.load("sface")
    print(f"{len(photos)} photos, {len(same)} pairs; {machine()[1]}\n")
    print("| detector | found | distance | offset | offset, mirrored | photos/s | accuracy | AUC |")
    print("|---|---|---|---|---|---|---|---|")
    if arguments.photos is None:
        embeddings = evaluation.embed_pairs(embedder, PairSet.load(arguments.bin), progress=False)
        print(f"| crops of {arguments.bin.name} | | | | | | {figures(embeddings, same)} |", flush=True)
    for name in arguments.detectors:
        detector = DETECTORS[name]()
        detector(next(iter(photos.values())))
        start = time.perf_counter()
        found = {
            photo: find_faces(pixels, detector, faces.QualityLimits(), 112, photo) for photo, pixels in photos.items()
        }
        speed = len(photos) / (time.perf_counter() - start)
        share = np.mean([bool(result.faces) for result in found.values()])
        rows = offsets({photo: result.faces for photo, result in found.items()}, references)
        turned = mirrored_offsets(detector, dict(list(photos.items())[:MIRRORED]), references)
        distances = np.linalg.norm(rows, axis=2).mean(axis=1)
        shifts = ["{:+.3f}, {:+.3f}".format(*np.median(values, axis=(0, 1))) for values in (rows, turned)]
        columns = [name, f"{share:.4f}", f"{distances.mean():.3f}, {np.median(distances):.3f}", *shifts, f"{speed:.1f}"]
        verified = " | "
        if arguments.photos is None:
            crops = {photo: main_face(result.faces, result.size) for photo, result in found.items()}
            # A photo without a face is counted with its center, as an operator would have no better guess.
            images = {photo: face.crop if face else center(photos[photo]) for photo, face in crops.items()}
            order = list(images)
            embedded = evaluation.embed_images(embedder, np.stack([images[photo] for photo in order]), progress=False)
            index = {photo: number for number, photo in enumerate(order)}
            rows_of_pairs = [index[photo] for pair in pairs for photo in pair]
            verified = figures(embedded[rows_of_pairs], same)
        print(f"| {' | '.join(columns)} | {verified} |", flush=True)
        if arguments.worst:
            draw_worst(arguments.worst, detector, photos, references)


def center(photo):
    height, width = photo.shape[:2]
    return np.ascontiguousarray(photo[(height - 112) // 2 :, (width - 112) // 2 :][:112, :112])


def draw_worst(path, detector, photos, references):
    """Writes the ten photos with the largest distance: the other program's points in red, the detector's in green."""
    ranked = []
    for name, photo in photos.items():
        found = detector(photo)
        nearest = min(found, key=lambda face: np.abs(face.landmarks - references[name]).sum(), default=None)
        distance = np.inf if nearest is None else np.linalg.norm(nearest.landmarks - references[name], axis=1).mean()
        ranked.append((distance, name, nearest))
    tiles = []
    for _, name, nearest in sorted(ranked, key=lambda entry: -entry[0])[:10]:
        tile = photos[name][..., ::-1].copy()
        for points, color in ((references[name], (0, 0, 255)), (getattr(nearest, "landmarks", ()), (0, 255, 0))):
            for x, y in points:
                cv2.circle(tile, (round(float(x)), round(float(y))), 3, color, -1)
        tiles.append(cv2.resize(tile, (250, 250)))
    cv2.imwrite(str(path), np.vstack([np.hstack(tiles[:5]), np.hstack(tiles[5:])]))


if __name__ == "__main__":
    main()
