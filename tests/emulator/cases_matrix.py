"""Launches and models of the matrix kernels: products in float64, register layouts from the published maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from emulator import formats
from emulator.launches import (
    UNIT32,
    UNIT_BF16,
    Array,
    Work,
    ceil_div,
    kernel,
    read,
    u32,
    write,
    write_near,
)


def gemm_bound(a: Array, b: Array, unit_out: float = 0.0) -> tuple[Array, Array]:
    """a @ b.T in float64, and how far a sum of its K products in f32, in any order, may be away.

    Each product enters with at most K roundings of a partial sum, and one of its own where products are rounded; then
    the result is rounded to the output type.
    """
    exact = a @ b.T
    error = (a.shape[1] + 1) * UNIT32 * (np.abs(a) @ np.abs(b).T)
    return exact, error + unit_out * (np.abs(exact) + error)


def _random_codes(fmt: formats.Format, rng: np.random.Generator, *shape: int) -> Array:
    """Codes of finite values."""
    codes = rng.integers(0, 1 << fmt.bits, shape)
    return np.where(np.isfinite(fmt.values[codes]), codes, 0).astype(np.uint8)


def gemm_fp8(target: str, rng: np.random.Generator, n: int = 75, m: int = 130, k: int = 96) -> Work:
    fmt = formats.fp8(target)
    x, w = _random_codes(fmt, rng, n, k), _random_codes(fmt, rng, m, k)
    xs, ws = rng.uniform(0.5, 2, n).astype(np.float32), rng.uniform(0.5, 2, m).astype(np.float32)
    exact, error = gemm_bound(fmt.decode(x), fmt.decode(w))
    scale = xs[:, None].astype(np.float64) * ws
    exact, error = exact * scale, error * scale
    error += (UNIT_BF16 + 2 * UNIT32) * (np.abs(exact) + error)
    args = {
        "x": read(x),
        "w": read(w),
        "x_scale": read(xs),
        "w_scale": read(ws),
        "out": write_near(exact, error, np.uint16, formats.bf16_values),
        "N": u32(n),
        "M": u32(m),
        "K": u32(k),
    }
    return Work(args, (ceil_div(m, 64), ceil_div(n, 64)), (256,))


def gemm_bf16(target: str, rng: np.random.Generator, n: int = 70, m: int = 100, k: int = 72) -> Work:
    x, w = (formats.to_bf16(rng.standard_normal((rows, k)).astype(np.float32)) for rows in (n, m))
    exact, error = gemm_bound(*(formats.bf16_values(v).astype(np.float64) for v in (x, w)))
    args = {
        "x": read(x),
        "w": read(w),
        "out": write_near(exact, error, np.float32),
        "N": u32(n),
        "M": u32(m),
        "K": u32(k),
    }
    return Work(args, (ceil_div(m, 64), ceil_div(n, 64)), (256,))


kernel("gemm_fp8")(gemm_fp8)
kernel("gemm_bf16")(gemm_bf16)
kernel("gemm_vector", host=True)(gemm_bf16)


@dataclass(frozen=True)
class Shape:
    """D[M x N] += A[M x K] B[K x N], `blocks` times side by side, in the registers of 64 lanes."""

    M: int
    K: int
    blocks: int = 1
    doubles: bool = False

    def operand(self, registers: Array) -> Array:
        """[blocks, M, K] from [64, elements] (both operands alike: rows of A, columns of B)."""
        lanes, elements = registers.shape
        out = np.zeros((self.blocks, self.M, self.K), registers.dtype)
        for lane in range(lanes):
            group = lane // self.M
            if self.blocks == 1:
                out[0, lane % self.M, group * elements : (group + 1) * elements] = registers[lane]
            else:
                # A block's rows are adjacent lanes; what is left of the lane number is k.
                block = group % self.blocks
                k = group // self.blocks * elements
                out[block, lane % self.M, k : k + elements] = registers[lane]
        return out

    def result_place(self, lane: int, register: int) -> tuple[int, int, int]:
        """Block, row and column that a register of a lane holds."""
        column, group = lane % self.M, lane // self.M
        if self.doubles and self.M == 4:
            return group % 4, lane // 16, column
        if self.doubles:
            return 0, 4 * register + group, column
        if self.M == 4:
            return group, register, column
        if self.M == 16:
            return register // 4, 4 * group + register % 4, column
        return register // 16, 8 * (register % 16 // 4) + 4 * group + register % 4, column

    def results(self, registers: Array) -> Array:
        out = np.zeros((self.blocks, self.M, self.M), registers.dtype)
        for lane in range(64):
            for register in range(registers.shape[1]):
                out[self.result_place(lane, register)] = registers[lane, register]
        return out

    def registers_of(self, blocks: Array, count: int) -> Array:
        return np.array(
            [[blocks[self.result_place(lane, r)] for r in range(count)] for lane in range(64)], blocks.dtype
        )


def _float_codes(fmt: formats.Format, dtype: Any) -> Callable[[Array], Array]:
    return lambda values: fmt.encode(values).astype(dtype)


# Per element type: what it is in memory, and the largest integer to draw (sums stay exact in f32).
def _encoders(target: str) -> dict[str, tuple[Callable[[Array], Array], int]]:
    return {
        "f32": (lambda v: v.astype(np.float32), 500),
        "xf32": (lambda v: v.astype(np.float32), 100),
        "f16": (lambda v: v.astype(np.float16), 100),
        "bf16": (_float_codes(formats.BF16, np.uint16), 100),
        "i8": (lambda v: v.astype(np.int8), 127),
        "fp8": (_float_codes(formats.fp8(target), np.uint8), 8),
        "bf8": (_float_codes(formats.bf8(target), np.uint8), 4),
        "f64": (lambda v: v.astype(np.float64), 1 << 20),
    }


# name: types of A and B, shape, elements a lane of A and B, registers of D.
SHAPES: dict[str, tuple[str, str, Shape, int, int]] = {
    "f32_32x32x2": ("f32", "f32", Shape(32, 2), 1, 16),
    "f32_16x16x4": ("f32", "f32", Shape(16, 4), 1, 4),
    "f32_32x32x1_2b": ("f32", "f32", Shape(32, 1, 2), 1, 32),
    "f32_16x16x1_4b": ("f32", "f32", Shape(16, 1, 4), 1, 16),
    "f32_4x4x1_16b": ("f32", "f32", Shape(4, 1, 16), 1, 4),
    "f16_32x32x8": ("f16", "f16", Shape(32, 8), 4, 16),
    "f16_4x4x4_16b": ("f16", "f16", Shape(4, 4, 16), 4, 4),
    "bf16_32x32x8": ("bf16", "bf16", Shape(32, 8), 4, 16),
    "bf16_16x16x4_4b": ("bf16", "bf16", Shape(16, 4, 4), 4, 16),
    "i8_32x32x16": ("i8", "i8", Shape(32, 16), 8, 16),
    "i8_16x16x32": ("i8", "i8", Shape(16, 32), 8, 4),
    "bf8_32x32x16": ("bf8", "fp8", Shape(32, 16), 8, 16),
    "f64_16x16x4": ("f64", "f64", Shape(16, 4, doubles=True), 1, 4),
    "f64_4x4x4_4b": ("f64", "f64", Shape(4, 4, 4, doubles=True), 1, 1),
    "xf32_16x16x8": ("xf32", "xf32", Shape(16, 8), 2, 4),
}


def _integers(rng: np.random.Generator, limit: int, *shape: int) -> Array:
    return rng.integers(-limit, limit + 1, shape)


def _matrix_shape(target: str, rng: np.random.Generator, name: str) -> Work:
    a_type, b_type, shape, elements, registers = SHAPES[name]
    encoders = _encoders(target)
    (encode_a, limit_a), (encode_b, limit_b) = encoders[a_type], encoders[b_type]
    a, b = _integers(rng, limit_a, 64, elements), _integers(rng, limit_b, 64, elements)
    c = _integers(rng, 1000, 64, registers)
    out_type = {"i8": np.int32, "f64": np.float64}.get(a_type, np.float32)
    product = np.einsum("bik,bjk->bij", shape.operand(a), shape.operand(b)) + shape.results(c)
    d = shape.registers_of(product, registers).astype(out_type)
    args = {"a": read(encode_a(a)), "b": read(encode_b(b)), "c": read(c.astype(out_type)), "d": write(d)}
    return Work(args, (1,), (64,))


def _register_shape(name: str) -> None:
    targets = ("gfx942",) if name.startswith("xf32") else ("gfx942", "gfx950")

    @kernel(f"matrix_{name}", "matrix_shapes", targets=targets)
    def make(target: str, rng: np.random.Generator) -> Work:
        return _matrix_shape(target, rng, name)


for _name in SHAPES:
    _register_shape(_name)


@kernel("matrix_sparse_f16_16x16x32", "matrix_shapes")
def matrix_sparse(target: str, rng: np.random.Generator) -> Work:
    a, b, c = _integers(rng, 100, 64, 4), _integers(rng, 100, 64, 8), _integers(rng, 1000, 64, 4)
    # Which two of every four k a lane's pairs of A stand for: two bits each, the lower k first.
    pairs = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])
    chosen = pairs[rng.integers(0, 6, (64, 2))].reshape(64, 4)
    index = (chosen << np.array([0, 2, 4, 6])).sum(axis=1) | rng.integers(0, 1 << 23, 64) << 8
    spread = np.zeros((64, 8), np.int64)
    for lane in range(64):
        for j in range(4):
            spread[lane, 4 * (j // 2) + chosen[lane, j]] = a[lane, j]
    shape = Shape(16, 32)
    product = shape.operand(spread)[0] @ shape.operand(b)[0].T + shape.results(c)[0]
    d = shape.registers_of(product[None], 4).astype(np.float32)
    args = {
        "a": read(a.astype(np.float16)),
        "b": read(b.astype(np.float16)),
        "c": read(c.astype(np.float32)),
        "d": write(d),
        "index": read(index.astype(np.int32)),
    }
    return Work(args, (1,), (64,))


FORMATS = {"fp8": formats.E4M3FN, "bf8": formats.E5M2, "fp6": formats.E2M3, "bf6": formats.E3M2, "fp4": formats.E2M1}


def _scaled_operand(rng: np.random.Generator, fmt: formats.Format, rows: int, k: int) -> tuple[Array, Array, Array]:
    """Packed codes, scale bytes a block of 32, and the float64 values that they stand for."""
    codes = _random_codes(fmt, rng, rows, k)
    scales = rng.integers(120, 134, (rows, k // 32)).astype(np.uint8)
    values = fmt.decode(codes) * np.repeat(np.ldexp(1.0, scales.astype(int) - 127), 32, axis=1)
    return formats.pack_codes(codes, fmt.bits), scales, values


def _gemm_scaled(rng: np.random.Generator, x_format: str, w_format: str, n: int, m: int, k: int, tile: int) -> Work:
    x, x_scale, xv = _scaled_operand(rng, FORMATS[x_format], n, k)
    w, w_scale, wv = _scaled_operand(rng, FORMATS[w_format], m, k)
    exact, error = gemm_bound(xv, wv)
    args = {
        "x": read(x),
        "w": read(w),
        "x_scale": read(x_scale),
        "w_scale": read(w_scale),
        "out": write_near(exact, error, np.float32),
        "M": u32(m),
        "K": u32(k),
    }
    return Work(args, (m // tile, n // tile), (64,))


@kernel("gemm_fp4", "gfx950_gemm_scaled", targets=("gfx950",))
def gemm_fp4(target: str, rng: np.random.Generator) -> Work:
    return _gemm_scaled(rng, "fp4", "fp4", 32, 48, 384, 16)


@kernel("gemm_fp8_fp4", "gfx950_gemm_scaled", targets=("gfx950",))
def gemm_fp8_fp4(target: str, rng: np.random.Generator) -> Work:
    return _gemm_scaled(rng, "fp8", "fp4", 16, 32, 256, 16)


@kernel("gemm_bf6_fp6", "gfx950_gemm_scaled", targets=("gfx950",))
def gemm_bf6_fp6(target: str, rng: np.random.Generator) -> Work:
    return _gemm_scaled(rng, "bf6", "fp6", 32, 16, 256, 16)


@kernel("gemm_mx8", "gfx950_gemm_scaled", targets=("gfx950",))
def gemm_mx8(target: str, rng: np.random.Generator) -> Work:
    return _gemm_scaled(rng, "fp8", "bf8", 64, 32, 192, 32)
