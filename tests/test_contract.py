"""contract.py is the only place of kinds, streams and limits; it needs no torch, and all packages agree with it."""

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch

import nmer_fast
from nmer_fast import contract, noise, ops
from nmer_fast import numpy as nf
from nmer_fast.config import Config
from nmer_fast.noise import NoiseSchedule, NoiseScheduler
from nmer_fast.ops import reference

from .ops import contract as oracle

PACKAGE = Path(nmer_fast.__file__).parent
DOCUMENT = (PACKAGE.parent / "docs" / "noise_contract.md").read_text()
STREAMS = {name: value for name, value in vars(contract).items() if name.endswith("_STREAM") and name != "MAX_STREAM"}
X, Y = torch.zeros(2, 3), np.zeros((2, 3), np.float32)
CALLS = {
    "ops.noise": lambda kind: ops.noise((2, 3), seed=1, kind=kind),
    "ops.noise_like": lambda kind: ops.noise_like(X, seed=1, kind=kind),
    "ops.add_noise": lambda kind: ops.add_noise(X, 0.5, seed=1, kind=kind),
    "ops.add_noise_multimodal": lambda kind: ops.add_noise_multimodal([X], torch.tensor([0.5]), seed=1, kind=kind)[0],
    "numpy.noise": lambda kind: nf.noise((2, 3), seed=1, kind=kind),
    "numpy.noise_like": lambda kind: nf.noise_like(Y, seed=1, kind=kind),
    "numpy.add_noise": lambda kind: nf.add_noise(Y, 0.5, seed=1, kind=kind),
    "numpy.add_noise_multimodal": lambda kind: nf.add_noise_multimodal([Y], [0.5], seed=1, kind=kind)[0],
}


def test_it_imports_no_torch():
    code = "import sys, nmer_fast.contract; print([m for m in ('torch', 'numpy', 'triton') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_streams_are_distinct_and_above_the_modalities():
    values = list(STREAMS.values())
    assert len(values) == len(set(values)) == 5
    assert all(contract.MODALITY_STREAMS <= value <= contract.MAX_STREAM for value in values)


def test_all_rooms_know_the_same_names():
    section = get_type_hints(get_type_hints(Config)["noise"])
    assert get_args(section["kind"]) == contract.KINDS == noise.KINDS
    assert get_args(section["snr_convention"]) == contract.CONVENTIONS
    assert get_args(section["schedule"]) == contract.SCHEDULES
    assert set(contract.KINDS) - set(contract.GENERATED_KINDS) == {"missing"}
    for kind in contract.KINDS:
        assert NoiseScheduler({"a": 1.0}, kind=kind, snr_db=None if kind == "missing" else 0.0).kind == kind
    for kind in contract.SCHEDULES:
        assert len(NoiseSchedule(kind=kind).betas(3)) == 3


def test_every_dtype_serves_and_others_are_refused():
    for name in contract.DTYPES:
        dtype = getattr(torch, name)
        assert ops.add_noise(X.to(dtype), 0.5, seed=1).dtype == ops.noise((2, 3), seed=1, dtype=dtype).dtype == dtype
    for name in contract.NUMPY_DTYPES:
        assert nf.add_noise(Y.astype(name), 0.5, seed=1).dtype == nf.noise((2, 3), seed=1, dtype=name).dtype == name
    for refused in (
        lambda: ops.noise((2, 3), seed=1, dtype=torch.int32),
        lambda: ops.add_noise(X.int(), 0.5, seed=1),
    ):
        with pytest.raises(TypeError, match="float32, bfloat16, float16 or float64"):
            refused()
    for refused in (lambda: nf.noise((2, 3), seed=1, dtype="int32"), lambda: nf.add_noise(Y.astype("int32"), 0.5)):
        with pytest.raises(TypeError, match="float32, float16 or float64"):
            refused()


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_every_function_makes_every_kind_and_refuses_others(call):
    made = [np.asarray(call(kind)).tobytes() for kind in contract.GENERATED_KINDS]
    assert len(set(made)) == len(contract.GENERATED_KINDS)
    for unknown in ("pink", "missing", "Gaussian", ""):
        message = f"^kind: expected one of {', '.join(contract.GENERATED_KINDS)}, got '{unknown}'$"
        with pytest.raises(ValueError, match=message):
            call(unknown)


def test_the_reference_and_the_scheduler_refuse_other_kinds():
    rng = torch.tensor([1, 0])
    with pytest.raises(ValueError, match=r"^kind: expected one of .*, got 'pink'$"):
        reference.noise(torch.Size((2, 3)), rng, None, None, None, None, 0, "pink", torch.float32)
    with pytest.raises(ValueError, match=rf"^kind: expected one of {', '.join(contract.KINDS)}, a tensor or"):
        NoiseScheduler({"a": 1.0}, snr_db=0.0, kind="pink")


@pytest.mark.parametrize("kind", contract.GENERATED_KINDS)
def test_the_second_implementation_knows_every_kind(kind):
    expected = oracle.array(kind, (2, 9), seed=3, stream=contract.SNR_STREAM)
    got = ops.noise((2, 9), seed=3, stream=contract.SNR_STREAM, kind=kind, dtype=torch.float64)
    assert abs(got.numpy() - expected).max() <= 1e-12


def test_limits_are_the_checks():
    for check, largest in ((contract.check_draw, contract.MAX_DRAW), (contract.check_stream, contract.MAX_STREAM)):
        check(0)
        check(largest)
        for wrong in (-1, largest + 1, 1.0, None):
            with pytest.raises(ValueError, match=r"^(draw|stream): expected an int from 0 to "):
                check(wrong)
    contract.check_elements("x", (5, contract.MAX_ELEMENTS))
    with pytest.raises(
        ValueError, match=r"^x: expected at most 2\^34 elements a sample, got shape \(1, 2, 8589934593\)"
    ):
        contract.check_elements("x", (1, 2, contract.MAX_ELEMENTS // 2 + 1))
    ids = torch.tensor([contract.MAX_SAMPLE_ID, -1])
    assert torch.equal(*ops.noise_counter(ids, torch.zeros_like(ids)))


def test_the_document_has_every_name_and_number():
    rows = dict(re.findall(r"^\| `?(\w+)`? \| (.*?) \|", DOCUMENT, re.MULTILINE))
    assert set(contract.GENERATED_KINDS) <= set(rows)
    bits = {name: getattr(contract, f"{name.upper()}_BITS") for name in ("seed", "draw", "stream", "sample", "element")}
    assert {name: int(rows[name]) for name in bits} == bits
    assert {name: int(rows[name]) for name in STREAMS} == STREAMS
    assert f"0x{contract.COUNTER_TAG:X} << 24" in DOCUMENT
    assert "nmer_fast/contract.py" in DOCUMENT


NUMBERS = {*STREAMS.values(), contract.COUNTER_TAG, contract.MAX_STREAM, contract.SAMPLE_BITS, contract.ELEMENT_BITS}


def repeated(path):
    """Yield the places in a file that repeat the contract: lists of three or more kinds, and streams given as numbers.

    In files that make noise, every number of the contract is such a place.
    """
    makes_noise = path.parent.name in ("ops", "noise") or path.name == "numpy.py"
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Tuple, ast.List, ast.Set, ast.Dict)):
            entries = node.keys if isinstance(node, ast.Dict) else node.elts
            names = {entry.value for entry in entries if isinstance(entry, ast.Constant)}
            if len(names & set(contract.KINDS)) >= 3:
                yield f"{path.name}:{node.lineno}: {sorted(names)}"
        if isinstance(node, ast.keyword) and node.arg == "stream" and isinstance(node.value, ast.Constant):
            yield f"{path.name}:{node.value.lineno}: stream={node.value.value}"
        if makes_noise and isinstance(node, ast.Constant) and type(node.value) is int and node.value in NUMBERS:
            yield f"{path.name}:{node.lineno}: {node.value}"


def test_no_other_file_repeats_them(tmp_path):
    caught = tmp_path / "numpy.py"
    caught.write_text("noise(shape, stream=3)\nKINDS = ['gaussian', 'impulse', 'laplace']\nTAG = 0x4E\n")
    assert len(list(repeated(caught))) == 3
    paths = sorted(set(PACKAGE.glob("**/*.py")) - {PACKAGE / "contract.py"})
    assert [found for path in paths for found in repeated(path)] == []
