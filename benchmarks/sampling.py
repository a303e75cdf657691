"""Measures a training step of a sampled head over the number of classes, with a fixed sample size.

    python benchmarks/sampling.py
    KERAS_BACKEND=jax python benchmarks/sampling.py

A step of `RecognitionModel` draws the classes, gathers their centers and momentum, computes loss and gradients, and
writes back the updated values. The exact head follows for comparison, if it fits into memory. Each measurement runs in
a separate process. The table shows the median, minimum and maximum of the steps.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from contenders import machine
from contenders import peak_memory


def measure(classes, sample, batch, dim, seconds, head):
    import keras
    import numpy as np

    from keras_arcface import RecognitionModel
    from keras_arcface import layers
    from keras_arcface.training import CoupledSGD

    inputs = keras.Input((dim,))
    embedder = keras.Model(inputs, keras.layers.BatchNormalization()(inputs))
    rate = sample / classes if sample else 1.0
    model = RecognitionModel(embedder, getattr(layers, head)(classes, sample_rate=rate))
    model.compile(CoupledSGD(0.1))
    model.build((None, dim))
    generator = np.random.default_rng(0)
    x = generator.normal(size=(batch, dim)).astype("float32")
    batches = [(x, generator.integers(0, classes, batch).astype("int32")) for _ in range(8)]

    class Times(keras.callbacks.Callback):
        found = ()

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.found = (*self.found, time.perf_counter())

    def dataset():
        begin = time.perf_counter()
        while time.perf_counter() < begin + seconds:
            yield from batches

    times = Times()
    model.fit(dataset(), verbose=0, callbacks=[times])
    steps = [after - before for before, after in zip(times.found[3:], times.found[4:], strict=False)]
    return {"steps": steps, "gib": peak_memory()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", nargs="+", type=int, default=[50_000, 200_000, 800_000, 3_200_000])
    parser.add_argument("--sample", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--head", default="ArcFace", help="head with a margin, such as QMargin")
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        out, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(measure(**arguments.serve)), file=out)
        return
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    print(f"{machine()[1]}; {backend}; batch {arguments.batch}, {arguments.dim} dimensions")
    print(f"{'classes':>12}{'in a step':>12}{'ms':>9}{'min':>9}{'max':>9}{'x first':>14}{'GiB':>8}")
    for sample in (arguments.sample, None):
        first = None
        for classes in arguments.classes:
            size = {
                "batch": arguments.batch,
                "dim": arguments.dim,
                "seconds": arguments.seconds,
                "head": arguments.head,
            }
            task = json.dumps({"classes": classes, "sample": sample, **size})
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
            done = subprocess.run(
                [sys.executable, sys.argv[0], "--serve", task],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                check=False,
            )
            if done.returncode:
                print(f"{classes:12,}{sample or classes:12,}  cannot run here")
                continue
            found = json.loads(done.stdout)
            milliseconds = [1e3 * seconds for seconds in found["steps"]]
            median = statistics.median(milliseconds)
            first = first or median
            spread = f"{median:9.1f}{min(milliseconds):9.1f}{max(milliseconds):9.1f}"
            row = f"{classes:12,}{sample or classes:12,}{spread}{median / first:14.2f}{found['gib']:8.2f}"
            print(row, flush=True)


if __name__ == "__main__":
    main()
