"""Compares an exported embedder, answering through TensorFlow's C++ loader, with the embedder in Keras, on real faces.

python compare.py EMBEDDER.keras SAVED_MODEL
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
from orl_faces import OrlFaces


def through_c_loader(saved_model, signature, inputs):
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / name) for name in ("inputs.npz", "outputs.npz")]
        np.savez(files[0], **inputs)
        loader = str(Path(__file__).with_name("c_loader.py"))
        subprocess.run([sys.executable, loader, saved_model, signature, *files], check=True, capture_output=True)
        return dict(np.load(files[1]))


def main():
    embedder_path, saved_model = sys.argv[1:]
    faces = OrlFaces(range(31, 41))
    pngs = [faces[index].image for index in range(len(faces))]
    decoded = [tf.io.decode_png(png) for png in pngs]
    jpegs = [tf.io.encode_jpeg(image).numpy() for image in decoded]
    images = {
        "PNG": np.stack(decoded),
        "JPEG": np.stack([tf.io.decode_jpeg(jpeg) for jpeg in jpegs]),
    }
    embedder = keras.saving.load_model(embedder_path)
    expected = {}
    for kind, pixels in images.items():
        raw = embedder.predict(pixels, verbose=0)
        expected[kind] = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    spread = np.linalg.norm(expected["PNG"][:, None] - expected["PNG"][None], axis=2)
    print(f"distances between the {len(pngs)} faces: mean {spread.mean():.3f}, largest {spread.max():.3f}")
    outputs = through_c_loader(saved_model, "serving_default", {"images": images["PNG"]})
    print(f"serving_default: largest difference {np.abs(outputs['embedding'] - expected['PNG']).max():.1e}")
    for kind, encoded in (("PNG", pngs), ("JPEG", jpegs)):
        inputs = {f"image_bytes_{row}": np.frombuffer(image, np.uint8) for row, image in enumerate(encoded)}
        outputs = through_c_loader(saved_model, "serve_bytes", inputs)
        largest = np.abs(outputs["embedding"] - expected[kind]).max()
        print(f"serve_bytes, {kind}: largest difference {largest:.1e}, {outputs['valid'].sum()} valid")


if __name__ == "__main__":
    main()
