"""How long a packed store takes to write, open and verify, and how much of the batches is padding.

The store has CMU-MOSEI's size: 22,777 utterances of 5 to 17 steps, 1.5 GB. The padding is that of an epoch of IEMOCAP's
4446 training utterances in batches of 128: log-normal lengths of median 40 from 10 to 300, for several numbers of
buckets. Takes a minute on one core, with --quick 10 s. Prints its figures and writes no file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import made_up
import measure
import torch
from library import Batches, padded_steps
from made_up import DIMS
from measure import timed
from torch import Tensor

from nmer_fast.data import FeatureSet, Standardiser, read_store, verify_store, write_store


def made(lengths: dict[str, Tensor], values: Callable[[int, int], Tensor] = torch.randn) -> FeatureSet:
    """Features of these lengths; seven tenths of the rows are the train split."""
    return made_up.features(DIMS, lengths, len(lengths["a"]) * 7 // 10, values)


def opening(utterances: int) -> None:
    """The packed store. The set is freed before the store is read."""
    lengths = {m: torch.randint(5, 18, (utterances,)) for m in DIMS}
    with tempfile.TemporaryDirectory() as folder:
        path, sets = Path(folder) / "store.safetensors", [made(lengths)]
        print(f"write {timed(lambda: write_store(sets.pop(), path)):.1f} s, {path.stat().st_size / 1e9:.2f} GB")
        print(f"open {1e3 * median(timed(lambda: read_store(path)) for _ in range(9)):.1f} ms (median of 9)")
        data = read_store(path)
        print(f"fingerprint {1e3 * timed(data.fingerprint):.1f} ms")
        print(f"measure mean, std and variance {timed(lambda: Standardiser.fit(data)):.1f} s")
        print(f"verify {timed(lambda: verify_store(path)):.1f} s")


def padding(utterances: int) -> None:
    """The share of the values in an epoch's batches that is padding."""
    base, rows = (40 * (0.7 * torch.randn(utterances)).exp()).clamp(10, 300), torch.arange(utterances)
    lengths = {m: (share * base).round().long() for m, share in (("a", 1.0), ("v", 0.9), ("l", 1 / 3))}
    data = made(lengths, lambda steps, dim: torch.zeros(1, 1).expand(steps, dim))
    valid = sum(int(lengths[m].sum()) * dim for m, dim in DIMS.items())
    print("buckets  padding  values in an epoch's batches")
    for buckets in (1, 2, 4, 8, 16, 35):
        batches = Batches(data, torch.device("cpu"), 128, buckets=buckets)
        values = 0
        for part in batches.order(rows, 0, 0):
            values += sum(len(part) * padded_steps(lengths[m][part]) * dim for m, dim in DIMS.items())
        print(f"{buckets:7d} {1 - valid / values:8.1%} {values / 1e6:10.0f} M")


def main() -> None:
    """Both."""
    quick = measure.parser(__doc__, "a tenth of the utterances").parse_args().quick
    torch.manual_seed(0)
    opening(2_278 if quick else 22_777)
    padding(445 if quick else 4446)


if __name__ == "__main__":
    main()
