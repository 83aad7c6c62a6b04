"""Fused noise, VAE and encoder ops for any PyTorch project. Importing them imports torch and nothing else.

The same sample gets the same noise on every device and at every batch size, eager or compiled.
"""

from . import _cuda
from ._args import rng_tensor
from ._library import load_compiled
from .convolution import conv_max_pool
from .gather import gather_padded
from .lstm import lstm_max_pool, lstm_states
from .noise import add_noise, add_noise_multimodal, mix_noise, noise, noise_like
from .philox import noise_counter, philox
from .rng import rng_next
from .vae import reparameterize_kl

__all__ = [
    "add_noise",
    "add_noise_multimodal",
    "compiled",
    "conv_max_pool",
    "gather_padded",
    "lstm_max_pool",
    "lstm_states",
    "mix_noise",
    "noise",
    "noise_counter",
    "noise_like",
    "philox",
    "reparameterize_kl",
    "rng_next",
    "rng_tensor",
]

compiled: bool = load_compiled()
"""Whether the C++ kernels are loaded."""

_cuda.register()
