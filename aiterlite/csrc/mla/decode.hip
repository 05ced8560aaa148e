// MLA decode on AMD: softmax(scale * q k^T) v over paged rows of KV, for a plan's pieces or for equal splits
// (mla/args.h). sm_90: mla/sm90_decode.hip.
//
// Formulation. Tokens are rows of matrix products and rows of q their columns: S^T = K q^T, then O^T = V^T P^T
// (fragment/row_tile.h). q stays in registers for a whole piece. K is read from LDS as it lies; V, the first 512
// columns of the same rows, is read from there too and transposed in registers: a lane takes 8 columns of 8 tokens.
// 8-bit operands become 16-bit ones, exactly, when they come from LDS: fp16 where q has 8 bits or is fp16, else bf16.
// Weights P have that type too; of bf16 they are two numbers, the second what the first lost in rounding, which would
// be as much again as rounding o. Sums are float.
//
// Tiling. A workgroup has kColumns rows of q (heads of one or several tokens; a tile of columns is of one token, so all
// of it sees equally far) and runs over a piece in tiles of kTokens tokens: one in LDS, the next on its way in
// registers. For scores a wave has a tile of columns and some tokens; for values all columns and 512 / kWaves of the
// 512. Maxima, sums and weights of a tile cross by LDS: four barriers a tile. More rows of q than kColumns are other
// workgroups', which read KV again.
//
// Traffic: KV once a workgroup from memory, through registers to LDS; from there kColumnTiles * 16 / kTokens + 1 times.
// q and page numbers once a piece, where waves that share columns share q too; o, or float parts and their log-sums,
// once.
//
// What no row may see (tokens behind the end, masked ones, indices that name no page) is read as row 0 of the buffer,
// which is there; its scores are selected to -inf and its values to zero before they are multiplied. A tile that has
// none of it skips the selection. No atomics: same operands, same bits.
#include <aiterlite/block/online_softmax.h>
#include <aiterlite/block/reduce.h>
#include <aiterlite/fragment/row_tile.h>
#include <aiterlite/mla/work.h>
#include <aiterlite/numeric/fp8.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/carry.h>

namespace {

using namespace aiterlite;
using mla::kKeyDim;
using mla::kValueDim;
using mla::Work;

using Q = AITERLITE_Q;
using Kv = AITERLITE_KV;
using Out = AITERLITE_OUT;
template <class A, class B>
inline constexpr bool kSame = __is_same(A, B);
inline constexpr bool kWideQ = sizeof(Q) == 2, kWideKv = sizeof(Kv) == 2;
using Element = mla::Choose<kSame<Q, bf16>, bf16, fp16>::Type;

constexpr uint32_t kWaves = AITERLITE_WAVES;
constexpr uint32_t kThreads = kWaves * kWaveSize;
constexpr uint32_t kColumnTiles = AITERLITE_COLUMN_TILES;
constexpr uint32_t kColumns = kColumnTiles * kTileColumns;
// A plan's pieces may be smaller than this launch expects: tiles of columns that see nothing cost nothing then.
constexpr bool kSpare = AITERLITE_SPARE;
constexpr uint32_t kTokens = AITERLITE_TOKENS;
constexpr uint32_t kRing = 4;  // tiles whose rows are known
constexpr uint32_t kSteps = kKeyDim / 32;

constexpr uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }
constexpr uint32_t kScoreWaves = least(kWaves / kColumnTiles, kTokens / 16);  // that share a tile of columns
constexpr uint32_t kScoreTiles = kTokens / 16 / kScoreWaves;                  // of 16 tokens, of each
constexpr uint32_t kProducts = 8;
constexpr uint32_t kWaveValues = kValueDim / kWaves;
constexpr uint32_t kChunks = 4;  // of 8 values, of a lane

// A weight is a sum of so many numbers.
constexpr uint32_t kWeightParts = kSame<Element, bf16> ? 2 : 1;

using HeldQ = Vector16[kSteps];

using Rows = SwizzledOdd<kTokens, kKeyDim * sizeof(Kv)>;
using Weights = Padded<kColumns, kTokens * 2, pitch_for<Reading::kOperand16>(kTokens * 2)>;

static_assert(kWaves % kColumnTiles == 0, "AITERLITE_WAVES must be a multiple of AITERLITE_COLUMN_TILES");
static_assert(kTokens % 32 == 0 && kTokens <= 64, "AITERLITE_TOKENS must be 32 or 64");
static_assert(kWaves == 4, "AITERLITE_WAVES must be 4: a wave has 128 of the 512 values");

// Waves that have a tile of columns read q of it together, where the tile's place has room for it.
constexpr bool kSharesQ = kScoreWaves > 1 && kColumnTiles * kSteps * kWaveSize <= Rows::kBytes / sizeof(Vector16);
constexpr uint32_t kSharers = kSharesQ ? kScoreWaves : 1;

struct Shared {
  Vector16 rows[Rows::kBytes / 16];
  Vector16 weights[kWeightParts][Weights::kBytes / 16];
  uint64_t address[kRing][kTokens];
  uint32_t exists[kRing][kTokens];
  uint32_t broken[kRing];  // a token before the end does not exist
  float maxima[kScoreWaves][kColumns];
  float sums[kScoreWaves][kColumns];
};

// A tile of columns: heads of one token.
struct Columns {
  int64_t row;   // of q and o
  int64_t part;  // of partial
  int32_t head;  // the first, among the work's
  int32_t seen;  // tokens from the piece's first one; 0 for a tile that there is not
  bool exists;
};

AITERLITE_DEVICE Columns columns_of(const Work& work, uint32_t tile) {
  const uint32_t of_row = (static_cast<uint32_t>(work.heads) + kTileColumns - 1) / kTileColumns;
  const auto row = static_cast<int32_t>(tile / of_row);
  const bool exists = row < work.rows;
  const int32_t seen = exists ? mla::visible(work, row) - work.begin : 0;
  const int32_t held = exists ? row : 0;
  return {work.first_row + held, work.partial < 0 ? -1 : work.partial + held * work.partial_step,
          exists ? static_cast<int32_t>(tile % of_row * kTileColumns) : 0, seen > 0 ? seen : 0, exists};
}

// Eight elements as 16-bit ones, of 16 bytes or of 8.
AITERLITE_DEVICE Vector16 widen(const Vector16& v) { return v; }
template <class Fp8>
AITERLITE_DEVICE Vector16 widen(const Vector8& v) {
  uint32_t low[2], high[2];
  widen_fp8<Fp8>(Element{}, v.word[0], low);
  widen_fp8<Fp8>(Element{}, v.word[1], high);
  return {{low[0], low[1], high[0], high[1]}};
}

AITERLITE_DEVICE Vector16 load_shared_row(const void* tile, uint32_t row, uint32_t element) {
  const char* at = static_cast<const char*>(tile) + Rows::at(row, element * sizeof(Kv));
  if constexpr (kWideKv) {
    return load_shared_16(at);
  } else {
    return widen<Kv>(load_shared_8(at));
  }
}

// q of a tile of columns, as operands: of each kSharers of its kSteps steps, 32 of 576 each, one. A lane's part.
using PartOfQ = Vector16[(kSteps + kSharers - 1) / kSharers];
AITERLITE_DEVICE void load_q(const aiterlite_mla_decode_args& args, const Work& work, const Columns& columns,
                             uint32_t share, PartOfQ& part) {
  const uint32_t lane = lane_id();
  const auto last = static_cast<uint32_t>(work.heads - 1);
  const uint32_t wanted = static_cast<uint32_t>(columns.head) + tile_column(lane);
  const uint32_t head = static_cast<uint32_t>(work.head) + (wanted < last ? wanted : last);
  const auto* row = static_cast<const Q*>(args.q) + (columns.row * args.heads + head) * kKeyDim;
#pragma unroll
  for (uint32_t i = 0; i * kSharers < kSteps; ++i) {
    const uint32_t step = i * kSharers + share;
    if (step >= kSteps) break;
    const Q* at = row + step * 32 + tile_vector(lane) * 8;
    if constexpr (kWideQ) {
      part[i] = load_vector<false>(at);
    } else {
      part[i] = widen<Q>(load_vector8(at));
    }
  }
}

// Parts of q become whole, by way of the tile's place, which nothing fills yet. All waves; a barrier between.
AITERLITE_DEVICE void leave_q(const PartOfQ& part, uint32_t tile, uint32_t share, Shared& shared) {
  Vector16* rows = shared.rows + tile * kSteps * kWaveSize + lane_id();
#pragma unroll
  for (uint32_t i = 0; i * kSharers < kSteps; ++i) {
    const uint32_t step = i * kSharers + share;
    if (step < kSteps) store_shared_16(rows + step * kWaveSize, part[i]);
  }
}
AITERLITE_DEVICE void take_q(uint32_t tile, const Shared& shared, HeldQ& held) {
  const Vector16* rows = shared.rows + tile * kSteps * kWaveSize + lane_id();
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) held[step] = load_shared_16(rows + step * kWaveSize);
}

// Where the rows of a tile of tokens are, by the first wave, a token a lane. Pages are asked for one tile before they
// are needed, and before the rows of another, behind which the answer would come.
AITERLITE_DEVICE mla::Slot ask_rows(const aiterlite_mla_decode_args& args, const Work& work, uint32_t tile) {
  const uint32_t at = lane_id();
  const int32_t token = work.begin + static_cast<int32_t>(tile * kTokens + at);
  if (wave_id() != 0 || at >= kTokens || token >= work.end) return {-1, 0};
  return mla::token_slot(args, work, token);
}
AITERLITE_DEVICE void leave_rows(const aiterlite_mla_decode_args& args, const Work& work, uint32_t tile,
                                 const mla::Slot& slot, Shared& shared) {
  if (wave_id() != 0) return;
  const uint32_t ring = tile % kRing, at = lane_id();
  const int64_t offset = mla::slot_offset(args, slot);
  const bool is_token = at < kTokens && work.begin + static_cast<int32_t>(tile * kTokens + at) < work.end;
  const bool broken = any_lane(is_token && offset < 0);
  if (at < kTokens) {
    shared.address[ring][at] =
        reinterpret_cast<uint64_t>(static_cast<const Kv*>(args.kv_buffer) + (offset < 0 ? 0 : offset));
    shared.exists[ring][at] = offset >= 0;
  }
  if (at == 0) shared.broken[ring] = broken;
}

using Scores = float[kScoreTiles][4];

// The scores of this wave's tokens, -inf where nothing is to be seen, and their maximum of each column of the lane.
AITERLITE_DEVICE void make_scores(const HeldQ& held, uint32_t tile, int32_t seen, bool masked, float scale,
                                  const Shared& shared, Scores& scores, float& most) {
  const uint32_t lane = lane_id(), first = wave_id() / kColumnTiles * kScoreTiles * 16;
  float sums[kScoreTiles][4] = {};
#pragma unroll
  for (uint32_t step = 0; step < kSteps; ++step) {
#pragma unroll
    for (uint32_t s = 0; s < kScoreTiles; ++s) {
      const Vector16 rows[1] = {
          load_shared_row(shared.rows, first + s * 16 + tile_row(lane, 0), step * 32 + tile_vector(lane) * 8)};
      multiply(Element{}, sums[s], rows, held[step]);
    }
  }
#pragma unroll
  for (uint32_t s = 0; s < kScoreTiles; ++s) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      scores[s][i] = sums[s][i] * scale;
      if (masked) {
        const uint32_t token = first + s * 16 + accumulator_row(lane, i);
        const bool visible = static_cast<int32_t>(tile * kTokens + token) < seen;
        if (!visible || shared.exists[tile % kRing][token] == 0) scores[s][i] = -__builtin_inff();
      }
      most = __builtin_fmaxf(most, scores[s][i]);
    }
  }
  most = reduce_strided<16>(most, Max{});
}

// Of `value`, which lanes of a column share, each column's to LDS.
AITERLITE_DEVICE void leave_columns(float value, float* columns) {
  if (lane_id() < kTileColumns) columns[accumulator_column(lane_id(), 0)] = value;
}

// The maximum of this lane's column of a tile, of all waves that made its scores.
AITERLITE_DEVICE float maximum_of(uint32_t column_tile, const Shared& shared) {
  float most = -__builtin_inff();
#pragma unroll
  for (uint32_t w = 0; w < kScoreWaves; ++w) {
    most = __builtin_fmaxf(most, shared.maxima[w][column_tile * kTileColumns + accumulator_column(lane_id(), 0)]);
  }
  return most;
}

// The weights of this wave's scores to where they are operands, and their sums.
AITERLITE_DEVICE void make_weights(const OnlineSoftmax& softmax, const Scores& scores, Shared& shared, float& sum) {
  const uint32_t lane = lane_id(), wave = wave_id(), first = wave / kColumnTiles * kScoreTiles * 16;
#pragma unroll
  for (uint32_t s = 0; s < kScoreTiles; ++s) {
    float weight[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      weight[i] = softmax.weight(scores[s][i]);
      sum += weight[i];
    }
#pragma unroll
    for (Vector16(&part)[Weights::kBytes / 16] : shared.weights) {
      Element rounded[4];
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        rounded[i] = from_float<Element>(weight[i]);
        weight[i] -= to_float(rounded[i]);
      }
      char* weights = reinterpret_cast<char*>(part);
      const uint32_t column = wave % kColumnTiles * kTileColumns + accumulator_column(lane, 0);
      const uint32_t token = first + s * 16 + accumulator_row(lane, 0);
      store_shared_8(weights + Weights::at(column, token * 2),
                     {{rounded[0].bits | static_cast<uint32_t>(rounded[1].bits) << 16,
                       rounded[2].bits | static_cast<uint32_t>(rounded[3].bits) << 16}});
    }
  }
  sum = reduce_strided<16>(sum, Sum{});
}

using Values = float[kColumnTiles][kProducts][4];

// Operands a of this wave's values: 8 columns of 8 tokens a lane, turned over. Those of tokens that are not `seen` are
// zero, where `masked`.
AITERLITE_DEVICE void load_values(uint32_t tile, uint32_t step, bool masked, int32_t seen, const Shared& shared,
                                  Vector16 (&turned)[8]) {
  const uint32_t lane = lane_id(), first = step * 32 + tile_vector(lane) * 8;
  Vector16 row[8];
#pragma unroll
  for (uint32_t t = 0; t < 8; ++t) {
    row[t] = load_shared_row(shared.rows, first + t, wave_id() * kWaveValues + tile_row(lane, 0) * 8);
    if (masked) {
      const bool visible = static_cast<int32_t>(tile * kTokens + first + t) < seen;
      const bool wanted = visible && shared.exists[tile % kRing][first + t] != 0;
#pragma unroll
      for (uint32_t& word : row[t].word) word = wanted ? word : 0;
    }
  }
#pragma unroll
  for (uint32_t pair = 0; pair < 4; ++pair) {
#pragma unroll
    for (uint32_t w = 0; w < 4; ++w) {
      turned[2 * pair].word[w] = pick_bytes<0, 1, 4, 5>(row[2 * w].word[pair], row[2 * w + 1].word[pair]);
      turned[2 * pair + 1].word[w] = pick_bytes<2, 3, 6, 7>(row[2 * w].word[pair], row[2 * w + 1].word[pair]);
    }
  }
}

AITERLITE_DEVICE void add_products(const Vector16 (&turned)[8], uint32_t step, uint32_t column_tile,
                                   const Shared& shared, float (&sums)[kProducts][4]) {
  const uint32_t lane = lane_id(), column = column_tile * kTileColumns + tile_column(lane);
#pragma unroll
  for (const Vector16(&part)[Weights::kBytes / 16] : shared.weights) {
    const char* weights = reinterpret_cast<const char*>(part);
    const Vector16 b = load_shared_16(weights + Weights::at(column, step * 64 + tile_vector(lane) * 16));
#pragma unroll
    for (uint32_t m = 0; m < kProducts; ++m) {
      const Vector16 a[1] = {turned[m]};
      multiply(Element{}, sums[m], a, b);
    }
  }
}

AITERLITE_DEVICE void add_values(uint32_t tile, bool masked, const int32_t (&seen)[kColumnTiles], const Shared& shared,
                                 Values& values) {
#pragma unroll 1
  for (uint32_t step = 0; step < kTokens / 32; ++step) {
    Vector16 turned[8];
    if (!masked) load_values(tile, step, false, 0, shared, turned);
#pragma unroll
    for (uint32_t ct = 0; ct < kColumnTiles; ++ct) {
      if (kSpare && seen[ct] == 0) continue;
      if (masked) load_values(tile, step, true, seen[ct], shared, turned);
      add_products(turned, step, ct, shared, values[ct]);
    }
  }
}

// A lane has eight neighbouring values, kChunks times, of one column of a tile.
AITERLITE_DEVICE void store_columns(const aiterlite_mla_decode_args& args, const Work& work, const Columns& columns,
                                    const float (&sums)[kProducts][4], const OnlineSoftmax& of, float value_scale) {
  if (!columns.exists) return;
  const uint32_t lane = lane_id();
#pragma unroll
  for (uint32_t chunk = 0; chunk < kChunks; ++chunk) {
    const int32_t head = columns.head + static_cast<int32_t>(tile_column(lane));
    const float by = of.normalizer() * value_scale;
    float value[8];
#pragma unroll
    for (uint32_t e = 0; e < 8; ++e) value[e] = sums[e][chunk] * by;
    if (head < work.heads) {
      const uint32_t dim = wave_id() * kWaveValues + 8 * (4 * (lane / 16) + chunk);
      const int64_t at =
          columns.part < 0 ? columns.row * args.heads + work.head + head : columns.part * work.heads + head;
      if (columns.part >= 0) {
        float* to = args.partial + at * kValueDim + dim;
        store_quad(to, Quad{{value[0], value[1], value[2], value[3]}});
        store_quad(to + 4, Quad{{value[4], value[5], value[6], value[7]}});
      } else {
        Vector16 packed;
#pragma unroll
        for (uint32_t w = 0; w < 4; ++w) {
          packed.word[w] =
              from_float<Out>(value[2 * w]).bits | static_cast<uint32_t>(from_float<Out>(value[2 * w + 1]).bits) << 16;
        }
        store_quad(reinterpret_cast<float*>(static_cast<Out*>(args.o) + at * kValueDim + dim),
                   __builtin_bit_cast(Quad, packed));
      }
      float* lse = columns.part < 0 ? args.lse : args.partial_lse;
      if (wave_id() == 0 && dim == 0 && lse != nullptr) {
        store_u32(lse + at, __builtin_bit_cast(uint32_t, of.log_sum_exp()));
      }
    }
  }
}

AITERLITE_DEVICE void run(const aiterlite_mla_decode_args& args, const Work& work, uint32_t group, Shared& shared) {
  // Only how far columns see is held: where they are is found again in the end, which costs fewer registers.
  int32_t seen[kColumnTiles], most_seen = 0, least_seen = 0x7fffffff;
#pragma unroll
  for (uint32_t ct = 0; ct < kColumnTiles; ++ct) {
    const Columns columns = columns_of(work, group * kColumnTiles + ct);
    seen[ct] = columns.seen;
    most_seen = columns.seen > most_seen ? columns.seen : most_seen;
    least_seen = columns.exists && columns.seen < least_seen ? columns.seen : least_seen;
  }
  const uint32_t wave = wave_id(), own = wave % kColumnTiles;
  const Columns mine = columns_of(work, group * kColumnTiles + own);
  const bool scores_too = wave / kColumnTiles < kScoreWaves && (!kSpare || mine.seen > 0);
  float scale = args.scale * kLog2E, value_scale = 1.0f;
  if (!kWideQ && args.q_scale != nullptr) scale *= load_f32(args.q_scale);
  if (!kWideKv && args.kv_scale != nullptr) {
    value_scale = load_f32(args.kv_scale);
    scale *= value_scale;
  }

  OnlineSoftmax softmax[kColumnTiles], own_softmax;
  Values values = {};
  const uint32_t tiles = (static_cast<uint32_t>(most_seen) + kTokens - 1) / kTokens;
  HeldQ q;
  Carried<Rows, kThreads> carried;
  mla::Slot asked = {-1, 0};  // of two tiles ahead
  // No wave is in the piece before any more.
  workgroup_barrier();
  if (tiles > 0) {
    const uint32_t share = kSharesQ ? wave / kColumnTiles : 0;
    PartOfQ part;
    if (scores_too) load_q(args, work, mine, share, part);
    const mla::Slot first = ask_rows(args, work, 0), second = ask_rows(args, work, 1);
    asked = ask_rows(args, work, 2);
    leave_rows(args, work, 0, first, shared);
    leave_rows(args, work, 1, second, shared);
    if (kSharesQ && scores_too) leave_q(part, own, share, shared);
    workgroup_barrier();
    carried.load(shared.address[0]);
    if (kSharesQ && scores_too) take_q(own, shared, q);
    if constexpr (!kSharesQ) {
#pragma unroll
      for (uint32_t step = 0; step < kSteps; ++step) q[step] = part[step];
    }
  }
#pragma unroll 1
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    // All have done with the tile before, or have taken their q.
    workgroup_barrier();
    carried.store(shared.rows);
    if (tile + 2 < tiles) {
      leave_rows(args, work, tile + 2, asked, shared);
      asked = ask_rows(args, work, tile + 3);
    }
    if (tile + 1 < tiles) carried.load(shared.address[(tile + 1) % kRing]);
    workgroup_barrier();
    const bool masked = static_cast<int32_t>((tile + 1) * kTokens) > least_seen || shared.broken[tile % kRing] != 0;

    Scores scores;
    if (scores_too) {
      float most = -__builtin_inff();
      make_scores(q, tile, mine.seen, masked, scale, shared, scores, most);
      leave_columns(most, shared.maxima[wave / kColumnTiles] + own * kTileColumns);
    }
    workgroup_barrier();
    if (scores_too) {
      float sum = 0.0f;
      own_softmax.rescale(maximum_of(own, shared));
      make_weights(own_softmax, scores, shared, sum);
      leave_columns(sum, shared.sums[wave / kColumnTiles] + own * kTileColumns);
    }
#pragma unroll
    for (uint32_t ct = 0; ct < kColumnTiles; ++ct) {
      if (kSpare && seen[ct] == 0) continue;
      const float factor = softmax[ct].rescale(maximum_of(ct, shared));
#pragma unroll
      for (uint32_t m = 0; m < kProducts; ++m) {
#pragma unroll
        for (uint32_t i = 0; i < 4; ++i) values[ct][m][i] *= factor;
      }
    }
    workgroup_barrier();
#pragma unroll
    for (uint32_t ct = 0; ct < kColumnTiles; ++ct) {
      if (kSpare && seen[ct] == 0) continue;
#pragma unroll
      for (uint32_t w = 0; w < kScoreWaves; ++w) {
        softmax[ct].add(shared.sums[w][ct * kTileColumns + accumulator_column(lane_id(), 0)]);
      }
    }
    add_values(tile, masked, seen, shared, values);
  }
#pragma unroll
  for (uint32_t ct = 0; ct < kColumnTiles; ++ct) {
    store_columns(args, work, columns_of(work, group * kColumnTiles + ct), values[ct], softmax[ct], value_scale);
  }
}

// The groups of a piece's columns that are this workgroup's: one, unless the piece is larger than the launch expects.
AITERLITE_DEVICE void run_groups(const aiterlite_mla_decode_args& args, const Work& work, uint32_t group,
                                 uint32_t groups, Shared& shared) {
#pragma unroll 1
  for (; columns_of(work, group * kColumnTiles).exists; group += groups) run(args, work, group, shared);
}

}  // namespace

AITERLITE_KERNEL(kThreads)
aiterlite_mla_decode(aiterlite_mla_decode_args args) {
  AITERLITE_DYNAMIC_SHARED(Shared, shared);
  const auto groups = static_cast<uint32_t>(args.column_groups);
  const uint32_t group = workgroup_id() % groups, number = workgroup_id() / groups;
  await_predecessors();
  if constexpr (AITERLITE_PLANNED) {
    const auto first = static_cast<int32_t>(uniform(static_cast<uint32_t>(mla::load_int(args.work_indptr, number))));
    const auto last = static_cast<int32_t>(uniform(static_cast<uint32_t>(mla::load_int(args.work_indptr, number + 1))));
#pragma unroll 1
    for (int32_t item = first; item < last; ++item) {
      const Work work = mla::planned_work(args, item);
      if (work.request >= 0) run_groups(args, work, group, groups, shared);
    }
  } else {
    const auto splits = static_cast<uint32_t>(args.splits);
    const Work work =
        mla::split_work(args, static_cast<int32_t>(number / splits), static_cast<int32_t>(number % splits));
    if (work.request >= 0) run_groups(args, work, group, groups, shared);
  }
  admit_successors();
}
