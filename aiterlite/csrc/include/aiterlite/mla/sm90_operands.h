// Operands of MLA's matrix products on sm_90 (mla/sm90_decode.hip), from a tile of 64 rows of KV in shared memory, laid
// as `Rows` says: a of S^T = K q^T are 64 of the rows' 576 elements a step, a of O^T = V^T P^T 64 of their first 512
// (the values), turned over. In registers, 16 rows of a warp. And q's rows as operands b, in the order of k that K's a
// have.
//
// Steps are numbered through: keys from 0, then values. `fetch` asks for a step's bytes and `ready` makes them
// operands, so that a fetch can be ahead of the products that are running, and the conversion of 8-bit elements behind
// them: bf16 or fp16 have three sets of registers, 8-bit rows two sets of bytes and two of operands.
#pragma once
#include <aiterlite/block/reduce.h>
#include <aiterlite/fragment/e4m3_operand.h>
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/mla/sm90_piece.h>
#include <aiterlite/tile/layout.h>

namespace aiterlite::mla {

template <class Kv>
using Sm90Rows = Padded<kTileTokens, kKeyDim * sizeof(Kv), pitch_for<Reading::kOperand16>(kKeyDim * sizeof(Kv))>;

// Rows of bf16 or fp16.
template <class Kv, class Rows>
class Sm90Operands {
 public:
  using Element = Kv;

  template <uint32_t kStep>
  AITERLITE_DEVICE void fetch_keys(const void* rows, uint32_t warp) {
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) MmaSync::load_a<Rows>(a_[kStep % 3][x], rows, warp * 16, kStep * 128 + x * 32);
  }
  // Of step kStep, whose block of 64 values is kStep - 9.
  template <uint32_t kStep>
  AITERLITE_DEVICE void fetch_values(const void* rows, uint32_t warp) {
    constexpr uint32_t kByte = (kStep - kKeyDim / 64) * 128;
#pragma unroll
    for (uint32_t x = 0; x < 4; ++x) {
      MmaSync::load_a_transposed<Rows>(a_[kStep % 3][x], rows, x * 16, kByte + warp * 32);
    }
  }
  template <uint32_t kStep>
  AITERLITE_DEVICE void ready_keys() {}
  template <uint32_t kStep>
  AITERLITE_DEVICE void ready_values() {}
  // Product x of a step: 16 of its 64 elements, or tokens.
  template <uint32_t kStep>
  AITERLITE_DEVICE const uint32_t (&a(uint32_t x) const)[4] {
    return a_[kStep % 3][x];
  }

  static constexpr bool kPaired = false;
  // Which of a warp's 16 values row g (i = 0) or g + 8 (i = 1) of a is.
  AITERLITE_DEVICE static uint32_t value_dim(uint32_t g, uint32_t i) { return g + 8 * i; }
  // Rows g and g + 8 to the place of a warp's 16 values.
  AITERLITE_DEVICE static void stage_values(float* to, uint32_t g, float low, float high) {
    to[value_dim(g, 0)] = low;
    to[value_dim(g, 1)] = high;
  }
  // Elements 8 chunk to 8 chunk + 7 of the 64 of a tile of q.
  AITERLITE_DEVICE static void store_query(char* tile, uint32_t column, uint32_t chunk, const Vector16& elements) {
    store_shared_16(tile + column * 128 + (chunk ^ (column & 7)) * 16, elements);
  }
  AITERLITE_DEVICE static bool any_not_finite(const Vector16& elements) { return mla::any_not_finite<Kv>(elements); }

 private:
  uint32_t a_[3][4][4];
};

// Rows of e4m3fn, which become fp16.
template <class Rows>
class Sm90Operands<e4m3fn, Rows> {
 public:
  using Element = fp16;

  template <uint32_t kStep>
  AITERLITE_DEVICE void fetch_keys(const void* rows, uint32_t warp) {
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) MmaSync::load_a<Rows>(bytes_[kStep % 2][h], rows, warp * 16, kStep * 64 + h * 32);
  }
  template <uint32_t kStep>
  AITERLITE_DEVICE void fetch_values(const void* rows, uint32_t warp) {
    constexpr uint32_t kByte = (kStep - kKeyDim / 64) * 64;
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      E4m3Operand::fetch_a_paired<Rows>(bytes_[kStep % 2][h], rows, h * 32, kByte + warp * 16);
    }
  }
  template <uint32_t kStep>
  AITERLITE_DEVICE void ready_keys() {
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) widen<kStep>(h, [](auto& a, auto& bytes) { E4m3Operand::widen_a(a, bytes); });
  }
  template <uint32_t kStep>
  AITERLITE_DEVICE void ready_values() {
#pragma unroll
    for (uint32_t h = 0; h < 2; ++h) {
      widen<kStep>(h, [](auto& a, auto& bytes) { E4m3Operand::widen_a_paired(a, bytes); });
    }
  }
  template <uint32_t kStep>
  AITERLITE_DEVICE const uint32_t (&a(uint32_t x) const)[4] {
    return a_[kStep % 2][x / 2][x % 2];
  }

  static constexpr bool kPaired = true;  // rows g and g + 8 are neighbours
  AITERLITE_DEVICE static uint32_t value_dim(uint32_t g, uint32_t i) { return 2 * g + i; }
  AITERLITE_DEVICE static void stage_values(float* to, uint32_t g, float low, float high) {
    store_shared_8(to + 2 * g, {{__builtin_bit_cast(uint32_t, low), __builtin_bit_cast(uint32_t, high)}});
  }
  // By E4m3Operand::position: pairs of elements go to the two chunks of their 16 in turn.
  AITERLITE_DEVICE static void store_query(char* tile, uint32_t column, uint32_t chunk, const Vector16& elements) {
    const uint32_t even = chunk & ~1u, half = (chunk & 1) * 8;
    char* row = tile + column * 128;
    store_shared_8(row + (even ^ (column & 7)) * 16 + half, {{elements.word[0], elements.word[2]}});
    store_shared_8(row + ((even + 1) ^ (column & 7)) * 16 + half, {{elements.word[1], elements.word[3]}});
  }
  AITERLITE_DEVICE static bool any_not_finite(const Vector16& elements) {
    bool any = false;
#pragma unroll
    for (const uint32_t word : elements.word) {
#pragma unroll
      for (uint32_t byte = 0; byte < 4; ++byte) any |= (word >> (8 * byte) & 0x7f) == 0x7f;
    }
    return any;
  }

 private:
  template <uint32_t kStep, class Widen>
  AITERLITE_DEVICE void widen(uint32_t half, const Widen& widen) {
    widen(a_[kStep % 2][half], bytes_[kStep % 2][half]);
  }

  uint32_t bytes_[2][2][4];
  uint32_t a_[2][2][2][4];
};

// Eight elements of q as 16-bit ones, those of 8 bits as fp16; zeros where they are not wanted.
AITERLITE_DEVICE Vector16 load_eight(const fp16* at, bool wanted) { return load_vector_if<false>(at, wanted, at); }
AITERLITE_DEVICE Vector16 load_eight(const bf16* at, bool wanted) { return load_vector_if<false>(at, wanted, at); }
AITERLITE_DEVICE Vector16 load_eight(const e4m3fn* at, bool wanted) {
  if (!wanted) return {};
  uint32_t pair[2][2];
#pragma unroll
  for (uint32_t w = 0; w < 2; ++w) {
    widen_fp8<e4m3fn>(fp16{}, __builtin_bit_cast(uint32_t, load_f32(at + 4 * w)), pair[w]);
  }
  return {{pair[0][0], pair[0][1], pair[1][0], pair[1][1]}};
}

// Rows of bf16 become fp16 times a power of two that brings the largest magnitude to 2^14, so that elements keep all
// their bits down to 2^-28 of that. `undo` is its reciprocal; both are normal numbers. Where there is an infinity or a
// NaN, nothing is scaled.
struct Scaling {
  float factor, undo;
};
// From the largest magnitude's bits.
AITERLITE_DEVICE Scaling scaling_to_fp16(uint32_t largest) {
  const uint32_t exponent = largest >> 7;
  uint32_t biased = 127;
  if (exponent != 0xff) biased = exponent < 15 ? 253 : 268 - exponent;
  return {__builtin_bit_cast(float, biased << 23), __builtin_bit_cast(float, (254 - biased) << 23)};
}
template <uint32_t kChunks>
AITERLITE_DEVICE uint32_t largest_magnitude(const Vector16 (&row)[kChunks]) {
  uint32_t most = 0;
#pragma unroll
  for (const Vector16& chunk : row) {
#pragma unroll
    for (const uint32_t word : chunk.word) most = Max{}(most, Max{}(word & 0x7fffu, word >> 16 & 0x7fffu));
  }
  return most;
}
template <uint32_t kChunks>
AITERLITE_DEVICE void scale_to_fp16(Vector16 (&row)[kChunks], float factor) {
#pragma unroll
  for (Vector16& chunk : row) {
#pragma unroll
    for (uint32_t& word : chunk.word) {
      word = native_pack_fp16(to_float(bf16{static_cast<uint16_t>(word)}) * factor,
                              to_float(bf16{static_cast<uint16_t>(word >> 16)}) * factor);
    }
  }
}

}  // namespace aiterlite::mla
