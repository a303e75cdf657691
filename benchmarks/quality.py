"""Compares quality scores of face images: which of them predicts the false non-matches of a network?

    unzip photos.zip -d photos
    python benchmarks/quality.py --pairs lfw_dev.bin --list pairsDevTest.txt --photos photos --train cfp324/train.rec \\
        --plot docs/quality.png

The network is SFace, without mirror images. Scores, norms and CR-FIQA use the aligned crops of the pairs. Size, pose,
sharpness and score of the detector are those of the main face that YuNet finds in the photo. CR-FIQA is
`layers.WithQuality` on the embeddings of the training images: the network and the class centers, the mean embeddings of
each person, are fixed, so that only the dense layer is trained. Besides the listed pairs, all pairs of the images are
compared, which gives more false non-matches. The plot shows all pairs at the first false accept rate.
"""

import argparse
from pathlib import Path

import keras
import numpy as np
from contenders import machine

from keras_arcface import RecognitionModel
from keras_arcface import data
from keras_arcface import evaluation
from keras_arcface import faces
from keras_arcface import pretrained
from keras_arcface.evaluation.vectors import l2_normalize
from keras_arcface.layers import NormSoftmax
from keras_arcface.layers import WithQuality
from keras_arcface.layers import set_teacher_centers
from keras_arcface.models import make_quality_model


def people_of(path):
    """Returns the person of each image of a list of pairs, two per line."""
    lines = [line.split("\t") for line in path.read_text().splitlines()[1:]]
    return [person for line in lines for person in (line[0], line[-2] if len(line) == 4 else line[0])]


def qualities_of_photos(photos):
    """Returns the quality scores of the main face of each photo, by name; -inf for a photo without a face."""
    names = ("detector score", "size", "sharpness", "small yaw", "small pitch")
    found = np.full((len(names), len(photos)), -np.inf)
    pipeline = faces.FacePipeline(faces.YuNet(), lambda images: images.mean(axis=(1, 2)))
    for row, result in enumerate(pipeline(photos)):
        if result.main is not None:
            q = result.main.quality
            found[:, row] = q.score, q.size, q.sharpness, -abs(q.yaw), -abs(q.pitch)
    print(f"{np.isinf(found[0]).sum()} of {len(photos)} photos without a face")
    return dict(zip(names, found, strict=True))


def train_quality(embeddings, labels, epochs, seed=0):
    """Returns a model from embeddings to their quality, trained with the mean embeddings as class centers."""
    keras.utils.set_random_seed(seed)
    units = l2_normalize(embeddings, "embeddings")
    centers = np.stack([units[labels == label].mean(axis=0) for label in range(labels.max() + 1)])
    head = WithQuality(NormSoftmax(len(centers)))
    head.build((None, embeddings.shape[1]))
    set_teacher_centers(head.head, centers, fixed=True)
    embedder = keras.Sequential([keras.Input(embeddings.shape[1:]), keras.layers.Identity()])
    model = RecognitionModel(embedder, head)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(labels) // 128)))
    model.fit(embeddings, labels, batch_size=128, epochs=epochs, verbose=0)
    true = keras.ops.convert_to_numpy(head.true_quality(labels, embeddings))
    predicted = make_quality_model(model).predict(embeddings, verbose=0)["quality"]
    print(
        f"CR-FIQA: {len(labels):,} images of {len(centers)} people, true quality {true.mean():.3f} ± {true.std():.3f}, "
        f"correlation with the prediction {np.corrcoef(true, predicted)[0, 1]:.2f}"
    )
    return make_quality_model(model)


def report(title, scores, same, qualities, far, pairs):
    results = {
        name: evaluation.error_versus_discard(scores, same, quality, far, pairs=pairs)
        for name, quality in qualities.items()
    }
    first = next(iter(results.values()))
    print(f"\n{title}, FAR {far:g}: {first.false_non_matches} false non-matches of {first.genuine} genuine pairs\n")
    print("| quality | FNMR | 5% discarded | 10% | 20% | 30% | pAUC 30% | interval | relative |\n|" + "---|" * 9)
    for name, result in sorted(results.items(), key=lambda entry: entry[1].pauc):
        rates = " | ".join(f"{result.fnmr_at(share):.2%}" for share in (0, 0.05, 0.1, 0.2, 0.3))
        low, high = result.interval()
        print(f"| {name} | {rates} | {result.pauc:.2%} | {low:.2%} to {high:.2%} | {result.relative_pauc:.2f} |")
    print(f"| lowest possible | | | | | | {first.best_pauc:.2%} | | 0 |")
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=Path, required=True, help="aligned pairs, .bin or .npz")
    parser.add_argument("--list", type=Path, required=True, help="list of the same pairs in the format of LFW")
    parser.add_argument("--photos", type=Path, required=True, help="folder of the photos in the list")
    parser.add_argument("--train", type=Path, required=True, help="training images of other people, for CR-FIQA")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--fars", type=float, nargs="+", default=[1e-5, 1e-4, 1e-3], help="for all pairs")
    parser.add_argument("--far-listed", type=float, default=1e-2, help="for the listed pairs")
    parser.add_argument("--plot", type=Path, required=True, help="picture to write")
    arguments = parser.parse_args()
    print(machine()[1])
    network = pretrained.load("sface")
    pairs = data.PairSet.load(arguments.pairs)
    photos = data.PairSet.from_pairs_txt(arguments.list, arguments.photos)
    if not np.array_equal(pairs.same, photos.same):
        raise SystemExit(f"{arguments.list} has other pairs than {arguments.pairs}")
    # An image that occurs in several pairs is used once.
    _, first, image_of = np.unique(np.array(photos.images, object), return_index=True, return_inverse=True)
    listed, people = image_of.reshape(-1, 2), np.array(people_of(arguments.list))[first]
    embeddings = evaluation.embed_images(network, [pairs.images[index] for index in first], flip=False)
    source = data.open_source(arguments.train)
    training = evaluation.embed_images(network, source, flip=False)
    quality_model = train_quality(training, np.asarray(source.labels), arguments.epochs)
    qualities = {
        "norm of the embedding": np.linalg.norm(embeddings, axis=1),
        "CR-FIQA": quality_model.predict(embeddings, verbose=0)["quality"],
        **qualities_of_photos([photos.images[index] for index in first]),
        "random numbers": np.random.default_rng(0).random(len(first)),
    }
    units = l2_normalize(embeddings, "embeddings")
    scores = np.einsum("nd,nd->n", *(units[side] for side in listed.T))
    report("Listed pairs", scores, pairs.same, qualities, arguments.far_listed, listed)
    every = np.column_stack(np.triu_indices(len(first), 1))
    same = people[every[:, 0]] == people[every[:, 1]]
    scores = (units @ units.T)[every[:, 0], every[:, 1]]
    for far in arguments.fars:
        results = report("All pairs", scores, same, qualities, far, every)
        if far == arguments.fars[0]:
            evaluation.plot_error_versus_discard(results, arguments.plot)


if __name__ == "__main__":
    main()
