// Stage 1 of the two-stage path of a mixture of experts on AMD: h[pair] = act(x w1_gate^T) * (x w1_up^T), for the pairs
// of token and slot of a sorted block, by the block's expert (fused_moe/args.h). gfx942, gfx950.
//
// The width is a multiple of 128 bytes of a row of x, the inner one of 128, or of 64 where nothing is scaled.
//
// Tiling. A workgroup of four waves has AITERLITE_TOKENS entries of a block and 128 of the layer's inner width, whose
// gate and up rows are 256 rows of w1; a wave has 32, in two pairs of tiles. A lane of a pair holds gate and up of the
// same four neighbours of one token: gate rows are one tile and up rows the other, or, where they take turns in w1,
// each tile has half of both. The loop over k is fused_moe/block_product.h.
//
// Epilogue. 8 bits: h of a token and these 128 is a group with a scale of its own, whose greatest magnitude crosses
// waves by LDS; 16 bits: h is rounded to the type of x. Rows of h leave LDS 16 bytes a thread.
//
// Traffic. w1 once a block of its expert; x once a block and 128 of the inner width, from the caches; scales of x as
// often, w1's once a wave; h once. What is padding reads the row of an entry that is not, and writes nothing.
//
// Order. Sums of 128 bytes of k, in order of k; no atomics: the same operands, the same bits. Grid: blocks that there
// may be, times inner width / 128, rounded up, an expert's together; blocks that are not in use end at once.
#include <aiterlite/block/reduce.h>
#include <aiterlite/fused_moe/activation.h>
#include <aiterlite/fused_moe/block_product.h>
#include <aiterlite/fused_moe/row_scales.h>
#include <aiterlite/fused_moe/sorted_block.h>
#include <aiterlite/numeric/pack.h>
#include <aiterlite/quant/strip.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::fused_moe;

using Element = AITERLITE_ELEMENT;
constexpr uint32_t kTokenTiles = AITERLITE_TOKENS / 16, kTokens = AITERLITE_TOKENS;
constexpr bool kShuffled = AITERLITE_SHUFFLED, kInterleaved = AITERLITE_INTERLEAVED, kWeighted = AITERLITE_WEIGHTED,
               kMarks = AITERLITE_MARKS, kBiased = AITERLITE_BIASED;
constexpr int kScales = AITERLITE_SCALES;
static_assert(AITERLITE_TOKENS == 16 || AITERLITE_TOKENS == 32 || AITERLITE_TOKENS == 64,
              "AITERLITE_TOKENS must be 16, 32 or 64");

constexpr uint32_t kInner = 128, kWaveInner = 32, kPairs = 2, kRowTiles = 2 * kPairs;
// Gate rows and up rows have scales of different blocks, rows that take turns the same.
using Product = BlockProduct<Element, kRowTiles, kTokenTiles, kShuffled, kScales, 2>;
constexpr uint32_t kWaves = Product::kWaves, kThreads = Product::kThreads;

constexpr uint32_t kRowBytes = kInner * sizeof(Element), kRowVectors = kRowBytes / 16;
using Made = Padded<kTokens, kRowBytes, kRowBytes + 16>;

struct Shared {
  union {
    Product::Tiles tiles;
    Vector16 made[Made::kBytes / 16];
  };
  float most[kWaves][kTokens];
  int32_t pair[kTokens];
  float weight[kTokens];  // what the routing gives it
};

// The row of w1 that is row `index` of a tile of this wave; `first` is the wave's first gate, in the layer's width.
AITERLITE_DEVICE uint32_t weight_row(const Args& args, uint32_t first, uint32_t tile, uint32_t index) {
  const uint32_t gate = first + tile / 2 * 16;
  if constexpr (kInterleaved) {
    return 2 * gate + index / 4 * 8 + tile % 2 * 4 + index % 4;
  } else {
    return gate + index + tile % 2 * static_cast<uint32_t>(args.up_offset);
  }
}

struct GateUp {
  float gate;
  float up;
};
// Of a pair of tiles, neighbour i of the four that the lane holds.
AITERLITE_DEVICE GateUp gate_up(const float (&a)[4], const float (&b)[4], uint32_t i) {
  if constexpr (kInterleaved) {
    return i < 2 ? GateUp{a[2 * i], a[2 * i + 1]} : GateUp{b[2 * i - 4], b[2 * i - 3]};
  } else {
    return {a[i], b[i]};
  }
}

using Values = float[kTokenTiles][kPairs][4];

// To LDS, as rows of h; and the scales of these 128 of them to memory.
template <class H>
AITERLITE_DEVICE void leave_values(const Args& args, const Values& h, uint32_t group, Shared& shared) {
  const uint32_t lane = lane_id(), wave = wave_id();
  if constexpr (sizeof(H) == 1) {
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      float most = 0.0f;
#pragma unroll
      for (uint32_t p = 0; p < kPairs; ++p) {
#pragma unroll
        for (float value : h[c][p]) most = __builtin_fmaxf(most, __builtin_fabsf(value));
      }
      most = reduce_strided<16>(most, Max{});
      if (lane < 16) shared.most[wave][16 * c + lane] = most;
    }
  }
  workgroup_barrier();
#pragma unroll
  for (uint32_t c = 0; c < kTokenTiles; ++c) {
    const uint32_t token = 16 * c + Mfma<16>::sum_column(lane);
    char* to = reinterpret_cast<char*>(shared.made);
    const uint32_t first = wave * kWaveInner + Mfma<16>::sum_row(lane, 0);
    if constexpr (sizeof(H) == 1) {
      float most = shared.most[0][token];
#pragma unroll
      for (uint32_t w = 1; w < kWaves; ++w) most = __builtin_fmaxf(most, shared.most[w][token]);
      const float scale = quant::scale_of<H>(most);
      const quant::Divisor scaled(scale);
#pragma unroll
      for (uint32_t p = 0; p < kPairs; ++p) {
        const uint32_t codes = pack_fp8<H, Overflow::kSaturate>(scaled(h[c][p][0]), scaled(h[c][p][1]),
                                                                scaled(h[c][p][2]), scaled(h[c][p][3]));
        *reinterpret_cast<uint32_t*>(to + Made::at(token, first + 16 * p)) = codes;
      }
      const int32_t pair = shared.pair[token];
      if (wave == 0 && lane < 16 && pair >= 0) {
        float* scales = args.h_scale + int64_t{pair} * (static_cast<uint32_t>(args.inter) / kInner) + group;
        store_u32(scales, __builtin_bit_cast(uint32_t, scale));
      }
    } else {
#pragma unroll
      for (uint32_t p = 0; p < kPairs; ++p) {
        store_shared_8(to + Made::at(token, 2 * (first + 16 * p)),
                       {{pack_pair(H{}, h[c][p][0], h[c][p][1]), pack_pair(H{}, h[c][p][2], h[c][p][3])}});
      }
    }
  }
  workgroup_barrier();
}

AITERLITE_DEVICE void store_rows(const Args& args, uint32_t group, const Shared& shared) {
  const auto* made = reinterpret_cast<const char*>(shared.made);
#pragma unroll
  for (uint32_t first = 0; first < kTokens * kRowVectors; first += kThreads) {
    const uint32_t index = first + thread_id(), row = index / kRowVectors, byte = index % kRowVectors * 16;
    if (index >= kTokens * kRowVectors || shared.pair[row] < 0) continue;
    // Rows of scaled numbers are whole groups.
    if (kScales == kUnscaled && group * kRowBytes + byte >= args.inter * sizeof(Element)) continue;
    char* to = static_cast<char*>(args.h) + int64_t{shared.pair[row]} * args.inter * sizeof(Element);
    store_quad(reinterpret_cast<float*>(to + group * kRowBytes + byte),
               __builtin_bit_cast(Quad, load_shared_16(made + Made::at(row, byte))));
  }
}

}  // namespace

AITERLITE_KERNEL_WAVES(kThreads, 2) aiterlite_fused_moe_stage1(aiterlite_fused_moe_args args) {
  AITERLITE_SHARED(Shared, memory, 1);
  Shared& shared = memory[0];
  const uint32_t groups = (static_cast<uint32_t>(args.inter) + kInner - 1) / kInner;
  const uint32_t group = workgroup_id() % groups;
  const auto part = Part<kTokens>::of(args, workgroup_id() / groups);
  const Entries entries = Entries::of<!kMarks>(args, part);
  if (!entries.any()) return;

  const auto width = static_cast<uint32_t>(args.width), inter = static_cast<uint32_t>(args.inter);
  // Where the inner width ends amid these 128, waves behind it make once more what the last one before it makes.
  const uint32_t mine = group * kInner + wave_id() * kWaveInner, last = inter - kWaveInner;
  const uint32_t lane = lane_id(), first = mine < last ? mine : last;
  const uint32_t row_bytes = width * sizeof(Element);
  const auto expert = static_cast<uint32_t>(entries.expert);

  Product product;
  product.weights = static_cast<const char*>(args.w1) + uint64_t{2} * expert * inter * row_bytes;
#pragma unroll
  for (uint32_t t = 0; t < kRowTiles; ++t) {
    product.row[t] = WeightLayout<kShuffled>::row(weight_row(args, first, t, lane % 16), row_bytes);
  }
#pragma unroll
  for (uint32_t fill = 0; fill < Product::kFills; ++fill) {
    const int64_t token = entries.token_of(Product::fill_row(fill));
    product.tokens[fill] = static_cast<const char*>(args.x) + token * args.stride_x * sizeof(Element);
  }
  if constexpr (kScales != kUnscaled) {
#pragma unroll
    for (uint32_t c = 0; c < kTokenTiles; ++c) {
      const uint32_t index = 16 * c + Mfma<16>::sum_column(lane);
      product.token_scale[c] = args.x_scale + int64_t{entries.token_of(index)} * args.stride_scale_token;
    }
  }
  product.token_scale_step = args.stride_scale_group;
  if constexpr (kScales == kBlockScales) {
#pragma unroll
    for (uint32_t r = 0; r < 2; ++r) {
      const uint32_t scale_row = expert * 2 * inter / 128 + weight_row(args, first, r, 0) / 128;
      product.row_scale[r] = args.w1_scale + uint64_t{scale_row} * (width / 128);
    }
  }
  if (thread_id() < kTokens) {
    const int32_t pair = entries.own_pair();
    shared.pair[thread_id()] = pair;
    if (kWeighted) shared.weight[thread_id()] = load_f32(args.sorted_weights + part.index(thread_id()));
    if (kMarks && group == 0 && pair >= 0) store_u32(const_cast<int32_t*>(args.local_topk_ids) + pair, 1);
  }

  Product::Sums sums = {};
  product.run(sums, row_bytes / Product::kStepBytes, shared.tiles);

  if constexpr (kScales == kRowScales || kScales == kTensorScales) {
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = weight_row(args, first, t, Mfma<16>::sum_row(lane, i));
        const float scale = load_f32(scale_of_w1<kScales == kTensorScales>(args, expert, row));
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) sums[t][c][i] *= scale;
      }
    }
  }
  const Swiglu swiglu = {args.limit, args.beta, args.linear_beta};
  const auto weight_of = [&](uint32_t c) {
    return kWeighted ? shared.weight[16 * c + Mfma<16>::sum_column(lane)] : 1.0f;
  };
  if constexpr (kBiased) {
#pragma unroll
    for (uint32_t t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = weight_row(args, first, t, Mfma<16>::sum_row(lane, i));
        const float bias = load_f32(args.bias1 + uint64_t{2} * expert * inter + row);
#pragma unroll
        for (uint32_t c = 0; c < kTokenTiles; ++c) sums[t][c][i] = __builtin_fmaf(sums[t][c][i], weight_of(c), bias);
      }
    }
  }
  Values h;
#pragma unroll
  for (uint32_t c = 0; c < kTokenTiles; ++c) {
    const float weight = weight_of(c);
#pragma unroll
    for (uint32_t p = 0; p < kPairs; ++p) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        GateUp both = gate_up(sums[2 * p][c], sums[2 * p + 1][c], i);
        // Of x times the weight they are as much.
        if constexpr (kWeighted && !kBiased) both = {both.gate * weight, both.up * weight};
        h[c][p][i] = activate<AITERLITE_ACTIVATION>(both.gate, both.up, swiglu);
      }
    }
  }
  leave_values<Element>(args, h, group, shared);
  store_rows(args, group, shared);
}
