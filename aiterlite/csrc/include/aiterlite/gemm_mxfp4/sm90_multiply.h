// The GEMM of MXFP4 weights on sm_90: codes of the ring become bf16 in registers, times their scales, and are
// multiplied.
#pragma once
#include <aiterlite/gemm_mxfp4/sm90_shape.h>

namespace aiterlite::gemm_mxfp4 {

// A multiplying warp: its tile of rows, and the chunk that it has of each step where a warpgroup has both at once.
struct Place {
  uint32_t tile, slice, turn, lane;

  AITERLITE_DEVICE Place(uint32_t warp, uint32_t lane) : lane(lane) {
    const uint32_t group = warp / kGroupWaves, wave = warp % kGroupWaves, row_group = group % kRowGroups;
    turn = group / kRowGroups;
    // Warpgroups of few rows have them in other warps, which are on other parts of the multiprocessor.
    const uint32_t own = kTiles < kTilesOfGroup ? (wave + turn * kTiles) % kTilesOfGroup : wave % kTilesOfGroup;
    slice = kFold == 1 ? 0 : wave / kTilesOfGroup;
    tile = row_group * kTilesOfGroup + own;
  }
  AITERLITE_DEVICE bool has_rows() const { return tile < kTiles; }
  AITERLITE_DEVICE uint32_t k_wave() const { return turn * kFold + slice; }
};

// Which row of a tile is lane / 4 of a fragment, and 8 further on: so that eight lanes read from all banks. Shuffled
// weights lie in lines of 8 rows of a block, others in rows of 8 blocks, both swizzled.
AITERLITE_DEVICE uint32_t row_of(uint32_t fragment_row) {
  return kShuffled ? fragment_row : fragment_row / 2 + fragment_row % 2 * 4;
}

// What a multiplying thread reads of each step.
struct Reader {
  uint32_t codes[2];  // of rows lane / 4 and 8 further on, block lane % 4 of the first chunk
  uint32_t scales;

  AITERLITE_DEVICE Reader(const Work& work, const Place& place) {
    const uint32_t row = row_of(place.lane / 4), block = place.lane % 4;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      if constexpr (kShuffled) {
        const uint32_t line = 2 * block + i;
        codes[i] = place.tile * (kTileRows * kRowBytes) + line * 128 + (row ^ line) * 16;
      } else {
        codes[i] = (place.tile * kTileRows + row + 8 * i) * kRowBytes + (row ^ block) * 16;
      }
    }
    if constexpr (kScales == kShuffledScales) {
      const uint32_t first = work.first_row % 32 + place.tile * kTileRows;
      scales = first / 32 * kScaleTile + shuffled_scale_at(first % 32 + row, block);
    } else {
      scales = (place.tile * kTileRows + row) * kBlocks + block;
    }
  }
  AITERLITE_DEVICE Vector16 load_codes(const uint8_t* w, uint32_t chunk, uint32_t i) const {
    // Blocks of the second chunk are 8 lines on, or the other half of a row.
    return load_shared_16(w + (kShuffled ? codes[i] + chunk * 1024 : codes[i] ^ (chunk * 64)));
  }
  AITERLITE_DEVICE uint32_t load_scale(const uint8_t* scale, uint32_t chunk, uint32_t i) const {
    constexpr uint32_t kRow = kScales == kShuffledScales ? 4 : kBlocks;
    return load_u8(scale + scales + chunk * (kScales == kShuffledScales ? 2 : 4) + i * (8 * kRow));
  }
};

// Codes are decoded and multiplied by units of kWords words of a block, two products each: two units' operands are in
// registers, one being multiplied while the next is decoded.
inline constexpr uint32_t kWords = AITERLITE_WORDS;
inline constexpr uint32_t kUnitsOfChunk = 4 / kWords, kUnitsOfStep = (2 / kFold) * kUnitsOfChunk;
inline constexpr uint32_t kProductSums = kColumnGroups * kFold * 4;
using Operands = uint32_t[2 * kWords][4];
static_assert(kUnitsOfStep % 2 == 0, "units take turns in two sets of registers");

struct Multiplier {
  float sums[kProductSums];
  Vector16 codes[2];
  uint32_t byte[2 / kFold][2];
  uint32_t factor[2], rest[2];
  bool great;  // whether a scale of the warp's is 2 or more, in this step

  // A unit of this lane's blocks, as numbers: bf16 has all of them.
  template <uint32_t kUnit>
  AITERLITE_DEVICE void decode(const Reader& reader, const Place& place, const uint8_t* w, const uint8_t* scale,
                               uint32_t blocks, Operands& to) {
    if (kRows % (kTilesOfGroup * kTileRows) != 0 && !place.has_rows()) return;
    if constexpr (kUnit == 0) load_scales(reader, place, scale, blocks);
    if constexpr (kUnit % kUnitsOfChunk == 0) {
      constexpr uint32_t kOwn = kUnit / kUnitsOfChunk;
      const uint32_t chunk = kFold == 1 ? kOwn : place.slice;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        codes[i] = reader.load_codes(w, chunk, i);
        // Decoded codes are 2^-126 of what they are: times 2^126 and the scale, which is a bf16 up to 2.
        factor[i] = byte[kOwn][i] * 0x00800080u + 126 * 0x00800080u;
        if (great) {
          const uint32_t first = lower(byte[kOwn][i], 128);
          factor[i] = first * 0x00800080u + 126 * 0x00800080u;
          rest[i] = byte[kOwn][i] == 255 ? 0x7fc07fc0u : (byte[kOwn][i] - first + 127) * 0x00800080u;
        }
      }
    }
    constexpr uint32_t kFirst = kUnit % kUnitsOfChunk * kWords;
#pragma unroll
    for (uint32_t word = 0; word < kWords; ++word) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        uint32_t pair[4];
        decode_e2m1_of_bf16(codes[i].word[kFirst + word], pair);
#pragma unroll
        for (uint32_t p = 0; p < 4; ++p) to[2 * word + p / 2][i + p % 2 * 2] = multiply_bf16_pair(pair[p], factor[i]);
      }
    }
    if (great) {
#pragma unroll
      for (uint32_t product = 0; product < 2 * kWords; ++product) {
#pragma unroll
        for (uint32_t p = 0; p < 4; ++p) to[product][p] = multiply_bf16_pair(to[product][p], rest[p % 2]);
      }
    }
  }

  AITERLITE_DEVICE void load_scales(const Reader& reader, const Place& place, const uint8_t* scale, uint32_t blocks) {
    uint32_t any = 0;
#pragma unroll
    for (uint32_t own = 0; own < 2 / kFold; ++own) {
      const uint32_t chunk = kFold == 1 ? own : place.slice;
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        byte[own][i] = reader.load_scale(scale, chunk, i);
        // Codes past K are zeros; what lies in place of their scales may be NaN.
        if (kScales == kShuffledScales && blocks < kBlocks && place.lane % 4 + 4 * chunk >= blocks) byte[own][i] = 0;
        any |= byte[own][i];
      }
    }
    great = any_lane(any >= 128);
  }

  template <uint32_t kUnit>
  AITERLITE_DEVICE void multiply(uint64_t x, const Operands& from) {
    constexpr uint32_t kChunkOf = kFold == 1 ? kUnit / kUnitsOfChunk : 0, kFirst = kUnit % kUnitsOfChunk * kWords;
    begin_group();
#pragma unroll
    for (uint32_t product = 0; product < 2 * kWords; ++product) {
      const uint32_t at = kChunkOf * kChunkBytes + (kFirst + product / 2) * kWordBytes + product % 2 * kProductBytes;
      multiply_group(bf16{}, sums, from[product], advanced_bytes(x, at));
    }
    commit_group();
  }
};

// Calls `work` for each unit but the first of a step, which is known when it is compiled.
template <uint32_t kNumber>
struct UnitNumber {
  static constexpr uint32_t kValue = kNumber;
};
template <uint32_t kFirst, uint32_t kEnd, class Task>
AITERLITE_DEVICE void in_each_unit(const Task& task) {
  if constexpr (kFirst < kEnd) {
    task(UnitNumber<kFirst>{});
    in_each_unit<kFirst + 1, kEnd>(task);
  }
}

// A warpgroup's steps: of its turn every kTurns-th. Its sums by columns are this thread's for rows lane / 4 and 8
// further on.
AITERLITE_DEVICE void accumulate(float (&sums)[kSums], const Args& args, Shared& shared, const Work& work,
                                 const Place& place) {
  Multiplier made = {};
  if (place.turn < work.count) {
    const Reader reader(work, place);
    const uint32_t blocks = static_cast<uint32_t>(args.k) / kMxBlock;
    Operands operands[2] = {};
    Turn turn;
    turn.advance(place.turn);
    const auto left = [&](uint32_t step) { return blocks - (work.begin + step) * kBlocks; };
    shared.full[turn.stage].wait(turn.parity);
    made.decode<0>(reader, place, shared.ring.w[turn.stage], shared.scale[turn.stage], left(place.turn), operands[0]);
#pragma unroll 1
    for (uint32_t step = place.turn; step < work.count; step += kTurns) {
      const uint32_t stage = turn.stage;
      const uint64_t x = operand_descriptor(shared.ring.x[stage], Swizzle::kNone, kGroupBytes, kPieceBytes);
      in_each_unit<0, kUnitsOfStep - 1>([&](auto unit) {
        constexpr uint32_t kUnit = decltype(unit)::kValue;
        made.multiply<kUnit>(x, operands[kUnit % 2]);
        if constexpr (kUnit > 0) await_group<1>();
        made.decode<kUnit + 1>(reader, place, shared.ring.w[stage], shared.scale[stage], left(step),
                               operands[(kUnit + 1) % 2]);
      });
      made.multiply<kUnitsOfStep - 1>(x, operands[1]);
      await_group<1>();
      if (step + kTurns < work.count) {
        turn.advance(kTurns);
        shared.full[turn.stage].wait(turn.parity);
        made.decode<0>(reader, place, shared.ring.w[turn.stage], shared.scale[turn.stage], left(step + kTurns),
                       operands[0]);
      }
      await_group<0>();
      wave_barrier();
      if (place.lane == 0) shared.empty[stage].arrive();
    }
  }
#pragma unroll
  for (uint32_t i = 0; i < kSums; ++i) {
    float part[kParts];
#pragma unroll
    for (uint32_t p = 0; p < kParts; ++p) {
      part[p] = made.sums[p * kSums + i];
      if (kFold == 2 && place.slice == 1) part[p] = made.sums[(kFold - 1) * kParts * kSums + p * kSums + i];
    }
    sums[i] = kParts == 2 ? part[0] + part[kParts - 1] : part[0];
  }
}

}  // namespace aiterlite::gemm_mxfp4
