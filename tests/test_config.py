"""The configuration: presets, changes, files, and refused values."""

import json
from dataclasses import asdict

import pytest

from nmer_fast.config import PRESETS, Config, NoiseConfig, from_dict, load_config, override, parse_settings, preset
from nmer_fast.errors import UserError

PAPER = {
    "data": {
        "source": "synthetic",
        "format": "auto",
        "binarise": "ge0",
        "fold": None,
        "context": 0,
        "size": None,
        "difficulty": 1.0,
    },
    "noise": {
        "kind": "gaussian",
        "snr_db": -10.0,
        "steps": None,
        "p": 0.3,
        "snr_convention": "exact",
        "schedule": "paper",
        "beta_start": 0.001,
        "beta_end": 0.1,
        "length": 100,
        "padding": False,
    },
    "model": {
        "system": "nmer",
        "latent": 64,
        "layers": 5,
        "heads": 16,
        "feedforward": 128,
        "tokens": "one",
        "dropout": 0.5,
        "transformer_dropout": 0.5,
        "classifier": (384, 128),
        "classifier_dropout": 0.5,
        "classifier_batch_norm": False,
        "shared": "linear",
        "kl": "mean",
        "lambda_gen": 1.0,
        "lambda_kl": 1.0,
        "lambda_inv": 10.0,
        "lambda_cls": 1.0,
    },
    "training": {
        "epochs": 60,
        "batch_size": 128,
        "buckets": 1,
        "optimizer": "adamw",
        "lr": 1e-4,
        "beta1": 0.9,
        "clip": None,
        "select": None,
        "teacher_epochs": 20,
        "teacher_lr": 2e-4,
        "teacher_clip": 0.5,
        "teacher_lambda_cmd": 0.01,
        "clip_each": False,
        "seed": 0,
        "compile": False,
        "amp": False,
        "allow_leak": False,
    },
}
RELEASED = {
    "data": {
        "source": "synthetic",
        "format": "auto",
        "binarise": "ge0",
        "fold": None,
        "context": 0,
        "size": None,
        "difficulty": 1.0,
    },
    "noise": {
        "kind": "gaussian",
        "snr_db": None,
        "steps": "random",
        "p": 0.3,
        "snr_convention": "exact",
        "schedule": "scaled_linear",
        "beta_start": 0.01,
        "beta_end": 0.5,
        "length": 100,
        "padding": True,
    },
    "model": {
        "system": "nmer",
        "latent": 64,
        "layers": 5,
        "heads": 8,
        "feedforward": 128,
        "tokens": "batch",
        "dropout": 0.5,
        "transformer_dropout": 0.1,
        "classifier": (128, 128),
        "classifier_dropout": 0.1,
        "classifier_batch_norm": True,
        "shared": "two_leaky",
        "kl": "sum",
        "lambda_gen": 1.0,
        "lambda_kl": 1.0,
        "lambda_inv": 1.0,
        "lambda_cls": 1.0,
    },
    "training": {
        "epochs": 80,
        "batch_size": 128,
        "buckets": 1,
        "optimizer": "adam",
        "lr": 2e-4,
        "beta1": 0.5,
        "clip": 1.0,
        "select": None,
        "teacher_epochs": 20,
        "teacher_lr": 2e-4,
        "teacher_clip": 0.5,
        "teacher_lambda_cmd": 1.0,
        "clip_each": True,
        "seed": 0,
        "compile": False,
        "amp": False,
        "allow_leak": False,
    },
}


RECOMMENDED = {
    **PAPER,
    "model": {**PAPER["model"], "lambda_kl": 0.005, "transformer_dropout": 0.1, "tokens": "modality"},
    "training": {**PAPER["training"], "lr": 3e-4},
}


def test_each_preset_is_what_it_says():
    expected = {"paper": PAPER, "recommended": RECOMMENDED, "released": RELEASED}
    assert {name: asdict(preset(name)) for name in PRESETS} == expected


@pytest.mark.parametrize("name", PRESETS)
def test_written_and_read_back_it_is_the_same(name, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(asdict(preset(name))))
    assert load_config(path) == preset(name)


def test_every_field_can_be_set():
    """Setting a field to the text of its own value does not change it."""
    for section, fields in PAPER.items():
        for name, value in fields.items():
            text = "none" if value is None else json.dumps(value) if isinstance(value, tuple) else str(value)
            assert override(Config(), parse_settings((f"{section}.{name}={text}",))) == Config(), name


def test_settings_have_their_fields_types():
    config = override(
        Config(),
        parse_settings(
            ("model.classifier=[64]", "training.amp=true", "training.clip=2", "training.lr=1e-3", "data.context=4")
        ),
    )
    assert config.model.classifier == (64,)
    assert config.training.amp is True
    assert (config.training.clip, config.training.lr, config.data.context) == (2.0, 1e-3, 4)


def test_an_snr_replaces_steps_and_the_other_way():
    released, steps = preset("released"), {"a": 140, "v": 60, "l": 5}
    assert override(released, {"noise.snr_db": -20.0}).noise.steps is None
    assert override(Config(), {"noise.steps": steps}).noise == NoiseConfig(snr_db=None, steps=steps)
    missing = override(Config(), {"noise.kind": "missing"})
    assert (missing.noise.snr_db, missing.noise.steps) == (None, None)
    assert override(missing, {"noise.kind": "impulse"}).noise.snr_db == -10
    assert override(missing, {"noise.kind": "impulse", "noise.snr_db": -3.0}).noise.snr_db == -3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"noise": {"snr_db": "loud"}}, "noise.snr_db: expected decibels from -200 to 200, a range [low, high] of them"),
        ({"noise": {"snr_db": float("nan")}}, "noise.snr_db: expected decibels from -200 to 200"),
        ({"noise": {"snr_db": [-10]}}, "noise.snr_db: expected decibels from -200 to 200"),
        ({"noise": {"snr_db": {"a": [-10, 300]}}}, "noise.snr_db: expected decibels from -200 to 200"),
        ({"noise": {"snr_db": {"a": [0, -10]}}}, "snr: expected a range's lower end first, got 0 and -10"),
        ({"noise": {"steps": {"a": 0}}}, "noise.steps.a: expected at least 1, got 0"),
        ({"noise": {"snr_db": None, "steps": {"a": 1}, "p": 2}}, "noise.p: expected at most 1, got 2"),
        ({"noise": {"beta_end": 1.0}}, "noise.beta_end: expected less than 1, got 1.0"),
        ({"model": {"latent": 0}}, "model.latent: expected at least 1, got 0"),
        ({"model": {"tokens": "many"}}, "model.tokens: expected 'one', 'modality' or 'batch', got 'many'"),
        ({"model": {"size": 3}}, "model.size: no such field of nmer; expected classifier, "),
        ({"modle": {}}, "modle: no such field"),
        ({"training": {"lr": 0}}, "training.lr: expected greater than 0, got 0"),
        ({"training": {"seed": 2**31}}, "training.seed: expected less than 2147483648, got 2147483648"),
        ({"training": 3}, "training: expected a dictionary or an instance of TrainingConfig, got 3"),
        ({"data": {"source": "x.npz", "difficulty": 2}}, "size, difficulty: expected with the synthetic data alone"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(content, message):
    with pytest.raises(UserError) as error:
        from_dict(content)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("{", "config: expected JSON"), ("[]", "config: expected an object")])
def test_files_that_are_no_config(text, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        load_config(path)
