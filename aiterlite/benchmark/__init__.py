"""Measuring: interleaved contenders over inputs that rotate through more than the last-level cache.

timing      how a set of contenders is timed on a device
floor       the kernel that only reads the weights
gemm        the table of `aiterlite bench gemm` and benchmarks/bench_gemm.py
"""
