"""The compiled kernels on NumPy arrays, unchecked; results are written to the last arguments."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]
_Key = tuple[int, int, str, float, _Array | None]  # seed, draw, kind, p, sample ids

INTERFACE: int
KINDS: tuple[str, ...]

def philox(seed: int, counter: _Array, words: _Array) -> None: ...
def noise(key: _Key, stream: int, noisy: _Array | None, lengths: _Array | None, eps: _Array) -> None: ...
def add_noise(
    x: _Array,
    alpha_bar: _Array,
    key: _Key,
    stream: int,
    noisy: _Array | None,
    lengths: _Array | None,
    y: _Array,
    eps: _Array | None,
) -> None: ...
def add_noise_multimodal(
    xs: Sequence[_Array],
    alpha_bars: _Array,
    key: _Key,
    streams: Sequence[int],
    noisy: _Array | None,
    lengths: _Array | None,
    ys: Sequence[_Array],
    stats: _Array | None,
) -> None: ...
def mix_noise(
    x: _Array, eps: _Array, alpha_bar: _Array, noisy: _Array | None, lengths: _Array | None, y: _Array
) -> None: ...
def reparameterize_kl(mu: _Array, logvar: _Array, key: _Key, stream: int, z: _Array, kl: _Array) -> None: ...
def build_info() -> dict[str, Any]: ...
