"""Measuring: interleaved contenders over inputs that rotate through more than the last-level cache.

timing      how a set of contenders is timed on a device
floor       the kernel that only reads the weights
options     --device, --samples: what benchmarks share
operator    any operator, from its samples: what `aiterlite bench OP` measures
tune        which of the skinny-GEMM operators, or torch, is fastest: the points that `linear` goes by
gemm        the table of `aiterlite bench gemm` and benchmarks/bench_gemm.py
"""
