// How mla/sm90_decode.hip cuts its work: what its warpgroups have of a piece, and what lies in shared memory.
#pragma once
#include <aiterlite/mla/sm90_boxes.h>
#include <aiterlite/mla/sm90_operands.h>
#include <aiterlite/tile/sm90_barrier.h>

namespace aiterlite::mla {

// Where a thread that multiplies is.
struct Sm90Place {
  uint32_t group, warp, lane;

  AITERLITE_DEVICE uint32_t column(uint32_t pair) const { return pair * 8 + lane % 4 * 2; }
  AITERLITE_DEVICE uint32_t token(uint32_t i) const { return warp * 16 + lane / 4 + 8 * i; }
  AITERLITE_DEVICE void group_barrier() const { named_barrier_wait(kGroupBarrier + group, kGroupThreads); }
};

// `kBoxes`: tiles are mla/sm90_boxes.h's; else rows are copied one by one, and padded.
template <uint32_t kColumns_, uint32_t kStages_, class Kv, bool kBoxes>
struct Sm90Columns {
  using Rows = typename Choose<kBoxes, Sm90Boxes<Kv>, Sm90Rows<Kv>>::Type;
  using Operands = Sm90Operands<Kv, Rows>;
  using Element = typename Operands::Element;

  static constexpr uint32_t kColumns = kColumns_, kStages = kStages_, kTokens = kTileTokens;
  // Fewer where the multiplying warps need the registers.
  static constexpr uint32_t kCopyWarps = kColumns == 16 && !kBoxes ? 8 : 4, kWarpRows = kTokens / kCopyWarps;
  using WarpBits = typename Choose<kWarpRows == 8, uint8_t, uint16_t>::Type;
  static constexpr uint32_t kBlocks = kValueDim / 64;
  static constexpr uint32_t kKept = kBlocks / kGroups;  // of a group when all is merged
  static constexpr uint32_t kWeightParts = mla::kWeightParts<Element>;

  static_assert(kColumns == 16 || kColumns == 32, "AITERLITE_COLUMNS must be 16 or 32");
  static_assert(kStages >= kGroups && kStages <= 6, "AITERLITE_STAGES must be 2 to 6");

  // What a group has of its columns: sums of weighted values, this thread's part of the sums of weights, and the maxima
  // that both are relative to. Columns are 8 j + lane % 4 * 2 + e, of which pair j is at 2 j + e.
  struct Sums {
    float values[kBlocks][kColumns / 2];
    float weights[kColumns / 4];
    float relative[kColumns / 4];
  };

  // Operands b of the products, in rows of 128 bytes: q, and P of each group. Where groups merge, what they exchange.
  static constexpr uint32_t kQBytes = kColumns * kKeyDim * 2, kWeightBytes = kColumns * kTokens * 2;
  // A pitch at which the four columns that a warp writes at once meet different banks.
  static constexpr uint32_t kStagedPitch = kKept * 64 + 4;             // floats
  static constexpr uint32_t kExchanged = kColumns * kStagedPitch * 4;  // bytes, from a group, which first are dense
  static constexpr uint32_t kOperandBytes = kQBytes + kGroups * kWeightParts * kWeightBytes;
  static constexpr uint32_t kAreaBytes = kOperandBytes > kGroups* kExchanged ? kOperandBytes : kGroups * kExchanged;

  static constexpr uint32_t kMaxima = kGroups * kGroupWaves * kColumns, kRelative = kGroups * kColumns;
  static constexpr uint32_t kNumbers = kMaxima + kRelative + kColumns + 2 * kColumns;
  static constexpr uint32_t kSmall = 2 * kStages + kNumbers / 4;
  // The padding that keeps ldmatrix free of bank conflicts holds all that is small; boxes have none.
  static constexpr uint32_t kRowBytes = kKeyDim * sizeof(Kv);
  static_assert(kBoxes || Sm90Rows<Kv>::kPitch == kRowBytes + 16, "a row's padding is 16 bytes");
  static_assert(kBoxes || kSmall <= kStages * kTokens, "the padding of the rows holds what is small");

  struct Shared {
    Vector16 area[kAreaBytes / 16];
    alignas(kBoxes ? 1024 : 16) char ring[kStages][Rows::kBytes];
    Vector16 small[kBoxes ? kSmall : 1];

    AITERLITE_DEVICE char* q() { return reinterpret_cast<char*>(area); }
    AITERLITE_DEVICE char* weights(uint32_t group, uint32_t part) {
      return q() + kQBytes + (group * kWeightParts + part) * kWeightBytes;
    }
    AITERLITE_DEVICE Quad* exchanged(uint32_t group) { return reinterpret_cast<Quad*>(q() + group * kExchanged); }
    AITERLITE_DEVICE Vector16& spare(uint32_t i) {
      if constexpr (kBoxes) return small[i];
      return *reinterpret_cast<Vector16*>(ring[i / kTokens] + i % kTokens * (kRowBytes + 16) + kRowBytes);
    }
    AITERLITE_DEVICE char* tile(uint32_t stage) { return ring[stage]; }
    // Byte `byte` of a stage's row.
    AITERLITE_DEVICE char* at(uint32_t stage, uint32_t row, uint32_t byte) { return ring[stage] + Rows::at(row, byte); }

    // Two barriers a stage: its rows are there; they have been read.
    AITERLITE_DEVICE Barrier& full(uint32_t stage) { return reinterpret_cast<Barrier*>(&spare(stage))[0]; }
    AITERLITE_DEVICE Barrier& empty(uint32_t stage) { return reinterpret_cast<Barrier*>(&spare(stage))[1]; }
    // Which rows of a stage exist: a bit each.
    AITERLITE_DEVICE Vector8& exist(uint32_t stage) { return *reinterpret_cast<Vector8*>(&spare(kStages + stage)); }
    AITERLITE_DEVICE void set_exist(uint32_t stage, uint32_t slab, uint32_t bits) {
      reinterpret_cast<uint16_t*>(&exist(stage))[slab] = static_cast<uint16_t>(bits);
    }
    // Boxes bring tokens of a slab that nobody sees; all of a group.
    AITERLITE_DEVICE void clear_unseen(uint32_t stage, const Sm90Place& place) {
      if constexpr (kBoxes) {
        const Vector8 all = exist(stage);
        if ((all.word[0] & all.word[1]) == ~0u) return;
        const uint32_t of_slab = exist(stage).word[place.warp / 2] >> (place.warp % 2 * 16) & 0xffff;
        Rows::clear_unseen(tile(stage), place.warp, count_lanes(of_slab), kValueDim / 64);
        publish_to_engines();
        place.group_barrier();
      }
    }
    AITERLITE_DEVICE float* number(uint32_t i) { return reinterpret_cast<float*>(&spare(2 * kStages + i / 4)) + i % 4; }
    // Maxima or sums of a column, by warp; what weights of a column are relative to, by group; of a column of the
    // workgroup how many tokens it sees, and where it goes.
    AITERLITE_DEVICE float* of_warp(uint32_t group, uint32_t warp, uint32_t column) {
      return number((group * kGroupWaves + warp) * kColumns + column);
    }
    AITERLITE_DEVICE float* relative(uint32_t group, uint32_t column) {
      return number(kMaxima + group * kColumns + column);
    }
    AITERLITE_DEVICE int32_t* seen(uint32_t column) {
      return reinterpret_cast<int32_t*>(number(kMaxima + kRelative + column));
    }
    AITERLITE_DEVICE Destination* destination(uint32_t column) {
      return reinterpret_cast<Destination*>(number(kMaxima + kRelative + kColumns + 2 * column));
    }
  };
};

}  // namespace aiterlite::mla
