"""Every scalar instruction against a model on Python integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator.assembly import TARGETS, Case, Kernel, assemble, device, kernel_text, run
from emulator.executor import library
from emulator.integer_models import M32, M64, first_one, leading, leading_signed, reverse, signed
from emulator.values import INTEGERS, generator, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

# Result and, where it is set, SCC.
Model = Callable[..., tuple[int, bool | None]]


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def nz(f: Callable[..., int], bits: int) -> Model:
    def model(*values: int) -> tuple[int, bool | None]:
        r = f(*values) & ((1 << bits) - 1)
        return r, r != 0

    return model


def plain(f: Callable[..., int]) -> Model:
    return lambda *values: (f(*values), None)


def overflows(x: int) -> bool:
    return not -(1 << 31) <= x < 1 << 31


def extract(x: int, control: int, bits: int, is_signed: bool) -> int:
    offset, width = control & (bits - 1), control >> 16 & 0x7F
    if width == 0:
        return 0
    v = (signed(x, bits) if is_signed else x) >> offset & ((1 << min(width, bits)) - 1)
    return signed(v, min(width, bits)) if is_signed else v


def carry_add(shift: int) -> Model:
    return lambda a, b: ((a << shift) + b, (a << shift) + b > M32)


def quads(x: int, bits: int) -> int:
    return sum(15 << i for i in range(0, bits, 4) if x >> i & 15)


def quad_bits(x: int, bits: int) -> int:
    return sum(1 << i for i in range(bits // 4) if x >> (4 * i) & 15)


TWO_32: dict[str, Model] = {
    "s_add_u32": lambda a, b: (a + b, a + b > M32),
    "s_sub_u32": lambda a, b: (a - b, b > a),
    "s_add_i32": lambda a, b: (a + b, overflows(signed(a) + signed(b))),
    "s_sub_i32": lambda a, b: (a - b, overflows(signed(a) - signed(b))),
    "s_min_i32": lambda a, b: (min(signed(a), signed(b)), signed(a) < signed(b)),
    "s_min_u32": lambda a, b: (min(a, b), a < b),
    "s_max_i32": lambda a, b: (max(signed(a), signed(b)), signed(a) >= signed(b)),
    "s_max_u32": lambda a, b: (max(a, b), a >= b),
    "s_and_b32": nz(lambda a, b: a & b, 32),
    "s_or_b32": nz(lambda a, b: a | b, 32),
    "s_xor_b32": nz(lambda a, b: a ^ b, 32),
    "s_andn2_b32": nz(lambda a, b: a & ~b, 32),
    "s_orn2_b32": nz(lambda a, b: a | ~b, 32),
    "s_nand_b32": nz(lambda a, b: ~(a & b), 32),
    "s_nor_b32": nz(lambda a, b: ~(a | b), 32),
    "s_xnor_b32": nz(lambda a, b: ~(a ^ b), 32),
    "s_lshl_b32": nz(lambda a, b: a << (b & 31), 32),
    "s_lshr_b32": nz(lambda a, b: a >> (b & 31), 32),
    "s_ashr_i32": nz(lambda a, b: signed(a) >> (b & 31), 32),
    "s_bfm_b32": plain(lambda a, b: ((1 << (a & 31)) - 1) << (b & 31)),
    "s_mul_i32": plain(lambda a, b: a * b),
    "s_mul_hi_u32": plain(lambda a, b: a * b >> 32),
    "s_mul_hi_i32": plain(lambda a, b: signed(a) * signed(b) >> 32),
    "s_bfe_u32": nz(lambda a, b: extract(a, b, 32, False), 32),
    "s_bfe_i32": nz(lambda a, b: extract(a, b, 32, True), 32),
    "s_absdiff_i32": nz(lambda a, b: abs(signed(a - b)), 32),
    "s_lshl1_add_u32": carry_add(1),
    "s_lshl2_add_u32": carry_add(2),
    "s_lshl3_add_u32": carry_add(3),
    "s_lshl4_add_u32": carry_add(4),
    "s_pack_ll_b32_b16": plain(lambda a, b: (b & 0xFFFF) << 16 | (a & 0xFFFF)),
    "s_pack_lh_b32_b16": plain(lambda a, b: (b & 0xFFFF0000) | (a & 0xFFFF)),
    "s_pack_hh_b32_b16": plain(lambda a, b: (b & 0xFFFF0000) | a >> 16),
}
# Widths of result and sources in dwords.
WIDE: dict[str, tuple[int, tuple[int, ...], Model]] = {
    **{
        f"s_{name}_b64": (2, (2, 2), nz(f, 64))
        for name, f in {
            "and": lambda a, b: a & b,
            "or": lambda a, b: a | b,
            "xor": lambda a, b: a ^ b,
            "andn2": lambda a, b: a & ~b,
            "orn2": lambda a, b: a | ~b,
            "nand": lambda a, b: ~(a & b),
            "nor": lambda a, b: ~(a | b),
            "xnor": lambda a, b: ~(a ^ b),
        }.items()
    },
    "s_lshl_b64": (2, (2, 1), nz(lambda a, b: a << (b & 63), 64)),
    "s_lshr_b64": (2, (2, 1), nz(lambda a, b: a >> (b & 63), 64)),
    "s_ashr_i64": (2, (2, 1), nz(lambda a, b: signed(a, 64) >> (b & 63), 64)),
    "s_bfm_b64": (2, (1, 1), plain(lambda a, b: ((1 << (a & 63)) - 1) << (b & 63))),
    "s_bfe_u64": (2, (2, 1), nz(lambda a, b: extract(a, b, 64, False), 64)),
    "s_bfe_i64": (2, (2, 1), nz(lambda a, b: extract(a, b, 64, True), 64)),
    "s_mov_b32": (1, (1,), plain(lambda a: a)),
    "s_mov_b64": (2, (2,), plain(lambda a: a)),
    "s_not_b32": (1, (1,), nz(lambda a: ~a, 32)),
    "s_not_b64": (2, (2,), nz(lambda a: ~a, 64)),
    "s_wqm_b32": (1, (1,), nz(lambda a: quads(a, 32), 32)),
    "s_wqm_b64": (2, (2,), nz(lambda a: quads(a, 64), 64)),
    "s_quadmask_b32": (1, (1,), nz(lambda a: quad_bits(a, 32), 32)),
    "s_quadmask_b64": (2, (2,), nz(lambda a: quad_bits(a, 64), 64)),
    "s_brev_b32": (1, (1,), plain(lambda a: reverse(a))),
    "s_brev_b64": (2, (2,), plain(lambda a: reverse(a, 64))),
    "s_bcnt0_i32_b32": (1, (1,), nz(lambda a: 32 - a.bit_count(), 32)),
    "s_bcnt0_i32_b64": (1, (2,), nz(lambda a: 64 - a.bit_count(), 32)),
    "s_bcnt1_i32_b32": (1, (1,), nz(lambda a: a.bit_count(), 32)),
    "s_bcnt1_i32_b64": (1, (2,), nz(lambda a: a.bit_count(), 32)),
    "s_ff0_i32_b32": (1, (1,), plain(lambda a: first_one(~a & M32))),
    "s_ff0_i32_b64": (1, (2,), plain(lambda a: first_one(~a & M64, 64))),
    "s_ff1_i32_b32": (1, (1,), plain(lambda a: first_one(a))),
    "s_ff1_i32_b64": (1, (2,), plain(lambda a: first_one(a, 64))),
    "s_flbit_i32_b32": (1, (1,), plain(lambda a: leading(a))),
    "s_flbit_i32_b64": (1, (2,), plain(lambda a: leading(a, 64))),
    "s_flbit_i32": (1, (1,), plain(lambda a: leading_signed(a))),
    "s_flbit_i32_i64": (1, (2,), plain(lambda a: leading_signed(a, 64))),
    "s_sext_i32_i8": (1, (1,), plain(lambda a: signed(a, 8))),
    "s_sext_i32_i16": (1, (1,), plain(lambda a: signed(a, 16))),
    "s_abs_i32": (1, (1,), nz(lambda a: abs(signed(a)), 32)),
    "s_bitreplicate_b64_b32": (2, (1,), plain(lambda a: sum((a >> i & 1) * 3 << (2 * i) for i in range(32)))),
}


def value(registers: dict[str | int, int], first: int, width: int) -> int:
    return registers[first] | (registers[first + 1] << 32 if width == 2 else 0)


def name_of(first: int, width: int) -> str:
    return f"s{first}" if width == 1 else f"s[{first}:{first + 1}]"


def inputs(name: str, number: int) -> dict[str | int, int]:
    rng = generator(name, number)
    values = integers(rng, 4) if number else [INTEGERS[i] for i in rng.integers(0, len(INTEGERS), 4)]
    return {20 + i: int(v) for i, v in enumerate(values)}


def check(target: str, cases: list[Case], expected: list[tuple[int, ...]]) -> None:
    wrong = []
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        if tuple(got.values()) != want:
            wrong.append(f"{case.text} with {case.scalar}: {got}, not {want}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("target", TARGETS)
def test_arithmetic(target: str) -> None:
    table = {name: (1, (1, 1), model) for name, model in TWO_32.items()} | WIDE
    cases, expected = [], []
    for name, (width, widths, model) in table.items():
        for number in range(6):
            for scc in (0, 1):
                registers = inputs(name, number)
                sources = [(20 + 2 * i, w) for i, w in enumerate(widths)]
                result, out = model(*(value(registers, first, w) for first, w in sources))
                result &= M64 if width == 2 else M32
                read = ("s40", "s41", "scc") if width == 2 else ("s40", "scc")
                text = f"{name} {name_of(40, width)}, {', '.join(name_of(*s) for s in sources)}"
                cases.append(Case(text, scalar={**registers, "scc": scc}, read=read))
                dwords = (result & M32, result >> 32) if width == 2 else (result,)
                expected.append((*dwords, scc if out is None else int(out)))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_carry_in(target: str) -> None:
    cases, expected = [], []
    for number in range(8):
        registers = inputs("carry", number)
        a, b = registers[20], registers[22]
        for scc in (0, 1):
            scalar: dict[str | int, int] = {**registers, "scc": scc}
            table = {
                "s_addc_u32": (a + b + scc, a + b + scc > M32),
                "s_subb_u32": (a - b - scc, b + scc > a),
                "s_cselect_b32": (a if scc else b, scc),
            }
            for name, (result, out) in table.items():
                cases.append(Case(f"{name} s40, s20, s22", scalar=scalar, read=("s40", "scc")))
                expected.append((result & M32, int(out)))
            cases.append(Case("s_cselect_b64 s[40:41], s[20:21], s[22:23]", scalar=scalar, read=("s40", "s41")))
            expected.append((registers[20 if scc else 22], registers[21 if scc else 23]))
            cases.append(Case("s_cmov_b32 s40, s20", scalar={**scalar, 40: 9}, read=("s40",)))
            expected.append((a if scc else 9,))
            cases.append(Case("s_cmov_b64 s[40:41], s[20:21]", scalar={**scalar, 40: 9, 41: 8}, read=("s40", "s41")))
            expected.append((a, registers[21]) if scc else (9, 8))
            cases.append(Case("s_cmovk_i32 s40, -5", scalar={**scalar, 40: 9}, read=("s40",)))
            expected.append((-5 & M32 if scc else 9,))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_compare(target: str) -> None:
    relations: dict[str, Callable[[Any, Any], bool]] = {
        "eq": lambda a, b: a == b,
        "lg": lambda a, b: a != b,
        "gt": lambda a, b: a > b,
        "ge": lambda a, b: a >= b,
        "lt": lambda a, b: a < b,
        "le": lambda a, b: a <= b,
    }
    cases, expected = [], []
    for number in range(6):
        registers = inputs("compare", number)
        if number % 2:
            registers[22], registers[23] = registers[20], registers[21]
        a, b = registers[20], registers[22]
        for name, relation in relations.items():
            cases.append(Case(f"s_cmp_{name}_u32 s20, s22", scalar=registers, read=("scc",)))
            expected.append((int(relation(a, b)),))
            cases.append(Case(f"s_cmp_{name}_i32 s20, s22", scalar=registers, read=("scc",)))
            expected.append((int(relation(signed(a), signed(b))),))
            k = a & 0xFFFF
            cases.append(Case(f"s_cmpk_{name}_u32 s20, {k:#x}", scalar=registers, read=("scc",)))
            expected.append((int(relation(a, k)),))
            cases.append(Case(f"s_cmpk_{name}_i32 s20, {k:#x}", scalar=registers, read=("scc",)))
            expected.append((int(relation(signed(a), signed(k, 16))),))
        wide_a, wide_b = value(registers, 20, 2), value(registers, 22, 2)
        for name in ("eq", "lg"):
            cases.append(Case(f"s_cmp_{name}_u64 s[20:21], s[22:23]", scalar=registers, read=("scc",)))
            expected.append((int(relations[name](wide_a, wide_b)),))
        for bit in (0, 1):
            cases.append(Case(f"s_bitcmp{bit}_b32 s20, s22", scalar=registers, read=("scc",)))
            expected.append((int(a >> (b & 31) & 1 == bit),))
            cases.append(Case(f"s_bitcmp{bit}_b64 s[20:21], s22", scalar=registers, read=("scc",)))
            expected.append((int(wide_a >> (b & 63) & 1 == bit),))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_in_place(target: str) -> None:
    """Instructions that change their destination, or index the register file."""
    cases, expected = [], []
    for number in range(4):
        registers = inputs("in_place", number)
        a = registers[20]
        for k in (5, -7, 0x7FFF, -0x8000):
            cases.append(Case(f"s_addk_i32 s20, {k}", scalar=registers, read=("s20", "scc")))
            expected.append(((a + k) & M32, int(overflows(signed(a) + k))))
            cases.append(Case(f"s_mulk_i32 s20, {k}", scalar=registers, read=("s20",)))
            expected.append((signed(a) * k & M32,))
            cases.append(Case(f"s_movk_i32 s20, {k}", scalar=registers, read=("s20",)))
            expected.append((k & M32,))
        bit = registers[22]
        wide = value(registers, 20, 2)
        for name, change in (("bitset0", lambda x, i: x & ~(1 << i)), ("bitset1", lambda x, i: x | 1 << i)):
            cases.append(Case(f"s_{name}_b32 s20, s22", scalar=registers, read=("s20",)))
            expected.append((change(a, bit & 31),))
            cases.append(Case(f"s_{name}_b64 s[20:21], s22", scalar=registers, read=("s20", "s21")))
            changed = change(wide, bit & 63)
            expected.append((changed & M32, changed >> 32))
    scalar: dict[str | int, int] = {20 + i: 1000 + i for i in range(8)} | {"m0": 4, 40: 1, 44: 2, 45: 3}
    moves = {
        ("s_movrels_b32 s40, s20", ("s40",)): (1004,),
        ("s_movrels_b64 s[40:41], s[20:21]", ("s40", "s41")): (1004, 1005),
        ("s_movreld_b32 s40, s20", ("s40", "s44")): (1, 1000),
        ("s_movreld_b64 s[40:41], s[20:21]", ("s44", "s45")): (1000, 1001),
    }
    for (text, read), want in moves.items():
        cases.append(Case(text, scalar=scalar, read=read))
        expected.append(want)
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_exec(target: str) -> None:
    table: dict[str, Callable[[int, int], int]] = {
        "s_and_saveexec_b64": lambda s, e: s & e,
        "s_or_saveexec_b64": lambda s, e: s | e,
        "s_xor_saveexec_b64": lambda s, e: s ^ e,
        "s_andn2_saveexec_b64": lambda s, e: s & ~e,
        "s_orn2_saveexec_b64": lambda s, e: s | ~e,
        "s_nand_saveexec_b64": lambda s, e: ~(s & e),
        "s_nor_saveexec_b64": lambda s, e: ~(s | e),
        "s_xnor_saveexec_b64": lambda s, e: ~(s ^ e),
        "s_andn1_saveexec_b64": lambda s, e: ~s & e,
        "s_orn1_saveexec_b64": lambda s, e: ~s | e,
        "s_andn1_wrexec_b64": lambda s, e: ~s & e,
        "s_andn2_wrexec_b64": lambda s, e: s & ~e,
    }
    cases, expected = [], []
    for name, model in table.items():
        for number in range(3):
            registers = inputs(name, number)
            mask, source = value(registers, 22, 2), value(registers, 20, 2)
            if number == 2:
                source = mask
                registers[20], registers[21] = registers[22], registers[23]
            result = model(source, mask) & M64
            kept = result if "wrexec" in name else mask
            cases.append(
                Case(f"{name} s[40:41], s[20:21]", scalar=registers, read=("s40", "s41", "exec", "scc"), exec=mask)
            )
            expected.append((kept & M32, kept >> 32, result, int(result != 0)))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_flow(target: str) -> None:
    """Branches taken and not taken, calls, and the program counter."""
    step = "s_add_u32 s40, s40, {}"
    cases, expected = [], []
    conditions: dict[str, tuple[dict[str | int, int], int]] = {
        "s_branch": ({}, 1),
        "s_cbranch_scc0": ({"scc": 0}, 1),
        "s_cbranch_scc1": ({"scc": 0}, 0),
        "s_cbranch_vccz": ({"vcc_lo": 0, "vcc_hi": 0}, 1),
        "s_cbranch_vccnz": ({"vcc_lo": 0, "vcc_hi": 4}, 1),
        "s_cbranch_execz": ({}, 0),
        "s_cbranch_execnz": ({}, 1),
    }
    for number, (name, (scalar, taken)) in enumerate(conditions.items()):
        label = f".Lflow{number}"
        text = f"{name} {label}\n{step.format(1)}\n{label}:\n{step.format(16)}"
        cases.append(Case(text, scalar={40: 0, **scalar}, read=("s40",)))
        expected.append((16 if taken else 17,))
    call = "\n".join(
        [
            "s_getpc_b64 s[44:45]",
            "s_add_u32 s44, s44, .Lcallee-.Lhere",
            ".Lhere = .-8",
            "s_addc_u32 s45, s45, 0",
            "s_swappc_b64 s[46:47], s[44:45]",
            step.format(1),
            "s_call_b64 s[46:47], .Lcallee",
            step.format(2),
            "s_branch .Lafter",
            ".Lcallee:",
            step.format(100),
            "s_setpc_b64 s[46:47]",
            ".Lafter:",
        ]
    )
    cases.append(Case(call, scalar={40: 0}, read=("s40",)))
    expected.append((203,))
    loop = "\n".join(
        [".Lloop:", step.format(3), "s_sub_u32 s41, s41, 1", "s_cmp_lg_u32 s41, 0", "s_cbranch_scc1 .Lloop"]
    )
    cases.append(Case(loop, scalar={40: 0, 41: 7}, read=("s40",)))
    expected.append((21,))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_hardware_registers(target: str) -> None:
    text = "\n".join(
        [
            "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 4, 2), 1",
            "s_getreg_b32 s40, hwreg(HW_REG_MODE, 0, 8)",
            "s_setreg_b32 hwreg(HW_REG_MODE, 4, 2), s20",
            "s_getreg_b32 s41, hwreg(HW_REG_MODE, 4, 2)",
            "s_getreg_b32 s42, hwreg(HW_REG_MODE, 9, 1)",
        ]
    )
    got = run(target, [Case(text, scalar={20: 3}, read=("s40", "s41", "s42"))])[0]
    assert got == {"s40": 0xD0, "s41": 3, "s42": 1}


@pytest.mark.parametrize("target", TARGETS)
def test_control_without_effect(target: str) -> None:
    """Priorities, performance counters and wake-ups change no register; no debugger takes its branches."""
    texts = [
        "s_setprio 3",
        "s_wakeup",
        "s_incperflevel 2",
        "s_decperflevel 2",
        "s_ttracedata",
        "s_icache_inv",
        "s_nop 15",
    ]
    for i, name in enumerate(("sys", "user", "sys_or_user", "sys_and_user")):
        texts.append(f"s_cbranch_cdbg{name} .Ldebug{i}\ns_add_u32 s40, s40, 1\ns_cmp_eq_u32 s40, 9\n.Ldebug{i}:")
    cases, expected = [], []
    for text in texts:
        scalar: dict[str | int, int] = {40: 8, "scc": 1, "m0": 5, "vcc_lo": 1, "vcc_hi": 2}
        cases.append(Case(text, scalar=scalar, read=("s40", "scc", "m0", "vcc", "exec"), exec=M64 - 1))
        expected.append((9 if "cbranch" in text else 8, 1, 5, 2 << 32 | 1, M64 - 1))
    check(target, cases, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_saved_end(target: str) -> None:
    """s_endpgm_saved ends the wave: what follows is not run."""
    body = """
s_load_dwordx2 s[4:5], s[0:1], 0
v_mov_b32_e32 v1, 0
v_mov_b32_e32 v2, 7
s_waitcnt lgkmcnt(0)
global_store_dword v1, v2, s[4:5]
s_endpgm_saved
global_store_dword v1, v2, s[4:5] offset:4
s_endpgm"""
    out = np.zeros(2, np.uint32)
    device(target).load(assemble(target, kernel_text(target, "k", body, Kernel(), ("out",)))).launch(
        "k", 1, 64, {"out": out}
    )
    assert [int(v) for v in out] == [7, 0]
