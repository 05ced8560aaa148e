"""Random machine words for every opcode of every gfx942/gfx950 format, biased towards words that mean something.

Nothing here knows which opcodes exist: all numbers of a format's opcode field are drawn, so that what the decoder
rejects is tested as well as what it accepts.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator

Words = tuple[int, ...]


def pack(words: Words) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


def maybe(rng: random.Random, bits: int, probability: float = 0.15) -> int:
    """A random value of `bits` bits, mostly 0: unused fields must be 0 for an encoding to be canonical."""
    return rng.getrandbits(bits) if rng.random() < probability else 0


def vgpr(rng: random.Random) -> int:
    pick = rng.random()
    if pick < 0.6:
        return 2 * rng.randrange(0, 110)
    if pick < 0.7:
        return 0
    return rng.randrange(0, 256)


def scalar(rng: random.Random) -> int:
    """A 7-bit scalar register number: sgprs, most of them aligned, and the special ones."""
    pick = rng.random()
    if pick < 0.6:
        return 4 * rng.randrange(0, 25)
    if pick < 0.75:
        return rng.randrange(0, 104)
    return rng.choice([102, 104, 106, 107, 108, 112, 116, 120, 123, 124, 126, 127, rng.randrange(128)])


def ssrc(rng: random.Random) -> int:
    """An 8-bit scalar source: a register, a constant, or a literal."""
    pick = rng.random()
    if pick < 0.55:
        return scalar(rng)
    if pick < 0.7:
        return rng.randrange(128, 209)
    if pick < 0.8:
        return rng.randrange(240, 249)
    if pick < 0.95:
        return 255
    return rng.randrange(256)


def source(rng: random.Random, literal: bool = False) -> int:
    """A 9-bit source; not the codes of DPP and SDWA, whose second word cannot be any number (llvm aborts on some)."""
    if rng.random() < 0.55:
        return 256 + vgpr(rng)
    code = ssrc(rng)
    if code in (249, 250) or (code == 255 and not literal):
        return 128
    return code


def literal(rng: random.Random) -> int:
    return rng.choice(
        [
            rng.getrandbits(32),
            rng.getrandbits(16),
            rng.getrandbits(6),
            0xFFFFFFF0 + rng.randrange(16),
            0x3F800000,
            0x3C00,
            0x3E22F983,
            0x80000000,
        ]
    )


def sop2(op: int, rng: random.Random) -> Words:
    return (2 << 30 | op << 23 | scalar(rng) << 16 | ssrc(rng) << 8 | ssrc(rng), literal(rng))


def sopk(op: int, rng: random.Random) -> Words:
    return (0xB << 28 | op << 23 | scalar(rng) << 16 | rng.getrandbits(16), literal(rng))


def sop1(op: int, rng: random.Random) -> Words:
    dst = 0 if rng.random() < 0.1 else scalar(rng)
    src = 0 if rng.random() < 0.1 else ssrc(rng)
    return (0x17D << 23 | dst << 16 | op << 8 | src, literal(rng))


def sopc(op: int, rng: random.Random) -> Words:
    return (0x17E << 23 | op << 16 | ssrc(rng) << 8 | ssrc(rng), literal(rng))


def sopp(op: int, rng: random.Random) -> Words:
    return (0x17F << 23 | op << 16 | rng.choice([0, rng.getrandbits(4), rng.getrandbits(16)]),)


def smem(op: int, rng: random.Random) -> Words:
    zero = rng.random() < 0.1
    w0 = 0x30 << 26 | op << 18 | maybe(rng, 1) << 16 | rng.randrange(4) % 3 % 2 << 14 | maybe(rng, 1, 0.03) << 15
    if not zero:
        w0 |= (rng.random() < 0.75) << 17 | scalar(rng) << 6 | scalar(rng) >> 1
    soffset = scalar(rng) if w0 >> 14 & 1 else 0
    if zero:
        return (w0 & ~(1 << 14), 0)
    offset = rng.getrandbits(21) if w0 >> 17 & 1 else (0 if w0 >> 14 & 1 else scalar(rng))
    return (w0, soffset << 25 | offset)


def _dpp_or_sdwa(op_word: int, rng: random.Random, sources: int, compare: bool) -> Words:
    src0 = vgpr(rng)
    if rng.random() < 0.5:
        ctrl = rng.choice([rng.getrandbits(8), 0x100 + rng.getrandbits(6), 0x140 + rng.getrandbits(5)])
        w1 = src0 | ctrl << 8 | maybe(rng, 1) << 19 | maybe(rng, 2) << 20 | rng.getrandbits(8) << 24
        if sources == 2:
            w1 |= maybe(rng, 2) << 22
        return (op_word | 250, w1)

    def sel() -> int:
        return rng.randrange(7)

    w1 = sel() << 16 | rng.randrange(3) % 2 << 19 | maybe(rng, 2) << 20
    if rng.random() < 0.2:
        w1 |= 1 << 23
        src0 = ssrc(rng)
    w1 |= src0
    if sources == 2:
        w1 |= sel() << 24 | maybe(rng, 1) << 27 | maybe(rng, 2) << 28
        if rng.random() < 0.1:
            w1 |= 1 << 31
    if compare:
        if rng.random() < 0.5:
            w1 |= 1 << 15 | (scalar(rng) & ~1) << 8
    else:
        w1 |= sel() << 8 | rng.randrange(3) << 11 | maybe(rng, 1) << 13 | maybe(rng, 2) << 14
    return (op_word | 249, w1)


def vop2(op: int, rng: random.Random) -> Words:
    base = op << 25 | vgpr(rng) << 17 | vgpr(rng) << 9
    if rng.random() < 0.4:
        return _dpp_or_sdwa(base, rng, 2, False)
    return (base | source(rng, True), literal(rng))


def vop1(op: int, rng: random.Random) -> Words:
    dst = 0 if rng.random() < 0.1 else vgpr(rng)
    base = 0x3F << 25 | dst << 17 | op << 9
    if rng.random() < 0.4:
        return _dpp_or_sdwa(base, rng, 1, False)
    return (base | (0 if rng.random() < 0.1 else source(rng, True)), literal(rng))


def vopc(op: int, rng: random.Random) -> Words:
    base = 0x3E << 25 | op << 17 | vgpr(rng) << 9
    if rng.random() < 0.4:
        return _dpp_or_sdwa(base, rng, 2, True)
    return (base | source(rng, True), literal(rng))


def vop3(op: int, rng: random.Random) -> Words:
    # A compare's destination past 127 is a source code, on some of which llvm's disassembler aborts.
    dst = scalar(rng) if op < 256 or rng.random() < 0.1 else vgpr(rng)
    w0 = 0x34 << 26 | op << 16 | dst
    w0 |= maybe(rng, 3) << 8 | maybe(rng, 4) << 11 | maybe(rng, 1) << 15
    if rng.random() < 0.1:
        w0 |= (scalar(rng) & ~1) << 8
    count = rng.choice([1, 2, 3])
    w1 = source(rng)
    if count > 1:
        w1 |= source(rng) << 9
    if count > 2:
        w1 |= (source(rng) if rng.random() < 0.8 else scalar(rng)) << 18
    w1 |= maybe(rng, 2) << 27 | maybe(rng, 3) << 29
    if rng.random() < 0.03:
        w0, w1 = w0 & ~0xFFFF, 0
    return (w0, w1)


def vop3p(op: int, rng: random.Random) -> Words:
    if op in (0x2D, 0x2E):  # f8f6f4: llvm's disassembler aborts on scalar sources here
        return mai(op, rng)
    w0 = 0x1A7 << 23 | op << 16 | vgpr(rng)
    w0 |= maybe(rng, 3) << 8 | maybe(rng, 3) << 11 | (rng.random() < 0.7) << 14
    w0 |= maybe(rng, 1) << 15
    count = rng.choice([1, 2, 3, 3])
    w1 = source(rng)
    if count > 1:
        w1 |= source(rng) << 9
    if count > 2:
        w1 |= source(rng) << 18
    w1 |= (3 if rng.random() < 0.7 else rng.getrandbits(2)) << 27 | maybe(rng, 3) << 29
    return (w0, w1)


def mai(op: int, rng: random.Random) -> Words:
    w0 = 0x1A7 << 23 | op << 16 | vgpr(rng) | maybe(rng, 3) << 8 | maybe(rng, 4) << 11 | rng.getrandbits(1) << 15
    c = 256 + vgpr(rng) if rng.random() < 0.7 else source(rng)
    w1 = (256 + vgpr(rng)) | (256 + vgpr(rng)) << 9 | c << 18 | rng.getrandbits(2) << 27 | maybe(rng, 3) << 29
    return (w0, w1)


def maix(op: int, rng: random.Random) -> Words:
    prefix0 = 0x1A7 << 23 | 0x2C << 16 | rng.getrandbits(2) << 11 | maybe(rng, 1, 0.05) << 14
    prefix1 = source(rng) | source(rng) << 9 | rng.getrandbits(2) << 27
    w0, w1 = mai(0x2D + op, rng)
    w0 = w0 & ~(0xF << 11) | (1 << 11 if rng.random() < 0.9 else 0)
    return (prefix0, prefix1, w0, w1)


def ds(op: int, rng: random.Random) -> Words:
    use = [vgpr(rng) if rng.random() < 0.75 else 0 for _ in range(4)]
    w0 = 0x36 << 26 | op << 17 | rng.choice([0, rng.getrandbits(8), rng.getrandbits(16)])
    w0 |= maybe(rng, 1, 0.7 if 0x98 <= op <= 0x9D else 0.1) << 16 | maybe(rng, 1, 0.3) << 25
    shape = rng.randrange(4)
    if shape < 1:
        use[2] = 0
    if shape < 2:
        use[1] = use[2] = 0
    if shape == 2:
        use[3] = use[2] = 0
    if rng.random() < 0.1:
        use = [use[0], 0, 0, 0]
    if rng.random() < 0.1:
        use = [0, use[1], 0, 0] if rng.random() < 0.5 else [0, 0, 0, use[3]]
    if rng.random() < 0.02:
        return (0x36 << 26 | op << 17, 0)
    return (w0, use[0] | use[1] << 8 | use[2] << 16 | use[3] << 24)


def _flat(segment: int) -> Callable[[int, random.Random], Words]:
    def draw(op: int, rng: random.Random) -> Words:
        w0 = (
            0x37 << 26 | op << 18 | segment << 14 | maybe(rng, 1, 0.4) << 16 | maybe(rng, 1) << 17 | maybe(rng, 1) << 25
        )
        w0 |= maybe(rng, 12 if segment == 0 else 13, 0.6) | maybe(rng, 1, 0.5 if segment == 1 else 0.02) << 13
        saddr = 0 if segment == 0 else rng.choice([0x7F, 0x7F, scalar(rng)])
        addr = 0 if segment == 1 and not w0 >> 13 & 1 and rng.random() < 0.9 else vgpr(rng)
        data = vgpr(rng) if rng.random() < 0.5 else 0
        dst = vgpr(rng) if rng.random() < 0.5 else 0
        return (w0, addr | data << 8 | saddr << 16 | maybe(rng, 1, 0.3) << 23 | dst << 24)

    return draw


def mubuf(op: int, rng: random.Random) -> Words:
    w0 = 0x38 << 26 | op << 18 | maybe(rng, 12, 0.6) | rng.getrandbits(2) << 12 | maybe(rng, 2, 0.4) << 14
    w0 |= maybe(rng, 1, 0.3) << 16 | maybe(rng, 1) << 17
    vaddr = vgpr(rng) if w0 >> 12 & 3 or rng.random() < 0.05 else 0
    vdata = 0 if w0 >> 16 & 1 and rng.random() < 0.9 else vgpr(rng)
    acc = 0 if w0 >> 16 & 1 else maybe(rng, 1, 0.3)
    if rng.random() < 0.05:
        return (w0 & ~0x13FFF, 0)
    return (w0, vaddr | vdata << 8 | scalar(rng) >> 2 << 16 | acc << 23 | (ssrc(rng) % 255) << 24)


def mtbuf(op: int, rng: random.Random) -> Words:
    w0 = 0x3A << 26 | op << 15 | maybe(rng, 12, 0.6) | rng.getrandbits(2) << 12 | maybe(rng, 1) << 14
    w0 |= rng.getrandbits(7) << 19
    vaddr = vgpr(rng) if w0 >> 12 & 3 else 0
    w1 = vaddr | vgpr(rng) << 8 | scalar(rng) >> 2 << 16 | maybe(rng, 3) << 21 | (ssrc(rng) % 255) << 24
    return (w0, w1)


FORMATS: dict[str, tuple[int, Callable[[int, random.Random], Words]]] = {
    "SOP2": (128, sop2),
    "SOPK": (32, sopk),
    "SOP1": (256, sop1),
    "SOPC": (128, sopc),
    "SOPP": (128, sopp),
    "SMEM": (256, smem),
    "VOP2": (62, vop2),
    "VOP1": (256, vop1),
    "VOPC": (256, vopc),
    "VOP3": (896, vop3),
    "VOP3P": (128, vop3p),
    "MAI": (128, mai),
    "MAIX": (2, maix),
    "DS": (256, ds),
    "FLAT": (128, _flat(0)),
    "SCRATCH": (128, _flat(1)),
    "GLOBAL": (128, _flat(2)),
    "MUBUF": (128, mubuf),
    "MTBUF": (16, mtbuf),
}


def draw(per_opcode: int, seed: int, formats: tuple[str, ...] = tuple(FORMATS)) -> Iterator[tuple[str, int, bytes]]:
    """(format, opcode, bytes), `per_opcode` draws for each opcode of each format."""
    rng = random.Random(seed)
    for name in formats:
        count, make = FORMATS[name]
        for op in range(count):
            for _ in range(per_opcode):
                yield name, op, pack(make(op, rng))
