"""NMER and its teacher: losses by hand, the one-token Transformer, learning, and independence of other samples."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from nmer_fast import ops
from nmer_fast.config import preset
from nmer_fast.errors import UserError
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


@pytest.mark.parametrize(("lambda_gen", "lambda_kl"), [(1.0, 1.0), (2.0, 0.25)])
def test_the_losses_by_hand(lambda_gen, lambda_kl):
    model, b = NMER(DIMS, 4, replace(STILL, lambda_gen=lambda_gen, lambda_kl=lambda_kl)), batch()
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
    total = lambda_gen * (lambda_kl * kl + mse) + 10 * inv + cls
    for name, expected in {"kl": kl, "mse": mse, "inv": inv, "cls": cls, "total": total}.items():
        torch.testing.assert_close(losses[name], expected, rtol=1e-4, atol=1e-5)


def test_one_token_layer_is_a_transformer_layer_on_one_token():
    """OneTokenLayer equals PyTorch's layer with the same weights, any query and key, and 16 heads, on one token."""
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


@pytest.mark.parametrize("tokens", ["one", "modality"])
def test_alone_and_in_a_padded_batch(tokens):
    """A sample's logits depend neither on padding nor on the other samples of the batch."""
    model, b = NMER(DIMS, 4, NMERConfig(tokens=tokens)).eval(), batch()
    assert not model.depends_on_batch
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


def test_the_released_tokens_leak_between_batch_mates():
    """With attention over the batch, another sample in the batch changes the prediction, and `depends_on_batch` is true."""
    model, b = NMER(DIMS, 4, NMERConfig(tokens="batch")).eval(), batch()
    assert model.depends_on_batch
    logits = model(b).logits
    b.features["a"][5] += 1
    changed = (model(b).logits - logits).abs().amax(1)
    assert (changed[:5] > 0).all()


@pytest.mark.parametrize("tokens", ["one", "modality", "batch"])
def test_tokens_by_hand(tokens):
    """One layer equals softmax attention written by hand, over the tokens of each setting."""
    config = NMERConfig(layers=1, heads=4, tokens=tokens, feedforward=16)
    model, joint = NMER(DIMS, 4, config).eval(), torch.randn(6, 768)
    layer, width = model.vae_encoder[0], 128 if tokens == "modality" else 768
    x = {"one": joint[:, None], "modality": joint.reshape(6, 6, 128), "batch": joint[None]}[tokens]
    if tokens == "one":
        attended = layer.out(layer.value(x))  # over one token the attention weight is 1
        first, last = layer.feedforward[0], layer.feedforward[3]
    else:
        own = layer.self_attn
        q, k, v = (
            t.unflatten(2, (4, -1)).transpose(1, 2)
            for t in F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, 2)
        )
        weights = (q @ k.transpose(2, 3) / math.sqrt(width / 4)).softmax(3)
        attended = own.out_proj((weights @ v).transpose(1, 2).flatten(2))
        first, last = layer.linear1, layer.linear2
    x = layer.norm1(x + attended)
    x = layer.norm2(x + last(first(x).relu()))
    torch.testing.assert_close(model.attend(joint), x.reshape(6, 768), rtol=1e-4, atol=1e-5)


def test_the_released_settings_by_hand():
    """L_KL is summed over the batch, too; the classifier is 384 -> 128 -> 128 with BatchNorm; two LeakyReLU layers."""
    released = preset("released").model
    model, b = NMER(DIMS, 4, replace(released, dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)), batch()
    losses = model(b).losses
    total = losses["kl"] + losses["mse"] + losses["inv"] + losses["cls"]
    torch.testing.assert_close(losses["total"], total)
    assert [type(layer).__name__ for layer in model.classifier] == [*["Linear", "ReLU", "BatchNorm1d", "Dropout"] * 2, "Linear"]  # fmt: skip
    assert [layer.weight.shape for layer in model.classifier if hasattr(layer, "in_features")] == [(128, 384), (128, 128), (4, 128)]  # fmt: skip
    first, second = model.encoders.shared[0], model.encoders.shared[2]
    x = torch.randn(3, 128)
    expected = F.leaky_relu(second(F.leaky_relu(first(x), 0.01)), 0.01)
    torch.testing.assert_close(model.encoders.shared(x), expected)
    mean = NMER(DIMS, 4, replace(model.config, kl="mean"))
    mean.load_state_dict(model.state_dict())
    torch.testing.assert_close(losses["kl"], 6 * mean(b).losses["kl"])


def test_kl_per_latent_dimension_sums_to_the_kl():
    model, b = NMER(DIMS, 4, STILL), batch()
    output = model(b)
    assert output.logged["kl_per_latent"].shape == (64,)
    torch.testing.assert_close(output.logged["kl_per_latent"].sum(), output.losses["kl"], rtol=1e-4, atol=0)


def test_parts_hold_every_parameter_once():
    """Otherwise clipping by sub-network would omit some parameters."""
    for model in (NMER(DIMS, 4), Teacher(DIMS, 4, NMERConfig(), 1.0)):
        held = [id(p) for part in model.clip_groups() for p in part.parameters()]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_heads_that_do_not_divide_the_tokens_are_refused():
    with pytest.raises(UserError, match=r"^model.heads: expected a divisor of the token's 128 dimensions, got 3"):
        NMER(DIMS, 4, NMERConfig(tokens="modality", heads=3))


def test_samples_without_any_modality():
    """Losses and gradients are finite and features are 0 if all samples of a batch lack one modality or all of them."""
    for absent in ("avl", "v"):
        model, teacher, b = NMER(DIMS, 4), Teacher(DIMS, 4, NMERConfig(), 1.0), batch()
        b.lengths = {name: lengths * (name not in absent) for name, lengths in b.lengths.items()}
        assert (
            teacher.eval().targets(b).joint.unflatten(1, (3, 128))[:, ["avl".index(m) for m in absent]].abs().max() == 0
        )
        for trained in (model, teacher.train()):
            losses = trained(b).losses
            losses["total"].backward()
            assert all(torch.isfinite(value) for value in losses.values())
            assert all(p.grad is None or torch.isfinite(p.grad).all() for p in trained.parameters())


def test_evaluation_has_no_chance_in_it():
    model, b = NMER(DIMS, 4).eval(), batch()
    assert torch.equal(model(b).logits, model(b).logits)


def test_latent_noise_follows_the_contract():
    """The same seed, draw and ids give the same losses; another draw gives different ones."""
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
        if step % 10 == 9 and (model.eval()(b).logits.argmax(1) == b.labels).all():
            return
        model.train()
    raise AssertionError("not learnt in 150 steps")


def test_teacher_targets_are_its_features():
    teacher, b = Teacher(DIMS, 4, NMERConfig(), 0.01).eval(), batch()
    encoded, targets = teacher.encoders(b.features, b.lengths), teacher.targets(b)
    assert torch.equal(targets.joint, encoded[:, :, 0].flatten(1))
    assert torch.equal(targets.invariant, encoded[:, :, 1].flatten(1))
    assert not targets.joint.requires_grad


def test_central_moment_discrepancy():
    """The distance equals one by hand on two columns; it is 0 for equal batches, where its gradient is finite."""
    x = torch.tensor([[0.0], [2.0]], requires_grad=True)
    y = torch.tensor([[1.0], [5.0]])
    # means 1 and 3; central moments of +-1 and +-2: orders 2 and 4 differ by 3 and 15, odd orders by 0
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
