"""Eq. 3 for one tensor: the kernel of add_noise_multimodal runs with one modality, and can also return eps."""

from __future__ import annotations

import torch
from torch import Tensor

from .add_noise_multimodal import planned
from .launch import run


def add_noise(
    x: Tensor,
    alpha_bar: Tensor,
    rng: Tensor,
    sample_ids: Tensor | None,
    noisy: Tensor | None,
    lengths: Tensor | None,
    p: Tensor | None,
    stream: int,
    kind: str,
    return_noise: bool,
) -> tuple[Tensor, Tensor]:
    """Run the registered op on CUDA."""
    x = x.contiguous()
    y, eps = torch.empty_like(x), torch.empty_like(x) if return_noise else None
    alpha_bars = alpha_bar.unsqueeze(1) if alpha_bar.dim() else alpha_bar
    run(planned([x], [y], eps, alpha_bars, rng, sample_ids, noisy, lengths, p, [stream], kind, False))
    return y, x.new_empty(0) if eps is None else eps
