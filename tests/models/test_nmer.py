"""NMER and its teacher: the published losses by hand, the one-token Transformer, learning, independence of mates."""

import math

import pytest
import torch
import torch.nn.functional as F

from nmer_fast import ops
from nmer_fast.models import NMER, Batch, NMERConfig, Targets, Teacher
from nmer_fast.models.nmer import OneTokenLayer
from nmer_fast.models.teacher import central_moment_discrepancy

STILL = NMERConfig(dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)
DIMS = {"a": 7, "v": 5, "l": 6}


def batch(size=6, dims=None, rng=(1, 2)):
    dims = dims or DIMS
    m = len(dims)
    return Batch(
        features={name: torch.randn(size, 8, dim) for name, dim in dims.items()},
        lengths={name: torch.randint(0, 9, (size,)) for name in dims},
        labels=torch.arange(size) % 4,
        sample_ids=torch.arange(size) * 3,
        targets=Targets(torch.randn(size, 128 * m), torch.randn(size, 128 * m)),
        rng=torch.tensor(rng),
    )


def test_the_losses_by_hand():
    model, b = NMER(DIMS, 4, STILL), batch()
    losses = model(b).losses
    encoded = model.encode(b.features, b.lengths)
    h, H = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    state = model.vae_encoder(torch.cat([h, H], 1))
    mu, logvar = model.to_mu(state), model.to_logvar(state)
    eps = ops.noise(mu.shape, seed=b.rng, sample_ids=b.sample_ids, stream=240)
    C = model.decoder(torch.cat([mu + (logvar / 2).exp() * eps, H], 1))
    kl = -0.5 * (logvar - logvar.exp() - mu**2 + 1).sum(1).mean()
    mse = ((C - b.targets.joint) ** 2).mean()
    inv = ((H - b.targets.invariant) ** 2).mean()
    cls = -F.log_softmax(model.classifier(C), 1)[torch.arange(6), b.labels].mean()
    for name, expected in {"kl": kl, "mse": mse, "inv": inv, "cls": cls, "total": kl + mse + 10 * inv + cls}.items():
        torch.testing.assert_close(losses[name], expected, rtol=1e-4, atol=1e-5)


def test_one_token_layer_is_a_transformer_layer_on_one_token():
    """PyTorch's own layer with the same weights: any query and key, 16 heads, one token."""
    ours = OneTokenLayer(96, 32, 0.5).eval()
    theirs = torch.nn.TransformerEncoderLayer(96, 16, 32, 0.5, batch_first=True).eval()
    attention = theirs.self_attn
    with torch.no_grad():
        attention.in_proj_weight[192:] = ours.value.weight
        attention.in_proj_bias[192:] = ours.value.bias
    attention.out_proj.load_state_dict(ours.out.state_dict())
    theirs.linear1.load_state_dict(ours.feedforward[0].state_dict())
    theirs.linear2.load_state_dict(ours.feedforward[3].state_dict())
    x = torch.randn(5, 96)
    torch.testing.assert_close(ours(x), theirs(x[:, None])[:, 0])


@pytest.mark.parametrize(
    "dims", [{"a": 7}, {"l": 6}, DIMS, {f"m{i}": 3 + i for i in range(6)}, {"audio.covarep": 4, "values": 3}]
)
def test_any_number_of_modalities(dims):
    model, teacher, b = NMER(dims, 4), Teacher(dims, 4, NMERConfig(), 1.0), batch(dims=dims)
    for losses in (model(b).losses, teacher(b).losses):
        losses["total"].backward()
        assert all(torch.isfinite(value) for value in losses.values())
    grads = [p.grad for p in model.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    assert model.eval()(b).logits.shape == (6, 4)


def test_alone_and_in_a_padded_batch():
    """One sample's logits do not depend on padding or on its batch mates."""
    model, b = NMER(DIMS, 4).eval(), batch()
    logits = model(b).logits
    for i in range(6):
        alone = Batch(
            features={name: x[i : i + 1, : max(int(b.lengths[name][i]), 1)] for name, x in b.features.items()},
            lengths={name: lengths[i : i + 1] for name, lengths in b.lengths.items()},
            labels=b.labels[i : i + 1],
            sample_ids=b.sample_ids[i : i + 1],
        )
        torch.testing.assert_close(model(alone).logits[0], logits[i], rtol=0, atol=1e-5)
    poisoned = {
        name: x.masked_fill((torch.arange(8) >= b.lengths[name][:, None])[..., None], float("nan"))
        for name, x in b.features.items()
    }
    torch.testing.assert_close(model(Batch(poisoned, b.lengths, b.labels, b.sample_ids)).logits, logits)


def test_evaluation_has_no_chance_in_it():
    model, b = NMER(DIMS, 4).eval(), batch()
    assert torch.equal(model(b).logits, model(b).logits)


def test_latent_noise_follows_the_contract():
    """Same seed, draw and ids: same losses; another draw: others."""
    model, b = NMER(DIMS, 4, STILL), batch()
    first, again = (model(b).losses["total"] for _ in range(2))
    assert torch.equal(first, again)
    b.rng = torch.tensor([1, 3])
    assert not torch.equal(model(b).losses["total"], first)


def test_it_overfits_64_samples():
    model, b = NMER(DIMS, 4, STILL), batch(64)
    b.lengths = {name: lengths.clamp(min=1) for name, lengths in b.lengths.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(150):
        b.rng = torch.tensor([1, step])
        optimizer.zero_grad()
        model(b).losses["total"].backward()
        optimizer.step()
    assert (model.eval()(b).logits.argmax(1) == b.labels).float().mean() == 1


def test_teacher_targets_are_its_features():
    teacher, b = Teacher(DIMS, 4, NMERConfig(), 0.01).eval(), batch()
    encoded, targets = teacher.encoders(b.features, b.lengths), teacher.targets(b)
    assert torch.equal(targets.joint, encoded[:, :, 0].flatten(1))
    assert torch.equal(targets.invariant, encoded[:, :, 1].flatten(1))
    assert not targets.joint.requires_grad


def test_central_moment_discrepancy():
    """By hand on two columns; 0 for equal batches, and its gradient there is finite."""
    x = torch.tensor([[0.0], [2.0]], requires_grad=True)
    y = torch.tensor([[1.0], [5.0]])
    # means 1 and 3; central moments of +-1 and +-2: orders 2 and 4 differ by 3 and 15, odd ones by 0
    assert central_moment_discrepancy(x, y).item() == pytest.approx(2 + 3 + 15)
    same = central_moment_discrepancy(x, x.detach())
    same.backward()
    assert same.item() == 0
    assert torch.isfinite(x.grad).all()


def test_teacher_losses():
    teacher, b = Teacher(DIMS, 4, STILL, 0.25), batch()
    out = teacher(b)
    H = teacher.encoders(b.features, b.lengths)[:, :, 1]
    pairs = [central_moment_discrepancy(H[:, i], H[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(out.losses["cmd"], sum(pairs) / 3)
    torch.testing.assert_close(out.losses["total"], out.losses["cls"] + 0.25 * out.losses["cmd"])
    assert math.isclose(out.losses["cls"].item(), F.cross_entropy(out.logits, b.labels).item(), rel_tol=1e-6)
