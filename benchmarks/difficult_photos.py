"""Shows what the pipeline returns for difficult versions of one photo.

    python benchmarks/difficult_photos.py group.jpg

The photo should show several people, such as `insightface/data/images/t1.jpg` in the wheel of insightface (six faces).
The result is a Markdown table. `distance` is the mean distance of the landmarks from those in the original photo, in
units of the distance between the eyes.
"""

import argparse
import io

import cv2
import numpy as np
from PIL import Image

from keras_arcface import faces
from keras_arcface.faces import FacePipeline
from keras_arcface.faces import QualityLimits


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rotated(image, orientation):
    """Returns a JPEG file whose pixels are rotated, and whose EXIF data says how to show them upright."""
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # of Image.Transpose
    stored = image if inverse is None else image.transpose(Image.Transpose(inverse))
    data = Image.Exif()
    data[0x0112] = orientation
    return saved(stored, "JPEG", quality=95, exif=data)


def heic(image):
    try:
        import pillow_heif
    except ImportError:
        return None
    file = io.BytesIO()
    pillow_heif.from_pillow(image).save(file, quality=90)
    return file.getvalue()


def versions(image):
    """Yields the name of each version, its file or pixels, and the scale and offset of its faces."""
    width, height = image.size
    pixels = np.asarray(image)
    for orientation in range(1, 9):
        yield f"EXIF orientation {orientation}", rotated(image, orientation), 1.0, (0, 0)
    yield "gray", saved(image.convert("L"), "PNG"), 1.0, (0, 0)
    yield "alpha channel", saved(image.convert("RGBA"), "PNG"), 1.0, (0, 0)
    yield "CMYK", saved(image.convert("CMYK"), "JPEG", quality=95), 1.0, (0, 0)
    deep = cv2.imencode(".png", pixels[..., ::-1].astype(np.uint16) * 257)[1].tobytes()
    yield "16 bits", deep, 1.0, (0, 0)
    scale = 8000 / width
    yield f"8000 x {round(height * scale)}", saved(image.resize((8000, round(height * scale))), "JPEG"), scale, (0, 0)
    canvas = np.full((3000, 4000, 3), 128, np.uint8)
    small = cv2.resize(pixels, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    canvas[1500 : 1500 + len(small), 2000 : 2000 + small.shape[1]] = small
    yield "faces of 30 pixels in 12 million", canvas, 0.3, (2000, 1500)
    yield "five times the photo", np.tile(cv2.resize(pixels, None, fx=0.5, fy=0.5), (1, 5, 1)), 0.5, (0, 0)
    yield "no face", np.full((400, 600, 3), 90, np.uint8), 1.0, (0, 0)
    jpeg = saved(image, "JPEG")
    yield "cut off", jpeg[: len(jpeg) // 2], 1.0, (0, 0)
    other = Image.fromarray(255 - pixels)
    yield "animated PNG", saved(image, "PNG", save_all=True, append_images=[other]), 1.0, (0, 0)
    yield "animated WebP", saved(image, "WEBP", save_all=True, append_images=[other]), 1.0, (0, 0)
    yield "animated GIF", saved(image, "GIF", save_all=True, append_images=[other]), 1.0, (0, 0)
    encoded = heic(image)
    if encoded is not None:
        yield "HEIC", encoded, 1.0, (0, 0)


def mean_distance(found, expected):
    """Returns the mean distance of each expected face to the nearest found face, in distances between the eyes."""
    distances = []
    for face in expected:
        nearest = min(np.linalg.norm(other.landmarks - face.landmarks, axis=1).mean() for other in found)
        distances.append(nearest / face.eye_distance)
    return np.mean(distances)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", help="photo of several people")
    arguments = parser.parse_args()
    image = Image.open(arguments.photo).convert("RGB")
    detector = faces.YuNet()
    original = detector(np.asarray(image))
    print("| photo | faces | with tiles | distance | error |\n|---|---|---|---|---|")
    for name, photo, scale, offset in versions(image):
        results = []
        for tiles in (False, True):
            pipeline = FacePipeline(detector, lambda images: images.mean(axis=(1, 2)), QualityLimits(), tiles=tiles)
            results.append(pipeline.find(photo, name))
        expected = [face.moved(scale, *offset) for face in original]
        found = results[1].faces
        distance = f"{mean_distance(found, expected):.3f}" if found else ""
        error = (results[0].error or "").partition("Received: ")[2]
        print(f"| {name} | {len(results[0].faces)} | {len(found)} | {distance} | {error} |", flush=True)


if __name__ == "__main__":
    main()
