"""Collating of batches: bucketing by length, the device of the gathering, and prefetching of one batch."""

import threading
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from nmer_fast.data import FeatureSet, Ragged, Standardiser, read_store, write_store
from nmer_fast.engine import batches as module
from nmer_fast.engine.batches import Batches, prefetch
from nmer_fast.engine.evaluation import evaluate, evaluate_predictor, predictor_of
from nmer_fast.engine.trainer import train
from nmer_fast.models import NMER, Targets
from tests.ops import contract

from .test_engine import CPU, QUIET, SMALL, config, dataset, scheduler
from .test_resume import assert_same, stop_and_go_on

META = torch.device("meta")
ALL = torch.arange(203)


def ragged_dataset(n=203):
    """Return samples of 1 to 90 steps; each modality has its own lengths, which vary as much as in real speech."""
    generator = torch.Generator().manual_seed(0)
    base = 12 * (0.7 * torch.randn(n, generator=generator)).exp()
    modalities = {}
    for name, dim, share in (("a", 5, 1.0), ("v", 4, 0.7), ("l", 6, 0.3)):
        lengths = (share * base * (0.8 + 0.4 * torch.rand(n, generator=generator))).long().clamp(1, 90)
        values = 3 + 2 * torch.randn(int(lengths.sum()), dim, generator=generator)
        modalities[name] = Ragged.from_lengths(values, lengths)
    return FeatureSet(
        "ragged", modalities, torch.arange(n) % 2, ["no", "yes"], {"train": torch.arange(150), "test": torch.arange(150, n)},
        [str(i) for i in range(n)], torch.zeros(n).long(), torch.arange(n),
    )  # fmt: skip


# ---------------------------------------------------------------- the contents of a batch


def test_a_batch_is_what_standardising_first_and_padding_by_hand_gives(tmp_path):
    """Batches equal manual standardising and padding bit for bit, from memory and from a packed store, uncopied."""
    raw = ragged_dataset()
    write_store(raw, tmp_path / "x.safetensors")
    rows = torch.tensor([7, 202, 7, 0])
    for data in (raw, read_store(tmp_path / "x.safetensors")):
        fitted = Standardiser.fit(data)
        standardised = fitted(data)
        batch = Batches(standardised, CPU, 8).collate(rows)
        for name, r in raw.modalities.items():
            assert standardised.modalities[name].stored is data.modalities[name].stored
            scaled = ((r.values - fitted.mean[name]) / fitted.std[name]).clamp(-10, 10)
            longest = int(r.lengths[rows].max())
            assert batch.features[name].shape[1] == -(-longest // 8) * 8
            for x, length, row in zip(batch.features[name], batch.lengths[name], rows, strict=True):
                assert length == r.lengths[row]
                assert torch.equal(x[:length], scaled[r.offsets[row] : r.offsets[row + 1]])
                assert (x[length:] == 0).all()
        assert torch.equal(batch.labels, raw.labels[rows])


# ---------------------------------------------------------------- bucketing by length


@pytest.mark.parametrize("buckets", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("size", [1, 16, 64, 300])
def test_every_row_once_in_batches_all_alike(buckets, size):
    batches, rows = Batches(ragged_dataset(), CPU, size, buckets=buckets), ALL[3:].flip(0)
    order = batches.order(rows, 5, 2)
    assert sorted(torch.cat(order).tolist()) == sorted(rows.tolist())
    assert sorted(map(len, order)) == sorted(map(len, batches.split(rows)))
    assert [b.sample_ids.tolist() for b in batches.shuffled(rows, 5, 2)] == [part.tolist() for part in order]
    again = Batches(ragged_dataset(), CPU, size, buckets=buckets).order(rows, 5, 2)
    assert [part.tolist() for part in again] == [part.tolist() for part in order]
    skipped = batches.shuffled(rows, 5, 2, first=2)
    assert [b.sample_ids.tolist() for b in skipped] == [part.tolist() for part in order[2:]]


def test_without_buckets_the_order_is_a_plain_shuffle():
    generator = torch.Generator().manual_seed(contract.philox_words(5, [2, 0, 0, 0])[0])
    expected = ALL[torch.randperm(203, generator=generator)].tensor_split(13)
    order = Batches(ragged_dataset(), CPU, 16).order(ALL, 5, 2)
    assert [part.tolist() for part in order] == [part.tolist() for part in expected]
    others = [
        Batches(ragged_dataset(), CPU, 16).order(ALL, *key) for key in ((5 + 2**12, 2), (5 + 2**32, 2), (6, 2), (5, 3))
    ]
    assert all(not torch.equal(torch.cat(order), torch.cat(other)) for other in others)


def test_a_pool_is_shuffled_rows_cut_by_cost():
    """The pools are those of plain shuffling; within a pool, the batches' ranges of costs do not overlap."""
    data = ragged_dataset()
    plain, bucketed = (Batches(data, CPU, 16, buckets=k) for k in (1, 4))
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        parts, order = plain.order(ALL, seed, epoch), bucketed.order(ALL, seed, epoch)
        pools = [set(torch.cat(parts[i : i + 4]).tolist()) for i in range(0, 13, 4)]
        for pool in pools:
            inside = [part for part in order if set(part.tolist()) <= pool]
            assert sum(map(len, inside)) == len(pool)
            bounds = sorted((int(bucketed.cost[part].min()), int(bucketed.cost[part].max())) for part in inside)
            assert all(low[1] <= high[0] for low, high in pairwise(bounds))
    orders = [torch.cat(bucketed.order(ALL, *key)).tolist() for key in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    turns = [next(i for i, pool in enumerate(pools) if int(part[0]) in pool) for part in bucketed.order(ALL, 1, 0)]
    assert turns != sorted(turns)  # the order of batches is shuffled across the pools


def test_the_cost_is_a_batch_of_ones_own():
    batches = Batches(ragged_dataset(), CPU, 1)
    for row in (0, 17, 202):
        assert batches.cost[row] == sum(x.numel() for x in batches.collate(torch.tensor([row])).features.values())


def test_buckets_spare_padding():
    """With log-normally distributed lengths, bucketing reduces the number of values in an epoch's batches."""
    data = ragged_dataset()
    made = {
        k: sum(x.numel() for b in Batches(data, CPU, 16, buckets=k).shuffled(ALL, 0, 0) for x in b.features.values())
        for k in (1, 4, 13)
    }
    assert made[1] > 1.4 * made[4]
    assert made[4] > 1.1 * made[13]


def test_a_stop_changes_no_bit_with_buckets(tmp_path):
    data, noise, cfg = dataset(), scheduler(), config(epochs=3, buckets=2, batch_size=6)
    whole = train(data, noise, cfg, CPU, QUIET)
    resumed, fit = stop_and_go_on(data, noise, cfg, 5 + 5 + 5 + 2, tmp_path)
    assert (fit["name"], fit["epoch"], fit["step_in_epoch"]) == ("nmer", 1, 3)
    assert_same(whole, resumed)
    assert train(data, noise, config(epochs=3, batch_size=6), CPU, QUIET).losses != whole.losses


def test_evaluation_by_length_predicts_the_same():
    data = ragged_dataset()
    data = Standardiser.fit(data)(data)
    model, noise, rows = NMER(data.dims, 2, SMALL).eval(), scheduler(), data.splits["test"]
    batches = Batches(data, CPU, 8)
    assert batches.by_length(rows).tolist() != rows.tolist()
    as_they_stand, by_length = (
        evaluate_predictor(predictor_of(model), batches, rows, noise, 0),
        evaluate(model, batches, rows, noise, 0),
    )
    assert by_length.conditions == as_they_stand.conditions
    assert by_length.snr_db == pytest.approx(as_they_stand.snr_db)


@pytest.mark.parametrize("leak", ["tokens", "padding"])
def test_where_predictions_depend_on_batch_mates_evaluation_keeps_the_order(leak, monkeypatch):
    data = ragged_dataset()
    data, seen = Standardiser.fit(data)(data), []
    model = NMER(data.dims, 2, replace(SMALL, tokens="batch" if leak == "tokens" else "one"))
    batches = Batches(data, CPU, 8, padding=leak == "padding")
    real = batches.collate
    monkeypatch.setattr(batches, "collate", lambda rows, **options: seen.append(rows) or real(rows, **options))
    evaluate(model, batches, data.splits["test"], scheduler(), 0, allow_leak=True)
    assert torch.equal(torch.cat(seen), data.splits["test"])


# ---------------------------------------------------------------- the device of the gathering
# The meta device stands in for a GPU: it has no values, so any read by the host raises an error.


@pytest.mark.parametrize("padding", [False, True])
@pytest.mark.parametrize("fits", [True, False])
def test_on_another_device(fits, padding, monkeypatch):
    """Features are copied once and gathered on the device, or gathered by the CPU; shapes agree; no value is read."""
    data = ragged_dataset()
    data = Standardiser.fit(data)(data)
    size = sum(r.stored.nbytes for r in data.modalities.values())
    monkeypatch.setattr(module, "free_bytes", lambda device: 2 * size if fits else 2 * size - 1)
    there, here = (Batches(data, device, 16, padding=padding, buckets=2) for device in (META, CPU))
    assert there.on_device == fits
    assert {r.stored.device for r in there.features.values()} == {META if fits else CPU}
    targets = Targets(torch.zeros(203, 3), torch.zeros(203, 3))
    moved = Targets(*(t.to(META) for t in vars(targets).values()))
    pairs = zip(there.shuffled(ALL, 0, 0, moved), here.shuffled(ALL, 0, 0, targets), strict=True)
    for a, b in pairs:
        for name in data.modalities:
            assert a.features[name].device == a.lengths[name].device == META
            assert a.features[name].shape == b.features[name].shape
            assert a.lengths[name].shape == b.lengths[name].shape
            assert not padding or a.real_lengths[name].device == META
        assert {a.labels.device, a.sample_ids.device, a.rng.device, a.targets.joint.device} == {META}


def test_what_does_not_fit_is_gathered_by_the_cpu_to_the_same_bits(monkeypatch):
    """Without a second device: prefetched batches equal batches that are made in turn."""
    data = ragged_dataset()
    batches = Batches(Standardiser.fit(data)(data), CPU, 16, buckets=3)
    in_turn = list(batches.shuffled(ALL, 1, 4))
    batches.on_device = False
    made_ahead = list(batches.shuffled(ALL, 1, 4))
    assert len(in_turn) == len(made_ahead) == 13
    for a, b in zip(in_turn, made_ahead, strict=True):
        assert torch.equal(a.sample_ids, b.sample_ids)
        assert all(torch.equal(a.features[name], b.features[name]) for name in a.features)


def test_one_ahead_and_no_more():
    made, used = [], []

    def make():
        for i in range(5):
            made.append(i)
            yield i

    for i in prefetch(make()):
        used.append(i)
        assert len(made) <= i + 2
    assert used == [0, 1, 2, 3, 4]
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]


def test_what_goes_wrong_ahead_is_raised_and_who_stops_early_leaves_no_thread():
    def make():
        yield 0
        raise ValueError("the disk is gone")

    batches = prefetch(make())
    assert next(batches) == 0
    with pytest.raises(ValueError, match="the disk is gone"):
        next(batches)
    early = prefetch(iter(range(10)))
    assert next(early) == 0
    early.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("prefetch")]
