"""Compares the memory estimates of keras_arcface.plan with measurements of benchmarks/head_step.py.

python benchmarks/head_step.py ... > table.txt
python benchmarks/planned_memory.py table.txt
"""

import dataclasses
import re
import sys
from pathlib import Path

from keras_arcface import plan


def main():
    batch = classes = None
    print(f"{'':>10}{'batch':>6}{'classes':>11}{'measured, GiB':>15}{'planned':>9}{'ratio':>7}")
    for line in Path(sys.argv[1]).read_text().splitlines():
        if found := re.search(r"batch (\d+), ([\d,]+) classes: ([\d.]+) GiB", line):
            batch, classes = int(found[1]), int(found[2].replace(",", ""))
        found = re.search(r"ours, (recomputed|cached), float32 .* ([\d.]+)$", line)
        if not found and not line.strip().startswith("Keras, one-hot "):
            continue
        # Chunk limits on a CPU. The benchmark's update needs no temporary memory.
        memory = 2.0**60 if found and found[1] == "cached" else 0.0
        setup = plan.Setup(classes, batch, max_cache_bytes=memory, chunk_bytes=2**25, chunk_classes=2**12)
        name = "chunked" if found else "full logits"
        planned = next(p for p in plan.estimate(setup) if p.name == name)
        planned = dataclasses.replace(planned, update=0.0).memory / 2**30
        held = 3 * 4 * classes * 512 / 2**30
        measured = held + float(line.split()[-1])
        contender = found[1] if found else "one-hot"
        print(f"{contender:>10}{batch:6}{classes:11,}{measured:15.2f}{planned:9.2f}{planned / measured:7.2f}")


if __name__ == "__main__":
    main()
