"""gather_padded against slices taken one by one, with and without standardising; the C++ kernel against the reference."""

import pytest
import torch

from nmer_fast import ops
from nmer_fast.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool]
LENGTHS = torch.tensor([3, 0, 1, 9, 2, 0])
OFFSETS = torch.cat([torch.zeros(1, dtype=torch.int64), LENGTHS.cumsum(0)])
ROWS = torch.tensor([4, 1, 3, 3, 0, 5])


def one_by_one(values, offsets, rows, steps):
    out = torch.zeros(len(rows), steps, values.shape[1], dtype=values.dtype)
    for b, row in enumerate(rows):
        sequence = values[offsets[row] : offsets[row + 1]][:steps]
        out[b, : len(sequence)] = sequence
    return out


@pytest.mark.parametrize("steps", [0, 1, 4, 9, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_slices(dtype, steps):
    values = (100 * torch.randn(15, 5)).to(dtype)
    expected = one_by_one(values, OFFSETS, ROWS, steps)
    assert torch.equal(ops.gather_padded(values, OFFSETS, ROWS, steps), expected)
    assert torch.equal(reference.gather_padded(values, OFFSETS, ROWS, steps, None, None, 0.0), expected)


def test_long_rows_on_several_threads():
    """Samples span several tasks of 16384 elements, whose bounds fall inside a step."""
    lengths = torch.tensor([700, 0, 130, 1, 999])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values, mean, std = torch.randn(int(offsets[-1]), 130), torch.randn(130), torch.rand(130) + 0.1
    rows, before = torch.tensor([4, 0, 2, 1, 4, 3]), torch.get_num_threads()
    scaled = ((values - mean) / std).clamp(-2, 2)
    assert (scaled.abs() == 2).any()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert torch.equal(ops.gather_padded(values, offsets, rows, 1000), one_by_one(values, offsets, rows, 1000))
            got = ops.gather_padded(values, offsets, rows, 1000, mean=mean, std=std, clip=2.0)
            assert torch.equal(got, one_by_one(scaled, offsets, rows, 1000))  # to the bit, as if standardised first
            expected = reference.gather_padded(values, offsets, rows, 1000, mean, std, 2.0)
            assert torch.equal(got, expected)
    finally:
        torch.set_num_threads(before)


def test_strided_and_empty():
    values = torch.randn(5, 15).t()
    assert torch.equal(ops.gather_padded(values, OFFSETS, ROWS, 9), one_by_one(values, OFFSETS, ROWS, 9))
    interleaved = torch.stack([ROWS, ROWS + 99], dim=1)[:, 0]
    assert torch.equal(ops.gather_padded(values, OFFSETS, interleaved, 9), one_by_one(values, OFFSETS, ROWS, 9))
    nothing = torch.zeros(3, dtype=torch.int64)
    assert torch.equal(ops.gather_padded(torch.randn(0, 4), nothing, ROWS[1:2], 8), torch.zeros(1, 8, 4))
    assert reference.gather_padded(torch.randn(0, 4), nothing, ROWS[1:2], 8, None, None, 0.0).shape == (1, 8, 4)
    assert ops.gather_padded(values, OFFSETS, ROWS[:0], 8).shape == (0, 8, 5)
    assert ops.gather_padded(torch.randn(15, 0), OFFSETS, ROWS, 8).shape == (6, 8, 0)


def test_what_is_beyond_the_rows_is_never_read():
    values = torch.randn(15, 5)
    used = torch.zeros(15, dtype=torch.bool)
    for row in ROWS:
        used[OFFSETS[row] : OFFSETS[row + 1]] = True
    values[~used] = float("nan")
    for got in (
        ops.gather_padded(values, OFFSETS, ROWS, 16),
        reference.gather_padded(values, OFFSETS, ROWS, 16, None, None, 0.0),
    ):
        assert torch.isfinite(got).all()


def test_opcheck_and_meta():
    values, column = torch.randn(15, 5), torch.rand(5)
    for args in ((values, OFFSETS, ROWS, 9, None, None, 0.0), (values, OFFSETS, ROWS, 9, column, column, 1.0)):
        torch.library.opcheck(torch.ops.nmer_fast.gather_padded.default, args)
    on_meta = [t.to("meta") for t in (values, OFFSETS, ROWS)]
    assert ops.gather_padded(*on_meta, 9).shape == (6, 9, 5)
    assert reference.gather_padded(*on_meta, 9, None, None, 0.0).shape == (6, 9, 5)  # it reads no value on the host


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"values": torch.zeros(15)}, ValueError, r"^values: expected a tensor \[sum of lengths, D\], got"),
        ({"values": torch.zeros(15, 5, requires_grad=True)}, ValueError, r"^values: expected no gradient"),
        ({"offsets": OFFSETS.int()}, ValueError, r"^offsets: expected int64 of one dim on cpu, got torch.int32"),
        ({"offsets": OFFSETS[:0]}, ValueError, r"^offsets: expected one more than there are sequences, got none"),
        ({"rows": ROWS.float()}, ValueError, r"^rows: expected int64 of one dim on cpu, got torch.float32"),
        ({"steps": -1}, ValueError, r"^steps: expected 0 or more, got -1"),
        ({"mean": torch.zeros(5)}, ValueError, r"^mean, std: expected both or neither, got one"),
        ({"mean": torch.zeros(5), "std": torch.ones(4)}, ValueError, r"^std: expected the same as a column of values"),
        (
            {"values": torch.zeros(15, 5).double(), "mean": torch.zeros(5), "std": torch.ones(5)},
            ValueError,
            r"^values: expected float32 beside mean and std, got torch.float64",
        ),
        ({"rows": torch.tensor([0, 6])}, RuntimeError, r"rows: expected 0 to 5, got 6"),
        ({"rows": torch.tensor([-1])}, RuntimeError, r"rows: expected 0 to 5, got -1"),
        ({"offsets": OFFSETS + 1}, RuntimeError, r"offsets: expected to rise from 0 to 15, got 14 and 16"),
        ({"offsets": OFFSETS.flip(0)}, RuntimeError, r"offsets: expected to rise from 0 to 15"),
    ],
)
def test_refusals(changes, error, message):
    if error is RuntimeError and not ops.compiled:
        pytest.skip("the C++ library is not built")
    arguments = {"values": torch.randn(15, 5), "offsets": OFFSETS, "rows": ROWS, "steps": 9, **changes}
    with pytest.raises(error, match=message):
        ops.gather_padded(**arguments)
