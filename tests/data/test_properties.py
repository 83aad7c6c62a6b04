"""Properties of the ragged store, for whatever lengths and values: round trip, slicing, padding, context windows."""

from itertools import pairwise

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nmer_fast.data import FeatureSet, Ragged, read_store, write_store

FAST = settings(
    max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FLOATS = st.floats(-1e6, 1e6, width=32)
LENGTHS = st.lists(st.one_of(st.just(0), st.just(1), st.integers(0, 9)), max_size=12)


@st.composite
def raggeds(draw, lengths=LENGTHS):
    """Any sequences, empty ones and those of one step often."""
    of = draw(lengths)
    dim = draw(st.integers(1, 4))
    values = draw(hnp.arrays(np.float32, (sum(of), dim), elements=FLOATS))
    return Ragged.from_lengths(torch.from_numpy(values), torch.tensor(of, dtype=torch.int64))


@st.composite
def sets(draw):
    """Any set of 2 to 10 samples, in groups, splits and an order inside the groups."""
    n = draw(st.integers(2, 10))
    modalities = {m: draw(raggeds(st.lists(st.integers(0, 5), min_size=n, max_size=n))) for m in ("a", "l")}
    split = draw(st.lists(st.sampled_from(["train", "val", "test"]), min_size=n - 1, max_size=n - 1))
    split.append("test")
    return FeatureSet(
        name="any",
        modalities=modalities,
        labels=torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
        class_names=["x", "y", "z"],
        splits={
            s: torch.tensor([i for i in range(n) if split[i] == s], dtype=torch.int64) for s in dict.fromkeys(split)
        },
        sample_names=[f"sample {i}" for i in range(n)],
        groups=torch.tensor(draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))),
        positions=torch.tensor(draw(st.permutations(range(n)))),
    )


def sequences(ragged):
    """One by one, by the definition of offsets."""
    at = ragged.offsets.tolist()
    return [ragged.values[a:b] for a, b in pairwise(at)]


def same(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@FAST
@given(raggeds(), st.data())
def test_slices_are_the_sequences(ragged, data):
    rows = data.draw(st.lists(st.integers(0, len(ragged) - 1), max_size=15) if len(ragged) else st.just([]))
    chosen = torch.tensor(rows, dtype=torch.int64)
    expected = [sequences(ragged)[row] for row in rows]
    taken = ragged.take(chosen)
    assert same(sequences(taken), expected)
    assert taken.dim == ragged.dim
    padded, lengths = ragged.padded(chosen)
    assert lengths.tolist() == [len(x) for x in expected]
    assert padded.shape[1] % 8 == 0
    assert padded.shape[1] >= 8
    for row, x in zip(padded, expected, strict=True):
        assert torch.equal(row[: len(x)], x)
        assert not row[len(x) :].any()


@FAST
@given(raggeds())
def test_padding_and_back(ragged):
    padded, lengths = ragged.padded(torch.arange(len(ragged)))
    back = Ragged.from_padded(padded, lengths)
    assert torch.equal(back.offsets, ragged.offsets)
    assert torch.equal(back.values, ragged.values)


@FAST
@given(data=sets())
def test_a_store_is_what_it_was_made_of(data, tmp_path):
    path = tmp_path / "any.safetensors"
    write_store([data, data], path)
    for fold in (1, 2):
        back = read_store(path, fold)
        assert back.fingerprint() == data.fingerprint()
        assert back.sample_names == data.sample_names
        assert torch.equal(back.groups, data.groups)
        assert torch.equal(back.positions, data.positions)
        for m, ragged in data.modalities.items():
            assert same(sequences(back.modalities[m]), sequences(ragged))


@FAST
@given(sets(), st.integers(0, 4))
def test_a_context_window_is_what_came_before(data, k):
    """In the group and split, in the order of positions; by loops over samples."""
    joined = data.with_context(k)
    split = {row: name for name, rows in data.splits.items() for row in rows.tolist()}
    for i in range(len(data)):
        before = [
            j
            for j in range(len(data))
            if data.groups[j] == data.groups[i] and split[j] == split[i] and data.positions[j] <= data.positions[i]
        ]
        window = sorted(before, key=lambda j: int(data.positions[j]))[-(k + 1) :]
        assert window[-1] == i
        for m, ragged in data.modalities.items():
            expected = torch.cat([sequences(ragged)[j] for j in window])
            assert torch.equal(sequences(joined.modalities[m])[i], expected)
    assert torch.equal(joined.labels, data.labels)
    assert same(list(joined.splits.values()), list(data.splits.values()))
