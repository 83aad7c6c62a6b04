"""The embedded default: what its documentation promises."""

import pytest
import torch

from nmer_fast.data import synthetic
from nmer_fast.data.synthetic import CLASSES
from nmer_fast.errors import UserError


def test_likeness_to_iemocap():
    data = synthetic()
    assert data.dims == {"a": 130, "v": 342, "l": 1024}
    assert data.class_names == ["happy", "angry", "sad", "neutral"]
    shares = torch.bincount(data.labels) / len(data)
    expected = torch.tensor(list(CLASSES.values())) / 5531
    assert (shares - expected).abs().max() < 1 / len(data)
    for ragged in data.modalities.values():
        assert ragged.lengths.min() == 2
        assert len(ragged.lengths.unique()) >= 5
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 510, "test": 340}


def test_full_size_has_iemocaps_class_counts():
    assert torch.bincount(synthetic(5531).labels).tolist() == list(CLASSES.values())


def test_the_same_every_time():
    a, b = synthetic(60), synthetic(60)
    for name in a.modalities:
        assert torch.equal(a.modalities[name].values, b.modalities[name].values)
    assert torch.equal(a.labels, b.labels)


def test_difficulty_moves_the_classes_together():
    """The distance of the classes' means, relative to the spread within a class, falls with difficulty."""

    def separation(difficulty):
        data = synthetic(400, difficulty)
        r = data.modalities["a"]
        means = torch.stack([r.values[r.offsets[i] : r.offsets[i + 1]].mean(0) for i in range(400)])
        centres = torch.stack([means[data.labels == c].mean(0) for c in range(4)])
        within = means - centres[data.labels]
        return (centres.var(0).sum() / within.var(0).sum()).item()

    easy, default, hard = (separation(d) for d in (0.5, 1.0, 2.0))
    assert easy > 2 * default > 2 * hard


def test_refusals():
    with pytest.raises(UserError, match=r"^size: expected at least 40"):
        synthetic(10)
    with pytest.raises(UserError, match=r"^difficulty: expected a number above 0"):
        synthetic(100, 0.0)


def test_the_callers_default_dtype_changes_nothing():
    """Neither the values nor their dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        data = synthetic(40)
    finally:
        torch.set_default_dtype(torch.float32)
    assert data.fingerprint() == synthetic(40).fingerprint()
