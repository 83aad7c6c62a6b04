"""The roofline reads machine code: it follows known paths, knows the pipes, and its gates can fail."""

import importlib
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("compiles, which Triton does not do where TRITON_INTERPRET is set", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
launches, machine_code, roofline = map(importlib.import_module, ("launches", "machine_code", "roofline"))


def code(*lines):
    """Place instructions (predicated, opcode, operands) at 0, 16, 32, ..."""
    return [machine_code.Instruction(16 * i, *line) for i, line in enumerate(lines)]


def test_the_costlier_branch_is_the_path():
    instructions = code(
        (True, "BRA", "0x40"),
        (False, "MUFU.RSQ", ""),
        (False, "MUFU.RSQ", ""),
        (False, "EXIT", ""),
        (False, "FFMA", ""),
        (False, "BRA", "0x50"),
        (False, "EXIT", ""),
    )
    opcodes = [i.opcode for i in machine_code.longest_path(instructions, machine_code.DEVICES[80])]
    assert opcodes == ["BRA", "MUFU.RSQ", "MUFU.RSQ", "EXIT"]


def test_loops_are_taken_once_and_calls_of_pipes_are_known():
    instructions = code(
        (False, "IMAD.WIDE.U32", ""),
        (True, "BRA", "0x0"),
        (True, "EXIT", ""),
        (False, "LOP3.LUT", ""),
        (False, "EXIT", ""),
    )
    path = machine_code.longest_path(instructions, machine_code.DEVICES[80])
    held = [machine_code.clocks(i, machine_code.DEVICES[80]) for i in path]
    assert held == [("fma", 4), ("", 0), ("", 0), ("alu", 2), ("", 0)]
    assert machine_code.clocks(instructions[0], machine_code.DEVICES[90]) == ("fma", 4)


def test_most_instructions_of_a_real_kernel_have_a_pipe():
    case = launches.single("fp32", "gaussian", 0.75)
    instructions, used = machine_code.disassembled(roofline.compiled(case.launch, 80).asm["cubin"])
    path = machine_code.longest_path(instructions, machine_code.DEVICES[80])
    unknown = {i.opcode for i in path if not machine_code.clocks(i, machine_code.DEVICES[80])[0]}
    assert not {o for o in unknown if not o.startswith(("EXIT", "BRA", "S2", "U", "NOP", "BSSY", "BSYNC", "R2UR"))}
    assert used["registers"] <= 64
    wide = sum(i.opcode.startswith("IMAD.WIDE") for i in path)
    assert (
        18 * 4 <= wide <= 20 * 4 + 8
    )  # four quads a thread, two products a round, the first two rounds shared in part


def test_gates_can_be_lost():
    held = roofline.predicted(launches.single("fp32", "gaussian", 0.75), 80)
    assert held.lost == ""
    case = launches.single("fp32", "gaussian", 0.75)
    assert "over 0.1" in roofline.predicted(replace(case, most=0.1), 80).lost
    assert "over 8 registers" in roofline.predicted(replace(case, registers=8), 80).lost
    starved = replace(case.launch, registers=24)
    assert "stack or local memory" in roofline.predicted(replace(case, launch=starved), 80).lost
    x = torch.empty(4, 5, 37)  # rows without a known divisor
    keep, rng = torch.empty(4, 1, dtype=torch.float64), torch.empty(2, dtype=torch.int64)
    launch = launches.add_noise_multimodal.planned(
        [x], [torch.empty_like(x)], None, keep, rng, None, None, None, None, [2], "gaussian", False
    )
    assert "in 128-bit accesses" in roofline.predicted(replace(case, launch=launch), 80).lost
