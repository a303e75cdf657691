"""Sends batches of damaged and good images to a SavedModel through TensorFlow's C++ loader.

    python tests/serving/damage.py models/faces/1 --corruptions 10000
    python tests/serving/damage.py models/faces/1 --load-seconds 120

First a batch of 64 with every kind of damage and one third good images: good rows must be bit-identical to those of a
batch without damage, and each other row must be decoded or marked as expected. Then random corruptions, in batches of
64 with four good rows. Last, the memory of the process, compared with that of a process with good images only.

With --load-seconds, four clients send batches with 40% damaged images to the server double instead, while another
client sends the files of `image_bombs`. It prints the requests, the failed ones, the wrong rows, and the peak memory of
the server.
"""

import argparse
import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "data"))
import fuzz
import image_bombs
import peak_memory
from conftest import encode
from conftest import make_face
from image_formats import exif

from keras_arcface.serving import FaceClient
from keras_arcface.serving.saved_model import loaders
from keras_arcface.serving.saved_model.loaders import npz_requests

BATCH, GOOD_ROWS = 64, (0, 21, 42, 63)
FACES = [make_face(person, 0, (112, 112)) for person in range(8)]


def saved_by_pillow(image, *arguments, **options):
    file = io.BytesIO()
    image.save(file, *arguments, **options)
    return file.getvalue()


def kinds():
    """Returns `{name: (image, whether it can be decoded, or None if both are correct)}`."""
    face, jpeg, png = FACES[0], encode(FACES[0], ".jpg"), encode(FACES[0])
    gray, pillow = face[..., 0], Image.fromarray(face)
    deep = cv2.imencode(".png", face.astype(np.uint16) * 257)[1].tobytes()
    turned = saved_by_pillow(pillow, "JPEG", exif=exif(6))
    found = {
        "empty": (b"", False),
        "text": (b"this is no image", False),
        "PNG of 20,000 x 20,000": (image_bombs.png(20_000, 20_000), False),
        "JPEG, CMYK": (saved_by_pillow(pillow.convert("CMYK"), "JPEG"), True),
        "JPEG, gray": (cv2.imencode(".jpg", gray)[1].tobytes(), True),
        "JPEG, progressive": (saved_by_pillow(pillow, "JPEG", progressive=True), True),
        "PNG, 16 bits": (deep, True),
        "PNG, gray": (cv2.imencode(".png", gray)[1].tobytes(), True),
        "PNG, alpha": (saved_by_pillow(pillow.convert("RGBA"), "PNG"), True),
        "PNG, palette": (saved_by_pillow(pillow.convert("P"), "PNG"), True),
        "GIF": (saved_by_pillow(pillow, "GIF"), False),
        "BMP": (encode(face, ".bmp"), True),
        "BMP, palette": (saved_by_pillow(pillow.convert("P"), "BMP"), True),
        "JPEG, EXIF": (turned, True),
        "WebP": (saved_by_pillow(pillow, "WEBP"), False),
        "one pixel": (encode(face[:1, :1]), True),
        "4,000 x 3,000": (encode(cv2.resize(face, (4000, 3000)), ".jpg"), True),
    }
    for tenth in range(1, 10):
        found[f"JPEG, {tenth} tenths"] = (jpeg[: len(jpeg) * tenth // 10], False)
        found[f"PNG, {tenth} tenths"] = (png[: len(png) * tenth // 10], False)
    rng = random.Random(0)
    for name, image in (("JPEG", jpeg), ("PNG", png)):
        for number in range(5):
            flipped = bytearray(image)
            flipped[rng.randrange(20, len(image))] ^= 1 << rng.randrange(8)
            found[f"{name}, bit {number} flipped"] = (bytes(flipped), None)
    return found


def answers(saved_model, batches, folder):
    """Returns the answers of the C++ loader to batches of encoded images, and its peak memory in GiB."""
    files = [str(Path(folder) / name) for name in ("requests.npz", "answers.npz")]
    npz_requests.save(files[0], [("serve_bytes", {"image_bytes": batch}) for batch in batches])
    script = str(Path(loaders.__file__).with_name("cpp.py"))
    process = subprocess.Popen([sys.executable, script, str(saved_model), *files], stderr=subprocess.PIPE, text=True)
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"A request failed:\n{errors[-3000:]}")
    return [answer for _, answer in npz_requests.load(files[1])], usage.ru_maxrss / 2**20


def load(saved_model, seconds, seed, clients=4, rows=32):
    """Runs the load on the server double, and returns the exit status."""
    script = Path(__file__).with_name("server_double.py")
    command = [sys.executable, str(script), str(saved_model.parents[1]), "--name", saved_model.parent.name]
    server = subprocess.Popen([*command, "--grpc-port", "18500", "--rest-port", "18501"], stdout=subprocess.DEVNULL)
    good = [encode(face, suffix) for face in FACES for suffix in (".png", ".jpg", ".bmp")]
    bad = [image for image, decodable in kinds().values() if decodable is False]
    bombs = [build() for build in image_bombs.BOMBS.values()]
    count, lock, stop = (
        dict.fromkeys(("requests", "bomb requests", "failed", "rows", "wrong rows"), 0),
        threading.Lock(),
        [],
    )

    def connect():
        return FaceClient("grpc://localhost:18500", model=saved_model.parent.name, timeout=60)

    def send(client, images, expected, kind):
        try:
            answer = client.embed(images)
        except Exception as error:  # every failure is counted, of any kind
            print("failed:", repr(error)[:300])
            answer = None
        with lock:
            count[kind] += 1
            count["failed"] += answer is None
            count["rows"] += len(images)
            for row, reference in enumerate(expected if answer is not None else []):
                is_right = (
                    np.allclose(answer.embedding[row], reference, atol=1e-5) and answer.valid[row] == reference.any()
                )
                count["wrong rows"] += not is_right

    def send_damaged(number):
        client, rng = connect(), random.Random(seed + number)
        while not stop:
            chosen = [rng.choice(bad) if rng.random() < 0.4 else rng.randrange(len(good)) for _ in range(rows)]
            images = [good[image] if isinstance(image, int) else image for image in chosen]
            zeros = np.zeros_like(references[0])
            send(client, images, [references[i] if isinstance(i, int) else zeros for i in chosen], "requests")

    def send_bombs():
        client, zeros = connect(), np.zeros_like(references[0])
        while not stop:
            for bomb in bombs:
                send(client, [bomb], [zeros], "bomb requests")

    try:
        client = connect()
        deadline = time.monotonic() + 120
        while True:
            try:
                references = client.embed(good).embedding
                break
            except Exception:  # the server is loading
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
        start = peak_memory.peak(server.pid) / 1024
        threads = [threading.Thread(target=send_damaged, args=(number,)) for number in range(clients)]
        threads.append(threading.Thread(target=send_bombs))
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.append(True)
        for thread in threads:
            thread.join()
        print(", ".join(f"{number:,} {name}" for name, number in count.items()))
        print(f"GiB of the server at most: {peak_memory.peak(server.pid) / 1024:.2f}, before the load {start:.2f}")
    finally:
        server.terminate()
        server.wait()
    return int(count["failed"] + count["wrong rows"] > 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--corruptions", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--load-seconds", type=int, help="duration of the load on the server double")
    arguments = parser.parse_args()
    if arguments.load_seconds:
        sys.exit(load(arguments.saved_model.resolve(), arguments.load_seconds, arguments.seed))
    whole = [encode(face, suffix) for face in FACES for suffix in (".png", ".jpg", ".bmp")]
    whole += [saved_by_pillow(Image.fromarray(face), "JPEG", exif=exif(6)) for face in FACES[:4]]
    whole += [saved_by_pillow(Image.fromarray(face).convert("P"), "BMP") for face in FACES[:4]]
    damaged = kinds()
    fill = [whole[row % len(whole)] for row in range(BATCH)]
    images = [image for image, _ in damaged.values()]
    batch = images + fill[len(images) :]
    rng = random.Random(arguments.seed)
    corrupted = []
    for _ in range(-(-arguments.corruptions // (BATCH - len(GOOD_ROWS)))):
        rows = [fuzz.damage(rng.choice(whole), rng, list(range(0, 64, 4))) for _ in range(BATCH)]
        corrupted.append([fill[row] if row in GOOD_ROWS else image for row, image in enumerate(rows)])
    with tempfile.TemporaryDirectory() as folder:
        (clean,), calm = answers(arguments.saved_model, [fill], folder)
        (mixed,), peak = answers(arguments.saved_model, [batch], folder)
        random_ones, peak_of_random = answers(arguments.saved_model, corrupted, folder)
    wrong = 0
    for row, (name, (_, decodable)) in enumerate(damaged.items()):
        valid = bool(mixed["valid"][row])
        wrong += decodable is not None and valid != decodable
        print(f"{name:24} {'decoded' if valid else 'marked'}{'' if decodable in (None, valid) else '   WRONG'}")
    good = slice(len(images), BATCH)
    same = all(np.array_equal(clean[name][good], mixed[name][good]) for name in ("embedding", "norm", "valid"))
    print(f"{BATCH - len(images)} good rows beside {len(images)} others: {'the same bits' if same else 'DIFFERENT'}")
    rows = list(GOOD_ROWS)
    kept = all(np.array_equal(clean["embedding"][rows], answer["embedding"][rows]) for answer in random_ones)
    bad = np.concatenate([np.delete(answer["valid"], rows) for answer in random_ones])
    finite = all(np.isfinite(answer["embedding"]).all() for answer in random_ones)
    print(
        f"{len(bad)} random corruptions in {len(random_ones)} requests: none failed, {bad.sum()} still decoded, "
        f"{np.sum(~bad)} marked; good rows {'the same bits' if kept else 'DIFFERENT'}"
    )
    print(f"GiB at most: good images {calm:.2f}, every kind {peak:.2f}, random {peak_of_random:.2f}")
    sys.exit(0 if same and kept and finite and not wrong else 1)


if __name__ == "__main__":
    main()
