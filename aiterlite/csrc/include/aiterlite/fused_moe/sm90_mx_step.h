// A step of an expert's MXFP4 weights on sm_90: 64 rows by 256 k in shared memory, times a block of entries, by a
// warpgroup and the 8-bit matrix unit.
//
// Weights are rows of the product: a warp has 16, whose codes ldmatrix hands out by words of 8, which become e4m3fn in
// registers (numeric/mxfp4_e4m3.h). Entries are columns. A product is of one block of 32 k, begins at zero, and is
// added in float, times the scales of both operands; those of MXFP4 by MXFP4 are exact before that: sums of 32 of them
// are less than 2^13 quarters. So no operand is multiplied by its scale, and decoding, which few lanes a cycle can do,
// takes 5 instructions of that kind for 8 codes of a lane.
//
// Steps are on their way to a ring of a warpgroup's own; its 128 threads ask for them, 16 bytes each, and a barrier of
// theirs says that a step is there and the one before it is read. Rows of 128 bytes lie with 16 bytes exchanged by the
// row, so that neither copies nor reads meet in a bank.
#pragma once
#include <aiterlite/fragment/sm90_wgmma.h>
#include <aiterlite/fused_moe/sm90_lists.h>
#include <aiterlite/numeric/mxfp4_decode.h>
#include <aiterlite/numeric/mxfp4_e4m3.h>
#include <aiterlite/numeric/mxfp4_layout.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace aiterlite::experts::mx {

inline constexpr uint32_t kStages = AITERLITE_STAGES, kGroups = AITERLITE_GROUPS;
inline constexpr uint32_t kGroupThreads = kGroupWaves * kWaveSize, kThreads = kGroups * kGroupThreads;
inline constexpr uint32_t kStepK = 256, kStepBlocks = kStepK / kMxBlock, kRowBytes = kStepK / 2, kWarpRows = 16;
inline constexpr uint32_t kSums = kColumns / 2, kPairs = kColumns / 4;  // of a thread: sums, columns
static_assert(kColumns == 8 || kColumns == 16, "AITERLITE_COLS must be 8 or 16");
static_assert(kStages >= 2, "a step is on its way while another is multiplied");

// Shuffled weights lie in pieces of 16 rows of 16 bytes, and their scales in tiles of 32 rows by 8 blocks
// (numeric/mxfp4_layout.h), of which a word has those of two rows, of which a warp wants one.
inline constexpr bool kShuffled = AITERLITE_SHUFFLED;
inline constexpr uint32_t kScaleWords = kShuffled ? 2 : 1;  // of a thread

struct alignas(1024) Stage {
  uint8_t w[kGroupRows * kRowBytes];
  uint8_t x[2][kColumns * 128];
  uint32_t w_scale[kScaleWords][kGroupThreads];
  alignas(16) float x_scale[kColumns][kStepBlocks];
  int32_t entry[kColumns];  // and its weight: stage 2
  float weight[kColumns];
};
// A warpgroup's scales of a step's rows as floats, which a warp makes of its own and reads again.
struct RowScales {
  alignas(16) float of[kGroupRows][kStepBlocks];
};

AITERLITE_DEVICE uint32_t swizzled(uint32_t row, uint32_t chunk) { return row * 128 + (chunk ^ row % 8) * 16; }

// A thread of a warpgroup, and where in a stage it copies and reads. Offsets are opaque, or they would be computed anew
// in each step.
struct Place {
  uint32_t thread, warp, lane;
  uint32_t rows_to[2];      // of codes of its warp's rows, in even copies and odd ones; 8 rows on a kilobyte more
  uint32_t column_to;       // of codes of x
  uint32_t matrices;        // rows that ldmatrix takes of it
  uint32_t scales_to;       // of rows' scales as floats, in bytes
  uint32_t scale_shift[2];  // of shuffled ones: to a row's bytes in either word
  uint32_t column_scale;    // in bytes: that of its first column

  AITERLITE_DEVICE Place() : thread(thread_id() % kGroupThreads), warp(thread / kWaveSize), lane(lane_id()) {
    const uint32_t row = warp * kWarpRows;
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      rows_to[i] =
          opaque(kShuffled ? swizzled(row + lane % 8, 4 * i + lane / 8) : swizzled(row + 4 * i + lane / 8, lane % 8));
      scale_shift[i] = 0;
    }
    const uint32_t chunk = thread % 16;
    column_to = opaque(chunk / 8 * (kColumns * 128) + swizzled(thread / 16, chunk % 8));
    matrices = opaque(swizzled(row + lane % 16, lane / 16));
    scales_to = opaque(kShuffled ? (row + lane % 8) * kStepBlocks * 4 + lane / 8 * 4
                                 : (row + lane / 2) * kStepBlocks * 4 + lane % 2 * 16);
    column_scale = opaque(lane % 4 * 2 * kStepBlocks * 4);
  }
  // Of the step: rows whose sums it has, and columns.
  AITERLITE_DEVICE uint32_t row(uint32_t i) const { return warp * kWarpRows + lane / 4 + 8 * i; }
  AITERLITE_DEVICE uint32_t column(uint32_t j, uint32_t c) const { return 8 * j + lane % 4 * 2 + c; }
};

// What a thread copies of its warp's rows, of a matrix of kK columns: in four copies 16 bytes each, of rows row() and
// 4 (of shuffled weights 8) further on; and of their scales a word, or two.
template <uint32_t kK>
struct RowBytes {
  static constexpr uint32_t kStep = kShuffled ? kStepBlocks * 256 : kRowBytes;  // from step to step
  static constexpr uint32_t kScaleStep = kShuffled ? 256 : kStepBlocks;

  AITERLITE_DEVICE static uint32_t code_row() { return kShuffled ? lane_id() % 8 : lane_id() / 8; }
  AITERLITE_DEVICE static uint32_t scale_row() { return kShuffled ? lane_id() % 8 : lane_id() / 2; }
  // Of a row, where this thread's first codes are.
  AITERLITE_DEVICE static uint32_t code(uint32_t row) {
    return kShuffled ? row / 16 * (8 * kK) + row % 16 * 16 + lane_id() / 8 * 256 : row * (kK / 2) + lane_id() % 8 * 16;
  }
  AITERLITE_DEVICE static uint32_t scale(uint32_t row) {
    return kShuffled ? row / 32 * kK + row % 16 * 4 + lane_id() / 8 * 64 : row * (kK / kMxBlock) + lane_id() % 2 * 4;
  }
  AITERLITE_DEVICE static uint32_t scale_shift(uint32_t row) { return row % 32 / 16 * 8; }
};

// The warp's rows, from `codes`, this lane's of its first copy, and `apart(copy)` bytes on; those that `wanted(copy)`
// says. `scales` is this lane's word, its second one `scale_apart` bytes on.
template <class Apart, class Wanted>
AITERLITE_DEVICE void copy_rows(Stage& stage, const Place& place, const uint8_t* codes, const Apart& apart,
                                const Wanted& wanted, const uint8_t* scales, int32_t scale_apart,
                                const bool (&wanted_scale)[kScaleWords]) {
#pragma unroll
  for (uint32_t copy = 0; copy < 4; ++copy) {
    if (wanted(copy)) copy_async(stage.w + place.rows_to[copy % 2] + copy / 2 * 1024, codes + apart(copy));
  }
#pragma unroll
  for (uint32_t i = 0; i < kScaleWords; ++i) {
    if (wanted_scale[i])
      copy_word_async(&stage.w_scale[i][place.thread], scales + static_cast<int32_t>(i) * scale_apart);
  }
}

// Columns' codes and scales of a step: thread t has 16 bytes of column t / 16, and of 8 columns on. `codes` is where
// its 16 bytes are.
inline constexpr uint32_t kColumnsAtOnce = kGroupThreads / 16;
AITERLITE_DEVICE void copy_column(Stage& stage, const Place& place, uint32_t pass, const uint8_t* codes) {
  copy_async(stage.x[0] + place.column_to + pass * 1024, codes);
}
AITERLITE_DEVICE void copy_column_scale(Stage& stage, uint32_t column, uint32_t half, const float* scales) {
  copy_async(&stage.x_scale[column][4 * half], scales);
}

// Four scales as floats: the places of bytes are exponents, but for 0, which is 2^-127, and 255, NaN.
AITERLITE_DEVICE void scales_of_word(uint32_t word, float (&scale)[4]) {
  decode_small_e8m0(word, 0, scale);
  const uint32_t without = ~word;
  if (__builtin_expect((((word - 0x01010101u) & without) | ((without - 0x01010101u) & word)) & 0x80808080u, 0)) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t byte = word >> (8 * i) & 0xffu;
      if (byte == 0) scale[i] = __builtin_bit_cast(float, 0x00400000u);
      if (byte == 255) scale[i] = __builtin_bit_cast(float, 0x7fc00000u);
    }
  }
}

// Of a warp's rows.
AITERLITE_DEVICE void make_scales(const Stage& stage, RowScales& scales, const Place& place) {
  auto* to = reinterpret_cast<uint8_t*>(scales.of) + place.scales_to;
  Quad made;
  if constexpr (kShuffled) {
    // Of two rows, 8 apart, blocks l / 8 and 4 on.
    const uint32_t first = stage.w_scale[0][place.thread] >> place.scale_shift[0] & 0x00ff00ffu;
    const uint32_t second = stage.w_scale[kScaleWords - 1][place.thread] >> place.scale_shift[1] & 0x00ff00ffu;
    scales_of_word(first | second << 8, made.value);
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      *reinterpret_cast<float*>(to + i % 2 * (8 * kStepBlocks * 4) + i / 2 * 16) = made.value[i];
    }
  } else {
    scales_of_word(stage.w_scale[0][place.thread], made.value);
    store_shared_16(to, __builtin_bit_cast(Vector16, made));
  }
}

// Sums of a half of a step's blocks.
struct Half {
  uint32_t a[4][4];
  float part[4][kSums];

  AITERLITE_DEVICE void start(const Stage& stage, const Place& place, uint32_t half) {
#pragma unroll
    for (uint32_t i = 0; i < 4; i += 2) {
      uint32_t word[4];
      // Blocks are chunks, and even ones: exchanging them is exchanging bits of the offset.
      load_matrices(word, stage.w + (place.matrices ^ (4 * half + i) * 16));
#pragma unroll
      for (uint32_t j = 0; j < 2; ++j) {
        a[i + j][0] = decode_even_e2m1(word[2 * j]);
        a[i + j][1] = decode_even_e2m1(word[2 * j + 1]);
        a[i + j][2] = decode_odd_e2m1(word[2 * j]);
        a[i + j][3] = decode_odd_e2m1(word[2 * j + 1]);
      }
    }
    const uint64_t x = tile_descriptor(stage.x[half]);
    begin_group();
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      multiply_group<Start::kZero>(e4m3fn{}, part[i], a[i], advanced_bytes(x, 32 * i));
    }
    commit_group();
  }
  // Once its products are there.
  AITERLITE_DEVICE void add(const Stage& stage, const RowScales& scales, const Place& place, uint32_t half,
                            float (&sums)[kSums]) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) hold_sums(part[i]);
    Quad w[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      w[i] = __builtin_bit_cast(Quad, load_shared_16(&scales.of[place.row(i)][4 * half]));
    }
    const auto* x_scale = reinterpret_cast<const uint8_t*>(stage.x_scale) + place.column_scale + 16 * half;
#pragma unroll
    for (uint32_t j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (uint32_t c = 0; c < 2; ++c) {
        const auto x = __builtin_bit_cast(Quad, load_shared_16(x_scale + (8 * j + c) * kStepBlocks * 4));
#pragma unroll
        for (uint32_t k = 0; k < 4; ++k) {
#pragma unroll
          for (uint32_t i = 0; i < 2; ++i) {
            const uint32_t at = 4 * j + 2 * i + c;
            sums[at] = __builtin_fmaf(part[k][at] * x.value[k], w[i].value[k], sums[at]);
          }
        }
      }
    }
  }
};

// What sums are to be multiplied by at their end.
inline constexpr float kOfSums = 1 << kE2m1OfE4m3Exponent;

// A step's products, added to sums. The whole warpgroup takes part.
AITERLITE_DEVICE void multiply_step(const Stage& stage, RowScales& scales, const Place& place, float (&sums)[kSums]) {
  if constexpr (AITERLITE_TOGETHER) {
    Half first, second;
    first.start(stage, place, 0);
    make_scales(stage, scales, place);
    second.start(stage, place, 1);
    wave_barrier();
    await_group<1>();
    first.add(stage, scales, place, 0, sums);
    await_group<0>();
    second.add(stage, scales, place, 1, sums);
  } else {
    // Fewer registers.
    Half half;
    half.start(stage, place, 0);
    make_scales(stage, scales, place);
    wave_barrier();
    await_group<0>();
    half.add(stage, scales, place, 0, sums);
    half.start(stage, place, 1);
    await_group<0>();
    half.add(stage, scales, place, 1, sums);
  }
  wave_barrier();
}

// `count` steps by a warpgroup. ask(stage, n) starts the copies of step n, which `begun` of them have already done in
// part (prologue); take(stage, n) uses it. Copies that belong to it are closed here.
template <class Ask, class Take>
AITERLITE_DEVICE void run_steps(Stage (&ring)[kStages], uint32_t group, uint32_t count, const Ask& ask,
                                const Take& take) {
  uint32_t stage = 0, next = kStages - 1;
#pragma unroll 1
  for (uint32_t n = 0; n < count; ++n) {
    await_copies<kStages - 2>();
    if constexpr (AITERLITE_FENCED) publish_to_engines();
    named_barrier_wait(1 + group, kGroupThreads);
    if (n + kStages - 1 < count) ask(ring[next], n + kStages - 1);
    commit_copies();
    take(ring[stage], n);
    next = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
}

}  // namespace aiterlite::experts::mx
