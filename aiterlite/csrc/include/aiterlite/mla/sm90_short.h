// What mla/sm90_decode_short.hip knows of its piece, and what lies in shared memory: a tile of KV that two warpgroups
// share, and what the workgroups of a cluster exchange.
#pragma once
#include <aiterlite/block/cluster.h>
#include <aiterlite/mla/sm90_boxes.h>
#include <aiterlite/mla/sm90_columns.h>
#include <aiterlite/overlap.h>
#include <aiterlite/tile/sm90_copy.h>
#include <aiterlite/tile/sm90_turn.h>

namespace aiterlite::mla {

// Division by a number that is known before the dividend, in few instructions.
class Divisor {
 public:
  AITERLITE_DEVICE explicit Divisor(uint32_t by) : by_(by), inverse_(fast_reciprocal(static_cast<float>(by))) {}
  AITERLITE_DEVICE uint32_t divide(uint32_t n) const {
    // Of larger numbers the estimate may be off by more than one.
    if (n >= 1u << 22) return n / by_;
    const auto estimate = static_cast<uint32_t>(static_cast<float>(n) * inverse_);
    const auto rest = static_cast<int32_t>(n - estimate * by_);
    return rest < 0 ? estimate - 1 : rest >= static_cast<int32_t>(by_) ? estimate + 1 : estimate;
  }

 private:
  uint32_t by_;
  float inverse_;
};

// A workgroup's place in the grid, which is ranks of a cluster, then groups of columns, then splits, then requests.
struct ShortTask {
  int32_t request, split, first_head;
  uint32_t rank;
};

// A number as the L2 has it: what is read here is read before and after await_predecessors.
AITERLITE_DEVICE int32_t load_again(const int32_t* p, int64_t at) { return static_cast<int32_t>(load_latest(p + at)); }

// Its tokens: `seen` of them from `begin` on, of which there may be none; its row of q, -1: there is none.
struct ShortPiece {
  int64_t first_index;  // of the request, in kv_indices
  int64_t row;
  int32_t begin, seen;

  // One tile at least, so that all workgroups of a cluster do the same.
  AITERLITE_DEVICE uint32_t tiles() const {
    return seen <= 0 ? 1 : (static_cast<uint32_t>(seen) + kTileTokens - 1) / kTileTokens;
  }
};

template <uint32_t kColumns>
AITERLITE_DEVICE ShortTask find_task(const aiterlite_mla_decode_args& args, uint32_t ranks) {
  const auto groups = static_cast<uint32_t>(args.column_groups), splits = static_cast<uint32_t>(args.splits);
  const uint32_t of_cluster = workgroup_id() / ranks, of_group = of_cluster / groups, request = of_group / splits;
  return {static_cast<int32_t>(request), static_cast<int32_t>(of_group - request * splits),
          static_cast<int32_t>((of_cluster - of_group * groups) * kColumns), workgroup_id() % ranks};
}

// Has rows of q come to the L2 before await_predecessors; where they lie is guessed.
template <class Q, uint32_t kColumns>
AITERLITE_DEVICE void prefetch_queries(const aiterlite_mla_decode_args& args, const ShortTask& task) {
  constexpr uint32_t kLine = 128;
  if (task.request >= args.rows) return;
  const auto* row = static_cast<const Q*>(args.q) + (int64_t{task.request} * args.heads + task.first_head) * kKeyDim;
  const auto left = static_cast<uint32_t>(args.heads - task.first_head);
  const uint32_t bytes = (left < kColumns ? left : kColumns) * kKeyDim * sizeof(Q);
  for (uint32_t at = thread_id() * kLine; at < bytes; at += kMultipliers * kLine) {
    prefetch_operand(reinterpret_cast<const char*>(row) + at);
  }
}

// The words that say what a piece is, and the entry of kv_indices at `index`, one a lane, since they wait for memory
// together so, and few warps ask for what all workgroups ask for.
struct PieceWords {
  uint32_t word;

  AITERLITE_DEVICE static PieceWords load(const aiterlite_mla_decode_args& args, const ShortTask& task, int64_t index) {
    const uint32_t lane = lane_id();
    const int32_t* from = (lane < 2 ? args.qo_indptr : args.kv_indptr) + task.request + lane % 2;
    bool wanted = lane < 4;
    if (lane == 4) from = args.kv_last_page_lens + task.request, wanted = args.page_size != 1;
    if (lane == 5) from = args.kv_indices + index, wanted = index >= 0 && index < args.indices;
    if (lane == 6 || lane == 7) {
      from = args.splits_indptr + task.request + lane % 2;
      wanted = args.splits_indptr != nullptr;
    }
    // The last page of one token has one; where there is no entry, it names no page.
    uint32_t word = lane == 4 ? 1 : ~0u;
    if (wanted) word = load_latest(from);
    return {word};
  }
  AITERLITE_DEVICE int32_t at(uint32_t lane) const { return static_cast<int32_t>(shuffle(word, lane)); }
};

// Tokens of a request are dealt to its pieces in whole tiles, as equally as these allow.
AITERLITE_DEVICE ShortPiece find_piece(const aiterlite_mla_decode_args& args, const ShortTask& task, uint32_t ranks,
                                       const Divisor& pieces, const PieceWords& words) {
  const int32_t first = words.at(0), rows = words.at(1) - first, first_index = words.at(2);
  const int32_t count = words.at(3) - first_index, given = words.at(4);
  const int32_t last = given < 0 ? 0 : given > args.page_size ? args.page_size : given;
  const int32_t length = count > 0 ? (count - 1) * args.page_size + last : 0;
  if (first < 0 || rows <= 0 || int64_t{first} + rows > args.rows) return {0, -1, 0, 0};
  const uint32_t tiles = (static_cast<uint32_t>(length) + kTileTokens - 1) / kTileTokens;
  int32_t splits = args.splits;
  uint32_t each;
  if (args.splits_indptr != nullptr) {
    const int32_t wanted = words.at(7) - words.at(6);
    splits = wanted < 1 ? 1 : wanted < splits ? wanted : splits;
    const uint32_t all = static_cast<uint32_t>(splits) * ranks;
    each = (tiles + all - 1) / all;
  } else {
    each = pieces.divide(tiles + static_cast<uint32_t>(splits) * ranks - 1);
  }
  each *= kTileTokens;
  const int64_t begin = int64_t{each} * (static_cast<uint32_t>(task.split) * ranks + task.rank);
  const int32_t limit = args.causal != 0 ? length - rows + 1 : length;
  const bool any = task.split < splits && begin < limit;
  const int64_t left = any ? limit - begin : 0;
  return {first_index, first, any ? static_cast<int32_t>(begin) : 0, static_cast<int32_t>(left < each ? left : each)};
}

// An entry of kv_indices, and where it is; -1: none.
struct PageEntry {
  int64_t index;
  int32_t page;
};
AITERLITE_DEVICE PageEntry load_entry(const aiterlite_mla_decode_args& args, int64_t index) {
  return {index, index >= 0 && index < args.indices ? load_again(args.kv_indices, index) : -1};
}

// A slab of a tile, or a tile, of a page; count 0: there is none. `entry` is that of its page, which may be guessed.
template <uint32_t kTokens>
AITERLITE_DEVICE Slab find_slab(const aiterlite_mla_decode_args& args, const ShortPiece& piece, const Divisor& pages,
                                uint32_t at, PageEntry& entry) {
  const int32_t left = piece.seen - static_cast<int32_t>(at);
  if (left <= 0) return {0, 0, 0};
  const uint32_t token = static_cast<uint32_t>(piece.begin) + at, page_of = pages.divide(token);
  const int64_t index = piece.first_index + page_of;
  if (index != entry.index) entry = load_entry(args, index);
  if (entry.page < 0 || entry.page >= args.pages) return {0, 0, 0};
  const auto slot = static_cast<int32_t>(token - page_of * static_cast<uint32_t>(args.page_size));
  return {entry.page, slot, left < static_cast<int32_t>(kTokens) ? left : static_cast<int32_t>(kTokens)};
}

// How the kernel is cut, and what lies in shared memory. kBoxTokens 1: rows are copied.
template <uint32_t kColumns_, uint32_t kStages_, class Kv, uint32_t kBoxTokens_, uint32_t kRanks_>
struct Sm90Short {
  static constexpr uint32_t kColumns = kColumns_, kStages = kStages_, kBoxTokens = kBoxTokens_, kRanks = kRanks_;
  static constexpr bool kBoxes = kBoxTokens > 1, kWhole = kBoxTokens == kTileTokens;
  static_assert(kColumns == 16 || kColumns == 32, "AITERLITE_COLUMNS must be 16 or 32");
  static_assert(kBoxTokens == 1 || kBoxTokens == kSlabTokens || kWhole,
                "AITERLITE_BOX_TOKENS must be 16 or 64, or 1 for rows");
  static_assert((kRanks & (kRanks - 1)) == 0 && kRanks <= 16, "AITERLITE_RANKS must be 1, 2, 4, 8 or 16");

  using Rows = typename Choose<kBoxes, Sm90Boxes<Kv>, Sm90Rows<Kv>>::Type;
  using Operands = Sm90Operands<Kv, Rows>;
  using Element = typename Operands::Element;
  // One warp asks for whole tiles. Who reports that a tile is there: of rows each lane's copies do besides.
  static constexpr uint32_t kCopyWarps = kWhole ? 1 : 4, kReports = kCopyWarps * (kBoxes ? 1 : kWaveSize + 1);
  // Of 32 columns the warps that multiply need registers that a whole warpgroup gives.
  static constexpr bool kGives = kColumns == 32;
  static constexpr uint32_t kThreads = kMultipliers + (kGives ? 4 : kCopyWarps) * kWaveSize;
  // A tile comes in parts, of which the first can be multiplied while the others are on their way.
  static constexpr uint32_t kParts = kWhole ? 3 : 1, kPartPanels = kPanels / kParts;
  static constexpr uint32_t kRowBytes = kKeyDim * sizeof(Kv);
  // Blocks of 64 values of a group.
  static constexpr uint32_t kKept = kValueDim / 64 / kGroups;
  static constexpr uint32_t kWeightParts = mla::kWeightParts<Element>;
  // Boxes of 16-bit elements are operands where they lie.
  static constexpr bool kDirect = kBoxes && sizeof(Kv) == 2;
  // The two numbers of a weight are columns of one product, where there are registers for twice the sums.
  static constexpr bool kTwice = kWeightParts == 2 && (kDirect || kColumns == 16);
  static constexpr uint32_t kSums = (kTwice ? 2 : 1) * kColumns / 2;
  // Values of a row of a warp's sums: 16 of them are a slice, and slices are dealt to the ranks.
  static constexpr uint32_t kSlices = kValueDim / 16, kOwnSlices = kSlices / kRanks;
  static constexpr uint32_t kVectors = kColumns / 16;  // of 16 bytes, a lane and slice

  // The first token of a tile that a thread that copies has to do with.
  AITERLITE_DEVICE static uint32_t first_token(uint32_t tile) {
    const uint32_t warp = wave_id() - kMultipliers / kWaveSize;
    return tile * kTileTokens + (kWhole ? 0 : warp * kSlabTokens) + (kBoxes ? 0 : lane_id());
  }

  // A group's half of the values, weighted, and the weights, summed; and what both are relative to. Columns are 8 j +
  // lane % 4 * 2 + e, of which pair j is at 2 j + e. Blocks of values begin with another one in each rank, so that not
  // all send to the same rank at once.
  struct Sums {
    float values[kKept][kSums];
    float weights[kSums];
    float relative[kColumns / 4];

    // The sum of weights of column pair j, e.
    AITERLITE_DEVICE float weight(uint32_t j, uint32_t e) const {
      const float sum = weights[4 * j + e];
      return kTwice ? sum + weights[kColumns / 2 * (kTwice ? 1 : 0) + 4 * j + e] : sum;
    }
  };

  AITERLITE_DEVICE static uint32_t block_at(uint32_t place, uint32_t rank) { return (place + rank) % kKept; }

  // Operands b of the products, in rows of 128 bytes: q, and weights of each group.
  static constexpr uint32_t kQBytes = kColumns * kKeyDim * 2, kWeightBytes = kColumns * kTileTokens * 2;

  struct Shared {
    alignas(1024) char ring[kStages][Rows::kBytes];
    alignas(1024) char area[kQBytes + kGroups * kWeightParts * kWeightBytes];
    // Maxima of a column, by warp.
    alignas(16) float most[kGroups][kGroupWaves][kColumns];
    // Of a column, by the group that renewed it: what weights are relative to, and what earlier sums are multiplied by.
    float renewed[kGroups][kColumns][2];
    float stats[kRanks][kColumns][2];  // of the ranks: what sums are relative to, and the sums of weights
    float undo[kOwnSlices][kRanks];
    Barrier full[kStages][kParts], empty[kStages];
    Vector8 exist[kStages];
    uint64_t mailbox;
    // The piece, for those that multiply.
    int64_t row;
    uint32_t tiles;

    AITERLITE_DEVICE char* q() { return area; }
    AITERLITE_DEVICE char* weights(uint32_t group, uint32_t part) {
      return area + kQBytes + (group * kWeightParts + part) * kWeightBytes;
    }
    // Which of a slab's tokens exist: a bit each.
    AITERLITE_DEVICE uint32_t exist_of(uint32_t stage, uint32_t slab) {
      return reinterpret_cast<const uint16_t*>(&exist[stage])[slab];
    }
    template <uint32_t kFirst = 0>
    AITERLITE_DEVICE void await_parts(uint32_t stage, uint32_t parity) {
#pragma unroll
      for (uint32_t part = kFirst; part < kParts; ++part) full[stage][part].wait(parity);
    }
    AITERLITE_DEVICE void set_exist(uint32_t stage, uint32_t slab, uint32_t bits) {
      reinterpret_cast<uint16_t*>(&exist[stage])[slab] = static_cast<uint16_t>(bits);
    }
    // Boxes bring tokens of a slab that nobody sees. A warp that multiplies has the same slab's keys.
    AITERLITE_DEVICE void clear_unseen(uint32_t stage, uint32_t slab, uint32_t count) {
      if constexpr (kBoxes) {
        if (count == kSlabTokens) return;
        Rows::clear_slab(ring[stage], slab, count, kValueDim / 64);
        publish_to_engines();
        wave_barrier();
      }
    }
    // What the ranks send: slices, as fp16. Where rows of q were.
    AITERLITE_DEVICE Vector16* received(uint32_t rank, uint32_t slice) {
      return reinterpret_cast<Vector16*>(area) + (rank * kOwnSlices + slice) * kVectors * kWaveSize;
    }
  };
  static_assert(kSlices * kVectors * kWaveSize * 16 <= kQBytes, "what ranks send fits");
};

}  // namespace aiterlite::mla
