"""Predicts from the machine code of the Triton kernels how fast a GPU would run them. It needs no GPU.

Each kernel is compiled for sm_80 (A100) and sm_90 (H100) as its launch would compile it. On the longest path through
its SASS (a noisy tile; each loop taken once) it adds up the clocks that the warp instructions hold each pipe, and
divides those of the busiest pipe by the memory floor: the bytes that must move, at the device's bandwidth. Below 1
memory decides. Latency, caches, clocks under load and the launch are not modelled.

On an A100 or H100 each launch is also timed, with more elements, and its time stands beside the prediction. Takes a
minute. Writes roofline.csv and .png, on a GPU roofline_cuda.csv and .png.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import measure
import torch
import triton
from launches import Case, cases
from machine_code import DEVICES, clocks, disassembled, longest_path
from measure import DEVICE
from rich.console import Console
from rich.table import Table

from nmer_fast.kernels.ahead_of_time import compiled
from nmer_fast.kernels.launch import run as launched


@dataclass(frozen=True)
class Prediction:
    """A kernel on a device: clocks of an SM for each element, by pipe, and the memory floor in the same clocks.

    Attributes:
        wide: the share of the bytes that must move which 128-bit accesses move.
        instructions: the SASS instructions that threads execute for an element.
        lost: the gates that fail, in words.
        measured_ps: the measured time on this machine's GPU, if it is of this kind.
        of_copy: the measured time over the time of copying as many bytes.
    """

    kernel: str
    dtype: str
    sm: int
    registers: int
    stack: int
    local: int
    wide: float
    instructions: float
    fma: float
    alu: float
    xu: float
    fp64: float
    lsu: float
    issue: float
    floor: float
    busiest_over_floor: float
    predicted_ps: float
    gate: float | None
    lost: str
    measured_ps: float | None
    of_copy: float | None


def predicted(case: Case, capability: int) -> Prediction:
    """Compile and count."""
    device = DEVICES[capability]
    code, used = disassembled(compiled(case.launch, capability).asm["cubin"])
    path = longest_path(code, device)
    held: Counter[str] = Counter()
    for instruction in path:
        pipe, count = clocks(instruction, device)
        held[pipe] += count
    # A program's warps share four schedulers: clocks of the SM for each element.
    per_element = case.launch.warps / (4 * case.elements)
    busy = {pipe: held[pipe] * per_element for pipe in ("fma", "alu", "xu", "fp64", "lsu")}
    busy["issue"] = len(path) * per_element
    floor = case.bytes / device.bytes_per_clock
    ratio = max(busy.values()) / floor
    accesses = sum(i.opcode.startswith(("LDG", "STG")) and ".128" in i.opcode for i in path)
    wide = accesses * 16 * 32 * case.launch.warps / (case.elements * case.bytes)
    lost = []
    if case.most is not None:
        lost += [f"over {case.most}"] * (capability == 80 and ratio > case.most)
        lost += ["stack or local memory"] * bool(used["stack"] or used["local"])
        lost += [f"over {case.registers} registers"] * (used["registers"] > case.registers)
        lost += [f"{wide:.0%} of the bytes in 128-bit accesses"] * (wide != 1)
    slowest = max(*busy.values(), floor)
    measured = measured_ps(case, capability)
    return Prediction(
        case.kernel, case.dtype, capability, used["registers"], used["stack"], used["local"], wide,
        len(path) * 32 * case.launch.warps / case.elements, **busy, floor=floor, busiest_over_floor=ratio,
        predicted_ps=1000 * slowest / device.ghz / device.sms, gate=case.most if capability == 80 else None,
        lost="; ".join(lost), measured_ps=measured,
        of_copy=None if measured is None else measured / (case.bytes * copy_ps_per_byte()),
    )  # fmt: skip


def measured_ps(case: Case, capability: int) -> float | None:
    """Median picoseconds an element of the launch, with inputs that are not in the cache; None without such a GPU."""
    if DEVICE.type == "cpu" or torch.cuda.get_device_capability() != divmod(capability, 10):
        return None
    return 1e9 * triton.testing.do_bench(lambda: launched(case.launch), return_mode="median") / case.total


@cache
def copy_ps_per_byte() -> float:
    """Picoseconds of a large copy for each byte read or written: the memory floor as this GPU has it."""
    x = torch.ones(2**28, device=DEVICE)
    y = torch.empty_like(x)
    return 1e9 * triton.testing.do_bench(lambda: y.copy_(x), return_mode="median") / (2 * x.nbytes)


def targets() -> list[int]:
    """The devices that are compiled for: the one that is here, else all."""
    if DEVICE.type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if 10 * major + minor in DEVICES:
            return [10 * major + minor]
    return list(DEVICES)


def main() -> None:
    """Table, CSV and picture; or with --check whether a gate is lost."""
    parser = measure.parser(__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a gate is lost; write nothing")
    options = parser.parse_args()
    found = [predicted(case, capability) for case in cases() for capability in targets()]
    show(found)
    lost = [f for f in found if f.lost]
    for f in lost:
        print(f"gate lost: {f.kernel}, {f.dtype}, sm_{f.sm}: {f.lost}", file=sys.stderr)
    if options.check:
        sys.exit(1 if lost else 0)
    stem = measure.results(quick=False) / ("roofline" if DEVICE.type == "cpu" else "roofline_cuda")
    about = {"triton": triton.__version__, "gpu": "" if DEVICE.type == "cpu" else measure.machine()}
    measure.write_csv(stem.with_suffix(".csv"), [{**asdict(f), **about} for f in found], digits=4)
    plot(stem.with_suffix(".png"), found)


def show(found: list[Prediction]) -> None:
    """A line for each kernel and device."""
    table = Table(
        title="predicted from machine code: clocks of an SM an element; ps an element, predicted and measured",
        title_justify="left",
    )
    pipes = ("fma", "alu", "xu", "issue", "floor")
    for column in ("kernel", "dtype", "sm", "regs", "128 bits", "instr", *pipes, "busiest/floor", "gate", "ps",
                   "measured", "of copy"):  # fmt: skip
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for f in found:
        cells = (f.kernel, f.dtype, str(f.sm), str(f.registers), f"{f.wide:.0%}", f"{f.instructions:.1f}")
        held = (f"{getattr(f, pipe):.3f}" for pipe in pipes)
        gate = "" if f.gate is None else f"{f.gate:.2f}{' lost' if f.lost else ''}"
        timed = ("" if value is None else f"{value:.2f}" for value in (f.measured_ps, f.of_copy))
        table.add_row(*cells, *held, f"{f.busiest_over_floor:.2f}", gate, f"{f.predicted_ps:.2f}", *timed)
    Console(width=170).print(table)


def plot(path: Path, found: list[Prediction]) -> None:
    """Busiest pipe over memory floor on the first device, with the gates."""
    shown = [f for f in found if f.sm == found[0].sm][::-1]
    figure, axes = measure.canvas(1, 1, (9, 0.27 * len(shown) + 1.2))
    ax = axes[0, 0]
    colours = [measure.WITHIN if f.busiest_over_floor <= 1 else measure.BEYOND for f in shown]
    ax.barh(range(len(shown)), [f.busiest_over_floor for f in shown], color=colours)
    ax.set_yticks(range(len(shown)), [f"{f.kernel}, {f.dtype}" for f in shown], fontsize=7)
    ax.set_ylim(-0.8, len(shown) - 0.2)
    for i, f in enumerate(shown):
        if f.gate is not None:
            ax.plot([f.gate, f.gate], [i - 0.4, i + 0.4], color=measure.GATE, lw=1.5)
    ax.axvline(1, color=measure.LINE, lw=0.8, ls="--")
    ax.set_xlabel(
        f"busiest pipe over memory floor, {DEVICES[found[0].sm].name}, predicted; black: the gate; "
        "right of 1 arithmetic decides",
        fontsize=8,
    )
    measure.save(figure, path)


if __name__ == "__main__":
    main()
