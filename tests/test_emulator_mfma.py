"""Matrix instructions against the published register maps, exactly, on values whose products and sums are exact."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Case, run
from emulator.executor import library
from emulator.floats import BF6, BF8_FNUZ, BF8_OCP, BF16, F16, F32, FP4, FP6, FP8_FNUZ, FP8_OCP, Format
from emulator.integer_models import M32
from emulator.values import generator

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

Matrix = npt.NDArray[np.float64]


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


@dataclass(frozen=True)
class Shape:
    m: int
    k: int
    blocks: int = 1

    @property
    def groups(self) -> int:
        """Lane groups that share a row of A, each with its part of K."""
        return 64 // (self.m * self.blocks)

    @property
    def per_lane(self) -> int:
        return self.k // self.groups

    def lane(self, row: int, block: int, group: int) -> int:
        return row + self.m * (block + self.blocks * group)

    def result(self, row: int, column: int, block: int) -> tuple[int, int]:
        """Register and lane of an element of D."""
        if self.m == 4:
            return row, column + 4 * block
        if self.m == 16:
            return row % 4 + 4 * block, column + 16 * (row // 4)
        return row % 4 + 4 * (row // 8) + 16 * block, column + 32 * (row // 4 % 2)

    @property
    def result_registers(self) -> int:
        return self.m * self.m * self.blocks // 64


@functools.cache
def places(shape: Shape) -> tuple[Any, ...]:
    """Block, row, column, register and lane of every element of D."""
    every = np.ndindex(shape.blocks, shape.m, shape.m)
    return tuple(np.array([(b, i, j, *shape.result(i, j, b)) for b, i, j in every]).T)


# The matrices hold few values, each many times.
@functools.cache
def code_of(f: Format | None, value: float, bits: int) -> int:
    return int(value) & ((1 << bits) - 1) if f is None else fp.encode(f, Fraction(value))


def codes_of(f: Format | None, values: Matrix, bits: int) -> npt.NDArray[np.uint64]:
    return np.vectorize(lambda value: code_of(f, value, bits), otypes=[np.uint64])(values)


def pack(codes: Sequence[npt.NDArray[np.uint64]], bits: int) -> list[Any]:
    """Registers from 64-lane arrays of codes, element after element."""
    words = -(-len(codes) * bits // 32)
    registers = [np.zeros(64, np.uint64) for _ in range(words)]
    for i, lanes in enumerate(codes):
        at = i * bits
        # A code has 32 bits at most, so that one moved by up to 31 fits in 64.
        wide = lanes << np.uint64(at % 32)
        for w in range(at // 32, (at + bits - 1) // 32 + 1):
            registers[w] |= wide >> np.uint64(32 * (w - at // 32)) & np.uint64(M32)
    return [r.astype(np.uint32) for r in registers]


def operand(
    shape: Shape, matrix: Matrix, f: Format | None, bits: int, k_of: Callable[[int, int], int] | None = None
) -> list[Any]:
    """A (or B transposed) as registers: matrix is [block][row][k]."""
    where = k_of or (lambda group, e: group * shape.per_lane + e)
    elements = [np.zeros(64) for _ in range(shape.per_lane)]
    for block in range(shape.blocks):
        for group in range(shape.groups):
            for e in range(shape.per_lane):
                for row in range(shape.m):
                    elements[e][shape.lane(row, block, group)] = matrix[block][row][where(group, e)]
    return pack([codes_of(f, e, bits) for e in elements], bits)


def span(file: str, first: int, count: int) -> str:
    return f"{file}{first}" if count == 1 else f"{file}[{first}:{first + count - 1}]"


def results(shape: Shape, got: dict[str, Any], names: list[str], dtype: Any) -> Matrix:
    block, row, column, register, lane = places(shape)
    out = np.zeros((shape.blocks, shape.m, shape.m))
    out[block, row, column] = np.array([got[n] for n in names]).view(dtype)[register, lane]
    return out


def accumulators(shape: Shape, c: Matrix, dtype: Any) -> list[Any]:
    block, row, column, register, lane = places(shape)
    registers = np.zeros((shape.result_registers, 64), np.uint32)
    registers[register, lane] = np.asarray(c)[block, row, column].astype(dtype).view(np.uint32)
    return list(registers)


@dataclass(frozen=True)
class Kind:
    name: str
    shape: Shape
    a: Format | None  # None: 8-bit integers
    b: Format | None
    bits: int
    targets: tuple[str, ...] = TARGETS


def kinds() -> list[Kind]:
    found = [
        Kind("v_mfma_f32_32x32x1_2b_f32", Shape(32, 1, 2), F32, F32, 32),
        Kind("v_mfma_f32_16x16x1_4b_f32", Shape(16, 1, 4), F32, F32, 32),
        Kind("v_mfma_f32_4x4x1_16b_f32", Shape(4, 1, 16), F32, F32, 32),
        Kind("v_mfma_f32_32x32x2_f32", Shape(32, 2), F32, F32, 32),
        Kind("v_mfma_f32_16x16x4_f32", Shape(16, 4), F32, F32, 32),
        Kind("v_mfma_f32_16x16x8_xf32", Shape(16, 8), F32, F32, 32, ("gfx942",)),
        Kind("v_mfma_f32_32x32x4_xf32", Shape(32, 4), F32, F32, 32, ("gfx942",)),
        Kind("v_mfma_i32_32x32x4_2b_i8", Shape(32, 4, 2), None, None, 8),
        Kind("v_mfma_i32_16x16x4_4b_i8", Shape(16, 4, 4), None, None, 8),
        Kind("v_mfma_i32_4x4x4_16b_i8", Shape(4, 4, 16), None, None, 8),
        Kind("v_mfma_i32_32x32x16_i8", Shape(32, 16), None, None, 8),
        Kind("v_mfma_i32_16x16x32_i8", Shape(16, 32), None, None, 8),
        Kind("v_mfma_i32_16x16x64_i8", Shape(16, 64), None, None, 8, ("gfx950",)),
        Kind("v_mfma_i32_32x32x32_i8", Shape(32, 32), None, None, 8, ("gfx950",)),
    ]
    for name, f in (("f16", F16), ("bf16", BF16)):
        found += [
            Kind(f"v_mfma_f32_32x32x4_2b_{name}", Shape(32, 4, 2), f, f, 16),
            Kind(f"v_mfma_f32_16x16x4_4b_{name}", Shape(16, 4, 4), f, f, 16),
            Kind(f"v_mfma_f32_4x4x4_16b_{name}", Shape(4, 4, 16), f, f, 16),
            Kind(f"v_mfma_f32_32x32x8_{name}", Shape(32, 8), f, f, 16),
            Kind(f"v_mfma_f32_16x16x16_{name}", Shape(16, 16), f, f, 16),
            Kind(f"v_mfma_f32_32x32x16_{name}", Shape(32, 16), f, f, 16, ("gfx950",)),
            Kind(f"v_mfma_f32_16x16x32_{name}", Shape(16, 32), f, f, 16, ("gfx950",)),
        ]
    for target, formats in (
        ("gfx942", {"fp8": FP8_FNUZ, "bf8": BF8_FNUZ}),
        ("gfx950", {"fp8": FP8_OCP, "bf8": BF8_OCP}),
    ):
        for a, fa in formats.items():
            for b, fb in formats.items():
                found.append(Kind(f"v_mfma_f32_16x16x32_{a}_{b}", Shape(16, 32), fa, fb, 8, (target,)))
                found.append(Kind(f"v_mfma_f32_32x32x16_{a}_{b}", Shape(32, 16), fa, fb, 8, (target,)))
    return found


def matrices(kind: Kind, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """A [block][row][k], B [block][column][k], C [block][row][column], small multiples of a power of two."""
    rng = generator(kind.name, seed)
    s = kind.shape
    if kind.a is None:
        a, b = (rng.integers(-128, 128, (s.blocks, s.m, s.k)).astype(float) for _ in range(2))
        return a, b, rng.integers(-(1 << 30), 1 << 30, (s.blocks, s.m, s.m)).astype(float)
    a, b = (rng.choice([-3, -2, -1.5, -1, -0.5, 0, 0.25, 0.5, 1, 1.5, 2, 3], (s.blocks, s.m, s.k)) for _ in range(2))
    return a, b, rng.integers(-64, 64, (s.blocks, s.m, s.m)) / 4.0


def dense_case(
    kind: Kind, a: Matrix, b: Matrix, c: Matrix, files: str = "vvvv", modifiers: str = ""
) -> tuple[Case, list[str]]:
    """`files` names the register files of D, A, B and C; a digit for C is an inline constant."""
    dtype = np.int32 if kind.a is None else np.float32
    ra, rb = operand(kind.shape, a, kind.a, kind.bits), operand(kind.shape, b, kind.b, kind.bits)
    rc = accumulators(kind.shape, c, dtype)
    n = kind.shape.result_registers
    vector: dict[str, Any] = {f"{files[1]}{8 + i}": r for i, r in enumerate(ra)} | {
        f"{files[2]}{24 + i}": r for i, r in enumerate(rb)
    }
    constant = files[3].isdigit()
    vector |= {} if constant else {f"{files[3]}{64 + i}": r for i, r in enumerate(rc)}
    read = [f"{files[0]}{128 + i}" for i in range(n)]
    sources = [span(files[1], 8, len(ra)), span(files[2], 24, len(rb)), files[3] if constant else span(files[3], 64, n)]
    return Case(
        f"{kind.name} {span(files[0], 128, n)}, {', '.join(sources)}{modifiers}\ns_nop 15", vector, read=read
    ), read


def product(a: Matrix, b: Matrix) -> Matrix:
    result: Matrix = np.einsum("bik,bjk->bij", a, b)
    return result


@pytest.mark.parametrize(
    ("target", "kind"), [pytest.param(t, k, id=f"{k.name}-{t}") for k in kinds() for t in k.targets]
)
def test_dense(target: str, kind: Kind) -> None:
    """Operands in both register files; C in place, apart, and as a constant; EXEC plays no part."""
    a, b, c = matrices(kind)
    cases, wanted = [], []
    for files in ("vvvv", "aaaa", "avva", "vav0"):
        case, read = dense_case(kind, a, b, c, files)
        case.exec = 0 if files == "aaaa" else case.exec
        cases.append((case, read))
        wanted.append(product(a, b) + (0 if files[3] == "0" else c))
    dtype = np.int32 if kind.a is None else np.float32
    for (case, read), want, got in zip(cases, wanted, run(target, [c for c, _ in cases]), strict=True):
        if dtype is np.int32:
            want = (want.astype(np.int64) & M32).astype(np.uint32).view(np.int32).astype(float)
        assert np.array_equal(results(kind.shape, got, read, dtype), want), case.text


@pytest.mark.parametrize("target", TARGETS)
def test_in_place(target: str) -> None:
    kind = next(k for k in kinds() if k.name == "v_mfma_f32_32x32x8_bf16")
    a, b, c = matrices(kind)
    case, _ = dense_case(kind, a, b, c)
    read = [f"v{64 + i}" for i in range(16)]
    again = Case(f"{kind.name} v[64:79], v[8:9], v[24:25], v[64:79]\n" * 3, case.vector, read=read)
    got = run(target, [again])[0]
    assert np.array_equal(results(kind.shape, got, read, np.float32), c + 3 * product(a, b))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", ["v_mfma_f32_4x4x4_16b_f16", "v_mfma_f32_16x16x4_4b_bf16", "v_mfma_f32_32x32x1_2b_f32"]
)
def test_broadcasts(target: str, name: str) -> None:
    """CBSZ and ABID repeat one block of A over a group of blocks; BLGP moves B's lanes."""
    kind = next(k for k in kinds() if k.name == name)
    a, b, c = matrices(kind)
    s = kind.shape
    lanes: dict[int, Callable[[int], int]] = {
        1: lambda i: i % 32, 2: lambda i: i % 32 + 32, 3: lambda i: (i + 16) % 64, 4: lambda i: i % 16,
        5: lambda i: i % 16 + 16, 6: lambda i: i % 16 + 32, 7: lambda i: i % 16 + 48,
    }  # fmt: skip
    cases, wanted = [], []
    for cbsz in range(s.blocks.bit_length()):
        for abid in {0, (1 << cbsz) - 1}:
            case, read = dense_case(kind, a, b, c, modifiers=f" cbsz:{cbsz} abid:{abid}" if cbsz else "")
            chosen = np.stack([a[(block >> cbsz << cbsz) + abid] for block in range(s.blocks)])
            cases.append((case, read))
            wanted.append(product(chosen, b) + c)
    for blgp, source in lanes.items():
        case, read = dense_case(kind, a, b, c, modifiers=f" blgp:{blgp}")
        moved = np.zeros_like(b)
        for block in range(s.blocks):
            for column in range(s.m):
                lane = source(s.lane(column, block, 0))
                moved[block][column] = b[lane // s.m][lane % s.m]
        cases.append((case, read))
        wanted.append(product(a, moved) + c)
    for (case, read), want, got in zip(cases, wanted, run(target, [c for c, _ in cases]), strict=True):
        assert np.array_equal(results(s, got, read, np.float32), want), case.text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "blocks"), [(16, 1), (4, 4)])
def test_f64(target: str, m: int, blocks: int) -> None:
    """Rows of D go over lane groups before they go over registers; BLGP negates."""
    rng = generator("f64", m)
    a, b = (rng.integers(-8, 8, (blocks, m, 4)).astype(float) for _ in range(2))
    c = rng.integers(-8, 8, (blocks, m, m)).astype(float)
    la, lb = np.zeros(64), np.zeros(64)
    count = m * m * blocks // 64
    lc = np.zeros((count, 64))
    for block in range(blocks):
        for i in range(m):
            for k in range(4):
                la[i + m * (block + blocks * k)] = a[block][i][k]
                lb[i + m * (block + blocks * k)] = b[block][i][k]
            for j in range(m):
                lc[i // 4 if m == 16 else 0][j + m * block + (16 * (i % 4))] = c[block][i][j]

    def words(values: Any) -> list[Any]:
        bits = values.view(np.uint64)
        return [(bits & M32).astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)]

    vector = {f"v{8 + i}": w for i, w in enumerate(words(la))} | {f"v{10 + i}": w for i, w in enumerate(words(lb))}
    vector |= {f"v{16 + i}": w for i, w in enumerate(w for r in lc for w in words(r))}
    read = [f"v{32 + i}" for i in range(2 * count)]
    name = "v_mfma_f64_16x16x4_f64" if m == 16 else "v_mfma_f64_4x4x4_4b_f64"
    texts = {"": (1, 1, 1), " neg:[1,0,0]": (-1, 1, 1), " neg:[0,1,1]": (1, -1, -1)}
    cases = [
        Case(f"{name} {span('v', 32, 2 * count)}, v[8:9], v[10:11], {span('v', 16, 2 * count)}{t}", vector, read=read)
        for t in texts
    ]
    for signs, case, got in zip(texts.values(), cases, run(target, cases), strict=True):
        low, high = (np.array([got[r] for r in read[part::2]], np.uint64) for part in (0, 1))
        found = (low | high << np.uint64(32)).view(np.float64)
        want = signs[0] * signs[1] * product(a, b) + signs[2] * c
        for block in range(blocks):
            for i in range(m):
                for j in range(m):
                    assert found[i // 4 if m == 16 else 0][j + m * block + 16 * (i % 4)] == want[block][i][j], case.text


@dataclass(frozen=True)
class Sparse:
    name: str
    shape: Shape
    a: Format | None
    b: Format | None
    bits: int
    targets: tuple[str, ...] = TARGETS


def sparse_kinds() -> list[Sparse]:
    found = []
    for name, f in (("f16", F16), ("bf16", BF16)):
        found += [
            Sparse(f"v_smfmac_f32_16x16x32_{name}", Shape(16, 32), f, f, 16),
            Sparse(f"v_smfmac_f32_32x32x16_{name}", Shape(32, 16), f, f, 16),
        ]
        found += [
            Sparse(f"v_smfmac_f32_16x16x64_{name}", Shape(16, 64), f, f, 16, ("gfx950",)),
            Sparse(f"v_smfmac_f32_32x32x32_{name}", Shape(32, 32), f, f, 16, ("gfx950",)),
        ]
    found += [
        Sparse("v_smfmac_i32_16x16x64_i8", Shape(16, 64), None, None, 8),
        Sparse("v_smfmac_i32_32x32x32_i8", Shape(32, 32), None, None, 8),
    ]
    found += [
        Sparse("v_smfmac_i32_16x16x128_i8", Shape(16, 128), None, None, 8, ("gfx950",)),
        Sparse("v_smfmac_i32_32x32x64_i8", Shape(32, 64), None, None, 8, ("gfx950",)),
    ]
    for target, formats in (
        ("gfx942", {"fp8": FP8_FNUZ, "bf8": BF8_FNUZ}),
        ("gfx950", {"fp8": FP8_OCP, "bf8": BF8_OCP}),
    ):
        for a, fa in formats.items():
            for b, fb in formats.items():
                found += [
                    Sparse(f"v_smfmac_f32_16x16x64_{a}_{b}", Shape(16, 64), fa, fb, 8, (target,)),
                    Sparse(f"v_smfmac_f32_32x32x32_{a}_{b}", Shape(32, 32), fa, fb, 8, (target,)),
                ]
                if target == "gfx950":
                    found += [
                        Sparse(f"v_smfmac_f32_16x16x128_{a}_{b}", Shape(16, 128), fa, fb, 8, (target,)),
                        Sparse(f"v_smfmac_f32_32x32x64_{a}_{b}", Shape(32, 64), fa, fb, 8, (target,)),
                    ]
    return found


@pytest.mark.parametrize(
    ("target", "kind"), [pytest.param(t, k, id=f"{k.name}-{t}") for k in sparse_kinds() for t in k.targets]
)
def test_sparse(target: str, kind: Sparse) -> None:
    """Two of every four k are stored; the index set that ABID picks says which."""
    s = kind.shape
    dense = Kind(kind.name, s, kind.a, kind.b, kind.bits)
    a, b, c = matrices(dense)
    if kind.a is None:
        a, b = a / 8 // 1, b / 8 // 1
    rng = generator(kind.name, 5)
    pairs = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])[rng.integers(0, 6, (s.m, s.k // 4))]
    kept = np.zeros_like(a)
    stored = np.zeros((1, s.m, s.k // 2))
    for i in range(s.m):
        for q, pair in enumerate(pairs[i]):
            for n, place in enumerate(pair):
                kept[0][i][4 * q + place] = stored[0][i][2 * q + n] = a[0][i][4 * q + place]
    half = Shape(s.m, s.k // 2)
    ra, rb = operand(half, stored, kind.a, kind.bits), operand(s, b, kind.b, kind.bits)
    dtype = np.int32 if kind.a is None else np.float32
    bits_per_lane = 2 * half.per_lane
    sets = 32 // bits_per_lane
    cases, read = [], [f"v{64 + i}" for i in range(s.result_registers)]
    for abid in range(sets):
        index = np.zeros(64, np.uint32)
        for group in range(s.groups):
            for i in range(s.m):
                quads = pairs[i][group * s.per_lane // 4 : (group + 1) * s.per_lane // 4].reshape(-1)
                value = sum(int(p) << (2 * n) for n, p in enumerate(quads)) << (bits_per_lane * abid)
                index[s.lane(i, 0, group)] = value
        vector = (
            {f"v{8 + n}": r for n, r in enumerate(ra)} | {f"v{24 + n}": r for n, r in enumerate(rb)} | {"v60": index}
        )
        vector |= {f"v{64 + n}": r for n, r in enumerate(accumulators(s, c, dtype))}
        text = (
            f"{kind.name} {span('v', 64, s.result_registers)}, {span('v', 8, len(ra))}, {span('v', 24, len(rb))}, v60"
        )
        cases.append(Case(text + (f" abid:{abid}" if abid else ""), vector, read=read))
    want = product(kept, b) + c
    if dtype is np.int32:
        want = (want.astype(np.int64) & M32).astype(np.uint32).view(np.int32).astype(float)
    for case, got in zip(cases, run(target, cases), strict=True):
        assert np.array_equal(results(s, got, read, dtype), want), case.text


FORMATS = [("fp8", FP8_OCP, 8), ("bf8", BF8_OCP, 8), ("fp6", FP6, 6), ("bf6", BF6, 6), ("fp4", FP4, 4)]


def mx_k(shape: Shape, bits: int) -> Callable[[int, int], int]:
    """Where element e of lane group g lies in K: 8-bit elements come in two runs of 16, half of K apart."""
    if bits == 8:
        return lambda g, e: 16 * g + e % 16 + e // 16 * (shape.k // 2)
    return lambda g, e: 32 * g + e


@pytest.mark.parametrize("m", [16, 32])
@pytest.mark.parametrize("scaled", [False, True])
def test_f8f6f4(m: int, scaled: bool) -> None:
    """All 25 pairs of formats, plain and with a scale for every row and 32 k, from each byte of the scale registers."""
    shape = Shape(m, 128 if m == 16 else 64)
    base = "v_mfma_scale_f32" if scaled else "v_mfma_f32"
    name = f"{base}_{'16x16x128' if m == 16 else '32x32x64'}_f8f6f4"
    n = shape.result_registers
    read = [f"v{128 + i}" for i in range(n)]
    cases, wanted = [], []
    for x, (_, fa, bits_a) in enumerate(FORMATS):
        for y, (_, fb, bits_b) in enumerate(FORMATS):
            rng = generator(name, 10 * x + y)
            a, b = (rng.choice([-3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3], (1, m, shape.k)) for _ in range(2))
            c = rng.integers(-64, 64, (1, m, m)) / 4.0
            ra = operand(shape, a, fa, bits_a, mx_k(shape, bits_a))
            rb = operand(shape, b, fb, bits_b, mx_k(shape, bits_b))
            vector: dict[str, Any] = {f"v{8 + i}": r for i, r in enumerate(ra)} | {
                f"v{24 + i}": r for i, r in enumerate(rb)
            }
            vector |= {f"v{64 + i}": r for i, r in enumerate(accumulators(shape, c, np.float32))}
            text = f"{name} {span('v', 128, n)}, {span('v', 8, len(ra))}, {span('v', 24, len(rb))}, {span('v', 64, n)}"
            sa = sb = np.ones((m, shape.k))
            if scaled:
                powers = rng.integers(-3, 4, (2, m, shape.k // 32))
                byte = rng.integers(0, 4, 2)
                words = rng.integers(0, 1 << 32, (2, 64), dtype=np.uint64).astype(np.uint32)
                for side in (0, 1):
                    for row in range(m):
                        for block in range(shape.k // 32):
                            lane, shift = row + m * block, 8 * int(byte[side])
                            words[side][lane] = (
                                int(words[side][lane]) & ~(255 << shift) & M32
                                | (127 + int(powers[side][row][block])) << shift
                            )
                vector |= {"v60": words[0], "v61": words[1]}
                low, high = [int(v) & 1 for v in byte], [int(v) >> 1 for v in byte]
                text += f", v60, v61 op_sel:[{low[0]},{low[1]},0] op_sel_hi:[{high[0]},{high[1]},0]"
                sa, sb = (np.repeat(2.0**p, 32, axis=1) for p in powers)
            cases.append(Case(f"{text} cbsz:{x} blgp:{y}", vector, read=read))
            wanted.append(product(a * sa, b * sb) + c)
    for case, want, got in zip(cases, wanted, run("gfx950", cases), strict=True):
        assert np.array_equal(results(shape, got, read, np.float32), want), case.text


@pytest.mark.parametrize("target", TARGETS)
def test_special_values(target: str) -> None:
    """Infinities and NaNs go through, denormal inputs count."""
    kind = next(k for k in kinds() if k.name == "v_mfma_f32_16x16x16_f16")
    a, b, c = matrices(kind)
    case, read = dense_case(kind, a, b, c)
    vector = dict(case.vector)
    first = vector["v8"].copy()
    first[0] = 0x7C00  # row 0, k 0: infinity, k 1: 0
    first[1] = 0x7E00  # row 1: NaN
    first[2] = 0x0001  # row 2: the smallest denormal
    other = vector["v24"].copy()
    other[:16] = 0x4000  # 2.0 for every column's k 0, 0 for k 1
    vector |= {"v8": first, "v24": other}
    got = results(kind.shape, run(target, [Case(case.text, vector, read=read)])[0], read, np.float32)[0]
    assert np.all(np.isinf(got[0])) and np.all(np.isnan(got[1])) and np.all(np.isfinite(got[2:]))
    assert np.all(got[2] == got[2]) and len({float(x) for x in got[2]}) > 1


@pytest.mark.parametrize("target", TARGETS)
def test_random_values(target: str) -> None:
    """Ordinary values, within the bound of a sum of K rounded terms."""
    kind = next(k for k in kinds() if k.name == "v_mfma_f32_32x32x8_bf16")
    rng = generator("random")
    a, b = (rng.normal(0, 1, (1, 32, 8)) for _ in range(2))
    a, b = (np.vectorize(lambda v: float(fp.value(BF16, fp.encode(BF16, Fraction(v)))))(x) for x in (a, b))
    c = rng.normal(0, 1, (1, 32, 32)).astype(np.float32).astype(float)
    case, read = dense_case(kind, a, b, c)
    got = results(kind.shape, run(target, [case])[0], read, np.float32)
    bound = 9 * 2.0**-24 * (np.abs(c) + product(np.abs(a), np.abs(b)))
    assert np.all(np.abs(got - (product(a, b) + c)) <= bound)
