"""How long a packed store takes to open, and how much of a batch is padding, at CMU-MOSEI's and IEMOCAP's sizes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from nmer_fast.data import FeatureSet, Ragged, Standardiser, read_store, verify_store, write_store
from nmer_fast.engine.batches import Batches

DIMS = {"a": 130, "v": 342, "l": 1024}


def dataset(lengths: dict[str, torch.Tensor], values: Callable[[int, int], torch.Tensor]) -> FeatureSet:
    """Made-up features of these lengths."""
    n = len(lengths["a"])
    rows = torch.arange(n)
    return FeatureSet(
        "made up", {m: Ragged.from_lengths(values(int(lengths[m].sum()), d), lengths[m]) for m, d in DIMS.items()},
        rows % 4, list("abcd"), {"train": rows[: n * 7 // 10], "test": rows[n * 7 // 10 :]},
        [f"utterance{i:06d}" for i in range(n)], rows // 10, rows,
    )  # fmt: skip


def seconds(call: Callable[[], Any]) -> float:
    """Of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def opening() -> None:
    """22,777 utterances of 5 to 17 steps, 1.5 GB."""
    lengths = {m: torch.randint(5, 18, (22_777,)) for m in DIMS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store.safetensors"
        made = [dataset(lengths, lambda steps, dim: torch.randn(steps, dim))]
        print(f"write {seconds(lambda: write_store(made.pop(), path)):.1f} s, {path.stat().st_size / 1e9:.2f} GB")
        print(f"open {1e3 * median(seconds(lambda: read_store(path)) for _ in range(9)):.1f} ms (median of 9)")
        data = read_store(path)
        print(f"fingerprint {1e3 * seconds(data.fingerprint):.1f} ms")
        print(f"measure mean, std and variance {seconds(lambda: Standardiser.fit(data)):.1f} s")
        print(f"verify {seconds(lambda: verify_store(path)):.1f} s")


def padding() -> None:
    """IEMOCAP's 4446 training utterances, log-normal lengths of median 40 from 10 to 300, batches of 128."""
    base = (40 * (0.7 * torch.randn(4446)).exp()).clamp(10, 300)
    lengths = {m: (share * base).round().long() for m, share in (("a", 1.0), ("v", 0.9), ("l", 1 / 3))}
    data, rows = dataset(lengths, lambda steps, dim: torch.zeros(1, 1).expand(steps, dim)), torch.arange(4446)
    valid = sum(int(lengths[m].sum()) * dim for m, dim in DIMS.items())
    print("buckets  padding  values in an epoch's batches")
    for buckets in (1, 2, 4, 8, 16, 35):
        batches = Batches(data, torch.device("cpu"), 128, buckets=buckets)
        made = 0
        for part in batches.order(rows, 0, 0):
            made += sum(len(part) * (-(-int(lengths[m][part].max()) // 8) * 8) * dim for m, dim in DIMS.items())
        print(f"{buckets:7d} {1 - valid / made:8.1%} {made / 1e6:10.0f} M")


if __name__ == "__main__":
    torch.manual_seed(0)
    opening()
    padding()
