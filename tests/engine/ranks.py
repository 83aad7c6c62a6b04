"""The program that tests/engine/test_distributed.py starts with torchrun: python ranks.py FOLDER, in 2 or 3 ranks."""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch._dynamo.utils import counters

from nmer_fast.engine.batches import Batches
from nmer_fast.engine.checkpoint import RESUME, load_checkpoint
from nmer_fast.engine.distributed import Ranks, join_ranks
from nmer_fast.engine.fit import Fit
from nmer_fast.engine.trainer import noisy_step, teacher_fit, teacher_targets, train
from nmer_fast.errors import Stopped
from nmer_fast.models import Teacher, make_system
from nmer_fast.noise import NoiseScheduler
from tests.engine.test_engine import CPU, QUIET, SMALL, config, dataset, scheduler
from tests.engine.test_resume import StopAfter, assert_same

MASKED = ("mctn", "late_fusion")  # their losses are means over the samples that have a modality
STILL = replace(SMALL, dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)


class Said:
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)

    def __getattr__(self, name):
        return getattr(QUIET, name)


def gradients(fit):
    """Return the gradients of the loss of the first batch."""
    batch = next(fit.batches.shuffled(fit.rows, 0, 0, fit.targets))
    fit.model.train()
    fit.ranks.scale_loss(fit.step(batch).losses["total"], batch).backward()
    return {name: p.grad.clone() for name, p in fit.model.named_parameters() if p.grad is not None}


def fits(ranks, size):
    """Return training loops of the teacher and of systems with all kinds of losses; all ranks have the same weights."""
    data, noise = dataset(), scheduler()
    batches, padded = (Batches(data, CPU, size, ranks=ranks, padding=padding) for padding in (False, True))
    torch.manual_seed(5)
    teacher = Teacher(data.dims, 2, STILL, 1.0)
    targets = teacher_targets(teacher, Batches(data, CPU, 10))
    out = [teacher_fit(teacher, batches, config(STILL))]
    for model, of in ({}, batches), ({"kl": "sum"}, batches), ({}, padded), *(({"system": s}, batches) for s in MASKED):
        cfg = config(replace(STILL, **model))
        system = make_system(data.dims, 2, cfg.model)
        step = noisy_step(system, noise, cfg, CPU)
        out.append(Fit("it", system, step, of, cfg.training, epochs=2, lr=1e-4, clip=None, targets=targets))
    return out


def the_gradient_is_the_whole_batchs(ranks):
    """The ranks' shares differ by one sample and in length; moments, sums and counts are those of the global batch."""
    size = {2: 15, 3: 10}[ranks.size]
    for ours, alone in zip(fits(ranks, size), fits(Ranks(), size), strict=True):
        mine, theirs = gradients(ours), gradients(alone)
        assert mine.keys() == theirs.keys()
        for name in mine:
            error = (mine[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-6)
            assert error < 1e-5, (type(ours.model).__name__, name, error)


def all_stop_together_and_go_on_to_the_same_bits(ranks, folder):
    """The request to stop comes in the last rank alone, inside two epochs and at the end of one, with dropout."""
    data, noise, cfg = dataset(val=True), scheduler(), config(epochs=3, batch_size=10, clip=1.0)
    whole = train(data, noise, cfg, CPU, QUIET, ranks=ranks)
    saved, stops = None, []
    for looks in (1, 4, 2):
        request = StopAfter(looks if ranks.rank == ranks.size - 1 else 10**9)
        torch.manual_seed(99 + ranks.rank)
        with suppress(Stopped):
            train(data, noise, cfg, CPU, QUIET, folder=folder, request=request, saved=saved, ranks=ranks)
            raise AssertionError("did not stop")
        dist.barrier()
        saved = load_checkpoint(folder, RESUME)
        stops.append([saved[1]["fit"][name] for name in ("name", "epoch", "step_in_epoch")])
    assert stops == [["teacher", 0, 2], ["nmer", 0, 1], ["nmer", 1, 1]], stops
    resumed = train(data, noise, cfg, CPU, QUIET, folder=folder, saved=saved, ranks=ranks)
    if ranks.is_main:
        assert_same(whole, resumed)
    return saved


def dropout_differs(ranks):
    """Dropout differs between ranks; otherwise the same positions in their rows would be dropped together."""
    torch.manual_seed(0)
    torch.manual_seed(ranks.dropout_seed(0))
    draws = ranks.gather({"x": torch.rand(8)})
    assert len({tuple(x.tolist()) for x in draws.values()}) == ranks.size


def the_compiled_step_is_one_graph(ranks):
    data, noise, cfg = dataset(), NoiseScheduler({"l": 1.0}, snr_db=-10), config(compile=True, teacher_epochs=1)
    data = replace(data, modalities={"l": data.modalities["l"]})
    counters.clear()
    trained = train(data, noise, cfg, CPU, QUIET, ranks=ranks)
    assert counters["stats"]["unique_graphs"] == 1, counters["stats"]
    assert not counters["graph_break"]
    losses = ranks.gather({"x": torch.tensor([each["total"] for each in trained.losses])})
    assert all(torch.equal(x, losses["x"]) for x in losses.values())


def parameters_are_the_same_everywhere(ranks):
    model = train(dataset(), scheduler(), config(), CPU, QUIET, ranks=ranks).model
    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert all(torch.equal(flat, other) for other in ranks.gather({"x": flat}).values())


def main():
    folder, compiled = Path(sys.argv[1]), len(sys.argv) > 2
    ranks = join_ranks(CPU)
    the_gradient_is_the_whole_batchs(ranks)
    dropout_differs(ranks)
    parameters_are_the_same_everywhere(ranks)
    saved = all_stop_together_and_go_on_to_the_same_bits(ranks, folder)
    if compiled:
        the_compiled_step_is_one_graph(ranks)
    dist.barrier()
    if ranks.is_main:
        assert saved[1]["ranks"] == ranks.size
        (folder / "done.json").write_text(json.dumps({"ranks": ranks.size}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
