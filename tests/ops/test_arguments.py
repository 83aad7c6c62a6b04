"""Numbers of every type equal their Python values, and what is ambiguous is refused, eager and compiled."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from nmer_fast import ops

X = torch.linspace(-1, 1, 24).reshape(3, 8)

INTEGERS = {
    "np.int64": np.int64,
    "np.uint8": np.uint8,
    "array": np.array,
    "tensor": torch.tensor,
    "int32 tensor": lambda v: torch.tensor(v, dtype=torch.int32),
}
REALS = {
    "np.float32": np.float32,
    "np.float64": np.float64,
    "np.float16": np.float16,
    "array": np.array,
    "float32 array": lambda v: np.array(v, dtype=np.float32),
    "tensor": torch.tensor,
    "float64 tensor": lambda v: torch.tensor(v, dtype=torch.float64),
    "Fraction": Fraction,
}

WITH_AN_INTEGER = {
    "seed": lambda n: ops.add_noise(X, 0.5, seed=n),
    "draw": lambda n: ops.add_noise(X, 0.5, seed=1, draw=n),
    "stream": lambda n: ops.add_noise(X, 0.5, seed=1, stream=n),
    "streams": lambda n: ops.add_noise_multimodal([X, X], torch.tensor([0.5, 0.5]), seed=1, streams=[n, 0])[0],
    "seed of noise": lambda n: ops.noise((3, 8), seed=n),
    "seed of reparameterize_kl": lambda n: ops.reparameterize_kl(X, X, seed=n)[0],
    "seed of philox": lambda n: ops.philox(n, torch.arange(8).reshape(2, 4)),
    "stream of noise_counter": lambda n: ops.noise_counter(torch.arange(3), torch.arange(3), stream=n),
    "draw of noise_counter": lambda n: ops.noise_counter(torch.arange(3), torch.arange(3), draw=n),
    "rng_tensor": lambda n: ops.rng_tensor(n, n, torch.device("cpu")),
    "steps": lambda n: ops.gather_padded(X, torch.tensor([0, 2, 3]), torch.tensor([1, 0]), n),
}
WITH_A_REAL = {  # 0.25 is the same in every dtype
    "alpha_bar": lambda v: ops.add_noise(X, v, seed=1),
    "alpha_bar of mix_noise": lambda v: ops.mix_noise(X, X.flip(0), v),
    "p": lambda v: ops.add_noise(X, 0.5, seed=1, kind="impulse", p=v),
    "p of noise": lambda v: ops.noise((3, 8), seed=1, kind="impulse", p=v),
    "clip": lambda v: ops.gather_padded(
        X, torch.tensor([0, 2, 3]), torch.tensor([1, 0]), 2, mean=torch.zeros(8), std=torch.ones(8), clip=v
    ),
}


def equal_its_python_value(call, value, make, compiled):
    torch._dynamo.reset()
    expected = call(value)
    if compiled:
        call = torch.compile(call, fullgraph=True, backend="aot_eager")
    assert torch.equal(call(make(value)), expected)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("type_", INTEGERS)
@pytest.mark.parametrize("argument", WITH_AN_INTEGER)
def test_an_integer_of_any_type_is_its_python_value(argument, type_, compiled):
    equal_its_python_value(WITH_AN_INTEGER[argument], 3, INTEGERS[type_], compiled)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("type_", REALS)
@pytest.mark.parametrize("argument", WITH_A_REAL)
def test_a_real_number_of_any_type_is_its_python_value(argument, type_, compiled):
    if compiled and type_ == "Fraction":
        pytest.skip("Dynamo does not trace fractions")
    equal_its_python_value(WITH_A_REAL[argument], 0.25, REALS[type_], compiled)


@pytest.mark.parametrize("argument", WITH_AN_INTEGER)
@pytest.mark.parametrize("value", [3.0, np.float32(3), torch.tensor(3.0), torch.tensor([3]), "3", 2j])
def test_what_is_no_integer_is_refused_by_name(argument, value):
    name = (
        "seed"
        if argument == "rng_tensor"
        else argument.split(" ")[0].removesuffix("s")
        if argument != "steps"
        else "steps"
    )
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected "):
        WITH_AN_INTEGER[argument](value)


@pytest.mark.parametrize("argument", WITH_A_REAL)
@pytest.mark.parametrize("value", ["0.25", 2j, None, torch.tensor(0.25 + 0j), [0.25]])
def test_what_is_no_number_is_refused_by_name(argument, value):
    with pytest.raises((TypeError, ValueError), match=f"^{argument.split(' ')[0]}: expected "):
        WITH_A_REAL[argument](value)


# ---------------------------------------------------------------- layouts

SEQUENCES = {
    "add_noise": lambda x, lengths: ops.add_noise(x, 0.5, seed=1, lengths=lengths),
    "mix_noise": lambda x, lengths: ops.mix_noise(x, x, 0.5, lengths=lengths),
    "noise": lambda x, lengths: ops.noise(x.shape, seed=1, lengths=lengths),
    "noise_like": lambda x, lengths: ops.noise_like(x, seed=1, lengths=lengths),
    "add_noise_multimodal": lambda x, lengths: ops.add_noise_multimodal(
        [x, x], torch.tensor([0.5, 0.5]), seed=1, lengths=[None, lengths]
    ),
    "lstm_max_pool": lambda x, lengths: ops.lstm_max_pool(x, lengths, *weights(x)),
    "lstm_states": lambda x, lengths: ops.lstm_states(x, lengths, *weights(x)),
    "conv_max_pool": lambda x, lengths: ops.conv_max_pool(x, lengths, [torch.ones(2, x.shape[2], 3)], [torch.ones(2)]),
}


def weights(x):
    return torch.ones(8, x.shape[2]), torch.ones(8, 2), torch.ones(8)


@pytest.mark.parametrize("name", SEQUENCES)
@pytest.mark.parametrize("wrong", [9, -1])
def test_lengths_that_dim_1_does_not_have(name, wrong):
    """[B, C, T] with lengths in T would leave the padding's NaN in place."""
    message = rf"^lengths: expected 0 to T = 8 valid steps along dim 1, got {wrong}$"
    with pytest.raises(ValueError, match=message):
        SEQUENCES[name](torch.ones(2, 8, 5), torch.tensor([3, wrong]))


@pytest.mark.parametrize("name", [name for name in SEQUENCES if "_pool" not in name and "states" not in name])
def test_lengths_of_one_step_of_features(name):
    """[B, D] with lengths of 1 would set D - 1 features to zero."""
    message = r"^lengths: expected steps along dim 1.*one step of 8 features is x\[:, None\]$"
    with pytest.raises(ValueError, match=message):
        SEQUENCES[name](torch.ones(2, 8), torch.tensor([1, 0]))
    SEQUENCES[name](torch.ones(2, 1), torch.tensor([1, 0]))
    SEQUENCES[name](torch.ones(2, 8), torch.tensor([2, 1]))  # steps of one feature each
    SEQUENCES[name](torch.ones(2, 8)[:, None], torch.tensor([1, 0]))
