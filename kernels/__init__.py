"""The Triton kernels, one file for each family of ops: installed as nmer_fast.kernels, imported at the first CUDA call.

An op runs the function of its name in the module whose name begins the op's (`nmer_fast.ops._cuda.files`).
"""
