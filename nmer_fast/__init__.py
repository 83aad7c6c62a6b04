"""Fused noise and VAE ops for PyTorch, and emotion recognition that stays accurate under noisy modalities.

`nmer_fast.ops` stands alone: importing it pulls in torch and nothing of models, data or Triton.
"""

__version__ = "0.1.0"
