// Rotary embeddings of rows of bf16 or fp16, in place or not, and of latents on their way to a cache, as 8-bit codes or
// not: rope/args.h. One source for gfx942, gfx950 and sm_90.
//
// A workgroup has AITERLITE_ROWS rows, heads of tokens, of one side: the first workgroups those of q, the others those
// of k. Its first AITERLITE_NOPE_THREADS copy, two vectors of 16 bytes a lane whose neighbours are those of its
// neighbours; the others rotate, eight pairs a lane, which also are two vectors: one of each half of a row, whose pairs
// lie across (neox) or within (gptj). No lane needs another. Eight elements become 8 bytes of codes.
//
// A lane reads what it needs before it writes, so rows may be written where they were read. Of a token without a slot,
// rows are read (they are there) and nothing is written, wherever its position points.
//
// The rotated part is rounded to the type of the input before it is quantised, so a fused call has the bits of its
// parts. Products of 16-bit numbers are exact in float32: x * cos - y * sin is rounded once to float32, and once more.
//
// Floor, bytes an element: 2 in, 2 out (codes: 1). DeepSeek-R1 with 16 heads, rope and cache: 39,168 a token.
//
// A grid that is on the chip all at once (AITERLITE_EARLY) fetches its rows before its predecessors have ended and lets
// its successors do so at once; any other lets them start when its last workgroups have read their rows.
#include <aiterlite/numeric/pack.h>
#include <aiterlite/overlap.h>
#include <aiterlite/quant/strip.h>
#include <aiterlite/rope/args.h>

namespace {

using namespace aiterlite;
using namespace aiterlite::quant;
using In = AITERLITE_ELEMENT;
using Table = AITERLITE_TABLE;

constexpr uint32_t kThreads = AITERLITE_THREADS, kNopeThreads = AITERLITE_NOPE_THREADS,
                   kRopeThreads = kThreads - kNopeThreads, kRows = AITERLITE_ROWS;
constexpr uint32_t kNope = AITERLITE_NOPE, kRope = AITERLITE_ROPE, kHalf = kRope / 2;
constexpr bool kAligned = AITERLITE_ALIGNED, kNeox = AITERLITE_NEOX, kHalfTable = AITERLITE_HALF_TABLE,
               kNopeFirst = AITERLITE_NOPE_FIRST, kRotates = AITERLITE_ROTATES, kInner = AITERLITE_INNER,
               kOffsets = AITERLITE_OFFSETS, kPaged = AITERLITE_PAGED, kNearest = AITERLITE_NEAREST,
               kExtras = AITERLITE_EXTRAS, kEarly = AITERLITE_EARLY;
constexpr uint32_t kPositionBits = AITERLITE_POSITION_BITS, kSlotBits = AITERLITE_SLOT_BITS;
static_assert(kRope % 2 == 0 && (!kAligned || (kRope % 16 == 0 && kNope % 8 == 0)), "rows of vectors");
static_assert(kRopeThreads % kWaveSize == 0 && kNopeThreads % kWaveSize == 0, "a wave does one thing");

// What the two sides differ in.
struct Q {
  static constexpr uint32_t kHeads = AITERLITE_Q_HEADS, kCoded = AITERLITE_Q_CODED, kScaled = AITERLITE_Q_CODED;
  static constexpr bool kHasSlot = false, kNeedsSlot = AITERLITE_Q_NEEDS_SLOT;
  using Code = AITERLITE_Q_CODE;
};
struct K {
  static constexpr uint32_t kHeads = AITERLITE_K_HEADS, kCoded = AITERLITE_K_CODED,
                            kScaled = AITERLITE_K_CODED || AITERLITE_K_SCALED;
  static constexpr bool kHasSlot = kSlotBits != 0, kNeedsSlot = kHasSlot;
  using Code = AITERLITE_K_CODE;
};
template <class Side>
inline constexpr bool kIsQ = false;
template <>
inline constexpr bool kIsQ<Q> = true;

template <uint32_t kBits>
AITERLITE_DEVICE int64_t load_index(const void* p, uint32_t at) {
  if constexpr (kBits == 64) {
    return load_i64(static_cast<const int64_t*>(p) + at);
  } else {
    return load_i32(static_cast<const int32_t*>(p) + at);
  }
}

// A row of a side: its head and its token.
template <class Side>
struct Row {
  uint32_t token, head;
  AITERLITE_DEVICE explicit Row(uint32_t row) : token(row / Side::kHeads), head(row % Side::kHeads) {}

  AITERLITE_DEVICE uint32_t outer(const aiterlite_rope_args& args) const {
    return kInner ? token / static_cast<uint32_t>(args.inner) : token;
  }
  AITERLITE_DEVICE int64_t at(const aiterlite_rope_args& args, int64_t of_token, int64_t of_head,
                              int64_t of_inner) const {
    const int64_t of_row = int64_t{head} * of_head;
    if constexpr (kInner) {
      const uint32_t first = outer(args);
      return of_row + int64_t{first} * of_token + int64_t{token - first * static_cast<uint32_t>(args.inner)} * of_inner;
    }
    return of_row + int64_t{token} * of_token;
  }
  AITERLITE_DEVICE const In* nope(const aiterlite_rope_args& args) const {
    if constexpr (kIsQ<Side>) {
      return static_cast<const In*>(args.q_nope) + at(args, args.q_nope_token, args.q_nope_head, args.q_in_inner);
    } else {
      return static_cast<const In*>(args.k_nope) + at(args, args.k_nope_token, args.k_nope_head, args.k_in_inner);
    }
  }
  AITERLITE_DEVICE const In* rope(const aiterlite_rope_args& args) const {
    if constexpr (kIsQ<Side>) {
      return static_cast<const In*>(args.q_pe) + at(args, args.q_pe_token, args.q_pe_head, args.q_in_inner);
    } else {
      return static_cast<const In*>(args.k_pe) + at(args, args.k_pe_token, args.k_pe_head, args.k_in_inner);
    }
  }
  // Of the elements that are written: where the row begins.
  AITERLITE_DEVICE int64_t place(const aiterlite_rope_args& args, int64_t slot) const {
    if constexpr (kIsQ<Side>) {
      return at(args, args.q_out_token, args.q_out_head, args.q_out_inner);
    } else if constexpr (Side::kHasSlot) {
      const auto number = static_cast<uint32_t>(slot);
      const int64_t of_row = int64_t{head} * args.k_out_head;
      if constexpr (kPaged) {
        const auto size = static_cast<uint32_t>(args.block_size);
        const uint32_t block = number / size;
        return of_row + int64_t{block} * args.k_block + int64_t{number - block * size} * args.k_out_token;
      }
      return of_row + int64_t{number} * args.k_out_token;
    } else {
      return at(args, args.k_out_token, args.k_out_head, args.k_out_inner);
    }
  }
};

// The units of a row. A unit has two vectors: of eight pairs' first and second elements, or of four pairs each.
constexpr uint32_t kUnits = (kHalf + 7) / 8;
// Where elements lie in a row: element j of vector `part` of a unit.
AITERLITE_DEVICE constexpr uint32_t element_of(uint32_t unit, uint32_t part, uint32_t j) {
  return kNeox ? part * kHalf + unit * 8 + j : (part * kUnits + unit) * 8 + j;
}
AITERLITE_DEVICE constexpr bool is_there(uint32_t unit, uint32_t part, uint32_t j) {
  return kAligned || (kNeox ? unit * 8 + j < kHalf : element_of(unit, part, j) < kRope);
}
// The number of the unit's pair i in its row.
AITERLITE_DEVICE constexpr uint32_t pair_of(uint32_t unit, uint32_t i) {
  return kNeox ? unit * 8 + i : (i / 4 * kUnits + unit) * 4 + i % 4;
}

// Eight elements of a row from `from` on, those that `there` says; zeros else.
template <Reuse reuse, class There>
AITERLITE_DEVICE Vector16 load_eight(const In* from, const There& there) {
  if constexpr (kAligned) {
    return load_row_vector<reuse>(from);
  } else {
    Vector16 v = {};
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      if (there(j)) v.word[j / 2] |= uint32_t{load_u16(from + j)} << (j % 2 * 16);
    }
    return v;
  }
}
template <class There>
AITERLITE_DEVICE void store_eight(In* to, const Vector16& v, const There& there) {
  if constexpr (kAligned) {
    store_quad(reinterpret_cast<float*>(to), __builtin_bit_cast(Quad, v));
  } else {
#pragma unroll
    for (uint32_t j = 0; j < 8; ++j) {
      if (there(j)) store_u16(to + j, static_cast<uint16_t>(v.word[j / 2] >> (j % 2 * 16)));
    }
  }
}

// As the side has its results: the elements as they are, scaled, or codes of the scaled ones.
template <class Side, class There>
AITERLITE_DEVICE void emit(void* out, int64_t at, const Vector16& v, float by, const There& there) {
  float value[8];
  if constexpr (Side::kScaled) {
    widen(In{}, v, value);
#pragma unroll
    for (float& one : value) one *= by;
  }
  if constexpr (Side::kCoded) {
    using Code = typename Side::Code;
    const Vector8 codes = {{encode_four<Code>(value[0], value[1], value[2], value[3]),
                            encode_four<Code>(value[4], value[5], value[6], value[7])}};
    auto* to = static_cast<uint8_t*>(out) + at;
    if constexpr (kAligned) {
      store_vector8(to, codes);
    } else {
#pragma unroll
      for (uint32_t j = 0; j < 8; ++j) {
        if (there(j)) store_u8(to + j, static_cast<uint8_t>(codes.word[j / 4] >> (j % 4 * 8)));
      }
    }
  } else {
    Vector16 result = v;
    if constexpr (Side::kScaled) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) result.word[i] = pack_pair(In{}, value[2 * i], value[2 * i + 1]);
    }
    store_eight(static_cast<In*>(out) + at, result, there);
  }
}

// A row of cos or sin, for the eight pairs of a unit: of their first and of their second elements.
struct Angles {
  float first[8], second[8];
};
// Four or eight neighbours of a table, which begin at a multiple of as many.
AITERLITE_DEVICE void load_four(const float* from, float* value) {
  const auto quad = __builtin_bit_cast(Quad, load_row_vector<Reuse::kLikely>(from));
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) value[j] = quad.value[j];
}
template <class Bits>
AITERLITE_DEVICE void load_four(const Bits* from, float* value) {
  const Vector8 words = load_vector8(from);
  float all[8];
  widen(Bits{}, Vector16{{words.word[0], words.word[1], 0, 0}}, all);
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) value[j] = all[j];
}
AITERLITE_DEVICE void load_floats(const float* from, float (&value)[8]) {
  load_four(from, value);
  load_four(from + 4, value + 4);
}
template <class Bits>
AITERLITE_DEVICE void load_floats(const Bits* from, float (&value)[8]) {
  widen(Bits{}, load_row_vector<Reuse::kLikely>(from), value);
}
AITERLITE_DEVICE float load_one(const float* from) { return load_f32(from); }
template <class Bits>
AITERLITE_DEVICE float load_one(const Bits* from) {
  return to_float(Bits{load_u16(from)});
}
AITERLITE_DEVICE Angles load_angles(const Table* row, uint32_t unit) {
  Angles angles;
  if constexpr (!kAligned) {
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      const uint32_t pair = pair_of(unit, i);
      angles.first[i] = angles.second[i] = 0.0f;
      if (pair >= kHalf) continue;
      angles.first[i] = load_one(row + (kHalfTable || kNeox ? pair : 2 * pair));
      angles.second[i] = kHalfTable ? angles.first[i] : load_one(row + (kNeox ? kHalf + pair : 2 * pair + 1));
    }
  } else if constexpr (kHalfTable) {
    if constexpr (kNeox) {
      load_floats(row + unit * 8, angles.first);
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) load_four(row + pair_of(unit, 4 * i), angles.first + 4 * i);
    }
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) angles.second[i] = angles.first[i];
  } else if constexpr (kNeox) {
    load_floats(row + unit * 8, angles.first);
    load_floats(row + kHalf + unit * 8, angles.second);
  } else {
    float both[2][8];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) load_floats(row + element_of(unit, i, 0), both[i]);
#pragma unroll
    for (uint32_t i = 0; i < 8; ++i) {
      angles.first[i] = both[i / 4][i % 4 * 2];
      angles.second[i] = both[i / 4][i % 4 * 2 + 1];
    }
  }
  return angles;
}

AITERLITE_DEVICE void rotate(Vector16 (&part)[2], const Angles& cos, const Angles& sin) {
  float value[2][8];
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) widen(In{}, part[i], value[i]);
#pragma unroll
  for (uint32_t i = 0; i < 8; ++i) {
    float& x = kNeox ? value[0][i] : value[i / 4][i % 4 * 2];
    float& y = kNeox ? value[1][i] : value[i / 4][i % 4 * 2 + 1];
    const float turned = __builtin_fmaf(x, cos.first[i], -(y * sin.first[i]));
    y = __builtin_fmaf(y, cos.second[i], x * sin.second[i]);
    x = turned;
  }
#pragma unroll
  for (uint32_t i = 0; i < 2; ++i) {
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) part[i].word[j] = pack_pair(In{}, value[i][2 * j], value[i][2 * j + 1]);
  }
}

// A side's scale. What divides by it waits for it, so it is loaded before the rows and divided by after they are.
template <class Side>
AITERLITE_DEVICE float load_scale(const aiterlite_rope_args& args) {
  if constexpr (Side::kScaled) {
    const float* scale = kIsQ<Side> ? args.q_scale : args.k_scale;
    return scale != nullptr ? load_f32(scale) : 1.0f;
  }
  return 1.0f;
}
template <class Side>
AITERLITE_DEVICE float reciprocal_of(float scale) {
  return Side::kScaled ? 1.0f / scale : 1.0f;
}

// The slot of a row's token, if it is one of the cache and asked for.
template <class Side>
AITERLITE_DEVICE int64_t slot_of(const aiterlite_rope_args& args, uint32_t token) {
  if constexpr (Side::kNeedsSlot) return load_index<kSlotBits>(args.slots, token);
  return 0;
}
template <class Side>
AITERLITE_DEVICE bool takes(const aiterlite_rope_args& args, int64_t slot) {
  return !Side::kNeedsSlot || (slot >= 0 && slot < args.cache_slots);
}

// The part of `rows` rows from `first` on that lanes of a wave that copies have.
template <class Side>
AITERLITE_DEVICE void copy_rows(const aiterlite_rope_args& args, uint32_t first, uint32_t rows) {
  constexpr uint32_t kVectors = (kNope + 7) / 8, kAll = kRows * kVectors, kHeld = 2;
  void* const out = kIsQ<Side> ? args.q_out : args.k_out;
  const float scale = load_scale<Side>(args);
#pragma unroll 1
  for (uint32_t begin = thread_id(); begin < kAll; begin += kNopeThreads * kHeld) {
    Vector16 held[kHeld] = {};
    int64_t slot[kHeld] = {};
    bool wanted[kHeld];
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      const uint32_t at = begin + i * kNopeThreads, number = first + at / kVectors, vector = at % kVectors;
      wanted[i] = at < kAll && number < rows;
      if (!wanted[i]) continue;
      const Row<Side> row(number);
      slot[i] = slot_of<Side>(args, row.token);
      const auto there = [&](uint32_t j) { return vector * 8 + j < kNope; };
      held[i] = load_eight<Reuse::kRow>(row.nope(args) + vector * 8, there);
    }
    if constexpr (!kEarly) admit_successors();
    const float by = reciprocal_of<Side>(scale);
#pragma unroll
    for (uint32_t i = 0; i < kHeld; ++i) {
      const uint32_t at = begin + i * kNopeThreads, vector = at % kVectors;
      if (!wanted[i] || !takes<Side>(args, slot[i])) continue;
      const Row<Side> row(first + at / kVectors);
      const auto there = [&](uint32_t j) { return vector * 8 + j < kNope; };
      emit<Side>(out, row.place(args, slot[i]) + (kNopeFirst ? 0 : kRope) + vector * 8, held[i], by, there);
      if constexpr (kExtras && kIsQ<Side>) {
        if (row.token < static_cast<uint32_t>(args.copied)) {
          auto* zeros = static_cast<In*>(args.q_zeros) + int64_t{first + at / kVectors} * kNope;
          store_eight(zeros + vector * 8, Vector16{}, there);
        }
      }
    }
  }
}

template <class Side>
AITERLITE_DEVICE void rotate_rows(const aiterlite_rope_args& args, uint32_t first, uint32_t rows) {
  constexpr uint32_t kAll = kRows * kUnits;
  void* const out = kIsQ<Side> ? args.q_out : args.k_out;
  const float scale = load_scale<Side>(args);
#pragma unroll 1
  for (uint32_t at = thread_id() - kNopeThreads; at < kAll; at += kRopeThreads) {
    const uint32_t number = first + at / kUnits, unit = at % kUnits;
    if (number >= rows) continue;
    const Row<Side> row(number);
    const int64_t slot = slot_of<Side>(args, row.token);
    bool turns = kRotates && (kIsQ<Side> || !kExtras || row.token < static_cast<uint32_t>(args.rotated));
    int64_t position = row.outer(args);
    if constexpr (kRotates && kPositionBits != 0) {
      if (turns) {
        position = load_index<kPositionBits>(args.positions, row.token);
        if constexpr (kOffsets) position += load_index<kPositionBits>(args.offsets, row.token);
      }
    }
    const In* from = row.rope(args);
    Vector16 part[2];
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const auto there = [&](uint32_t j) { return is_there(unit, i, j); };
      part[i] = load_eight<Reuse::kRow>(from + element_of(unit, i, 0), there);
    }
    if constexpr (!kEarly) admit_successors();
    if (!takes<Side>(args, slot)) continue;
    if constexpr (kRotates) {
      if constexpr (kNearest) {
        position = position < 0 ? 0 : position < args.table_rows ? position : args.table_rows - 1;
      } else {
        turns = turns && position >= 0 && position < args.table_rows;
      }
      if (turns) {
        const Angles cos = load_angles(static_cast<const Table*>(args.cos) + position * args.cos_row, unit);
        const Angles sin = load_angles(static_cast<const Table*>(args.sin) + position * args.sin_row, unit);
        rotate(part, cos, sin);
      }
    }
    const int64_t place = row.place(args, slot) + (kNopeFirst ? kNope : 0);
    const float by = reciprocal_of<Side>(scale);
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t element = element_of(unit, i, 0);
      const auto there = [&](uint32_t j) { return is_there(unit, i, j); };
      emit<Side>(out, place + element, part[i], by, there);
      if constexpr (kExtras) {
        // A dense tensor has a row's number for its place.
        if (!kIsQ<Side> || row.token < static_cast<uint32_t>(args.copied)) {
          auto* more = static_cast<In*>(kIsQ<Side> ? args.q_pe_out : args.k_pe_out) + int64_t{number} * kRope;
          store_eight(more + element, part[i], there);
        }
      }
    }
  }
}

template <class Side>
AITERLITE_DEVICE void fetch_rows(const aiterlite_rope_args& args, uint32_t first, uint32_t rows) {
  constexpr uint32_t kLine = 128 / sizeof(In), kNopeLines = (kNope + kLine - 1) / kLine,
                     kRopeLines = (kRope + kLine - 1) / kLine;
  for (uint32_t at = thread_id(); at < kRows * (kNopeLines + kRopeLines); at += kThreads) {
    const bool copies = at < kRows * kNopeLines;
    const uint32_t line = copies ? at : at - kRows * kNopeLines;
    const uint32_t number = first + (copies ? line / (kNopeLines ? kNopeLines : 1) : line / kRopeLines);
    if (number >= rows) continue;
    const Row<Side> row(number);
    if (copies) {
      prefetch_operand(row.nope(args) + line % (kNopeLines ? kNopeLines : 1) * kLine);
    } else {
      prefetch_operand(row.rope(args) + line % kRopeLines * kLine);
      if constexpr (kPositionBits != 0) {
        prefetch_operand(static_cast<const char*>(args.positions) + int64_t{row.token} * (kPositionBits / 8));
      }
      if constexpr (kSlotBits != 0) {
        if (Side::kNeedsSlot)
          prefetch_operand(static_cast<const char*>(args.slots) + int64_t{row.token} * (kSlotBits / 8));
      }
    }
  }
}

template <class Side>
AITERLITE_DEVICE void run(const aiterlite_rope_args& args, uint32_t group) {
  const uint32_t first = group * kRows;
  const uint32_t rows = static_cast<uint32_t>(kIsQ<Side> ? args.q_tokens : args.k_tokens) * Side::kHeads;
  if constexpr (kEarly) {
    admit_successors();
    fetch_rows<Side>(args, first, rows);
  }
  await_predecessors();
  if (kNopeThreads != 0 && wave_id() < kNopeThreads / kWaveSize) {
    if constexpr (kNope != 0) copy_rows<Side>(args, first, rows);
  } else {
    rotate_rows<Side>(args, first, rows);
  }
}

}  // namespace

AITERLITE_KERNEL_RESIDENT(kThreads, AITERLITE_RESIDENT) aiterlite_rope_rows(aiterlite_rope_args args) {
  const uint32_t group = workgroup_id(), of_q = static_cast<uint32_t>(args.q_groups);
  if (group < of_q) {
    if constexpr (Q::kHeads != 0) run<Q>(args, group);
  } else {
    if constexpr (K::kHeads != 0) run<K>(args, group - of_q);
  }
}
