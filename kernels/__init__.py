"""Triton kernels, one file per op; installed as nmer_fast.kernels and imported at the first CUDA call."""
