"""Every vector instruction that has several encodings, in each of them, against its own shortest form.

The shortest form (VOP1, VOP2, VOPC) has its model in the other test files. Here it runs on operands that were selected,
permuted and negated beforehand, by the rules of SDWA, DPP and VOP3 in Python; the longer form gets the operands as they
are and has to arrive at the same result, placed as its destination modifiers say. Encodings are put together field by
field; which of them exist is the decoder's word, which is tested against LLVM.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulator import executor, native
from emulator import floats as fp
from emulator.assembly import FULL, TARGETS, Case, Kernel, run
from emulator.floats import BF16, F16, F32, F64
from emulator.integer_models import M32, signed
from emulator.values import doubles, floats, generator, halves, integers

from aiterlite.emulator import library, use_library

pytestmark = pytest.mark.emulated

Lanes = npt.NDArray[np.uint32]
STORED = Path(__file__).with_name("emulator") / "instructions.txt"
# Destinations and sources of the shortest form and of the form under test.
PLAIN_DST, FORM_DST, A, B, PLAIN_A, PLAIN_B = 32, 36, 8, 12, 16, 20
VCC = 106
OLD = 0x5A5A3C3C
# Results that are no vector register, or operands that no form modifies: lane reads, swaps, nothing at all.
NO_FORMS = {
    "v_readfirstlane_b32", "v_swap_b32", "v_permlane16_swap_b32", "v_permlane32_swap_b32", "v_nop", "v_clrexcp",
    "v_accvgpr_mov_b32", "v_fmamk_f32", "v_fmaak_f32", "v_madmk_f16", "v_madak_f16",
}  # fmt: skip
# Two values in a register: what a sign modifier of these encodings does to them is not documented.
PACKED = {"v_pk_fmac_f16", "v_dot2c_f32_f16", "v_dot2c_f32_bf16"}


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(executor.library()))


@functools.cache
def decoder() -> native.Library:
    library.open_library()
    return native.Library(executor.library())


@dataclass(frozen=True)
class Instruction:
    name: str
    format: str
    opcode: int
    sources: tuple[int, ...]  # dwords of the vector sources
    result: int  # dwords, 0 for a compare
    carry_out: bool
    mask_in: bool  # VCC as third operand

    @property
    def vop3(self) -> int:
        return self.opcode + {"VOPC": 0, "VOP2": 0x100, "VOP1": 0x140}[self.format]

    @property
    def source_format(self) -> fp.Format | None:
        """Of the first source."""
        return {"f16": F16, "bf16": BF16, "f32": F32, "f64": F64}.get(self.name.rsplit("_", 1)[-1])

    @property
    def result_format(self) -> fp.Format | None:
        if not self.result or self.name in PACKED:
            return None
        kind = self.name.split("_")[2] if self.name.startswith("v_cvt_") else self.name.rsplit("_", 1)[-1]
        if self.name.startswith(("v_frexp_exp", "v_cvt_pk", "v_cvt_norm", "v_cvt_flr", "v_cvt_rpi")):
            return None
        if self.name == "v_cvt_off_f32_i4":
            return F32
        return {"f16": F16, "f32": F32, "f64": F64}.get(kind)

    def short(self, destination: int, first: int, second: int) -> int:
        return self.word(destination, 256 + first, second)

    def word(self, destination: int, first: int, second: int) -> int:
        if self.format == "VOP1":
            return 0x3F << 25 | destination << 17 | self.opcode << 9 | first
        if self.format == "VOP2":
            return self.opcode << 25 | destination << 17 | second << 9 | first
        return 0x3E << 25 | self.opcode << 17 | second << 9 | first


@functools.cache
def instructions(target: str) -> list[Instruction]:
    found = {}
    for line in STORED.read_text().splitlines():
        targets, data, _text = line.split(" ", 2)
        if targets not in ("both", target):
            continue
        explained = decoder().explain(target, bytes.fromhex(data))
        form, name = explained["encoding"], explained["op"]
        if form not in ("VOP1", "VOP2", "VOPC") or name in NO_FORMS or name in found:
            continue
        word = struct.unpack("<I", bytes.fromhex(data)[:4])[0]
        opcode = {"VOP1": word >> 9 & 255, "VOP2": word >> 25 & 63, "VOPC": word >> 17 & 255}[form]
        used = [s for s in explained["src"] if s["kind"] != "none"]
        short = Instruction(
            name,
            form,
            opcode,
            tuple(s["dwords"] for s in used[: 1 if form == "VOP1" else 2]),
            0 if form == "VOPC" else explained["dst"][0]["dwords"],
            explained["dst"][1]["kind"] != "none",
            len(used) > 2 and used[2]["kind"] == "special" and used[2]["dwords"] == 2,
        )
        if executable(target, (short.short(PLAIN_DST, A, B),)):
            found[name] = short
    return list(found.values())


def executable(target: str, words: tuple[int, ...]) -> bool:
    return library.refusal(target, struct.pack(f"<{len(words)}I", *words)) == ""


def exists(target: str, words: tuple[int, ...]) -> bool:
    return decoder().decode(target, struct.pack(f"<{len(words)}I", *words)).status == "ok"


def operand(i: Instruction, slot: int, rng: np.random.Generator) -> list[Lanes]:
    """Registers of one source: values that mean something as its type."""
    if i.sources[slot] == 2:
        wide = doubles(rng)
        return [(wide & np.uint64(M32)).astype(np.uint32), (wide >> np.uint64(32)).astype(np.uint32)]
    if i.source_format is F16:
        return [halves(rng)]
    if i.source_format is F32 and not (slot == 1 and "class" in i.name):
        return [floats(rng)]
    return [integers(rng)]


def apply_sign(i: Instruction, registers: list[Lanes], absolute: bool, negated: bool) -> list[Lanes]:
    bit = np.uint32(0x8000 if i.source_format in (F16, BF16) else 0x80000000)
    top = registers[-1]
    if absolute:
        top = top & ~bit
    if negated:
        top = top ^ bit
    return [*registers[:-1], top]


@dataclass
class Trial:
    """The words of a form, the sources of the short form that equal its own, and what it makes of the result."""

    words: tuple[int, ...]
    sources: list[list[Lanes]]
    finish: Callable[[int], int]
    written: int = FULL


def join(registers: list[Lanes], lane: int) -> int:
    return sum(int(r[lane]) << (32 * k) for k, r in enumerate(registers))


SELECT = [(0, 8), (8, 8), (16, 8), (24, 8), (0, 16), (16, 16), (0, 32)]


def select(values: Lanes, which: int, extend: bool) -> Lanes:
    shift, bits = SELECT[which]
    field = [int(v) >> shift & ((1 << bits) - 1) for v in values]
    return np.array([signed(v, bits) & M32 if extend else v for v in field], np.uint32)


def place(value: int, which: int, unused: int) -> int:
    """`unused`: 0 pads with zeros, 1 extends the sign, 2 keeps."""
    shift, bits = SELECT[which]
    if bits == 32:
        return value
    field = ((1 << bits) - 1) << shift
    part = value << shift & field
    if unused == 1:
        return signed(value, bits) << shift & M32
    return part | (OLD & ~field if unused == 2 else 0)


def clamped(f: fp.Format, code: int) -> int:
    """To 0 .. 1; a NaN becomes 0, as DX10_CLAMP says."""
    if fp.is_nan(f, code) or fp.negative(f, code):
        return 0
    one = f.bias << f.mantissa
    return min(code, one)


def finisher(i: Instruction, clamp: bool, which: int = 6, unused: int = 0) -> Callable[[int], int]:
    """From the short form's result to the destination: clamped, and placed by SDWA."""
    f = i.result_format if clamp else None

    def finish(code: int) -> int:
        if f is not None:
            mask = (1 << f.bits) - 1
            code = clamped(f, code & mask) | (code & ~mask)
        return place(code, which, unused)

    return finish


def sdwa(target: str, i: Instruction, sources: list[list[Lanes]], rng: np.random.Generator) -> Trial | None:
    count = len(sources)
    selects = [int(v) for v in rng.integers(0, 7, 3)]
    compare = i.format == "VOPC"
    unused = int(rng.integers(0, 3))
    base = i.word(FORM_DST, 249, B)
    fields = A | selects[0] << 16 | (selects[1] << 24 if count == 2 else 0)
    if not compare:
        fields |= selects[2] << 8 | unused << 11
    signs = sum(int(rng.integers(0, 4)) << (20 + 8 * k) for k in range(count))
    extend = sum(int(rng.integers(0, 2)) << (19 + 8 * k) for k in range(count))
    clamp = 1 << 13 if i.result_format is not None and rng.random() < 0.5 and not compare else 0
    for choice in (signs | clamp, signs & ~(3 << 28) | clamp, extend, clamp, 0):
        if i.name in PACKED and choice & (0x33 << 20):
            continue
        words = (base, fields | choice)
        if not exists(target, words):
            continue
        if not executable(target, words):
            assert choice & 1 << 13, (i.name, "is refused as SDWA")
            continue
        taken = []
        for k, registers in enumerate(sources):
            at = 8 * k
            chosen = [select(registers[0], selects[k], bool(choice >> (19 + at) & 1))]
            taken.append(apply_sign(i, chosen, bool(choice >> (21 + at) & 1), bool(choice >> (20 + at) & 1)))
        return Trial(words, taken, finisher(i, bool(choice >> 13 & 1), selects[2], unused))
    return None


def dpp(target: str, i: Instruction, sources: list[list[Lanes]], rng: np.random.Generator) -> Trial | None:
    lanes = np.arange(64)
    if 2 in (*i.sources, i.result):
        control = 0x150 + int(rng.integers(0, 16))
        origin = (lanes & ~15) + (control & 15)
    elif rng.random() < 0.5:
        control = int(rng.integers(0, 256))
        origin = (lanes & ~3) + (control >> (2 * (lanes & 3)) & 3)
    else:
        control = 0x121 + int(rng.integers(0, 15))
        origin = (lanes & ~15) + ((lanes - (control & 15)) & 15)
    # Which bit of a mask a lane leaves that is not written is not documented.
    masks = 0xFF if i.carry_out or i.format == "VOPC" else int(rng.integers(1, 256))
    rows, banks = masks >> 4, masks & 15
    signs = int(rng.integers(0, 16)) & (15 if len(sources) == 2 else 3)
    for choice in (signs, signs & 3, 0):
        if i.name in PACKED and choice:
            continue
        words = (i.word(FORM_DST, 250, B), A | control << 8 | choice << 20 | banks << 24 | rows << 28)
        if not exists(target, words):
            continue
        assert executable(target, words), (i.name, "is refused with DPP")
        moved = [[r[origin] for r in sources[0]], *sources[1:]]
        taken = [
            apply_sign(i, r, bool(choice >> (2 * k + 1) & 1), bool(choice >> (2 * k) & 1)) for k, r in enumerate(moved)
        ]
        written = sum(((rows >> (lane >> 4) & 1) & (banks >> (lane >> 2 & 3) & 1)) << lane for lane in range(64))
        return Trial(words, taken, finisher(i, False), written)
    return None


def vop3(target: str, i: Instruction, sources: list[list[Lanes]], rng: np.random.Generator) -> Trial | None:
    both = (1 << len(sources)) - 1
    absolute, negated = (int(rng.integers(0, 4)) & both for _ in range(2))
    destination = FORM_DST if i.result else VCC
    clamp = i.result_format is not None and rng.random() < 0.7
    for a, n, c in ((absolute, negated, clamp), (absolute & 1, negated & 1, clamp), (0, 0, clamp), (0, 0, False)):
        if i.name in PACKED and (a or n):
            continue
        low = 0x34 << 26 | i.vop3 << 16 | destination | c << 15
        if i.carry_out:
            low |= VCC << 8
        else:
            low |= a << 8
        high = 256 + A | (256 + B) << 9 if len(sources) == 2 else 256 + A
        if i.mask_in:
            high |= VCC << 18
        words = (low, high | n << 29)
        if (i.carry_out and a) or not exists(target, words):
            continue
        if not executable(target, words):
            assert c, (i.name, "is refused as VOP3")
            continue
        taken = [apply_sign(i, r, bool(a >> k & 1), bool(n >> k & 1)) for k, r in enumerate(sources)]
        return Trial(words, taken, finisher(i, c))
    return None


def registers(first: int, values: list[Lanes]) -> dict[str, Any]:
    return {f"v{first + k}": v for k, v in enumerate(values)}


def case_of(i: Instruction, trial: Trial, sources: list[list[Lanes]], mask: int) -> Case:
    """The short form and the form under test, one after the other, from the same VCC and EXEC."""
    state = "s_mov_b64 vcc, s[44:45]\ns_mov_b64 exec, s[46:47]"
    raw = f".long {i.short(PLAIN_DST, PLAIN_A, PLAIN_B):#010x}"
    form = "\n".join(f".long {w:#010x}" for w in trial.words)
    text = f"{raw}\ns_mov_b64 s[40:41], vcc\ns_mov_b64 s[42:43], exec\n{state}\n{form}"
    vector: dict[str, Any] = {}
    for first, values in zip((A, B), sources, strict=False):
        vector |= registers(first, values)
    for first, values in zip((PLAIN_A, PLAIN_B), trial.sources, strict=False):
        vector |= registers(first, values)
    for k in range(i.result):
        vector |= {f"v{PLAIN_DST + k}": np.uint32(OLD), f"v{FORM_DST + k}": np.uint32(OLD)}
    vcc = 0x0F0F3355_A5A51234
    scalar: dict[str | int, int] = {
        44: vcc & M32, 45: vcc >> 32, 46: mask & M32, 47: mask >> 32, "vcc_lo": vcc & M32, "vcc_hi": vcc >> 32,
    }  # fmt: skip
    read = [f"v{base + k}" for base in (PLAIN_DST, FORM_DST) for k in range(i.result)]
    return Case(text, vector, scalar, [*read, "s40", "s41", "s42", "s43", "vcc", "exec"], mask)


FORMS = {"sdwa": sdwa, "dpp": dpp, "vop3": vop3}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("form", FORMS)
def test_form_equals_the_short_one(target: str, form: str) -> None:
    entries, cases = [], []
    for i in instructions(target):
        for number in range(1 if i.format == "VOPC" else 3):
            rng = generator(form + i.name, number)
            sources = [operand(i, slot, rng) for slot in range(len(i.sources))]
            trial = FORMS[form](target, i, sources, rng)
            if trial is None:
                continue
            # Under DPP a lane that is off cannot be read either: tested with the DPP controls.
            mask = FULL if form == "dpp" or number == 0 else 0xF0F0FFFF_3C3C5A01
            entries.append((i, trial, mask))
            cases.append(case_of(i, trial, sources, mask))
    assert len({i.name for i, _, _ in entries}) > {"sdwa": 230, "dpp": 130, "vop3": 280}[form]
    wrong = []
    for (i, trial, mask), case, got in zip(entries, cases, run(target, cases), strict=True):
        plain, found = ([got[f"v{base + k}"] for k in range(i.result)] for base in (PLAIN_DST, FORM_DST))
        assert got["exec"] == (got["s42"] | got["s43"] << 32), case.text
        if got["vcc"] != got["s40"] | got["s41"] << 32:
            wrong.append(f"{text_of(target, trial)}: vcc is {got['vcc']:#x}, not {got['s41']:x}{got['s40']:08x}")
        old = sum(OLD << (32 * k) for k in range(i.result))
        for lane in range(64 if i.result else 0):
            active = mask >> lane & 1 and trial.written >> lane & 1
            want = trial.finish(join(plain, lane)) if active else old
            if join(found, lane) != want:
                inputs = [hex(join(r, lane)) for r in trial.sources]
                wrong.append(
                    f"{text_of(target, trial)}: lane {lane} is {join(found, lane):#x}, not {want:#x}; "
                    f"the short form makes {join(plain, lane):#x} of {inputs}"
                )
                break
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:30]])


def text_of(target: str, trial: Trial) -> str:
    return decoder().decode(target, struct.pack(f"<{len(trial.words)}I", *trial.words)).text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("ieee", "denormals"),
    [(False, 0), (False, 1), (False, 2), (True, 0)],
    ids=["multiplies", "keeps inputs", "keeps results", "ieee"],
)
def test_output_multipliers(target: str, ieee: bool, denormals: int) -> None:
    """Without IEEE mode and with denormal results flushed, a float result is multiplied, flushed again, and loses the
    sign of a zero; else the multiplier is ignored."""
    entries, cases = [], []
    for i in instructions(target):
        f = i.result_format
        # Whether v_cvt_f32_bf16 keeps denormals where the mode flushes them is not documented.
        if f is None or i.name == "v_cvt_f32_bf16":
            continue
        rng = generator("omod" + i.name, denormals)
        omod = int(rng.integers(1, 4))
        sources = [operand(i, slot, rng) for slot in range(len(i.sources))]
        low = 0x34 << 26 | i.vop3 << 16 | FORM_DST | int(rng.integers(0, 2)) << 15
        high = 256 + A | (256 + B) << 9 if len(sources) == 2 else 256 + A
        words = (low, high | omod << 27)
        if not exists(target, words):
            continue
        assert executable(target, words), i.name
        entries.append((i, f, omod, bool(low >> 15 & 1)))
        case = case_of(i, Trial(words, sources, finisher(i, False)), sources, FULL)
        case.mode = denormals << 4 | denormals << 6
        cases.append(case)
    assert len(entries) > 50
    wrong = []
    for (i, f, omod, clamp), case, got in zip(entries, cases, run(target, cases, Kernel(ieee=ieee)), strict=True):
        factor = fp.encode(f, fp.Fraction((0, 2, 4, 1)[omod], 2 if omod == 3 else 1))
        mask = (1 << f.bits) - 1
        for lane in range(64):
            plain, found = (
                join([got[f"v{base + k}"] for k in range(i.result)], lane) for base in (PLAIN_DST, FORM_DST)
            )
            want = plain & mask
            if not ieee and not denormals & 2:
                # Inputs of the multiplication are results already: only its own result is flushed.
                want = fp.flush(f, fp.mul(f, want, factor))
                want = 0 if fp.is_zero(f, want) else want
            if clamp:
                want = clamped(f, want)
            if found != want | (plain & ~mask):
                wrong.append(
                    f"{case.text.splitlines()[-2:]} {i.name}: lane {lane}: {found:#x}, not {want:#x}, {plain:#x}"
                )
                break
    assert not wrong, "\n".join([str(len(wrong)), *wrong[:30]])
