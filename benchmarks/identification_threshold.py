"""Compares the false positive identification rate (FPIR) that a threshold promises with that of other people.

    python benchmarks/identification_threshold.py cfp324/train.rec --gallery 100 --splits 300

Each split divides the people at random: a gallery, strangers who choose the threshold, and other strangers, who measure
its rate. People of the gallery have five images. A stranger has one, the first. The embedder is SFace without mirror
images. `calibrate` uses `Gallery.calibrate`, `pairs` uses `extrapolate_threshold` with the scores of all pairs of the
strangers who choose. "inside" is the share of splits whose 95% interval contains the measured rate. It is below 95%,
because the measured rate is that of few people too.
"""

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
from tqdm import tqdm

from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import pretrained
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.gallery import Gallery
from keras_arcface.gallery import extrapolate_threshold

ENROLLED_IMAGES = 5


def split(rng, labels, gallery_size):
    """Returns the rows of the gallery by person, and one row of each stranger who chooses and who measures."""
    people = rng.permutation(np.unique(labels))
    rows = [np.flatnonzero(labels == person) for person in people]
    strangers = np.array([person_rows[0] for person_rows in rows[gallery_size:]])
    half = len(strangers) // 2
    return [person_rows[:ENROLLED_IMAGES] for person_rows in rows[:gallery_size]], strangers[:half], strangers[half:]


def best_scores(gallery, embeddings):
    return np.array([matches[0].score for matches in gallery.search(embeddings, top_k=1)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="dataset: .rec file, directory of TFRecords, folder of images")
    parser.add_argument("--gallery", type=int, default=100, help="people in the gallery")
    parser.add_argument("--splits", type=int, default=300)
    parser.add_argument("--fpir", type=float, nargs="+", default=[0.1, 0.05, 0.02])
    arguments = parser.parse_args()
    source = data.open_source(arguments.data)
    labels = np.asarray(source.labels)
    embeddings = l2_normalize(evaluation.embed_images(pretrained.load("sface"), source, flip=False), "embeddings")
    results = {(method, fpir): [] for fpir in arguments.fpir for method in ("calibrate", "pairs")}
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in tqdm(range(arguments.splits), unit="split"):
            enrolled, choosing, measuring = split(rng, labels, arguments.gallery)
            with Gallery.open(Path(folder) / f"{number}.db") as gallery:
                gallery.enroll_many((f"{person}", embeddings[rows], None) for person, rows in enumerate(enrolled))
                measured = best_scores(gallery, embeddings[measuring])
                first, second = np.triu_indices(len(choosing), 1)
                pairs = (embeddings[choosing] @ embeddings[choosing].T)[first, second]
                for fpir in arguments.fpir:
                    chosen = {
                        "calibrate": gallery.calibrate(embeddings[choosing], fpir),
                        "pairs": extrapolate_threshold(pairs, fpir, arguments.gallery),
                    }
                    for method, threshold in chosen.items():
                        rate = np.mean(measured >= threshold.threshold)
                        low, high = threshold.fpir_interval
                        results[method, fpir].append((threshold.threshold, threshold.fpir, rate, low <= rate <= high))
    print(f"{arguments.gallery} people in the gallery, {len(choosing)} strangers choose, {len(measuring)} measure\n")
    print("| FPIR | by | threshold | promised | measured on others | inside |\n|---|---|---|---|---|---|")
    for (method, fpir), rows in results.items():
        threshold, promised, rate, inside = np.mean(rows, axis=0)
        spread = np.std([row[0] for row in rows])
        print(f"| {fpir:g} | {method} | {threshold:.3f} ± {spread:.3f} | {promised:.4f} | {rate:.4f} | {inside:.1%} |")


if __name__ == "__main__":
    main()
