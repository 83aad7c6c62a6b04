"""Ragged sequences, context windows, standardisation."""

import numpy as np
import pytest
import torch

from nmer_fast.data import FeatureSet, Ragged, Standardiser, standardise
from nmer_fast.errors import UserError


def ragged(lengths, dim=3):
    lengths = torch.tensor(lengths)
    return Ragged.from_lengths(torch.randn(int(lengths.sum()), dim), lengths)


def dataset(n=12, **changes):
    arguments = {
        "name": "made up",
        "modalities": {"a": ragged([i % 4 for i in range(n)]), "l": ragged([1] * n, 5)},
        "labels": torch.arange(n) % 2,
        "class_names": ["no", "yes"],
        "splits": {"train": torch.arange(8), "test": torch.arange(8, n)},
        "sample_names": [f"s{i}" for i in range(n)],
        "groups": torch.tensor([0, 0, 0, 0, 1, 1, 1, 0, 2, 2, 2, 2])[:n],
        "positions": torch.tensor([3, 1, 0, 2, 0, 1, 2, 4, 0, 1, 2, 3])[:n],
    }
    return FeatureSet(**{**arguments, **changes})


def sequence(r, i):
    return r.values[r.offsets[i] : r.offsets[i + 1]]


def test_padded_and_take_are_the_sequences():
    r, rows = ragged([3, 0, 1, 9, 2]), torch.tensor([4, 1, 3, 0])
    x, lengths = r.padded(rows)
    assert x.shape == (4, 16, 3)
    assert lengths.tolist() == [2, 0, 9, 3]
    taken = r.take(rows)
    for b, row in enumerate(rows):
        expected = sequence(r, row)
        assert torch.equal(x[b, : len(expected)], expected)
        assert (x[b, len(expected) :] == 0).all()
        assert torch.equal(sequence(taken, b), expected)


def test_from_padded_is_the_way_back():
    r = ragged([3, 0, 1, 9, 2])
    x, lengths = r.padded(torch.arange(5))
    back = Ragged.from_padded(x, lengths)
    assert torch.equal(back.values, r.values)
    assert torch.equal(back.offsets, r.offsets)


@pytest.mark.parametrize("lengths", [[0, 0], [0], []])
def test_nothing_to_pad(lengths):
    x, valid = ragged(lengths).padded(torch.arange(len(lengths)))
    assert x.shape == (len(lengths), 8, 3)
    assert valid.tolist() == lengths


@pytest.mark.parametrize("k", [1, 2, 10])
def test_context_joins_up_to_k_before_in_the_group(k):
    data = dataset()
    joined = data.with_context(k)
    for i in range(len(data)):
        before = [
            j
            for j in range(len(data))
            if data.groups[j] == data.groups[i] and (j < 8) == (i < 8) and data.positions[j] <= data.positions[i]
        ]
        window = sorted(before, key=lambda j: data.positions[j])[-(k + 1) :]
        for name, r in data.modalities.items():
            expected = torch.cat([sequence(r, j) for j in window])
            assert torch.equal(sequence(joined.modalities[name], i), expected)
    assert torch.equal(joined.labels, data.labels)
    assert data.with_context(0) is data


def test_standardiser_sees_the_train_split_alone():
    data = dataset()
    changed = {name: Ragged(r.values.clone(), r.offsets) for name, r in data.modalities.items()}
    for r in changed.values():
        r.values[r.steps_of(data.splits["test"])] *= 1000
    fitted, other = Standardiser.fit(data), Standardiser.fit(dataset(modalities=changed))
    for name in data.modalities:
        assert torch.equal(fitted.mean[name], other.mean[name])
        assert torch.equal(fitted.std[name], other.std[name])
        assert fitted.variances[name] == other.variances[name]
        train = data.modalities[name]
        values = train.values[train.steps_of(data.splits["train"])].double().numpy()
        np.testing.assert_allclose(fitted.mean[name], values.mean(0), atol=1e-6)
        np.testing.assert_allclose(fitted.std[name], values.std(0), rtol=1e-5)
        assert fitted.variances[name] == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 30, 10**6])
def test_measured_in_parts_it_is_the_same(chunk, monkeypatch):
    """Columns that drift, so that the parts' means differ; against NumPy on all at once."""
    monkeypatch.setattr(standardise, "CHUNK", chunk)
    values = torch.randn(100, 3) + torch.arange(100)[:, None] * torch.tensor([1.0, -0.1, 10.0])
    data = dataset(
        8, modalities={"a": Ragged.from_lengths(values, torch.tensor([50, 20, 0, 30, 0, 0, 0, 0]))},
        splits={"train": torch.arange(3), "test": torch.tensor([3])},
    )  # fmt: skip
    fitted, train = Standardiser.fit(data), values[:70].double().numpy()
    np.testing.assert_allclose(fitted.mean["a"], train.mean(0), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(fitted.std["a"], train.std(0), rtol=1e-6)
    scaled = ((values[:70] - fitted.mean["a"]) / fitted.std["a"]).clamp(-10, 10)
    assert fitted.variances["a"] == pytest.approx(scaled.double().numpy().var(), rel=1e-12)


def test_constant_columns_stay_zero_and_outliers_are_clipped():
    values = torch.randn(1000, 3)
    values[:, 1] = 7.1
    values[5, 0] = 1e6
    r = Ragged.from_lengths(values, torch.ones(1000, dtype=torch.int64))
    data = dataset(
        8, modalities={"a": r.take(torch.arange(8))}, splits={"train": torch.arange(6), "test": torch.arange(6, 8)}
    )
    scaled = Standardiser.fit(data)(data).modalities["a"].values
    assert scaled[:, 1].abs().max() < 1e-5
    outlier = torch.zeros(1000, 1)
    outlier[3] = 1e9
    many = FeatureSet(
        "outlier", {"a": Ragged.from_lengths(outlier, torch.ones(1000, dtype=torch.int64))}, torch.zeros(1000).long(), ["x"],
        {"train": torch.arange(999), "test": torch.tensor([999])}, [str(i) for i in range(1000)],
        torch.zeros(1000).long(), torch.arange(1000),
    )  # fmt: skip
    assert Standardiser.fit(many)(many).modalities["a"].values.max() == 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": {"a": ragged([1] * 11)}}, r"^made up: modality a: expected 12 samples"),
        ({"labels": torch.full((12,), 2)}, r"^made up: label: expected 0 to 1, got \[2\]"),
        ({"splits": {"train": torch.arange(12)}}, r"^made up: split: expected samples of 'test', got none"),
    ],
)
def test_refusals(changes, message):
    with pytest.raises(UserError, match=message):
        dataset(**changes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_value_is_found_and_named(bad):
    r = ragged([0, 2, 0, 3] * 3)
    r.values[4] = torch.tensor([0.0, bad, 0.0])  # the last step of sample 3
    with pytest.raises(UserError, match=rf"^made up: modality a: sample s3 holds {bad}; expected finite numbers"):
        dataset(modalities={"a": r})


def test_small_features_are_no_constants():
    values = 1e-7 * torch.randn(12, 3)
    data = dataset(modalities={"a": Ragged.from_lengths(values, torch.ones(12, dtype=torch.int64))})
    assert Standardiser.fit(data).variances["a"] == pytest.approx(1, rel=1e-3)


def test_unusable_modalities_are_refused():
    with pytest.raises(UserError, match=r"^made up: split: expected samples of 'train', got none"):
        Standardiser.fit(dataset(splits={"test": torch.arange(12)}))
    constant = Ragged.from_lengths(torch.ones(12, 2), torch.ones(12, dtype=torch.int64))
    with pytest.raises(UserError, match=r"modality c: expected features that vary, got variance 0 in train"):
        Standardiser.fit(dataset(modalities={"c": constant}))
    absent = ragged([0] * 8 + [1] * 4)
    with pytest.raises(UserError, match=r"modality c: expected steps in the train split, got none"):
        Standardiser.fit(dataset(modalities={"c": absent}))
    with pytest.raises(UserError, match=r"expected modalities with dimensions \{'a': 3, 'l': 5\}, got \{'a': 3\}"):
        Standardiser.fit(dataset())(dataset(modalities={"a": ragged([1] * 12)}))
    with pytest.raises(UserError, match=r"context: expected a group for every sample"):
        dataset(groups=torch.full((12,), -1)).with_context(2)
