"""The LSTM that gives all its states: PyTorch's own, its gradients, its registration."""

import pytest
import torch

from nmer_fast.models.recurrent import LSTM, lstm_states


@pytest.mark.parametrize("steps", [1, 2, 9])
def test_it_is_pytorchs(steps):
    ours, theirs = LSTM(5, 8), torch.nn.LSTM(5, 8, batch_first=True)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias"):
            getattr(theirs, {"bias": "bias_ih"}.get(name, name) + "_l0").copy_(getattr(ours, name))
        theirs.bias_hh_l0.zero_()
    x, grad = torch.randn(3, steps, 5, requires_grad=True), torch.randn(3, steps, 8)
    expected, states = theirs(x)[0], ours(x)
    torch.testing.assert_close(states, expected)
    wanted = torch.autograd.grad(expected, [x, *list(theirs.parameters())[:3]], grad)
    torch.testing.assert_close(torch.autograd.grad(states, [x, *ours.parameters()], grad), wanted)


def test_gradients_by_differences_and_registration():
    lstm = LSTM(3, 4).double()
    x = torch.randn(5, 2, 3, dtype=torch.double, requires_grad=True)
    inputs = (x, *lstm.parameters())
    assert torch.autograd.gradcheck(lambda *args: lstm_states(*args)[0], inputs)
    torch.library.opcheck(lstm_states, tuple(t.detach() for t in inputs))
