"""What the compiled Triton kernels ask of a GPU, read from their machine code, without one. A prediction, not a timing.

Each kernel is compiled for sm_80 and sm_90 as its launch would compile it. On the longest path through its SASS (a tile
that is noisy; a loop taken once) the instructions of each pipe are counted, by the clocks that a warp instruction holds
the pipe; the busiest pipe is set against the memory floor: bytes read and written at the device's bandwidth. Below 1
memory decides. Not modelled: latency, caches, clocks under load, the launch. `make bench` on a GPU checks it.
"""

from __future__ import annotations

import argparse
import csv
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import triton
import triton.language as tl
from rich.console import Console
from rich.table import Table

from nmer_fast.kernels import add_noise_multimodal, mix_noise, reparameterize_kl
from nmer_fast.kernels.ahead_of_time import compiled
from nmer_fast.kernels.launch import Launch

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
B, KINDS = 16, ("gaussian", "impulse")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """Bytes from memory for each clock of an SM, its SMs and clock, and the clocks that an FFMA holds its pipe."""

    name: str
    bytes_per_clock: float
    sms: int
    ghz: float
    fma: int  # integer multiplications take 2, wide ones 4, on both


DEVICES = {80: Device("A100 80 GB", 13.39, 108, 1.41, 2), 90: Device("H100 SXM", 14.46, 132, 1.755, 1)}
ALU = (
    "LOP3 IADD3 SHF SEL FSEL ISETP FSETP FMNMX IMNMX VIMNMX PRMT LEA MOV IABS PLOP3 P2R R2P F2FP LOP SGXT BMSK "
    "VABSDIFF CS2R FSET FCHK"
)
PIPES: dict[str, tuple[str, int]] = {
    **dict.fromkeys(["FFMA", "FMUL", "FADD", "HFMA2", "HADD2", "HMUL2"], ("fma", 0)),  # 0: the device's
    "IMAD": ("fma", 2),
    **dict.fromkeys(ALU.split(), ("alu", 2)),
    **dict.fromkeys(["MUFU", "I2F", "I2FP", "F2I", "F2F", "FRND", "FLO", "POPC"], ("xu", 8)),
    **dict.fromkeys(["DADD", "DMUL", "DFMA", "DSETP"], ("fp64", 4)),
    **dict.fromkeys(["LDG", "STG", "LDS", "STS", "LDL", "STL", "SHFL", "LDC", "BAR"], ("lsu", 8)),
}


# ---------------------------------------------------------------- machine code


@dataclass(frozen=True)
class Instruction:
    """One line of SASS."""

    at: int
    predicated: bool
    opcode: str
    operands: str


def disassembled(cubin: bytes) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions of a cubin, and its registers, stack and local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        sass, resources = (
            subprocess.run([TOOLS / "cuobjdump", flag, file.name], capture_output=True, text=True, check=True).stdout
            for flag in ("-sass", "--dump-resource-usage")
        )
    line = re.compile(r"/\*([0-9a-f]{4,})\*/\s+(@!?U?P\w+ )?\s*([A-Z][\w.]*)\s*([^;]*);")
    code = [Instruction(int(m[1], 16), bool(m[2]), m[3], m[4].strip()) for m in line.finditer(sass)]
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", resources)
    return code, dict(zip(("registers", "stack", "shared", "local"), map(int, found.groups()), strict=True))


def clocks(instruction: Instruction, device: Device) -> tuple[str, float]:
    """(pipe, clocks that it is held)."""
    name = instruction.opcode.partition(".")[0]
    pipe, held = PIPES.get(name, ("", 0))
    if name == "IMAD" and re.search(r"\.(WIDE|HI)", instruction.opcode):
        held = 4
    return pipe, held or (device.fma if pipe == "fma" else 0)


def longest_path(code: list[Instruction], device: Device) -> list[Instruction]:
    """The costliest way from the entry to an exit, loops taken once."""
    index = {instruction.at: i for i, instruction in enumerate(code)}
    cost, follow = [0.0] * (len(code) + 1), [len(code)] * len(code)
    for i in range(len(code) - 1, -1, -1):
        instruction, after = code[i], [i + 1]
        if instruction.opcode.startswith("BRA"):
            target = index[int(re.findall(r"0x[0-9a-f]+", instruction.operands)[-1], 16)]
            conditional = instruction.predicated or "," in instruction.operands
            after = [i + 1] * conditional + ([target] if target > i else [])
        elif instruction.opcode.startswith(("EXIT", "RET")):
            after = [i + 1] if instruction.predicated else []
        follow[i] = max(after, key=lambda n: cost[n], default=len(code))
        cost[i] = 1 + clocks(instruction, device)[1] + cost[follow[i]]
    path, i = [], 0
    while i < len(code):
        path.append(code[i])
        i = follow[i]
    return path


# ---------------------------------------------------------------- kernels


@dataclass(frozen=True)
class Case:
    """A kernel as it is launched: BLOCK elements a program, bytes that each must move, and the gates it has to pass."""

    kernel: str
    dtype: str
    launch: Launch
    elements: int
    bytes: int
    most: float | None
    registers: int = 64


def noisy(dtype: str, dims: tuple[int, ...], kind: str, stats: bool, most: float) -> Case:
    """add_noise_multimodal, its tiles with ids, conditions and lengths."""
    xs = [torch.empty(B, 64, d, dtype=DTYPES[dtype]) for d in dims]
    ys = [torch.empty_like(x) for x in xs]
    keep, p = torch.empty(B, len(dims), dtype=torch.float64), torch.empty((), dtype=torch.float64)
    rng, ids = torch.empty(2, dtype=torch.int64), torch.empty(B, dtype=torch.int64)
    flags, lengths = torch.empty(B, len(dims), dtype=torch.bool), torch.empty(B, len(dims), dtype=torch.int64)
    streams = list(range(2, 2 + len(dims)))
    launch = add_noise_multimodal.planned(
        xs, ys, None, keep, rng, ids, flags, lengths, p if kind == "impulse" else None, streams, kind, stats
    )
    name = f"add_noise_multimodal, {kind}, D = {', '.join(map(str, dims))}{', statistics' if stats else ''}"
    moved = 2 * xs[0].element_size()
    return Case(name, dtype, launch, launch.constants["BLOCK"], moved, most, 96 if stats else 64)


def single(dtype: str, kind: str, most: float) -> Case:
    """add_noise, its tiles without options."""
    x = torch.empty(B, 2**16, dtype=DTYPES[dtype])
    keep, p = torch.empty(B, 1, dtype=torch.float64), torch.empty((), dtype=torch.float64)
    rng = torch.empty(2, dtype=torch.int64)
    launch = add_noise_multimodal.planned(
        [x],
        [torch.empty_like(x)],
        None,
        keep,
        rng,
        None,
        None,
        None,
        p if kind == "impulse" else None,
        [2],
        kind,
        False,
    )
    return Case(f"add_noise, {kind}", dtype, launch, launch.constants["BLOCK"], 2 * x.element_size(), most)


def scaling(dtype: str) -> Case:
    """The backward of the noise ops."""
    x = torch.empty(B, 2**16, dtype=DTYPES[dtype])
    keep = torch.empty(B, dtype=torch.float64)
    launch = mix_noise.planned(x, None, torch.empty_like(x), keep, None, None, False)
    return Case("mix_noise_backward", dtype, launch, launch.constants["BLOCK"], 2 * x.element_size(), None)


def vae(dtype: str, backward: bool, most: float) -> Case:
    """reparameterize_kl on [4096, 512]."""
    mu, logvar, grad, a, b = (torch.empty(4096, 512, dtype=DTYPES[dtype]) for _ in range(5))
    rng, kl = torch.empty(2, dtype=torch.int64), torch.empty(4096)
    if backward:
        launch = reparameterize_kl.planned_backward(grad, kl, mu, logvar, a, b, rng, None, 240)
    else:
        launch = reparameterize_kl.planned(mu, logvar, a, kl, rng, None, 240)
    streams = 5 if backward else 3
    name = f"reparameterize_kl{'_backward' if backward else ''}, [4096, 512]"
    return Case(name, dtype, launch, launch.constants["BLOCK"], streams * mu.element_size(), most)


@triton.jit
def randn_kernel(x, y, seed, count, keep, scale, FOUR: tl.constexpr, BLOCK: tl.constexpr):
    """What a user would run instead: Triton's own normals, one an element (what Inductor emits) or four a call."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    at = start + tl.arange(0, BLOCK)
    if FOUR:
        a, b, c, d = tl.randn4x(seed, (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.int32))
        eps = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (BLOCK,))
    else:
        eps = tl.randn(seed, at.to(tl.int32))
    value = keep * tl.load(x + at, mask=at < count).to(tl.float32) + scale * eps
    tl.store(y + at, value.to(y.dtype.element_ty), mask=at < count)


def rival(dtype: str, four: bool) -> Case:
    """A row for comparison; no gate."""
    x = torch.empty(2**20, dtype=DTYPES[dtype])
    args = {"x": x, "y": torch.empty_like(x), "seed": 12345, "count": x.numel(), "keep": 0.3, "scale": 0.95}
    launch = Launch(randn_kernel, 1024, args, {"FOUR": four, "BLOCK": 1024})
    name = "tl.randn4x, joined" if four else "tl.randn an element (Inductor's way)"
    return Case(name, dtype, launch, 1024, 2 * x.element_size(), None)


def cases() -> Iterator[Case]:
    """Every row, with issue-given limits on busiest pipe over floor (A100)."""
    for dtype in DTYPES:
        wide = dtype == "fp32"
        for kind in KINDS:
            yield single(dtype, kind, 0.75 if wide else 0.90)
        for dim in (130, 342, 1024, 74, 35, 300):
            yield noisy(dtype, (dim,), "gaussian", False, 0.75 if wide else 0.95)
        for kind in KINDS:
            yield noisy(dtype, (130, 342, 1024), kind, False, 0.75 if wide else 0.95)
            yield noisy(dtype, (130, 342, 1024), kind, True, 0.90 if wide else 1.25)
        yield scaling(dtype)
        yield vae(dtype, False, 0.65 if wide else 0.90)
        yield vae(dtype, True, 0.50 if wide else 0.60)
        yield rival(dtype, False)
        yield rival(dtype, True)


# ---------------------------------------------------------------- the model


@dataclass(frozen=True)
class Prediction:
    """Clocks of an SM for each element, by pipe, against the floor; `lost` names gates that fail."""

    kernel: str
    dtype: str
    sm: int
    registers: int
    stack: int
    local: int
    wide: float  # of the bytes that must move, the share in 128-bit accesses
    instructions: float  # SASS instructions an element, of a thread
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
    return Prediction(
        case.kernel, case.dtype, capability, used["registers"], used["stack"], used["local"], wide,
        len(path) * 32 * case.launch.warps / case.elements, **busy, floor=floor, busiest_over_floor=ratio,
        predicted_ps=1000 * slowest / device.ghz / device.sms, gate=case.most if capability == 80 else None,
        lost="; ".join(lost),
    )  # fmt: skip


# ---------------------------------------------------------------- output


def main() -> None:
    """Table, CSV, plot; --check fails where a gate is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a gate is lost; write nothing")
    options = parser.parse_args()
    found = [predicted(case, capability) for case in cases() for capability in DEVICES]
    _print(found)
    lost = [f for f in found if f.lost]
    for f in lost:
        print(f"gate lost: {f.kernel}, {f.dtype}, sm_{f.sm}: {f.lost}", file=sys.stderr)
    if options.check:
        sys.exit(1 if lost else 0)
    folder = Path("bench") / "results"
    with (folder / "roofline.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(found[0]), "triton"], lineterminator="\n")
        writer.writeheader()
        for f in found:
            row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(f).items()}
            writer.writerow({**row, "triton": triton.__version__})
    _plot(folder / "roofline.png", found)
    print("written: bench/results/roofline.csv, bench/results/roofline.png")


def _print(found: list[Prediction]) -> None:
    table = Table(
        title="predicted from machine code, not run on a GPU: clocks of an SM an element", title_justify="left"
    )
    for column in (
        "kernel",
        "dtype",
        "sm",
        "regs",
        "128 bits",
        "instr",
        "fma",
        "alu",
        "xu",
        "issue",
        "floor",
        "busiest/floor",
        "gate",
        "ps",
    ):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for f in found:
        cells = (f.kernel, f.dtype, str(f.sm), str(f.registers), f"{f.wide:.0%}", f"{f.instructions:.1f}")
        pipes = (f"{value:.3f}" for value in (f.fma, f.alu, f.xu, f.issue, f.floor))
        gate = "" if f.gate is None else f"{f.gate:.2f}{' lost' if f.lost else ''}"
        table.add_row(*cells, *pipes, f"{f.busiest_over_floor:.2f}", gate, f"{f.predicted_ps:.2f}")
    Console(width=170).print(table)


def _plot(path: Path, found: list[Prediction]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [f for f in found if f.sm == 80][::-1]
    figure, ax = plt.subplots(figsize=(9, 0.27 * len(shown) + 1.2), layout="constrained")
    colours = ["#0072B2" if f.busiest_over_floor <= 1 else "#D55E00" for f in shown]
    ax.barh(range(len(shown)), [f.busiest_over_floor for f in shown], color=colours)
    ax.set_yticks(range(len(shown)), [f"{f.kernel}, {f.dtype}" for f in shown], fontsize=7)
    ax.set_ylim(-0.8, len(shown) - 0.2)
    for i, f in enumerate(shown):
        if f.gate is not None:
            ax.plot([f.gate, f.gate], [i - 0.4, i + 0.4], color="black", lw=1.5)
    ax.axvline(1, color="grey", lw=0.8, ls="--")
    ax.set_xlabel(
        "busiest pipe over memory floor, A100 (predicted; black: the gate; right of 1 arithmetic decides)", fontsize=8
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
