"""What the compiled Triton kernels ask of a GPU, read from their machine code, without one. A prediction, not a timing.

Each kernel is compiled for sm_80 and sm_90 as its launch would compile it. On the longest path through its SASS (a tile
that is noisy; a loop taken once) the instructions of each pipe are counted, by the clocks that a warp instruction holds
the pipe; the busiest pipe is set against the memory floor: bytes read and written at the device's bandwidth. Below 1
memory decides. Not modelled: latency, caches, clocks under load, the launch. On an A100 or H100 each launch is also
timed, larger, and stands beside its prediction.
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
from functools import cache
from pathlib import Path

import torch
import triton
import triton.language as tl
from rich.console import Console
from rich.table import Table

from nmer_fast.kernels import add_noise_multimodal, mix_noise, noise, reparameterize_kl
from nmer_fast.kernels.ahead_of_time import compiled
from nmer_fast.kernels.launch import Launch
from nmer_fast.kernels.launch import run as launched

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOTAL = 2**26 if DEVICE.type == "cuda" else 2**20  # elements, of a launch that is timed or only compiled
KINDS = ("gaussian", "impulse")
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
    total: int  # of all programs
    bytes: int
    most: float | None
    registers: int = 64


def normal(*shape: int, dtype: str) -> torch.Tensor:
    """Features."""
    return torch.randn(shape, dtype=DTYPES[dtype], device=DEVICE)


def chosen(*shape: int, value: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """An option with one value everywhere."""
    return torch.full(shape, value, dtype=dtype, device=DEVICE)


def rng() -> torch.Tensor:
    """(seed, draw)."""
    return torch.tensor([5, 3], device=DEVICE)


def noisy(dtype: str, dims: tuple[int, ...], kind: str, stats: bool, most: float) -> Case:
    """add_noise_multimodal, its tiles with ids, conditions and lengths, all noisy to the end."""
    batch = max(16, TOTAL // (64 * sum(dims)))
    xs = [normal(batch, 64, d, dtype=dtype) for d in dims]
    options = {
        "alpha_bars": chosen(batch, len(dims), value=0.3),
        "rng": rng(),
        "sample_ids": torch.arange(batch, device=DEVICE),
        "noisy": chosen(batch, len(dims), value=True, dtype=torch.bool),
        "lengths": chosen(batch, len(dims), value=64, dtype=torch.int64),
        "p": chosen(value=0.3) if kind == "impulse" else None,
        "streams": list(range(2, 2 + len(dims))),
    }
    ys = [torch.empty_like(x) for x in xs]
    launch = add_noise_multimodal.planned(xs, ys, None, **options, kind=kind, return_stats=stats)
    name = f"add_noise_multimodal, {kind}, D = {', '.join(map(str, dims))}{', statistics' if stats else ''}"
    total, moved = sum(x.numel() for x in xs), 2 * xs[0].element_size()
    return Case(name, dtype, launch, launch.constants["BLOCK"], total, moved, most, 96 if stats else 64)


def single(dtype: str, kind: str, most: float) -> Case:
    """add_noise, its tiles without options."""
    x, p = normal(TOTAL // 2**16, 2**16, dtype=dtype), chosen(value=0.3) if kind == "impulse" else None
    options = (chosen(len(x), 1, value=0.3), rng(), None, None, None, p, [2], kind, False)
    launch = add_noise_multimodal.planned([x], [torch.empty_like(x)], None, *options)
    return Case(f"add_noise, {kind}", dtype, launch, launch.constants["BLOCK"], x.numel(), 2 * x.element_size(), most)


def made(dtype: str) -> Case:
    """Noise alone: one stream, so arithmetic decides."""
    eps = normal(TOTAL // 2**16, 2**16, dtype=dtype)
    launch = noise.planned(eps, rng(), None, None, None, None, 2, "gaussian")
    return Case("noise, gaussian", dtype, launch, launch.constants["BLOCK"], eps.numel(), eps.element_size(), None)


def mixed(dtype: str, backward: bool) -> Case:
    """mix_noise, and the backward of all noise ops."""
    x, eps = (
        normal(TOTAL // 2**16, 2**16, dtype=dtype),
        None if backward else normal(TOTAL // 2**16, 2**16, dtype=dtype),
    )
    launch = mix_noise.planned(x, eps, torch.empty_like(x), chosen(len(x), value=0.3), None, None, False)
    name, streams = ("mix_noise_backward", 2) if backward else ("mix_noise", 3)
    return Case(name, dtype, launch, launch.constants["BLOCK"], x.numel(), streams * x.element_size(), None)


def vae(dtype: str, backward: bool, most: float) -> Case:
    """reparameterize_kl on rows of 512."""
    mu, logvar, grad, a, b = (normal(TOTAL // 512, 512, dtype=dtype) for _ in range(5))
    kl = torch.ones(len(mu), device=DEVICE)
    if backward:
        launch = reparameterize_kl.planned_backward(grad, kl, mu, logvar, a, b, rng(), None, 240)
    else:
        launch = reparameterize_kl.planned(mu, logvar, a, kl, rng(), None, 240)
    streams = 5 if backward else 3
    name = f"reparameterize_kl{'_backward' if backward else ''}, rows of 512"
    return Case(name, dtype, launch, launch.constants["BLOCK"], mu.numel(), streams * mu.element_size(), most)


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
    x = normal(TOTAL, dtype=dtype)
    args = {"x": x, "y": torch.empty_like(x), "seed": 12345, "count": x.numel(), "keep": 0.3, "scale": 0.95}
    launch = Launch(randn_kernel, x.numel() // 1024, args, {"FOUR": four, "BLOCK": 1024})
    name = "tl.randn4x, joined" if four else "tl.randn an element (Inductor's way)"
    return Case(name, dtype, launch, 1024, x.numel(), 2 * x.element_size(), None)


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
        yield made(dtype)
        yield mixed(dtype, False)
        yield mixed(dtype, True)
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
    measured_ps: float | None  # on this machine's GPU, if it is of this kind
    of_copy: float | None  # the measured time over that of copying as many bytes


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


# ---------------------------------------------------------------- the clock


def measured_ps(case: Case, capability: int) -> float | None:
    """Median picoseconds an element of the launch, its inputs not in the cache; None where no such GPU is."""
    if DEVICE.type == "cpu" or torch.cuda.get_device_capability() != divmod(capability, 10):
        return None
    return 1e9 * triton.testing.do_bench(lambda: launched(case.launch), return_mode="median") / case.total


@cache
def copy_ps_per_byte() -> float:
    """Of a large copy, for each byte read or written: the memory floor as it is."""
    x = torch.ones(2**28, device=DEVICE)
    y = torch.empty_like(x)
    return 1e9 * triton.testing.do_bench(lambda: y.copy_(x), return_mode="median") / (2 * x.nbytes)


# ---------------------------------------------------------------- output


def targets() -> list[int]:
    """What is compiled for: every device, or the one that is here."""
    if DEVICE.type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        if 10 * major + minor in DEVICES:
            return [10 * major + minor]
    return list(DEVICES)


def main() -> None:
    """Table, CSV, plot; --check fails where a gate is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a gate is lost; write nothing")
    options = parser.parse_args()
    found = [predicted(case, capability) for case in cases() for capability in targets()]
    _print(found)
    lost = [f for f in found if f.lost]
    for f in lost:
        print(f"gate lost: {f.kernel}, {f.dtype}, sm_{f.sm}: {f.lost}", file=sys.stderr)
    if options.check:
        sys.exit(1 if lost else 0)
    stem = Path("bench") / "results" / ("roofline" if DEVICE.type == "cpu" else "roofline_cuda")
    about = {"triton": triton.__version__, "gpu": "" if DEVICE.type == "cpu" else torch.cuda.get_device_name()}
    with stem.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*asdict(found[0]), *about], lineterminator="\n")
        writer.writeheader()
        for f in found:
            row = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in asdict(f).items()}
            writer.writerow({**row, **about})
    _plot(stem.with_suffix(".png"), found)
    print(f"written: {stem}.csv, {stem}.png")


def _print(found: list[Prediction]) -> None:
    table = Table(
        title="predicted from machine code: clocks of an SM an element; ps an element, predicted and measured",
        title_justify="left",
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
        "measured",
        "of copy",
    ):
        table.add_column(column, justify="left" if column == "kernel" else "right")
    for f in found:
        cells = (f.kernel, f.dtype, str(f.sm), str(f.registers), f"{f.wide:.0%}", f"{f.instructions:.1f}")
        pipes = (f"{value:.3f}" for value in (f.fma, f.alu, f.xu, f.issue, f.floor))
        gate = "" if f.gate is None else f"{f.gate:.2f}{' lost' if f.lost else ''}"
        timed = ("" if value is None else f"{value:.2f}" for value in (f.measured_ps, f.of_copy))
        table.add_row(*cells, *pipes, f"{f.busiest_over_floor:.2f}", gate, f"{f.predicted_ps:.2f}", *timed)
    Console(width=170).print(table)


def _plot(path: Path, found: list[Prediction]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [f for f in found if f.sm == found[0].sm][::-1]
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
        f"busiest pipe over memory floor, {DEVICES[found[0].sm].name}, predicted; black: the gate; "
        "right of 1 arithmetic decides",
        fontsize=8,
    )
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
