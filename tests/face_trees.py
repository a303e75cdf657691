"""Writers of small sets in the exact layouts of face benchmarks."""

import json
import struct

from keras_arcface._alignment import TEMPLATE


def write_files(folder, files):
    """Writes `{name: content}`."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def write_ytf(directory, videos, pairs, images="aligned_images_DB"):
    """Writes YouTube Faces: `{video: frames}` and `(split, first, second, same)`."""
    for video, frames in videos.items():
        write_files(
            directory / images / video, {f"aligned_detect_{n}.jpg": frame for n, frame in enumerate(frames, 10)}
        )
    numbers = dict.fromkeys((split for split, *_ in pairs), 0)
    lines = ["split number, pair number, first name, second name, is same"]
    for split, first, second, same in pairs:
        numbers[split] += 1
        lines.append(f"{split}, {numbers[split]}, {first}, {second}, {int(same)}")
    (directory / "splits.txt").write_text("\n".join(lines) + "\n")


def write_megaface(directory, probes, distractors, noisy_probes=(), noisy_distractors=()):
    """Writes MegaFace in the layout of InsightFace: `{name: content}` of the images of both folders."""
    write_files(directory / "facescrub_images", probes)
    write_files(directory / "megaface_images", distractors)
    lists = directory / "devkit" / "templatelists"
    lists.mkdir(parents=True)
    ids = [name.split("/")[0] for name in probes]
    (lists / "facescrub_features_list.json").write_text(json.dumps({"path": list(probes), "id": ids}))
    for count in {2, len(distractors)}:
        listed = {"path": list(distractors)[:count]}
        (lists / f"megaface_features_list.json_{count}_1").write_text(json.dumps(listed))
    (directory / "facescrub_noises.txt").write_text("\n".join(["# noise", *noisy_probes]) + "\n")
    lines = [f"{number}\t{name}" for number, name in enumerate(noisy_distractors)]
    (directory / "megaface_noises.txt").write_text("\n".join(["# noise", *lines]) + "\n")


def write_ijb(directory, images, pairs=(), galleries=None, probes=None, name="ijbc", size=112):
    """Writes IJB-B or IJB-C in the layout of InsightFace.

    Images are `{name: (content, template, medium, detector score)}`, galleries `{name: {template: subject}}`, probes
    `{template: subject}`. The landmarks are those of aligned faces.
    """
    write_files(directory / "loose_crop", {image: content for image, (content, *_) in images.items()})
    landmarks = " ".join(f"{value:.4f}" for value in TEMPLATE.ravel() * size / 112)
    files = {
        "face_tid_mid.txt": [f"{image} {template} {medium}" for image, (_, template, medium, _) in images.items()],
        "name_5pts_score.txt": [f"{image} {landmarks} {score}" for image, (*_, score) in images.items()],
        "template_pair_label.txt": [" ".join(map(str, pair)) for pair in pairs],
    }
    subjects = {f"1N_gallery_{gallery}.csv": templates for gallery, templates in (galleries or {}).items()}
    if probes:
        subjects["1N_probe_mixed.csv"] = probes
    for file, templates in subjects.items():
        files[file] = ["TEMPLATE_ID,SUBJECT_ID,FILENAME"]
        for image, (_, template, *_) in images.items():
            if template in templates:
                files[file].append(f"{template},{templates[template]},{image}")
    write_files(
        directory / "meta", {f"{name}_{file}": ("\n".join(lines) + "\n").encode() for file, lines in files.items()}
    )


def write_feature(path, values):
    """Writes a feature in the format of MegaFace's development kit, with `struct`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<4i", len(values), 1, 4, 5) + struct.pack(f"<{len(values)}f", *values))
