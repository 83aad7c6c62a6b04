"""A training step never waits for the device: fake tensors hold no values, so every read by the host fails."""

from dataclasses import replace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from nmer_fast.config import Config, TrainingConfig, preset
from nmer_fast.data import synthetic
from nmer_fast.engine.batches import Batches
from nmer_fast.engine.fit import Fit
from nmer_fast.engine.inputs import make_scheduler
from nmer_fast.engine.saving import Saver
from nmer_fast.engine.stopping import StopRequest
from nmer_fast.engine.trainer import noisy_step, teacher_fit
from nmer_fast.models import NMER, Batch, NMERConfig, Output, Targets, Teacher

CPU = torch.device("cpu")
SMALL = NMERConfig(layers=1, feedforward=16, latent=8)
DATA = synthetic(40)
ROWS = DATA.splits["train"]
CONFIGS = {
    "paper": Config(model=SMALL),
    "six tokens, clipped": Config(model=replace(SMALL, tokens="modality"), training=TrainingConfig(clip=0.5)),
    "released": replace(preset("released"), model=replace(preset("released").model, layers=1)),
}


class OnDevice(Batches):
    """A data loader that gathers batches with values, then converts them to fake tensors on the device."""

    def __init__(self, data, size, padding, mode):
        super().__init__(data, CPU, size, padding=padding)
        joint = torch.randn(len(data), 128 * len(data.dims))
        prepared = super().shuffled(ROWS, 0, 0, Targets(joint, joint))
        self.prepared = [fake(batch, mode) for batch in prepared]

    def shuffled(self, *_, **__):
        return iter(self.prepared)


def fake(batch, mode):
    def convert(value):
        if isinstance(value, torch.Tensor):
            return mode.from_tensor(value, static_shapes=True)
        if isinstance(value, dict):
            return {name: convert(t) for name, t in value.items()}
        return Targets(convert(value.joint), convert(value.invariant)) if isinstance(value, Targets) else value

    return Batch(**{name: convert(value) for name, value in vars(batch).items()})


def train_nmer(config, spoil=lambda output: None):
    """Train an epoch with the engine's own steps; batches are made beforehand, because gathering runs on the host."""
    mode = FakeTensorMode()
    batches = OnDevice(DATA, 12, config.noise.padding, mode)
    assert len(batches.prepared) == 2
    scheduler = make_scheduler(dict.fromkeys(DATA.dims, 1.0), config.noise, 0)  # this computation runs on the host
    for name, buffer in list(scheduler.named_buffers()):
        setattr(scheduler, name, mode.from_tensor(buffer))
    with mode:
        model = NMER(DATA.dims, 4, config.model)
        step = noisy_step(model, scheduler, config, CPU)

        def spoiled(batch) -> Output:
            output = step(batch)
            spoil(output)
            return output

        fit = Fit(
            "nmer", model, spoiled, batches, config.training, epochs=1, lr=1e-4, clip=config.training.clip,
            targets=Targets(torch.empty(0), torch.empty(0)),
        )  # fmt: skip
        fit._steps(Saver(None, StopRequest(), {}, CPU))
    return fit


@pytest.mark.parametrize("name", CONFIGS)
def test_a_training_step_reads_nothing_from_the_device(name):
    fit = train_nmer(CONFIGS[name])
    assert fit.step_in_epoch == fit.steps == 2
    assert all(len(values) == 2 for values in fit.records.values())
    assert {"total", "grad_norm", "noise_stats"} <= fit.records.keys()


def test_nor_does_the_teachers():
    mode = FakeTensorMode()
    batches = OnDevice(DATA, 12, False, mode)
    with mode:
        fit = teacher_fit(Teacher(DATA.dims, 4, SMALL, 0.01), batches, Config(model=SMALL))
        fit._steps(Saver(None, StopRequest(), {}, CPU))
    assert fit.step_in_epoch == 2


SPOILERS = {
    "item": (lambda output: output.losses["total"].item(), DataDependentOutputException),
    "float": (lambda output: float(output.losses["cls"].detach()), DataDependentOutputException),
    "branch": (lambda output: "large" if output.losses["kl"] > 1 else "small", DataDependentOutputException),
    "tolist": (lambda output: output.logits.detach().tolist(), DataDependentOutputException),
    "nonzero": (lambda output: output.logits.nonzero(), DynamicOutputShapeException),
    "mask": (lambda output: output.logits[output.logits > 0], DynamicOutputShapeException),
}


@pytest.mark.parametrize("name", SPOILERS)
def test_a_host_read_in_a_step_would_be_seen(name):
    spoil, error = SPOILERS[name]
    with pytest.raises(error):
        train_nmer(CONFIGS["paper"], spoil)
