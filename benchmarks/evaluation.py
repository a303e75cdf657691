"""Measures time and memory of evaluation protocols at full size, with synthetic embeddings.

    python benchmarks/evaluation.py                    # all, about five minutes on 2 cores
    python benchmarks/evaluation.py --only ijbc sop

Each part runs in a separate process to measure its peak memory, in addition to the given embeddings and in total. The
bare product computes only the matrix products in Keras, with blocks of the same size. The indented rows compute the
same figures with numpy or scikit-learn; the results must agree.
"""

import argparse
import multiprocessing
import resource
import threading
import time

import numpy as np

DIM = 512


def synthetic(people, labels, spread, seed):
    """Returns unit vectors around one center per label, with noise of standard deviation `spread`."""
    generator = np.random.default_rng(seed)
    centers = generator.standard_normal((people, DIM), dtype=np.float32)
    rows = centers[labels]
    for start in range(0, len(rows), 65536):
        part = rows[start : start + 65536]
        part += spread * generator.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return rows


class Peak:
    """Context manager that records the run time and the peak resident memory."""

    def __enter__(self):
        self.before, self.peak, self._done = resident(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        self._started = time.perf_counter()
        return self

    def _watch(self):
        while not self._done.wait(0.02):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self._started
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, resident())

    def row(self, name, note=""):
        added = f"{(self.peak - self.before) / 2**30:.2f}"
        return [name, f"{self.seconds:.1f}", added, f"{self.peak / 2**30:.2f}", note]


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def bare_product(first, second):
    """Returns the seconds of the matrix product alone, in blocks of the same size."""
    from keras import ops

    from keras_arcface.evaluation.scores import full_precision
    from keras_arcface.evaluation.scores import rows_per_block

    at_once = rows_per_block(len(second))
    with full_precision():
        columns = ops.convert_to_tensor(second)
        started = time.perf_counter()
        for start in range(0, len(first), at_once):
            np.asarray(ops.einsum("id,jd->ij", ops.convert_to_tensor(first[start : start + at_once]), columns))
    return time.perf_counter() - started


def share(ours, bare, first, second):
    rate = 2 * len(first) * len(second) * DIM / bare / 1e9
    return f"bare product {bare:.1f} s ({rate:.0f} GFLOP/s): {bare / ours:.2f} of its rate"


def lfw():
    from sklearn import metrics

    from keras_arcface import evaluation

    people = np.arange(12000) // 2
    people[3::4] += 6000  # genuine, impostor, genuine ...
    same = np.arange(6000) % 2 == 0
    rows = synthetic(12000, people, 4.0, 0)
    with Peak() as ours:
        result = evaluation.verify(rows, same)
    yield ours.row("LFW, 6,000 pairs: verify", f"AUC {result.auc:.6f}")
    with Peak() as intervals:
        result.intervals()
    yield intervals.row("  its intervals, 1,000 draws")
    with Peak() as plain:
        auc = metrics.roc_auc_score(same, result.scores)
        metrics.roc_curve(same, result.scores)
    yield plain.row("  scikit-learn, ROC and AUC alone", f"differs by {abs(auc - result.auc):.1e}")


def ijbc():
    from sklearn import metrics

    from keras_arcface import evaluation
    from keras_arcface.evaluation.verification import FARS

    images, templates, pairs_count, genuine = 469_375, 23_124, 15_658_489, 19_557
    generator = np.random.default_rng(0)
    person_of = generator.integers(0, 3531, templates)
    template = np.concatenate([np.arange(templates), generator.integers(0, templates, images - templates)])
    media = generator.integers(0, 12, images)
    pairs = generator.integers(0, templates, (pairs_count, 2))
    by_person = np.argsort(person_of, kind="stable")
    pairs[:genuine, 0], pairs[:genuine, 1] = by_person[:genuine], by_person[1 : genuine + 1]
    same = person_of[pairs[:, 0]] == person_of[pairs[:, 1]]
    rows = synthetic(3531, person_of[template], 12.0, 1)
    with Peak() as pooling:
        ids, pooled = evaluation.pool_templates(rows, template, media)
    yield pooling.row(f"IJB-C: pooling {images:,} images")
    with Peak() as ours:
        result = evaluation.verify_templates(pooled, ids, pairs, same, progress=False)
    bare = bare_product(pooled, pooled)
    yield ours.row(f"  1:1, {pairs_count:,} pairs", f"TAR@1e-6 {result.tar[1e-6]:.4f}")
    yield [
        "  both",
        f"{pooling.seconds + ours.seconds:.1f}",
        "",
        "",
        f"limit 60 s: {(pooling.seconds + ours.seconds) / 60:.2f}",
    ]
    yield ["  all products of templates, bare", f"{bare:.1f}", "", "", f"{bare / ours.seconds:.2f} of 1:1"]
    with Peak() as plain:
        scores = np.empty(pairs_count, np.float32)
        for start in range(0, pairs_count, 100_000):
            part = pairs[start : start + 100_000]
            scores[start : start + 100_000] = np.sum(pooled[part[:, 0]] * pooled[part[:, 1]], axis=1)
    yield plain.row("  plain numpy, scores alone")
    with Peak() as peer:
        far, tar, _ = metrics.roc_curve(same, scores, drop_intermediate=False)
    largest = max(abs(result.tar[wanted] - tar[far <= wanted].max()) for wanted in FARS)
    yield peer.row("  scikit-learn, ROC alone", f"TAR differs by {largest:.1e} at most")


def megaface():
    from keras_arcface import evaluation

    labels = np.sort(np.arange(3530) % 80)
    probes = synthetic(80, labels, 1.8, 2)
    distractors = synthetic(1, np.zeros(1_000_000, np.int64), 40.0, 3)
    bare = bare_product(probes, distractors)
    with Peak() as ours:
        result = evaluation.identify_among_distractors(probes, labels, distractors, progress=False)
    bare = min(bare, bare_product(probes, distractors))
    yield ours.row("MegaFace: 3,530 probes, 1,000,000 distractors", share(ours.seconds, bare, probes, distractors))
    yield ["", "", "", "", f"rank-1 {result.rank(1):.4f}, TAR@1e-6 {result.tar[1e-6]:.4f}"]
    few = 135  # three people
    few_labels = labels[:few]
    with Peak() as plain:
        scores = probes[:few] @ distractors.T
        own = probes[:few] @ probes[:few].T
        ranks = []
        for i in range(few):
            mates = own[i][(few_labels == few_labels[i]) & (np.arange(few) != i)]
            ranks.append((scores[i][:, None] >= mates).sum(axis=0))
    del scores
    theirs = np.mean(np.concatenate(ranks) < 1)
    ours = evaluation.identify_among_distractors(probes[:few], few_labels, distractors, progress=False).rank(1)
    note = f"for all: {plain.seconds * 3530 / few:.0f} s; rank-1 differs by {abs(theirs - ours):.1e}"
    yield [f"  plain numpy, {few} probes", f"{plain.seconds:.1f}", "", "", note]


def sop():
    from sklearn.neighbors import NearestNeighbors

    from keras_arcface import evaluation

    labels = np.sort(np.concatenate([np.arange(11316), np.random.default_rng(4).integers(0, 11316, 60_502 - 11316)]))
    rows = synthetic(11316, labels, 2.6, 5)
    bare = bare_product(rows, rows)
    with Peak() as ours:
        result = evaluation.retrieve(rows, labels, progress=False)
    bare = min(bare, bare_product(rows, rows))
    yield ours.row("SOP: 60,502 images, each against all", share(ours.seconds, bare, rows, rows))
    yield ["", "", "", "", f"Recall@1 {result.recall[1]:.4f}, mAP@R {result.map_at_r:.4f}"]
    with Peak() as plain:
        nearest = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(rows).kneighbors(rows, return_distance=False)
    itself = np.arange(len(rows))
    first = np.where(nearest[:, 0] == itself, nearest[:, 1], nearest[:, 0])
    members = np.bincount(labels)[labels]
    recall = np.mean((labels[first] == labels)[members > 1])
    yield plain.row("  scikit-learn, 2 nearest alone", f"Recall@1 differs by {abs(recall - result.recall[1]):.1e}")


PARTS = {"lfw": lfw, "ijbc": ijbc, "megaface": megaface, "sop": sop}


def run(name, results):
    try:
        for row in PARTS[name]():
            results.put(row)
    finally:
        results.put(None)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    context = multiprocessing.get_context("spawn")
    print(f"{'':46}{'seconds':>9}{'GiB added':>10}{'GiB total':>12}  ")
    for name in parser.parse_args().only:
        results = context.Queue()
        process = context.Process(target=run, args=(name, results))
        process.start()
        for label, seconds, added, total, note in iter(results.get, None):
            print(f"{label:46}{seconds:>9}{added:>10}{total:>12}  {note}", flush=True)
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} failed")


if __name__ == "__main__":
    main()
