// Hidden states as MXFP8 has them, as bf16 numbers in `h`, [tokens, width] (fused_moe/args.h): of bf16 or fp16 by
// RoundUp, or, with AITERLITE_QUANTISED, of codes (e4m3fn) and their scales. The stages multiply what is in `h` for x.
// gfx942, gfx950, sm_90.
//
// Tiling. A workgroup has 2,048 elements of a token, a thread 8, four threads a block of 32. Traffic: x once, 2 bytes
// an element written. Tokens that do not count are left out. Grid: tokens, times the width / 2,048, rounded up.
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/numeric/block_scale.h>
#include <aiterlite/numeric/fp8.h>
#include <aiterlite/numeric/mxfp8_round.h>
#include <aiterlite/overlap.h>
#include <aiterlite/vector.h>

namespace {

using namespace aiterlite;

constexpr uint32_t kThreads = 256, kEach = 8, kPart = kThreads * kEach;

// Eight codes and their scale.
AITERLITE_DEVICE Vector16 numbers_of(const aiterlite_fused_moe_args& args, int64_t token, uint32_t column) {
  const auto codes = static_cast<uint64_t>(load_i64(static_cast<const char*>(args.x) + token * args.stride_x + column));
  const auto* scales = reinterpret_cast<const uint8_t*>(args.x_scale) + token * args.stride_scale_token;
  const float scale = to_float(e8m0{static_cast<uint8_t>(load_u8(scales + column / 32 * args.stride_scale_group))});
  Vector16 made;
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
    float value[4];
    unpack_fp8<e4m3fn>(static_cast<uint32_t>(codes >> (32 * i)), value);
    made.word[2 * i] = pack_pair(bf16{}, value[0] * scale, value[1] * scale);
    made.word[2 * i + 1] = pack_pair(bf16{}, value[2] * scale, value[3] * scale);
  }
  return made;
}

}  // namespace

AITERLITE_KERNEL(kThreads) aiterlite_fused_moe_mxfp4_numbers(aiterlite_fused_moe_args args) {
  using Element = AITERLITE_ELEMENT;
  await_predecessors();
  const auto width = static_cast<uint32_t>(args.width);
  const uint32_t parts = (width + kPart - 1) / kPart, part = workgroup_id() % parts;
  const int64_t token = workgroup_id() / parts;
  if (args.num_local_tokens != nullptr && token >= fused_moe::load_int(args.num_local_tokens)) return;
  // Threads behind the width read what is before it, as whole blocks, so that all of a wave exchange.
  const uint32_t own = part * kPart + thread_id() * kEach, column = own < width ? own : own % 32;
  Vector16 made;
  if constexpr (AITERLITE_QUANTISED) {
    made = numbers_of(args, token, column);
  } else {
    const auto* row = static_cast<const uint16_t*>(args.x) + token * args.stride_x;
    made = round_quad_to_mxfp8<Element>(load_row_vector<Reuse::kRow>(row + column));
  }
  if (own >= width) return;
  auto* to = static_cast<uint16_t*>(args.h) + token * width + column;
  store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, made));
}
