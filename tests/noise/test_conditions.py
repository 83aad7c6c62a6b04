"""The conditions of any set of modalities, and their draw from the noise contract's generator."""

import pytest
import torch
from scipy.stats import chisquare

from nmer_fast import ops
from nmer_fast.noise import Conditions
from tests.ops import contract


def test_the_papers_conditions():
    conditions = Conditions(["a", "v", "l"])
    assert conditions.names == ["a", "v", "l", "av", "al", "vl", "none", "all"]
    assert conditions.incomplete == 6
    assert conditions.noisy[conditions.index("al")].tolist() == [False, True, False]
    assert conditions.noisy[conditions.index("none")].all()
    assert not conditions.noisy[conditions.index("all")].any()


@pytest.mark.parametrize(
    ("modalities", "count", "some"),
    [(["x"], 1, "none"), (["a", "b"], 2, "b"), (["audio", "text"], 2, "audio"), (list("abcdef"), 62, "abcde")],
)
def test_any_set(modalities, count, some):
    conditions = Conditions(modalities)
    assert conditions.incomplete == count
    assert some in conditions.names[:count]
    assert len(set(conditions.names)) == len(conditions.names)
    assert len({tuple(row) for row in conditions.noisy.tolist()}) == len(conditions.names)


def test_long_names_are_joined_by_plus():
    assert Conditions(["audio", "video", "text"]).names[3] == "audio+video"


def test_draw_is_the_contracts():
    """The index is (w n) >> 32, from the word w of element 0 of stream 241."""
    conditions, ids = Conditions(["a", "v", "l"]), [0, 7, 2**40 + 1]
    drawn = conditions.draw(ops.rng_tensor(99, 5, torch.device("cpu")), torch.tensor(ids))
    expected = [contract.quad_words(99, 5, 241, i, 0)[0] * 6 >> 32 for i in ids]
    assert drawn.tolist() == expected


def test_draw_is_uniform_and_fresh():
    conditions, ids = Conditions(["a", "v", "l"]), torch.arange(60_000)
    first, second = (conditions.draw(torch.tensor([3, draw]), ids) for draw in (0, 1))
    assert chisquare(torch.bincount(first, minlength=6).numpy()).pvalue > 1e-6
    pairs = torch.bincount(6 * first + second, minlength=36).numpy()
    assert chisquare(pairs).pvalue > 1e-6


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_refusals(names):
    with pytest.raises(ValueError, match=r"^modalities: expected one or more different names"):
        Conditions(names)
    with pytest.raises(ValueError, match=r"^condition: expected one of a, v, none, all, got 'l'"):
        Conditions(["a", "v"]).index("l")
