// Matrix operands as f32 arrays and the multiplication of them.
//
// A lane holds K consecutive elements of one row of A (or column of B): row i of block b, lane group g is lane
// i + M * (b + blocks * g), and its element e has k = g * per_lane + e. Widened, a block is an array [k][i].
#pragma once
#include <aiterlite/emulator/convert.h>
#include <aiterlite/emulator/float.h>
#include <aiterlite/emulator/microop.h>

namespace aiterlite::emulator {

inline constexpr int kMaxK = 128;

// Codes of a small float to f32, in vectors. Exact, and untouched by the host's denormal mode.
template <int E, int M, int Bias>
inline vf32 widen_codes(vu32 code) {
  const vu32 magnitude = code & ((1u << (E + M)) - 1u);
  const vu32 sign = (code & (1u << (E + M))) << (31 - E - M);
  const vu32 normal = (magnitude << (23 - M)) + (static_cast<uint32_t>(127 - Bias) << 23);
  constexpr float kStep = Bias + M - 1 >= 0 ? 1.0f / static_cast<float>(1u << (Bias + M - 1)) : 1.0f;
  const vf32 denormal = __builtin_convertvector(as_i32(magnitude), vf32) * kStep;
  return as_f32(select(magnitude < (1u << M), bits(denormal), normal) | sign);
}

struct DecodeF32 {
  static constexpr int kPerDword = 1;
  static vf32 element(vu32 word, int) { return as_f32(word); }
};
struct DecodeXf32 {
  static constexpr int kPerDword = 1;
  static vf32 element(vu32 word, int) { return as_f32(word & 0xffffe000u); }
};
struct DecodeF16 {
  static constexpr int kPerDword = 2;
  static vf32 element(vu32 word, int e) { return f16_to_f32(e ? word >> 16 : word & 0xffffu); }
};
struct DecodeBf16 {
  static constexpr int kPerDword = 2;
  static vf32 element(vu32 word, int e) { return e ? bf16_hi_to_f32(word) : bf16_lo_to_f32(word); }
};
struct DecodeI8 {
  static constexpr int kPerDword = 4;
  static vf32 element(vu32 word, int e) {
    return __builtin_convertvector(as_i32(word << static_cast<uint32_t>(24 - 8 * e)) >> 24, vf32);
  }
};
template <Fp8 kFormat>
struct DecodeFp8 {
  static constexpr int kPerDword = 4;
  static vf32 element(vu32 word, int e) {
    const vu32 code = word >> static_cast<uint32_t>(8 * e) & 0xffu;
    const vf32 nan = as_f32(splat(0x7fc00000u));
    if constexpr (kFormat == Fp8::fp8_fnuz) {
      return select(code == 0x80u, nan, widen_codes<4, 3, 8>(code));
    } else if constexpr (kFormat == Fp8::bf8_fnuz) {
      return select(code == 0x80u, nan, widen_codes<5, 2, 16>(code));
    } else if constexpr (kFormat == Fp8::fp8_ocp) {
      return select((code & 0x7fu) == 0x7fu, nan, widen_codes<4, 3, 7>(code));
    } else {
      const vu32 magnitude = code & 0x7fu;
      const vf32 inf = as_f32((code & 0x80u) << 24 | 0x7f800000u);
      const vf32 v = select(magnitude == 0x7cu, inf, widen_codes<5, 2, 15>(code));
      return select(magnitude > 0x7cu, nan, v);
    }
  }
};

// Widens `per_lane` elements of every lane into [group * per_lane + e][row of M] of `to`.
template <class Decode, int M>
inline void widen_matrix(const uint32_t* regs, int per_lane, float* to) {
  static_assert(M >= kLanes, "a vector step must stay inside one lane group");
  for (int lane = 0; lane < kWave; lane += kLanes) {
    float* column = to + (lane / M * per_lane) * M + lane % M;
    for (int e = 0; e < per_lane; e += Decode::kPerDword) {
      const vu32 word = load<vu32>(regs + e / Decode::kPerDword * kWave + lane);
      for (int s = 0; s < Decode::kPerDword; ++s) {
        store(column + (e + s) * M, Decode::element(word, s));
      }
    }
  }
}

// Where row i of an M x M result begins, in dwords from the first result register.
template <int M>
inline int row_offset(int i) {
  if constexpr (M == 16) return i % 4 * kWave + i / 4 * M;
  return (i / 8 * 4 + i % 4) * kWave + i / 4 % 2 * M;
}

// Products of the narrow formats are exact in f32, so that a separate addition rounds the same as a fused one.
template <bool kExact>
inline vf32 multiply_add(vf32 a, vf32 b, vf32 c) {
#if AITERLITE_VECTOR_BYTES == 16
  if constexpr (kExact) return a * b + c;
#endif
  return fma_raw(a, b, c);
}

// d = c + a * b for one block, a and b as [k][M]; c may be null (zeros) and may be d.
template <int M, bool kExact>
inline void multiply(int k_count, const float* a, const float* b, const float* c, float* d) {
  constexpr int kRows = kVectorBytes == 64 ? 16 : 8;
  for (int i0 = 0; i0 < M; i0 += kRows) {
    for (int j = 0; j < M; j += kLanes) {
      vf32 acc[kRows];
      for (int r = 0; r < kRows; ++r) acc[r] = c ? load<vf32>(c + row_offset<M>(i0 + r) + j) : vf32{};
      for (int k = 0; k < k_count; ++k) {
        const vf32 column = load<vf32>(b + k * M + j);
        const float* rows = a + k * M + i0;
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) acc[r] = multiply_add<kExact>(splat(rows[r]), column, acc[r]);
      }
      for (int r = 0; r < kRows; ++r) store(d + row_offset<M>(i0 + r) + j, acc[r]);
    }
  }
}

// Registers of a block's result.
template <int M>
inline constexpr int kResultRegs = M * M / kWave;

// Adds f32 sums of integer products, which are exact, to i32 accumulators.
inline void add_integer(int regs, const float* sums, const uint32_t* c, uint32_t* d) {
  for (int i = 0; i < regs * kWave; i += kLanes) {
    const vi32 sum = __builtin_convertvector(load<vf32>(sums + i), vi32);
    store(d + i, bits(sum) + (c ? load<vu32>(c + i) : vu32{}));
  }
}

// The accumulator operand: a register block, or a constant spread over `regs` registers of `room`.
inline const uint32_t* accumulator(Wave& w, const Source& s, int regs, uint32_t* room) {
  if (s.ref == Ref::reg) return w.at(s.value);
  const uint32_t v = s.ref == Ref::constant ? *reinterpret_cast<const uint32_t*>(s.value) : scalar32(w, s);
  for (int r = 0; r < regs; ++r) spread(room + r * kWave, v);
  return room;
}

}  // namespace aiterlite::emulator
