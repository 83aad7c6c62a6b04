"""How much faster the engine trains and evaluates than the released code's formulation of NMER (baseline.py).

On two CPU threads, in float32, in IEMOCAP's shapes and numbers, it measures:
  a training step, its parts, and an epoch with its evaluation;
  the tensor operations of a step, and its arithmetic beside the speed of the machine's matrix product;
  the memory that stays resident from epoch to epoch;
  how an epoch's time grows with the utterances and with the modalities.

"ours" has the baseline's own Transformer (tokens="batch"), so both train the same model. "ours, one token" is the
library's default, which has no queries and keys. Everything that is compared is timed in turn in one process: read the
ratios, not the times. Takes 8 minutes on two cores, with --quick a minute. Writes train_throughput.csv and .png.
"""

from __future__ import annotations

import json
import os
import sys

import made_up
import measure
import torch
from measure import BASELINE, COMPILED, ONE, OURS
from torch._dynamo.utils import counters
from training import counting, figures, growth, memory, timing
from training.figures import Figure
from training.systems import FULL, QUICK, Ours, Plan, Theirs, config_of

THREADS = 2


def once(systems: dict[str, Ours]) -> list[Figure]:
    """What the engine does once a run."""
    return [
        figures.figure("once", what, who, "s", [seconds])
        for who, system in systems.items()
        for what, seconds in system.seconds.items()
    ]


def measured(plan: Plan) -> list[Figure]:
    """Everything, the large systems first and together; they are freed before the small ones are made."""
    out = memory.resident()
    data, config = made_up.iemocap(plan.train, plan.test), config_of(plan)
    graphs = counters["stats"]["unique_graphs"]
    ours = {OURS: Ours(data, config), ONE: Ours(data, config_of(plan, tokens="one"))}
    if plan.compile:
        ours[COMPILED] = Ours(data, config_of(plan, tokens="one"), compile=True)
    systems = {BASELINE: Theirs(data, config), **ours}
    out += once({who: system for who, system in ours.items() if who != ONE})
    out += counting.limit(plan, data, systems)
    out += timing.steps(plan, data, systems)
    out += timing.where(plan, data, systems)
    # The baseline's operations are counted with Adam as on a GPU, foreach: fewer than in the loop of a CPU.
    out += counting.dispatched(plan, data, {**systems, BASELINE: Theirs(data, config, foreach=True)})
    out += timing.epochs(systems, graphs)
    del systems, ours, data
    out += growth.linear(plan)
    order = list(dict.fromkeys(f.section for f in out))
    return sorted(out, key=lambda f: order.index(f.section))


def main() -> None:
    """The whole bench, or the memory of one system."""
    parser = measure.parser(__doc__, "small sizes, few repeats, nothing compiled, written to build/bench")
    parser.add_argument(
        "--memory", choices=(OURS, BASELINE),
        help="only train one system and print its bytes as JSON: resident after each epoch, resident after freed "
        "memory was given back, peak",
    )  # fmt: skip
    options = parser.parse_args()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(min(THREADS, os.cpu_count() or 1))
    plan = QUICK if options.quick else FULL
    if options.memory:
        json.dump(memory.logged(options.memory, plan), sys.stdout)
        return
    found = measured(plan)
    figures.show(found)
    stem = measure.results(options.quick) / "train_throughput"
    figures.write(stem.with_suffix(".csv"), found)
    figures.plot(stem.with_suffix(".png"), found)


if __name__ == "__main__":
    main()
