"""Every system: learning, independence of padding and other samples, any number of modalities, and losses by hand."""

from dataclasses import asdict, replace

import pytest
import torch
import torch.nn.functional as F

from nmer_fast.config import model_config
from nmer_fast.errors import UserError
from nmer_fast.models import SYSTEMS, Batch, NMERConfig, Separable, Targets, make_system, system_class
from nmer_fast.models.unimodal import UnimodalConfig

TINY = NMERConfig(layers=1, feedforward=16, latent=8, classifier=(32,))
STILL = replace(TINY, dropout=0.0, transformer_dropout=0.0, classifier_dropout=0.0)
DIMS = {"a": 7, "v": 5, "l": 6}
EVERY = pytest.mark.parametrize("name", SYSTEMS)


def configured(name, base=STILL, dims=DIMS):
    own = {"modality": next(reversed(dims))} if name == "unimodal" else {}
    return model_config({**asdict(base), "system": name, **own})


def system(name, base=STILL, dims=DIMS):
    return make_system(dims, 4, configured(name, base, dims))


def batch(size=6, dims=None, shortest=0):
    """Return noisy features, which differ from the clean ones only where `noisy` is set, and the teacher's targets."""
    dims = dims or DIMS
    noisy = torch.rand(size, len(dims)) < 0.5
    clean = {name: torch.randn(size, 8, dim) for name, dim in dims.items()}
    return Batch(
        features={
            name: torch.where(bad[:, None, None], x + torch.randn_like(x), x)
            for (name, x), bad in zip(clean.items(), noisy.t(), strict=True)
        },
        lengths={name: torch.randint(shortest, 9, (size,)) for name in dims},
        labels=torch.arange(size) % 4,
        sample_ids=torch.arange(size) * 3,
        targets=Targets(torch.randn(size, 128 * len(dims)), torch.randn(size, 128 * len(dims))),
        rng=torch.tensor([1, 2]),
        noisy=noisy,
        clean=clean,
    )


@EVERY
def test_it_overfits_64_samples(name):
    model, b = system(name), batch(64, shortest=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(150):
        b.rng = torch.tensor([1, step])
        optimizer.zero_grad()
        output = model(b)
        output.losses["total"].backward()
        optimizer.step()
        if step % 10 == 9 and (model.eval()(b).logits.argmax(1) == b.labels).all():
            return
        model.train()
    raise AssertionError(output.losses)


@EVERY
@pytest.mark.parametrize(
    "dims",
    [{"a": 7}, {"l": 6, "a": 3}, {f"m{i}": 3 + i for i in range(6)}, {"audio.covarep": 4, "values": 3, "text": 2}],
    ids=lambda dims: "+".join(dims),
)
def test_any_number_of_modalities_any_of_them_absent(name, dims):
    """Losses and all gradients are finite with samples that lack one modality or all of them."""
    if name == "mctn" and len(dims) == 1:
        with pytest.raises(UserError, match=r"^model.system: expected two modalities or more for mctn, got a"):
            system(name, dims=dims)
        return
    model, b = system(name, dims=dims), batch(dims=dims)
    for i, lengths in enumerate(b.lengths.values()):
        lengths[0] = lengths[1 + i % 4] = 0
    losses = model(b).losses
    losses["total"].backward()
    assert all(torch.isfinite(value) for value in losses.values())
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert torch.isfinite(p.grad).all(), parameter
    logits = model.eval()(b).logits
    assert logits.shape == (6, 4)
    assert torch.isfinite(logits).all()


@EVERY
def test_a_batch_without_a_modality_or_without_any(name):
    for absent in ("v", "avl"):
        model, b = system(name), batch()
        b.lengths = {m: lengths * (m not in absent) for m, lengths in b.lengths.items()}
        losses = model(b).losses
        losses["total"].backward()
        assert all(torch.isfinite(value) for value in losses.values())
        assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@EVERY
def test_padding_and_batch_mates_change_nothing(name):
    """Logits of single unpadded samples agree, and NaN beyond the lengths changes no logit, loss or gradient."""
    model, b = system(name), batch()
    poisoned = replace(
        b,
        features={m: poison(x, b.lengths[m]) for m, x in b.features.items()},
        clean={m: poison(x, b.lengths[m]) for m, x in b.clean.items()},
    )
    for one in (b, poisoned):
        model.zero_grad()
        one.out = model(one)
        one.out.losses["total"].backward()
        one.grads = [p.grad.clone() for p in model.parameters()]
    for term, value in b.out.losses.items():
        torch.testing.assert_close(poisoned.out.losses[term], value, msg=term)
    torch.testing.assert_close(poisoned.grads, b.grads)
    model.eval()
    logits = model(b).logits
    torch.testing.assert_close(model(poisoned).logits, logits)
    for i in range(6):
        alone = Batch(
            features={m: x[i : i + 1, : max(int(b.lengths[m][i]), 1)] for m, x in b.features.items()},
            lengths={m: lengths[i : i + 1] for m, lengths in b.lengths.items()},
            labels=b.labels[i : i + 1],
            sample_ids=b.sample_ids[i : i + 1],
        )
        torch.testing.assert_close(model(alone).logits[0], logits[i], rtol=0, atol=1e-5)


def poison(x, lengths):
    return x.masked_fill((torch.arange(x.shape[1]) >= lengths[:, None])[..., None], float("nan"))


@EVERY
def test_under_autocast_losses_are_float32(name):
    """Losses agree with float32's within bfloat16's rounding; weights and gradients stay float32."""
    model, b = system(name), batch(shortest=1)
    exact = model(b).losses
    with torch.autocast("cpu", torch.bfloat16):
        low = model(b).losses
    low["total"].backward()
    assert all(value.dtype == torch.float32 for value in low.values())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    for term, value in low.items():
        torch.testing.assert_close(value, exact[term], rtol=0.02, atol=2e-3, msg=term)


@EVERY
def test_parts_hold_every_parameter_once(name):
    """Otherwise clipping by sub-network would omit some parameters."""
    model = system(name)
    held = [id(p) for part in model.clip_groups() for p in part.parameters()]
    assert sorted(held) == sorted(id(p) for p in model.parameters())


@EVERY
def test_it_starts_from_its_teacher(name):
    """The teacher's targets are features of complete data, [B, M * 128]."""
    config = configured(name)
    teacher = system_class(name).teacher(DIMS, 4, config, 0.01)
    if teacher is None:
        return
    model, b = system(name), batch()
    model.start_from_teacher(teacher)
    torch.testing.assert_close(
        model.encode(b.features, b.lengths), teacher.encoders(b.features, b.lengths), msg="encoders"
    )
    targets = teacher.eval().targets(b)
    assert targets.joint.shape == (6, 384)
    assert not targets.joint.requires_grad


@EVERY
def test_modalities_are_encoded_apart(name):
    """Paired evaluation requires that a modality's encoding does not depend on other modalities' features."""
    model, b = system(name).eval(), batch(shortest=1)
    assert isinstance(model, Separable)
    encoded = model.encode(b.features, b.lengths)
    for m, changed in enumerate(DIMS):
        others = {**b.features, changed: b.features[changed] + 1}
        again = model.encode(others, b.lengths)
        kept = [i for i in range(3) if i != m]
        assert torch.equal(again[:, kept], encoded[:, kept])
        assert name == "unimodal" or not torch.equal(again[:, m], encoded[:, m])


def test_an_unknown_system_is_refused():
    with pytest.raises(UserError, match=r"^model.system: expected one of nmer, .*, got 'mine'"):
        make_system(DIMS, 4, replace(TINY, system="mine"))


# ---------------------------------------------------------------- losses by hand


def cross_entropy(logits, labels):
    return -F.log_softmax(logits, 1)[torch.arange(len(labels)), labels].mean()


def assert_losses(losses, expected):
    assert losses.keys() == expected.keys()
    for term, value in expected.items():
        torch.testing.assert_close(losses[term], value, rtol=1e-5, atol=1e-6, msg=term)


def test_men():
    model, b = system("men"), batch()
    h = torch.cat([e(b.features[m], b.lengths[m]) for m, e in zip(DIMS, model.encoders, strict=True)], 1)
    cls = cross_entropy(model.classifier(h), b.labels)
    assert model.trains_on_complete_data
    assert_losses(model(b).losses, {"cls": cls, "total": cls})


def test_unimodal_reads_its_modality_alone():
    model, b = (
        make_system(DIMS, 4, UnimodalConfig(system="unimodal", modality="v", dropout=0, classifier_dropout=0)),
        batch(),
    )
    cls = cross_entropy(model.classifier(model.encoders[0](b.features["v"], b.lengths["v"])), b.labels)
    assert model.trains_on_complete_data
    assert_losses(model(b).losses, {"cls": cls, "total": cls})
    with pytest.raises(UserError, match=r"^model.modality: expected one of a, v, l for unimodal, got x"):
        make_system(DIMS, 4, UnimodalConfig(system="unimodal", modality="x"))
    with pytest.raises(UserError, match=r"^model.modality: expected one of a, v, l for unimodal, got none"):
        make_system(DIMS, 4, replace(STILL, system="unimodal"))


def test_late_fusion_is_over_present_modalities():
    model, b = system("late_fusion"), batch()
    b.lengths["v"][:] = torch.tensor([0, 3, 0, 8, 1, 0])
    b.lengths["a"][0] = b.lengths["l"][0] = 0
    b.lengths["a"][1:] = b.lengths["l"][1:] = 5
    said = {
        m: model.classifiers[i](model.encoders[i](b.features[m], b.lengths[m])).log_softmax(1)
        for i, m in enumerate(DIMS)
    }
    expected = {
        f"cls_{m}": torch.stack([-said[m][i, b.labels[i]] for i in range(6) if b.lengths[m][i] > 0]).mean()
        for m in DIMS
    }
    out = model(b)
    assert_losses(out.losses, {**expected, "total": sum(expected.values())})
    torch.testing.assert_close(out.logits[2], (said["a"][2] + said["l"][2]) / 2)
    torch.testing.assert_close(out.logits[3], (said["a"][3] + said["v"][3] + said["l"][3]) / 3)
    assert out.logits[0].softmax(0).tolist() == [0.25] * 4


def test_nmer_without_vae_is_a_classifier_of_both_features():
    model, b = system("nmer_no_vae"), batch()
    encoded = model.encoders(b.features, b.lengths)
    cls = cross_entropy(model.classifier(encoded.flatten(1)), b.labels)
    inv = ((encoded[:, :, 1].flatten(1) - b.targets.invariant) ** 2).mean()
    assert_losses(model(b).losses, {"cls": cls, "inv": inv, "total": 10 * inv + cls})


def test_nmer_without_sampling_decodes_the_mean():
    model, b = system("nmer_no_sampling"), batch()
    encoded = model.encoders(b.features, b.lengths)
    h, H = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    joint = model.decoder(torch.cat([model.to_mu(model.vae_encoder(torch.cat([h, H], 1))), H], 1))
    mse, inv = ((joint - b.targets.joint) ** 2).mean(), ((H - b.targets.invariant) ** 2).mean()
    cls = cross_entropy(model.classifier(joint), b.labels)
    assert_losses(model(b).losses, {"mse": mse, "inv": inv, "cls": cls, "total": mse + 10 * inv + cls})


def test_nmer_without_the_invariant_loss_is_nmer_but_for_its_weight():
    model, whole, b = system("nmer_no_inv"), system("nmer"), batch()
    whole.load_state_dict(model.state_dict())
    without, losses = model(b).losses, whole(b).losses
    torch.testing.assert_close(without["total"], losses["total"] - 10 * losses["inv"])
    assert torch.equal(without["inv"], losses["inv"])


def cascade(model, x, guide=0.0):
    """Compute the cascade block by block, from the layers' weights."""
    outputs, latents = [], []
    for encoder, decoder in zip(model.encoders, model.decoders, strict=True):
        z = x + sum(outputs) + guide
        for layer in (encoder[0], encoder[2], encoder[4]):
            z = F.linear(z if layer is encoder[0] else F.leaky_relu(z, 0.01), layer.weight, layer.bias)
        latents.append(z)
        for layer in (decoder[0], decoder[2], decoder[4]):
            z = F.linear(z if layer is decoder[0] else z.clamp(min=0), layer.weight, layer.bias)
        outputs.append(z)
    return model.out[2](model.out[0](x + sum(outputs) + guide).clamp(min=0)), torch.cat(latents, 1)


def of_noisy(b):
    """Return the teacher's features, 128 for each modality, of the noisy modalities."""
    return torch.cat([b.targets.joint[:, 128 * m : 128 * m + 128] * b.noisy[:, m : m + 1] for m in range(3)], 1)


def test_mmin():
    model, b = system("mmin"), batch()
    assert [tuple(layer.weight.shape) for layer in model.forward_cascade.encoders[0][::2]] == [
        (256, 384),
        (128, 256),
        (64, 128),
    ]
    assert len(model.forward_cascade.encoders) == 5
    h = model.encoders(b.features, b.lengths).flatten(1)
    imagined, latents = cascade(model.forward_cascade, h)
    assert latents.shape == (6, 320)
    cls, forward = cross_entropy(model.classifier(latents), b.labels), ((imagined - of_noisy(b)) ** 2).mean()
    backward = ((cascade(model.backward_cascade, imagined)[0] - h) ** 2).mean()
    losses = model(b).losses
    assert_losses(
        losses, {"cls": cls, "forward": forward, "backward": backward, "total": cls + 4 * forward + 2 * backward}
    )
    through = torch.autograd.grad(losses["backward"], model.encoders[0].bias, retain_graph=True)[0]
    frozen = ((cascade(model.backward_cascade, cascade(model.forward_cascade, h)[0])[0] - h.detach()) ** 2).mean()
    torch.testing.assert_close(through, torch.autograd.grad(frozen, model.encoders[0].bias)[0])


def test_if_mmin():
    model, b = system("if_mmin"), batch()
    encoded = model.encoders(b.features, b.lengths)
    h, H = encoded[:, :, 0].flatten(1), encoded[:, :, 1].flatten(1)
    imagined, latents = cascade(model.cascade, h, H)
    cls, forward = cross_entropy(model.classifier(latents), b.labels), ((imagined - of_noisy(b)) ** 2).mean()
    inv = ((H - b.targets.invariant) ** 2).mean()
    assert_losses(model(b).losses, {"cls": cls, "forward": forward, "inv": inv, "total": cls + forward + inv})


def lstm(module, x):
    """Return the states of PyTorch's LSTM with a module's weights, for one sample [T, D]."""
    theirs = torch.nn.LSTM(x.shape[1], module.weight_hh.shape[1])
    weights = [module.weight_ih, module.weight_hh, module.bias, torch.zeros_like(module.bias)]
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return torch.func.functional_call(theirs, dict(zip(names, weights, strict=True)), x)[0]


def translate(chain, level, states, steps, out):
    """Translate one sample's states [T, 128] into `steps` steps of another modality, with attention written by hand."""
    decoded = lstm(chain.decoders[level].lstm, states[-1:].expand(steps, -1))
    weights = (decoded @ states.t() / 128**0.5).softmax(1)
    return chain.outs[out](torch.cat([decoded, weights @ states], 1))


def test_mctn():
    """Losses agree with those by hand, for unpadded samples: two levels of translation and one back, for each chain."""
    model, b, representations = system("mctn"), batch(shortest=0), []
    b.lengths["a"][0] = b.lengths["v"][1] = 0
    errors = {"translation": [], "cycle": []}
    for s, chain in enumerate(model.chains):
        source, first, second = ("avlav"[s], "avlav"[s + 1], "avlav"[s + 2])
        pooled, wrong = [], {(1, first): [], (2, second): [], (0, source): []}
        for i in range(6):
            n = {m: int(b.lengths[m][i]) for m in DIMS}
            if n[source] == 0:
                pooled.append(torch.zeros(128))
                continue
            one = lstm(chain.encoders[0], chain.into[0](b.features[source][i, : n[source]]))
            two = lstm(chain.encoders[1], one)
            pooled.append(two.amax(0))
            if n[first]:
                there = translate(chain, 0, one, n[first], 1)
                again = translate(chain, 0, lstm(chain.encoders[0], chain.into[1](there)), n[source], 0)
                wrong[1, first].append((there - b.clean[first][i, : n[first]]) ** 2)
                wrong[0, source].append((again - b.clean[source][i, : n[source]]) ** 2)
            if n[second]:
                wrong[2, second].append((translate(chain, 1, two, n[second], 2) - b.clean[second][i, : n[second]]) ** 2)
        means = {place: torch.cat(squares).mean() for (place, _), squares in wrong.items()}
        errors["translation"].append(means[1] + means[2])
        errors["cycle"].append(means[0])
        representations.append(torch.stack(pooled))
    cls = cross_entropy(model.classifier(torch.cat(representations, 1)), b.labels)
    translation, cycle = (sum(values) / 3 for values in errors.values())
    total = cls + 0.1 * translation + 0.1 * cycle
    assert_losses(model(b).losses, {"cls": cls, "translation": translation, "cycle": cycle, "total": total})
