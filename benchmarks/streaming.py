"""Images per second that are read from JPEG files, against torchvision's ImageFolder and torch's DataLoader.

Both sides read the same files with the same number of worker processes, cut random boxes of them at 224 pixels, mirror
half of them, normalize, and hand over batches; nothing is trained. They take turns, an epoch each, in an order drawn
anew every round. Files have the size of ImageNet's: 500 x 375 pixels, about 110 KB. A few hundred different ones are
made and linked under as many names as an epoch takes.

Beside it: what one processor decodes in a second, and the memory of the process and its workers in the first and the
last quarter of an epoch, each the median over its batches (shared pages counted once where the system tells).
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from reporting import Goal, Line, arguments, load, paired_ratio, table, verdicts, write
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from sdbench import data, environment
from sdbench.data.stream import StreamedSet
from sdbench.forecast_facts import decoded_per_s

WIDTH, HEIGHT = 500, 375
CLASSES = 10
QUALITY = 94
FASTER = Goal(1.0, at_most=False)


def photograph(seed: int) -> Image.Image:
    """Smooth shapes under grain, which makes a JPEG of ``QUALITY`` as large as a photograph's."""
    drawn = np.random.default_rng(seed)
    shapes = Image.fromarray(drawn.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((WIDTH, HEIGHT), 3)
    grain = drawn.normal(0, 13, (HEIGHT, WIDTH, 1))
    return Image.fromarray((np.asarray(shapes) + grain).clip(0, 255).astype(np.uint8))


def make_files(root: Path, images: int, distinct: int) -> float:
    """``images`` training files, of which ``distinct`` differ, and a test file for each class; mean size in bytes."""
    made = []
    (root / "made").mkdir(parents=True)
    for seed in range(distinct):
        made.append(root / "made" / f"{seed}.jpg")
        photograph(seed).save(made[-1], quality=QUALITY)
    for n in range(images):
        folder = root / "set" / "train" / f"class{n % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(made[n % distinct], folder / f"{n:07d}.jpg")
    for label in range(CLASSES):
        folder = root / "set" / "val" / f"class{label}"
        folder.mkdir(parents=True)
        os.link(made[label % distinct], folder / "0.jpg")
    return statistics.mean(path.stat().st_size for path in made)


def sdbench_batches(root: Path, workers: int, batch_size: int, size: int) -> Callable[[int], Iterator[Any]]:
    device = torch.device("cpu")
    found = data.load(f"folder:{root / 'set'}", None, size, device=device, workers=workers, batch_size=batch_size)
    assert isinstance(found, StreamedSet)
    return lambda epoch: found.epoch(epoch, stream="0", batch_size=batch_size, augment="resized-crop-flip")


def torchvision_batches(root: Path, workers: int, batch_size: int, size: int) -> Callable[[int], Iterator[Any]]:
    info = data.DATASETS["folder"]
    steps = [transforms.RandomResizedCrop(size), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    files = ImageFolder(
        str(root / "set" / "train"), transforms.Compose([*steps, transforms.Normalize(info.mean, info.std)])
    )
    loader = DataLoader(files, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    return lambda epoch: iter(loader)


def resident(process: psutil.Process) -> int:
    """Bytes that a process and its children hold, pages that they share counted once."""
    total = 0
    for each in (process, *process.children(recursive=True)):
        try:
            found = each.memory_full_info()
            total += getattr(found, "pss", found.rss)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def epoch_of(batches: Iterator[Any]) -> tuple[float, list[int]]:
    """Seconds that an epoch takes, and the memory after each tenth of a second or so, the reading not timed."""
    seconds, seen, last = 0.0, [], 0.0
    process = psutil.Process()
    began = time.perf_counter()
    for _ in batches:
        now = time.perf_counter()
        seconds += now - began
        if now - last > 0.2:
            seen.append(resident(process))
            last = time.perf_counter()
        began = time.perf_counter()
    return seconds + time.perf_counter() - began, seen


def quarters(seen: list[int]) -> tuple[float, float]:
    """Medians of the first and the last quarter."""
    count = max(1, len(seen) // 4)
    return statistics.median(seen[:count]), statistics.median(seen[-count:])


def measure(root: Path, workers: int, batch_size: int, size: int, rounds: int) -> tuple[dict[str, list[float]], Any]:
    """Seconds per epoch of each side in each round, and sdbench's memory in the last one."""
    sides = {
        "sdbench": sdbench_batches(root, workers, batch_size, size),
        "torchvision": torchvision_batches(root, workers, batch_size, size),
    }
    for side in sides.values():
        epoch_of(side(0))  # workers are started, files are in the system's cache
    order, times = random.Random(0), {name: [] for name in sides}
    seen: list[int] = []
    for epoch in range(1, rounds + 1):
        for name in order.sample(sorted(sides), len(sides)):
            seconds, found = epoch_of(sides[name](epoch))
            times[name].append(seconds)
            seen = found if name == "sdbench" else seen
    return times, seen


def main(words: list[str] | None = None) -> None:
    parser = arguments(__doc__, rounds=10)
    parser.add_argument("--images", type=int, default=2000, help="files of an epoch (%(default)s)")
    parser.add_argument("--distinct", type=int, default=200, help="of them that differ (%(default)s)")
    parser.add_argument("--workers", type=int, default=environment.cpu_count(), help="processes (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--size", type=int, default=224, help="side in pixels (%(default)s)")
    chosen = parser.parse_args(words)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        root, before = Path(folder), load()
        size = make_files(root, chosen.images, min(chosen.distinct, chosen.images))
        listed = data.listed(f"folder:{root / 'set'}")
        assert listed is not None
        rates = [decoded_per_s(listed, chosen.size) for _ in range(5)]
        times, seen = measure(root, chosen.workers, chosen.batch_size, chosen.size, chosen.rounds)
    first, last = quarters(seen)
    per_second = {name: [chosen.images / s for s in found] for name, found in times.items()}
    lines = [Line("torchvision / sdbench", FASTER, paired_ratio(times["torchvision"], times["sdbench"]))]
    rows = [(name, f"{statistics.median(r):.0f}", f"{min(r):.0f} .. {max(r):.0f}") for name, r in per_second.items()]
    rows.append(("one processor", f"{statistics.median(rates):.0f}", f"{min(rates):.0f} .. {max(rates):.0f}"))
    print(f"{chosen.images} files of {size / 1000:.0f} KB, {chosen.workers} workers, load {before:.1f} to {load():.1f}")
    print(table(("images per second", "median", "spread"), rows))
    print(f"memory: {first / 2**20:.0f} MiB in the first quarter, {last / 2**20:.0f} MiB in the last")
    print(verdicts(lines))
    record = {
        "images_per_s": per_second,
        "decoded_per_s": rates,
        "memory_bytes": {"first": first, "last": last},
        "file_bytes": size,
        "workers": chosen.workers,
        "lines": [line.record() for line in lines],
        "load": [before, load()],
        "versions": environment.versions(),
    }
    write(chosen.json, record)


if __name__ == "__main__":
    main()
