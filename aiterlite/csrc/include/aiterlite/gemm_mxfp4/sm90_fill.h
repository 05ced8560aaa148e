// The GEMM of MXFP4 weights on sm_90: the roles that fill the ring.
#pragma once
#include <aiterlite/gemm_mxfp4/sm90_shape.h>
#include <aiterlite/numeric/pack.h>

namespace aiterlite::gemm_mxfp4 {

// Where a step's weights are, for `ask`: (x, y, z) of the map.
template <class Ask>
AITERLITE_DEVICE void at_weights(const Work& work, uint32_t step, const Ask& ask) {
  if constexpr (kShuffled) {
    ask(0, step * (kTileRows * kRowBytes / 128), work.first_row / kTileRows);
  } else {
    ask(step * kRowBytes, work.first_row, work.batch);
  }
}

// One lane, before others have ended: weights of the first steps come to the L2 already, which reads nothing yet.
AITERLITE_DEVICE void prefetch_weights(const TensorMap& map, const Work& work) {
  const uint32_t steps = lower(work.count, kEarly);
#pragma unroll 1
  for (uint32_t step = work.begin; step != work.begin + steps; ++step) {
    at_weights(work, step, [&](uint32_t x, uint32_t y, uint32_t z) { prefetch_box(map, x, y, z); });
  }
}

// One lane: weights.
AITERLITE_DEVICE void copy_weights(const TensorMap& map, Shared& shared, const Work& work) {
  const uint64_t once = keep_briefly();
  Turn turn;
#pragma unroll 1
  for (uint32_t step = work.begin; step != work.begin + work.count; ++step, turn.advance(1)) {
    Barrier& full = shared.full[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    full.arrive_expecting(kRows * kRowBytes);
    at_weights(work, step, [&](uint32_t x, uint32_t y, uint32_t z) {
      copy_box(shared.ring.w[turn.stage], map, x, y, z, full, once);
    });
  }
}

// One warp: scales of weights. All lanes arrive for each step.
AITERLITE_DEVICE void fetch_scales(const Args& args, Shared& shared, const Work& work) {
  const auto* scales = static_cast<const uint8_t*>(args.w_scale) + work.batch * args.stride_w_scale_batch;
  const uint32_t lane = lane_id(), last = static_cast<uint32_t>(args.m) - 1;
  const uint32_t blocks = static_cast<uint32_t>(args.k) / kMxBlock;
  Turn turn;
#pragma unroll 1
  for (uint32_t step = work.begin; step != work.begin + work.count; ++step, turn.advance(1)) {
    uint8_t* to = shared.scale[turn.stage];
    Barrier& full = shared.full[turn.stage];
    shared.empty[turn.stage].wait(turn.parity ^ 1);
    if constexpr (kScales == kInRows) {
#pragma unroll
      for (uint32_t i = 0; i < (2 * kRows + kWaveSize - 1) / kWaveSize; ++i) {
        const uint32_t word = lane + i * kWaveSize;
        const auto* row = scales + lower(work.first_row + word / 2, last) * args.stride_w_scale;
        if (word < 2 * kRows) copy_word_async(to + word * 4, row + step * kBlocks + word % 2 * 4);
      }
      full.arrive_after_copies();
    } else if constexpr (kScales == kShuffledScales) {
      const uint32_t first = work.first_row / 32;
#pragma unroll
      for (uint32_t i = 0; i < (kScaleBytes / 4 + kWaveSize - 1) / kWaveSize; ++i) {
        const uint32_t word = lane + i * kWaveSize, tile = first + word / (kScaleTile / 4);
        const auto* from = scales + tile * args.stride_w_scale + step * kScaleTile + word % (kScaleTile / 4) * 4;
        const bool wanted = tile <= last / 32;
        if (word < kScaleBytes / 4) copy_word_async(to + word * 4, wanted ? from : scales, wanted);
      }
      full.arrive_after_copies();
    } else {
      // Neighbouring lanes have neighbouring rows.
#pragma unroll 1
      for (uint32_t row = lane; row < kRows; row += kWaveSize) {
        const auto* from = scales + lower(work.first_row + row, last) * args.stride_w_scale;
        uint8_t byte[kBlocks];
#pragma unroll
        for (uint32_t i = 0; i < kBlocks; ++i) {
          byte[i] = load_u8(from + lower(step * kBlocks + i, blocks - 1) * args.stride_w_scale_block);
        }
        Vector8 made = {};
#pragma unroll
        for (uint32_t i = 0; i < kBlocks; ++i) made.word[i / 4] |= uint32_t{byte[i]} << (i % 4 * 8);
        store_shared_8(to + row * kBlocks, made);
      }
      full.arrive();
    }
  }
}

// 8 neighbouring k of a token, as they lie.
struct Raw {
  Vector16 word;  // of codes the first, and their scale after it
};

AITERLITE_DEVICE Raw load_raw(const Args& args, const Work& work, uint32_t token, uint32_t k) {
  const auto* x = static_cast<const char*>(args.x);
  Raw raw = {};
  if (k >= static_cast<uint32_t>(args.k)) return raw;
  const uint32_t row = work.first_token + token;
  if constexpr (kPacked) {
    const auto* scales = static_cast<const uint8_t*>(args.x_scale) + work.batch * args.stride_x_scale_batch;
    const uint32_t block = k / kMxBlock;
    const uint64_t at = kXScaleShuffled ? row / 32 * args.stride_x_scale + shuffled_scale_at(row % 32, block)
                                        : row * args.stride_x_scale + block * args.stride_x_scale_block;
    raw.word.word[0] =
        static_cast<uint32_t>(load_i32(x + work.batch * args.stride_x_batch + row * args.stride_x + k / 2));
    raw.word.word[1] = load_u8(scales + at);
  } else {
    raw.word = load_vector<false>(x + 2 * (work.batch * args.stride_x_batch + row * args.stride_x + k));
  }
  return raw;
}

// The pairs of 8 fp16 as bf16, and what is left of them.
AITERLITE_DEVICE void split(const Vector16& x, Vector16& high, Vector16& low) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    float value[2], rest[2];
#pragma unroll
    for (uint32_t c = 0; c < 2; ++c) value[c] = half_bits_to_float(static_cast<uint16_t>(x.word[i] >> (16 * c)));
    high.word[i] = pack_pair(bf16{}, value[0], value[1]);
#pragma unroll
    for (uint32_t c = 0; c < 2; ++c) {
      const float taken = __builtin_bit_cast(float, c == 0 ? high.word[i] << 16 : high.word[i] & 0xffff0000u);
      // Nothing is left of an infinity.
      rest[c] = (__builtin_bit_cast(uint32_t, value[c]) & 0x7f800000u) == 0x7f800000u ? 0.0f : value[c] - taken;
    }
    low.word[i] = pack_pair(bf16{}, rest[0], rest[1]);
  }
}

// To a stage's tokens: of this lane's 8 k, at `to`, the four pairs.
AITERLITE_DEVICE void store_pairs(uint8_t* to, const Vector16& pairs) {
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    *reinterpret_cast<uint32_t*>(to + i / 2 * kProductBytes + i % 2 * kPieceBytes) = pairs.word[i];
  }
}

AITERLITE_DEVICE void store_raw(uint8_t* stage, const Raw& raw, uint32_t token) {
  const uint32_t lane = lane_id(), chunk = lane / 16, block = lane / 4 % 4, word = lane % 4;
  uint8_t* to = stage + chunk * kChunkBytes + token / 8 * kGroupBytes + word * kWordBytes + token % 8 * 16 + block * 4;
  if constexpr (kPacked) {
    const float scale = to_float(e8m0{static_cast<uint8_t>(raw.word.word[1])});
    store_pairs(to, paired<0>(raw.word.word[0], scale));
  } else if constexpr (kIsFp16) {
    Vector16 high, low;
    split(raw.word, high, low);
    store_pairs(to, paired<0>(high));
    store_pairs(to + kColumns / 8 * kGroupBytes, paired<0>(low));
  } else {
    store_pairs(to, paired<0>(raw.word));
  }
}

// A lane's 8 k of a step's token.
AITERLITE_DEVICE Raw ask_token(const Args& args, const Work& work, uint32_t step, uint32_t token) {
  return load_raw(args, work, token, (work.begin + step) * kStep + lane_id() * 8);
}
// A warp: puts a token to where it is multiplied, and counts it.
AITERLITE_DEVICE void put_token(Shared& shared, uint32_t stage, const Raw& raw, uint32_t token) {
  store_raw(shared.ring.x[stage], raw, token);
  publish_to_engines();
  wave_barrier();
  if (lane_id() == 0) shared.full[stage].arrive();
}
inline constexpr uint32_t kAhead = 8;  // loads of a lane on their way: enough to hide a trip to the L2

// Each of `warps` warps: tokens of the first round of the ring, before there is anything else to do.
AITERLITE_DEVICE void fetch_first_tokens(const Args& args, Shared& shared, const Work& work, uint32_t warp,
                                         uint32_t warps) {
  const uint32_t pairs = lower(work.count, kStages) * work.tokens;
#pragma unroll 1
  for (uint32_t first = warp; first < pairs; first += kAhead * warps) {
    Raw raw[kAhead];
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t pair = first + i * warps, step = pair / work.tokens;
      if (pair < pairs) raw[i] = ask_token(args, work, step, pair - step * work.tokens);
    }
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      const uint32_t pair = first + i * warps, step = pair / work.tokens;
      if (pair < pairs) put_token(shared, step, raw[i], pair - step * work.tokens);
    }
  }
}

// A warp of kLoaders: tokens of later rounds. Of a stage and a token it is always the same one, which so waits for each
// time that the stage is free: a wait cannot tell a phase from the one two before or after it.
AITERLITE_DEVICE void fetch_tokens(const Args& args, Shared& shared, const Work& work, uint32_t loader) {
  struct At {
    uint32_t step, token, first, stage = 0, parity = 1;  // `first`: the loader's first token of this stage

    // To the next token that is this loader's, if there is one: it may have none at all.
    AITERLITE_DEVICE void settle(const Work& work, uint32_t loader) {
      const uint32_t tokens = work.tokens;
      while (token >= tokens && step < work.count) {
        ++step;
        first = (first + kLoaders - tokens % kLoaders) % kLoaders;
        if (++stage == kStages) {
          stage = 0;
          parity ^= 1;
          first = loader;
        }
        token = first;
      }
    }
    AITERLITE_DEVICE void advance(const Work& work, uint32_t loader) {
      token += kLoaders;
      settle(work, loader);
    }
  };
  At asked = {kStages, loader, loader};
  asked.settle(work, loader);
  At stored = asked;
  Raw raw[kAhead] = {};
  const auto ask = [&](Raw& one) {
    if (asked.step < work.count) one = ask_token(args, work, asked.step, asked.token);
    asked.advance(work, loader);
  };
#pragma unroll
  for (uint32_t i = 0; i < kAhead; ++i) ask(raw[i]);
#pragma unroll 1
  while (stored.step < work.count) {
#pragma unroll
    for (uint32_t i = 0; i < kAhead; ++i) {
      if (stored.step >= work.count) break;
      shared.empty[stored.stage].wait(stored.parity ^ 1);
      put_token(shared, stored.stage, raw[i], stored.token);
      stored.advance(work, loader);
      ask(raw[i]);
    }
  }
}

}  // namespace aiterlite::gemm_mxfp4
