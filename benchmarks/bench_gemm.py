"""Skinny GEMM against torch and the read floor; see `--help`. `aiterlite bench` runs the same table."""

import sys

from aiterlite.benchmark.gemm import main

if __name__ == "__main__":
    sys.exit(main())
