"""Evaluation under several noises, of checkpoints and of any user's model."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch

from nmer_fast.config import Config, NoiseConfig, override
from nmer_fast.data import Ragged
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.evaluation import evaluate_predictor
from nmer_fast.engine.inputs import make_scheduler
from nmer_fast.engine.robustness_table import Point, Robustness
from nmer_fast.errors import UserError
from nmer_fast.evaluate import robustness
from nmer_fast.noise import NoiseScheduler, variance

from .test_engine import dataset


def first_column_of_a(features):
    """A model that uses the rule of the artificial data in modality a alone."""
    sums = features["a"][..., 0].sum(1)
    return torch.stack([-sums, sums], dim=1)


def test_the_noise_is_the_contracts_and_the_accuracy_is_the_models():
    """Each noise's accuracy equals one computed by hand from the same noise and the model's predictions."""
    data = dataset(200)
    result = robustness(
        first_column_of_a, data, noise=("gaussian", "impulse"), snr_db=(0.0, -30.0), seed=3, batch_size=7
    )
    assert [(p.noise.kind, p.noise.snr_db) for p in result.points] == [
        ("gaussian", 0.0), ("gaussian", -30.0), ("impulse", 0.0), ("impulse", -30.0),
    ]  # fmt: skip
    rows = data.splits["test"]
    variances = {m: variance(r.take(data.splits["train"]).values) for m, r in data.modalities.items()}
    for point in result.points:
        noise = NoiseScheduler(variances, snr_db=point.noise.snr_db, kind=point.noise.kind)
        padded = {m: r.padded(rows) for m, r in data.modalities.items()}
        noisy = noise(
            {m: x for m, (x, _) in padded.items()}, lengths={m: n for m, (_, n) in padded.items()},
            sample_ids=rows, rng=torch.tensor([3, 2**31]), condition="none",
        ).features  # fmt: skip
        for name, features in (("none", noisy), ("all", {m: x for m, (x, _) in padded.items()})):
            right = first_column_of_a(features).argmax(1) == data.labels[rows]
            assert point.evaluation.conditions[name].wa == pytest.approx(right.float().mean().item())
    clean, loud = (result.points[i].evaluation.conditions for i in (0, 1))
    assert clean["all"].wa == loud["all"].wa == loud["av"].wa > 0.9  # a is clean in both conditions
    assert loud["v"].wa < 0.75


def test_it_is_written_as_one_table_of_each_kind(tmp_path):
    data = dataset()
    result = robustness(first_column_of_a, data, noise=("gaussian", "missing"), conditions=("a", "none"))
    paths = result.write(tmp_path / "table.csv", {"note": "mine"})
    assert [path.name for path in paths] == ["table.json", "table.csv"]
    rows = list(csv.DictReader(paths[1].open()))
    assert len(rows) == (4 + 1) * 2
    assert list(rows[0])[:9] == ["noise", "p", "snr_db", "steps", "clean", "wa", "ua", "f1", "n"]
    assert [row["clean"] for row in rows[:2]] == ["a", "none"]
    content = json.loads(paths[0].read_text())
    assert content["note"] == "mine"
    for row, scores in zip(
        rows, (s for entry in content["results"] for s in entry["conditions"].values()), strict=True
    ):
        assert float(row["wa"]) == scores["wa"]
        assert int(row["n"]) == scores["n"]
    text = str(result)
    assert "gaussian" in text
    assert "missing" in text
    assert f"{100 * result.points[0].evaluation.conditions['a'].wa:.2f}" in text


def test_many_conditions_show_their_averages():
    data = dataset()
    names = list("abcd")
    sources = list(data.modalities.values())
    data = replace(data, modalities={m: sources[i % 3] for i, m in enumerate(names)})
    text = str(robustness(first_column_of_a, data, snr_db=(0.0,)))
    assert "the CSV has all 16 conditions" in " ".join(text.split())
    assert "abc " not in text


def test_the_caption_passes_over_a_modality_that_is_absent():
    data = dataset()
    nothing = Ragged.from_lengths(torch.zeros(0, 4), torch.zeros(60, dtype=torch.int64))
    test_only = {name: rows for name, rows in data.splits.items() if name == "test"}
    variances = dict.fromkeys("avl", 1.0)
    data = replace(data, modalities={**data.modalities, "a": nothing}, splits=test_only)
    noise = NoiseScheduler(variances, snr_db=0.0)
    evaluation = evaluate_predictor(
        lambda batch, noisy, which: torch.stack([first_column_of_a(noisy)] * len(which)),
        Batches(data, torch.device("cpu"), 16), data.splits["test"], noise, 0,
    )  # fmt: skip
    assert math.isnan(evaluation.snr_db["a"])
    assert "nan" not in str(Robustness("x", [Point(NoiseConfig(snr_db=0.0), evaluation)]))


def test_lengths_on_request_and_modules_in_eval_mode():
    class Net(torch.nn.Module):
        def forward(self, features, lengths):
            assert not self.training
            assert not torch.is_grad_enabled()
            assert (features["a"][torch.arange(features["a"].shape[1]) >= lengths["a"][:, None]] == 0).all()
            return first_column_of_a(features)

    data, net = dataset(), Net().train()
    with_lengths = robustness(net, data, snr_db=(-10.0,), with_lengths=True)
    assert net.training
    assert with_lengths.rows() == robustness(first_column_of_a, data, snr_db=(-10.0,)).rows()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "val"}, "split: expected one of train, test, got 'val'"),
        ({"noise": ("pink",)}, "noise.kind: expected 'gaussian'"),
        ({"snr_db": (float("inf"),)}, "noise.snr_db: expected decibels from -200 to 200"),
        ({"conditions": ("a", "va")}, "condition: expected one of a, v, l, av, al, vl, none, all, got 'va'"),
        ({"p": -1.0}, "noise.p: expected at least 0, got -1.0"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(UserError, match=rf"^{message}"):
        robustness(first_column_of_a, dataset(), **options)


def test_only_conditions_without_an_average_make_a_table_too():
    text = str(robustness(first_column_of_a, dataset(), snr_db=(0.0, -10.0), conditions=("none", "all")))
    assert "average" not in text.partition("each cell")[0]
    assert text.count("gaussian") == 2


def test_a_range_of_snrs_is_said_in_words_and_measured():
    """Under mixed intensities, the SNR is shown as text, and no error of the realised SNR is computed."""
    config, data = override(Config(), {"noise.snr_db": {"a": [-20, 0], "v": -10, "l": -10}}), dataset()
    variances = {m: variance(r.take(data.splits["train"]).values) for m, r in data.modalities.items()}
    scheduler = make_scheduler(variances, config.noise, 0)
    logits = torch.zeros(8, 1, 2)
    evaluation = evaluate_predictor(
        lambda batch, noisy, is_noisy: logits.expand(8, len(batch.labels), 2),
        Batches(data, torch.device("cpu"), 16), data.splits["test"], scheduler, 0,
    )  # fmt: skip
    assert evaluation.snr_db["v"] == pytest.approx(-10, abs=1)
    assert -8 < evaluation.snr_db["a"] < 0  # the loudest signals dominate
    result = Robustness("mixed", [Point(config.noise, evaluation)])
    assert {row["snr_db"] for row in result.rows()} == {"a -20 to 0, v -10, l -10"}
    assert "realised SNR" not in str(result)
