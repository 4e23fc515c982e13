"""ImageNet in miniature through the command: streamed, its memory on disk, killed at random moments."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from sdbench.store import Store

EPOCHS = 4
WNIDS = ("n01440764", "n01443537", "n03995372")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, drawn = tmp_path_factory.mktemp("data") / "imagenet", np.random.default_rng(0)
    answers = []
    for label, wnid in enumerate(WNIDS):
        (root / "train" / wnid).mkdir(parents=True)
        for n in range(14):
            noise = drawn.normal(60 + 50 * label, 40, (40, 50 + n, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(noise).save(root / "train" / wnid / f"{wnid}_{n}.JPEG")
    (root / "val").mkdir()
    for n in range(9):
        noise = drawn.normal(60 + 50 * (n % 3), 40, (48, 40, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noise).save(root / "val" / f"ILSVRC2012_val_{n + 1:08d}.JPEG")
        answers.append(WNIDS[n % 3])
    (root / "imagenet_2012_validation_synset_labels.txt").write_text("\n".join(answers))
    return root


def command(imagenet: Path, results: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "sdbench", "run", "--methods", "pskd", "--no-baseline", "--dataset", "imagenet",
        "--data-dir", str(imagenet), "--model", "resnet8", "--epochs", str(EPOCHS), "--seeds", "0", "--batch-size", "8",
        "--precision", "fp32", "--image-size", "24", "--results", str(results), "--engine", "local", "--device", "cpu",
        *more,
    ]  # fmt: skip


def run(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr


def bits(results: Path) -> tuple[Any, ...]:
    [found] = Store(results).scan().results
    folder = Store(results).folder(found.spec, found.trial_id)
    curve = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    losses = [(line["epoch"], line["terms"]) for line in curve]
    assert not (folder / "state").exists()
    assert found.status == "ok"
    return found.metrics, found.checksums["network.safetensors"], losses, found.pairing


def group_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@pytest.mark.slow
def test_twenty_kills_lose_nothing(imagenet: Path, tmp_path: Path) -> None:
    """Twenty times the command, its trial and its workers are all killed, from before the start to the last epoch."""
    began = time.monotonic()
    run(command(imagenet, tmp_path / "whole", "--state", "memory", "--workers", "0"))
    whole, expected = time.monotonic() - began, bits(tmp_path / "whole")
    moments, killed = random.Random(0), 0
    for attempt in range(20):
        results = tmp_path / f"results-{attempt // 4}"  # the same folder four times in a row
        words = command(imagenet, results, "--state", "disk", "--workers", "1")
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moments.uniform(0.2, 1.0) * whole)
        every = group_of(process)
        if process.poll() is None:
            killed += 1
        for each in every:
            try:
                each.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.wait()
        if attempt % 4 == 3:
            run(words)
            assert bits(results) == expected
    assert killed >= 10
