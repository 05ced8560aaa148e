"""What the integer instructions compute, lane by lane, on Python integers."""

from __future__ import annotations

from collections.abc import Callable

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF


def signed(x: int, bits: int = 32) -> int:
    x &= (1 << bits) - 1
    return x - (1 << bits) if x >> (bits - 1) else x


def clamp(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


def i24(x: int) -> int:
    return signed(x, 24)


def u24(x: int) -> int:
    return x & 0xFFFFFF


def first_one(x: int, bits: int = 32) -> int:
    return next((i for i in range(bits) if x >> i & 1), -1)


def leading(x: int, bits: int = 32) -> int:
    return next((i for i in range(bits) if x >> (bits - 1 - i) & 1), -1)


def leading_signed(x: int, bits: int = 32) -> int:
    sign = x >> (bits - 1) & 1
    return next((i for i in range(1, bits) if x >> (bits - 1 - i) & 1 != sign), -1)


def reverse(x: int, bits: int = 32) -> int:
    return int(f"{x:0{bits}b}"[::-1], 2)


def bfe_u(x: int, offset: int, width: int) -> int:
    return x >> offset & ((1 << width) - 1)


def bfe_i(x: int, offset: int, width: int) -> int:
    return signed(signed(x) >> offset, width) if width else 0


def byte(x: int, k: int) -> int:
    return x >> (8 * k) & 255


def sad_u8(a: int, b: int, c: int) -> int:
    return c + sum(abs(byte(a, k) - byte(b, k)) for k in range(4))


def msad_u8(a: int, b: int, c: int) -> int:
    return c + sum(abs(byte(a, k) - byte(b, k)) for k in range(4) if byte(b, k))


def perm(a: int, b: int, selector: int) -> int:
    data = [byte(b, k) for k in range(4)] + [byte(a, k) for k in range(4)]

    def pick(s: int) -> int:
        if s >= 13:
            return 0xFF
        if s == 12:
            return 0
        if s >= 8:
            return 0xFF if data[2 * (s - 8) + 1] & 0x80 else 0
        return data[s]

    return sum(pick(byte(selector, k)) << (8 * k) for k in range(4))


def halves(x: int) -> tuple[int, int]:
    return x & 0xFFFF, x >> 16


def sat_pk_u8(x: int) -> int:
    low, high = halves(x)
    return clamp(signed(low, 16), 0, 255) | clamp(signed(high, 16), 0, 255) << 8


def qsad(a: int, b: int, c: int, masked: bool) -> int:
    f = msad_u8 if masked else sad_u8
    return sum((f(a >> (8 * k) & M32, b, c >> (16 * k) & 0xFFFF) & 0xFFFF) << (16 * k) for k in range(4))


# By mnemonic, for 32-bit sources and results; Python's big integers are cut to 32 bits afterwards.
ONE: dict[str, Callable[[int], int]] = {
    "v_mov_b32": lambda a: a,
    "v_not_b32": lambda a: ~a,
    "v_bfrev_b32": lambda a: reverse(a),
    "v_ffbh_u32": lambda a: leading(a),
    "v_ffbl_b32": lambda a: first_one(a),
    "v_ffbh_i32": lambda a: leading_signed(a),
    "v_sat_pk_u8_i16": sat_pk_u8,
}
TWO: dict[str, Callable[[int, int], int]] = {
    "v_add_u32": lambda a, b: a + b,
    "v_sub_u32": lambda a, b: a - b,
    "v_subrev_u32": lambda a, b: b - a,
    "v_add_i32": lambda a, b: a + b,
    "v_sub_i32": lambda a, b: a - b,
    "v_mul_i32_i24": lambda a, b: i24(a) * i24(b),
    "v_mul_hi_i32_i24": lambda a, b: i24(a) * i24(b) >> 32,
    "v_mul_u32_u24": lambda a, b: u24(a) * u24(b),
    "v_mul_hi_u32_u24": lambda a, b: u24(a) * u24(b) >> 32,
    "v_mul_lo_u32": lambda a, b: a * b,
    "v_mul_hi_u32": lambda a, b: a * b >> 32,
    "v_mul_hi_i32": lambda a, b: signed(a) * signed(b) >> 32,
    "v_min_i32": lambda a, b: min(signed(a), signed(b)),
    "v_max_i32": lambda a, b: max(signed(a), signed(b)),
    "v_min_u32": min,
    "v_max_u32": max,
    "v_lshrrev_b32": lambda a, b: b >> (a & 31),
    "v_ashrrev_i32": lambda a, b: signed(b) >> (a & 31),
    "v_lshlrev_b32": lambda a, b: b << (a & 31),
    "v_and_b32": lambda a, b: a & b,
    "v_or_b32": lambda a, b: a | b,
    "v_xor_b32": lambda a, b: a ^ b,
    "v_xnor_b32": lambda a, b: ~(a ^ b),
    "v_bfm_b32": lambda a, b: ((1 << (a & 31)) - 1) << (b & 31),
    "v_bcnt_u32_b32": lambda a, b: a.bit_count() + b,
    "v_cvt_pk_u16_u32": lambda a, b: min(a, 0xFFFF) | min(b, 0xFFFF) << 16,
    "v_cvt_pk_i16_i32": lambda a, b: (
        (clamp(signed(a), -32768, 32767) & 0xFFFF) | (clamp(signed(b), -32768, 32767) & 0xFFFF) << 16
    ),
    "v_pack_b32_f16": lambda a, b: (a & 0xFFFF) | (b & 0xFFFF) << 16,
}
THREE: dict[str, Callable[[int, int, int], int]] = {
    "v_mad_i32_i24": lambda a, b, c: i24(a) * i24(b) + c,
    "v_mad_u32_u24": lambda a, b, c: u24(a) * u24(b) + c,
    "v_mad_u32_u16": lambda a, b, c: (a & 0xFFFF) * (b & 0xFFFF) + c,
    "v_mad_i32_i16": lambda a, b, c: signed(a, 16) * signed(b, 16) + c,
    "v_bfe_u32": lambda a, b, c: bfe_u(a, b & 31, c & 31),
    "v_bfe_i32": lambda a, b, c: bfe_i(a, b & 31, c & 31),
    "v_bfi_b32": lambda a, b, c: (a & b) | (~a & c),
    "v_alignbit_b32": lambda a, b, c: (a << 32 | b) >> (c & 31),
    "v_alignbyte_b32": lambda a, b, c: (a << 32 | b) >> (8 * (c & 3)),
    "v_min3_i32": lambda a, b, c: min(signed(a), signed(b), signed(c)),
    "v_max3_i32": lambda a, b, c: max(signed(a), signed(b), signed(c)),
    "v_med3_i32": lambda a, b, c: sorted((signed(a), signed(b), signed(c)))[1],
    "v_min3_u32": min,
    "v_max3_u32": max,
    "v_med3_u32": lambda a, b, c: sorted((a, b, c))[1],
    "v_sad_u8": sad_u8,
    "v_sad_hi_u8": lambda a, b, c: (sad_u8(a, b, 0) << 16) + c,
    "v_sad_u16": lambda a, b, c: c + sum(abs(x - y) for x, y in zip(halves(a), halves(b), strict=True)),
    "v_sad_u32": lambda a, b, c: abs(a - b) + c,
    "v_msad_u8": msad_u8,
    "v_lerp_u8": lambda a, b, c: sum((byte(a, k) + byte(b, k) + (byte(c, k) & 1) >> 1) << (8 * k) for k in range(4)),
    "v_perm_b32": perm,
    "v_xad_u32": lambda a, b, c: (a ^ b) + c,
    "v_lshl_add_u32": lambda a, b, c: (a << (b & 31)) + c,
    "v_add_lshl_u32": lambda a, b, c: (a + b) << (c & 31),
    "v_add3_u32": lambda a, b, c: a + b + c,
    "v_lshl_or_b32": lambda a, b, c: a << (b & 31) | c,
    "v_and_or_b32": lambda a, b, c: (a & b) | c,
    "v_or3_b32": lambda a, b, c: a | b | c,
}
# gfx950 only.
GFX950_ONE: dict[str, Callable[[int], int]] = {"v_prng_b32": lambda a: a << 1 ^ (197 if a >> 31 else 0)}
# 16-bit sources in the low halves; the result's low half, and the older ones clear the high half.
HALF_TWO: dict[str, Callable[[int, int], int]] = {
    "v_add_u16": lambda a, b: a + b,
    "v_sub_u16": lambda a, b: a - b,
    "v_subrev_u16": lambda a, b: b - a,
    "v_mul_lo_u16": lambda a, b: a * b,
    "v_lshlrev_b16": lambda a, b: b << (a & 15),
    "v_lshrrev_b16": lambda a, b: b >> (a & 15),
    "v_ashrrev_i16": lambda a, b: signed(b, 16) >> (a & 15),
    "v_max_u16": max,
    "v_min_u16": min,
    "v_max_i16": lambda a, b: max(signed(a, 16), signed(b, 16)),
    "v_min_i16": lambda a, b: min(signed(a, 16), signed(b, 16)),
}
HALF_TWO_KEEP: dict[str, Callable[[int, int], int]] = {
    "v_add_i16": lambda a, b: a + b,
    "v_sub_i16": lambda a, b: a - b,
}
HALF_THREE_KEEP: dict[str, Callable[[int, int, int], int]] = {
    "v_mad_u16": lambda a, b, c: a * b + c,
    "v_mad_i16": lambda a, b, c: a * b + c,
    "v_min3_i16": lambda a, b, c: min(signed(a, 16), signed(b, 16), signed(c, 16)),
    "v_max3_i16": lambda a, b, c: max(signed(a, 16), signed(b, 16), signed(c, 16)),
    "v_med3_i16": lambda a, b, c: sorted((signed(a, 16), signed(b, 16), signed(c, 16)))[1],
    "v_min3_u16": min,
    "v_max3_u16": max,
    "v_med3_u16": lambda a, b, c: sorted((a, b, c))[1],
}
# 64-bit: sources as given by their widths in dwords.
WIDE: dict[str, tuple[tuple[int, ...], Callable[..., int]]] = {
    "v_lshlrev_b64": ((1, 2), lambda a, b: b << (a & 63)),
    "v_lshrrev_b64": ((1, 2), lambda a, b: b >> (a & 63)),
    "v_ashrrev_i64": ((1, 2), lambda a, b: signed(b, 64) >> (a & 63)),
    "v_lshl_add_u64": ((2, 1, 2), lambda a, b, c: (a << (b & 7)) + c),
    "v_mov_b64": ((2,), lambda a: a),
    "v_qsad_pk_u16_u8": ((2, 1, 2), lambda a, b, c: qsad(a, b, c, False)),
    "v_mqsad_pk_u16_u8": ((2, 1, 2), lambda a, b, c: qsad(a, b, c, True)),
}
# Saturating forms.
CLAMPED: dict[str, Callable[..., int]] = {
    "v_add_u32": lambda a, b: min(a + b, M32),
    "v_sub_u32": lambda a, b: max(a - b, 0),
    "v_subrev_u32": lambda a, b: max(b - a, 0),
    "v_add_i32": lambda a, b: clamp(signed(a) + signed(b), -(1 << 31), (1 << 31) - 1),
    "v_sub_i32": lambda a, b: clamp(signed(a) - signed(b), -(1 << 31), (1 << 31) - 1),
    "v_mad_u32_u16": lambda a, b, c: min((a & 0xFFFF) * (b & 0xFFFF) + c, M32),
    "v_mad_i32_i16": lambda a, b, c: clamp(signed(a, 16) * signed(b, 16) + signed(c), -(1 << 31), (1 << 31) - 1),
    "v_add_u16": lambda a, b: min((a & 0xFFFF) + (b & 0xFFFF), 0xFFFF),
    "v_sub_u16": lambda a, b: max((a & 0xFFFF) - (b & 0xFFFF), 0),
}
COMPARE: dict[str, Callable[[int, int], bool]] = {
    "f": lambda a, b: False,
    "lt": lambda a, b: a < b,
    "eq": lambda a, b: a == b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ne": lambda a, b: a != b,
    "ge": lambda a, b: a >= b,
    "t": lambda a, b: True,
}
