"""Measures the first requests to a SavedModel with and without warm-up, through TensorFlow's C++ loader.

    python benchmarks/warmup.py models/faces/1

For each row, a separate process loads the SavedModel, runs its warm-up requests or not, and then runs ten requests of
one signature and batch size. `ratio` is the time of the first request divided by the median of the others.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from contenders import machine

from keras_arcface.serving.saved_model import loaders
from keras_arcface.serving.saved_model.warmup import WARMUP_FILE
from keras_arcface.serving.saved_model.warmup import read_requests


def measure(saved_model, signature, size, warm):
    sys.path.insert(0, str(Path(loaders.__file__).parent))
    import cpp

    requests = read_requests(Path(saved_model) / WARMUP_FILE)
    session = cpp.Session(saved_model)
    begin = time.perf_counter()
    for request in requests if warm else ():
        session.run(request.signature, request.inputs)
    warmed = time.perf_counter() - begin
    measured = next(r for r in requests if r.signature == signature and len(next(iter(r.inputs.values()))) == size)
    seconds = []
    for _ in range(10):
        begin = time.perf_counter()
        session.run(measured.signature, measured.inputs)
        seconds.append(time.perf_counter() - begin)
    return {"warmed": warmed, "seconds": seconds}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("saved_model", type=Path)
    parser.add_argument("--serve", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        out, sys.stdout = sys.stdout, sys.stderr
        print(json.dumps(measure(str(arguments.saved_model), **arguments.serve)), file=out)
        return
    requests = read_requests(arguments.saved_model / WARMUP_FILE)
    sizes = sorted({len(next(iter(request.inputs.values()))) for request in requests})
    print(f"{machine()[1]}; {len(requests)} warm-up requests, sizes {sizes}")
    print(f"{'':18}{'batch':>6}{'':>12}{'first ms':>10}{'others ms':>11}{'ratio':>8}")
    for signature in ("serving_default", "serve_bytes"):
        for size in (sizes[0], sizes[-1]):
            for warm in (True, False):
                task = json.dumps({"signature": signature, "size": size, "warm": warm})
                command = [sys.executable, __file__, str(arguments.saved_model), "--serve", task]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                first, *others = (1e3 * second for second in json.loads(done.stdout)["seconds"])
                median = statistics.median(others)
                kind = "warm" if warm else "not warm"
                print(f"{signature:18}{size:6}{kind:>12}{first:10.1f}{median:11.1f}{first / median:8.2f}", flush=True)


if __name__ == "__main__":
    main()
