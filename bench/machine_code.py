"""The machine code (SASS) of a compiled kernel: its instructions, the pipe and clocks of each, the longest path.

It needs no GPU: cuobjdump comes with Triton.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import triton

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Device:
    """A GPU.

    Attributes:
        name: the product.
        bytes_per_clock: bytes from memory in a clock of one SM.
        sms: the number of SMs.
        ghz: the clock.
        fma: clocks that an FFMA holds its pipe; an integer multiplication takes 2 and a wide one 4 on every device.
    """

    name: str
    bytes_per_clock: float
    sms: int
    ghz: float
    fma: int


DEVICES = {80: Device("A100 80 GB", 13.39, 108, 1.41, 2), 90: Device("H100 SXM", 14.46, 132, 1.755, 1)}
ALU = (
    "LOP3 IADD3 SHF SEL FSEL ISETP FSETP FMNMX IMNMX VIMNMX PRMT LEA MOV IABS PLOP3 P2R R2P F2FP LOP SGXT BMSK "
    "VABSDIFF CS2R FSET FCHK"
)
PIPES: dict[str, tuple[str, int]] = {
    **dict.fromkeys(["FFMA", "FMUL", "FADD", "HFMA2", "HADD2", "HMUL2"], ("fma", 0)),  # 0: Device.fma
    "IMAD": ("fma", 2),
    **dict.fromkeys(ALU.split(), ("alu", 2)),
    **dict.fromkeys(["MUFU", "I2F", "I2FP", "F2I", "F2F", "FRND", "FLO", "POPC"], ("xu", 8)),
    **dict.fromkeys(["DADD", "DMUL", "DFMA", "DSETP"], ("fp64", 4)),
    **dict.fromkeys(["LDG", "STG", "LDS", "STS", "LDL", "STL", "SHFL", "LDC", "BAR"], ("lsu", 8)),
}


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
    """The pipe of an instruction, and the clocks that the instruction holds it."""
    name = instruction.opcode.partition(".")[0]
    pipe, held = PIPES.get(name, ("", 0))
    if name == "IMAD" and re.search(r"\.(WIDE|HI)", instruction.opcode):
        held = 4
    return pipe, held or (device.fma if pipe == "fma" else 0)


def longest_path(code: list[Instruction], device: Device) -> list[Instruction]:
    """The costliest way from the entry to an exit; each loop is taken once."""
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
