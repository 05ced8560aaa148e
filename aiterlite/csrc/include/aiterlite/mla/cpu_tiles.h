// MLA decode on a CPU by tiles of AMX, for q and KV of bf16 or 8 bits: 16 heads are the rows of a tile.
//
// A block is up to 64 tokens. Its rows of KV are first brought beside each other, 8-bit ones as bf16, and the values of
// each two tokens woven into operands b, [32 tokens][16 columns]: so all groups of heads of a task read what was
// brought once. Then S = K q^T, tokens by heads; softmax, a head a lane; and O += P V, heads by columns, four tiles of
// sums at a time. Products and sums are fp32; a weight is two bf16 numbers, 16 bits, and the sum of weights not
// rounded.
//
// Traffic: a token's row once a task, asked for a block ahead, a few lines at every step of the block before; the last
// block of a task asks for the first one of the thread's next. The rest stays in the second-level cache: 74 KB of keys,
// 66 of values, 33 of sums and 18 of q a group.
//
// What a row of q does not see is not among the values that its weights meet: rows behind the last one that it sees are
// zeros there, up to a multiple of 32, and so are their weights. Scores of such rows are made, a row of a tile each,
// and not used.
#pragma once
#include <aiterlite/cpu/amx.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/mla/cpu_task.h>
#include <stdlib.h>

#include <new>
#include <utility>

#if AITERLITE_CPU_AMX

namespace aiterlite::mla {

constexpr int64_t kTileTokens = 64;                                         // of a block
constexpr int64_t kWeaveTokens = 32, kWeaves = kTileTokens / kWeaveTokens;  // of an operand of values
constexpr int64_t kKeySteps = kKeyDim / 32, kColumnTiles = kValueDim / 16;
static_assert(cpu::kLanes == 16 && kGroupHeads == 16 && kTileTokens % 64 == 0);

using TileRows = Rows<kTileTokens>;

// Lines of rows of KV to come, asked for in their order.
class Ahead {
 public:
  Ahead(const TileRows& rows, int64_t bytes) : rows_(rows), bytes_(bytes) {}
  // A few lines more, three at a time, of which the CPU's own prefetch brings the middle one: to ask for it as well
  // takes a buffer of the first-level cache, which misses of that want too.
  void ask(int lines) {
    for (; lines > 0 && row_ < rows_.count; lines -= 3) {
      const char* from = reinterpret_cast<const char*>(rows_.of[row_]) + at_;
      __builtin_prefetch(from, 0, 2);
      __builtin_prefetch(from + 128, 0, 2);
      at_ += 192;
      if (at_ >= bytes_) at_ = 0, ++row_;
    }
  }
  void rest() { ask(kTileTokens * 18); }

 private:
  const TileRows& rows_;
  int64_t bytes_, row_ = 0, at_ = 0;
};

// 2^x to 2 units in the last place, of x up to 127; NaN of NaN.
inline cpu::f32v power_of_2(cpu::f32v x) {
  using cpu::f32v, cpu::multiply_add;
  const f32v whole = (f32v)_mm512_maskz_roundscale_ps((__mmask16)-1, (__m512)x, 0);
  const f32v f = x - whole;
  f32v value = f * 1.52527338e-5f + 1.54035304e-4f;
  for (const float next : {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f}) {
    value = multiply_add(value, f, next - f32v{});
  }
  // Of an infinity f is NaN.
  const f32v sure = (f32v)((cpu::i32v)value & ~(cpu::i32v)(x < -126.0f));
  return (f32v)_mm512_maskz_scalef_ps((__mmask16)-1, (__m512)sure, (__m512)whole);
}

class TileTask {
 public:
  explicit TileTask(const Call& call) : call_(call), scale_(score_scale(call)) {}

  void begin(const Work& work, int64_t task) {
    Group groups[kTaskGroups];
    count_ = find_groups(work, task, groups);
    for (int64_t g = 0; g < count_; ++g) {
      // Pieces of a request come after each other, and have the same q.
      const bool same = groups[g].row == groups_[g].row && groups[g].head == groups_[g].head;
      if (!same || groups[g].heads != groups_[g].heads) pack_q(groups[g], of_[g].q);
      groups_[g] = groups[g];
      of_[g].maximum = cpu::f32v{} - __builtin_inff();
      of_[g].total = cpu::f32v{};
      of_[g].empty = true;
    }
  }

  void add(const TileRows& rows, Ahead& ahead) {
    if (count_ == 0) return;
    const bool wide = call_.kv == Kind::k16;
    for (int64_t r = 0; r < rows.count; ++r) {
      row_[r] = wide ? rows.of[r] : keys_[r];
      if (!wide) {
        widen_row<cpu::Bf16>(keys_[r], reinterpret_cast<const uint8_t*>(rows.of[r]), kKeyDim, call_.kv);
        ahead.ask(3);
      }
    }
    line_up(wide ? rows.count : 0);
    int64_t seen[kTaskGroups] = {};
    for (int64_t g = 0; g < count_; ++g) {
      seen[g] = rows.seen(groups_[g].seen);
      for (int64_t token = 0; token < seen[g]; token += 64) make_scores(of_[g], token, seen[g] - token, ahead);
      if (seen[g] > 0) make_weights(of_[g], seen[g], ahead);
    }
    for (int64_t tile = 0; tile < kColumnTiles; tile += 4) {
      int64_t woven = 0;
      for (int64_t g = 0; g < count_; ++g) {
        if (seen[g] == 0) continue;
        if (seen[g] != woven) weave(tile * 16, seen[g], ahead);
        woven = seen[g];
        add_values(of_[g], tile, (seen[g] + kWeaveTokens - 1) / kWeaveTokens);
      }
    }
    for (int64_t g = 0; g < count_; ++g) of_[g].empty &= seen[g] == 0;
    ahead.rest();
  }

  void end() {
    for (int64_t g = 0; g < count_; ++g) {
      const OfGroup& of = of_[g];
      for (int64_t h = 0; h < groups_[g].heads; ++h) {
        store_head(call_, groups_[g], h, of.maximum[h], of.total[h], [&](float* out) { sums_of(of, h, out); });
      }
    }
  }

 private:
  struct alignas(64) OfGroup {
    uint16_t q[kKeySteps][512];                 // operands b
    float sums[kColumnTiles][kGroupHeads][16];  // columns as weave() puts them
    uint16_t weights[kWeaves][2][512];          // operands a
    cpu::f32v maximum, total;
    bool empty;
  };

  struct Keys {
    const uint16_t* row;
    int64_t pitch;  // in bytes
  };

  // Heads that there are not are zeros.
  void pack_q(const Group& group, uint16_t (&to)[kKeySteps][512]) const {
    alignas(64) uint16_t rows[kGroupHeads][kKeyDim];
    const int64_t at = (group.row * call_.args->heads + group.head) * kKeyDim, count = group.heads * kKeyDim;
    if (call_.q == Kind::k16) {
      memcpy(rows, static_cast<const uint16_t*>(call_.args->q) + at, count * sizeof(uint16_t));
    } else {
      widen_row<cpu::Bf16>(rows[0], static_cast<const uint8_t*>(call_.args->q) + at, count, call_.q);
    }
    memset(rows[0] + count, 0, sizeof(rows) - count * sizeof(uint16_t));
    for (int64_t k = 0; k < kKeySteps; ++k) cpu::transpose_words(to[k], rows[0] + 32 * k, sizeof(rows[0]));
  }

  // Where the rows of each tile of keys lie: those of 16 rows at equal distances stay where they are.
  void line_up(int64_t count) {
    for (int64_t tile = 0; tile < kTileTokens / 16; ++tile) {
      const uint16_t* const* row = row_ + 16 * tile;
      const int64_t here = count - 16 * tile < 16 ? count - 16 * tile : 16;
      tile_[tile] = {keys_[16 * tile], sizeof(keys_[0])};
      if (here <= 0) continue;
      if (here == 16 && even(row)) {
        tile_[tile] = {row[0], reinterpret_cast<intptr_t>(row[1]) - reinterpret_cast<intptr_t>(row[0])};
        continue;
      }
      for (int64_t i = 0; i < here; ++i) {
        for (int64_t k = 0; k < kKeyDim; k += 32)
          cpu::store(keys_[16 * tile + i] + k, cpu::load<cpu::u16v>(row[i] + k));
      }
    }
  }

  // Whether 16 rows lie at equal distances.
  static bool even(const uint16_t* const* row) {
    typedef int64_t i64v __attribute__((vector_size(64)));
    const i64v number = {0, 1, 2, 3, 4, 5, 6, 7};
    const i64v low = cpu::load<i64v>(row), high = cpu::load<i64v>(row + 8);
    const int64_t pitch = low[1] - low[0];
    const i64v should = low[0] + number * pitch;
    const i64v apart = (low ^ should) | (high ^ (should + 8 * pitch));
    return _mm512_test_epi64_mask((__m512i)apart, (__m512i)apart) == 0;
  }

  // The values of 64 columns of the first `seen` rows, zeros behind them. Of 32 columns, those whose number has bit 2
  // clear go to the first of two operands.
  void weave(int64_t column, int64_t seen, Ahead& ahead) {
    alignas(64) static constexpr uint16_t kZeros[64] = {};
    for (int64_t r = 0; r < seen; r += 2) {
      weave_pair(values_[r / kWeaveTokens], r, row_[r] + column, r + 1 < seen ? row_[r + 1] + column : kZeros);
      ahead.ask(3);
    }
    for (int64_t r = (seen + 1) & ~int64_t{1}; r % kWeaveTokens != 0; r += 2) {
      weave_pair(values_[r / kWeaveTokens], r, kZeros, kZeros);
    }
  }
  static void weave_pair(uint16_t (&to)[4][512], int64_t r, const uint16_t* even, const uint16_t* odd) {
    char* at = reinterpret_cast<char*>(to[0]) + r % kWeaveTokens / 2 * cpu::kTileLine;
    for (int64_t k = 0; k < 64; k += 32, at += 2 * cpu::kTileBytes) {
      const auto a = cpu::load<__m512i>(even + k), b = cpu::load<__m512i>(odd + k);
      cpu::store(at, _mm512_unpacklo_epi16(a, b));
      cpu::store(at + cpu::kTileBytes, _mm512_unpackhi_epi16(a, b));
    }
  }

  // Scores of tokens [token, token + 64), of which `count` are wanted.
  void make_scores(const OfGroup& of, int64_t token, int64_t count, Ahead& ahead) {
    const Keys* keys = tile_ + token / 16;
    if (count > 32) {
      cpu::tile_zero<2>();
      cpu::tile_zero<3>();
    }
    cpu::tile_zero<0>();
    cpu::tile_zero<1>();
    for (int64_t k = 0; k < kKeySteps; ++k) {
      cpu::tile_load<7>(of.q[k], cpu::kTileLine);
      cpu::tile_load<4>(keys[0].row + 32 * k, keys[0].pitch);
      cpu::tile_dot<0, 4, 7>();
      cpu::tile_load<5>(keys[1].row + 32 * k, keys[1].pitch);
      cpu::tile_dot<1, 5, 7>();
      ahead.ask(9);
      if (count <= 32) continue;
      cpu::tile_load<6>(keys[2].row + 32 * k, keys[2].pitch);
      cpu::tile_dot<2, 6, 7>();
      cpu::tile_load<4>(keys[3].row + 32 * k, keys[3].pitch);
      cpu::tile_dot<3, 4, 7>();
      ahead.ask(9);
    }
    cpu::tile_store<0>(scores_[token], cpu::kTileLine);
    cpu::tile_store<1>(scores_[token + 16], cpu::kTileLine);
    if (count <= 32) return;
    cpu::tile_store<2>(scores_[token + 32], cpu::kTileLine);
    cpu::tile_store<3>(scores_[token + 48], cpu::kTileLine);
  }

  // Scores to weights, relative to the maximum so far, as operands a of two parts.
  void make_weights(OfGroup& of, int64_t seen, Ahead& ahead) {
    using cpu::f32v, cpu::i32v, cpu::u32v, cpu::load, cpu::store;
    const f32v before = of.maximum;
    f32v mosts[4] = {before, before, before, before};
    for (int64_t r = 0; r < seen; ++r) {
      const f32v score = load<f32v>(scores_[r]) * scale_;
      // Once rounded: a product that is rounded here and is not below is off by more than weights reach, if it is
      // large.
      store(scores_[r], score);
      mosts[r % 4] = score > mosts[r % 4] ? score : mosts[r % 4];
    }
    for (int i = 1; i < 4; ++i) mosts[0] = mosts[i] > mosts[0] ? mosts[i] : mosts[0];
    const f32v most = of.maximum = mosts[0];
    const f32v base = most == -__builtin_inff() ? f32v{} : most;
    f32v sums[2] = {};
    for (int64_t weave = 0; weave * kWeaveTokens < seen; ++weave) {
      alignas(64) u32v high[16], low[16];
      for (int64_t pair = 0; pair < 16; ++pair) {
        u32v part[2][2];
        for (int64_t i = 0; i < 2; ++i) {
          const int64_t r = weave * kWeaveTokens + 2 * pair + i;
          const f32v weight = r < seen ? power_of_2(load<f32v>(scores_[r]) - base) : f32v{};
          sums[i] += weight;
          part[i][0] = (u32v)weight & 0xffff0000u;
          part[i][1] = ((u32v)(weight - (f32v)part[i][0]) + 0x8000u) & 0xffff0000u;
        }
        high[pair] = part[0][0] >> 16 | part[1][0];
        low[pair] = part[0][1] >> 16 | part[1][1];
        ahead.ask(6);
      }
      cpu::transpose_words(of.weights[weave][0], high, cpu::kTileLine);
      cpu::transpose_words(of.weights[weave][1], low, cpu::kTileLine);
    }
    const f32v factor = cpu::exp2(before - base);
    of.total = of.total * factor + (sums[0] + sums[1]);
    if (of.empty) return;
    bool same = true;
    for (int i = 0; i < 16; ++i) same &= factor[i] == 1.0f;
    if (same) return;
    for (int64_t h = 0; h < kGroupHeads; ++h) {
      for (int64_t tile = 0; tile < kColumnTiles; ++tile) {
        store(of.sums[tile][h], load<f32v>(of.sums[tile][h]) * factor[h]);
      }
    }
  }

  // Four tiles of sums.
  void add_values(OfGroup& of, int64_t tile, int64_t weaves) {
    if (of.empty) {
      cpu::tile_zero<0>();
      cpu::tile_zero<1>();
      cpu::tile_zero<2>();
      cpu::tile_zero<3>();
    } else {
      cpu::tile_load<0>(of.sums[tile], cpu::kTileLine);
      cpu::tile_load<1>(of.sums[tile + 1], cpu::kTileLine);
      cpu::tile_load<2>(of.sums[tile + 2], cpu::kTileLine);
      cpu::tile_load<3>(of.sums[tile + 3], cpu::kTileLine);
    }
    for (int64_t weave = 0; weave < weaves; ++weave) {
      cpu::tile_load<4>(of.weights[weave][0], cpu::kTileLine);
      cpu::tile_load<5>(of.weights[weave][1], cpu::kTileLine);
      cpu::tile_load<6>(values_[weave][0], cpu::kTileLine);
      cpu::tile_load<7>(values_[weave][1], cpu::kTileLine);
      cpu::tile_dot<0, 4, 6>();
      cpu::tile_dot<1, 4, 7>();
      cpu::tile_dot<0, 5, 6>();
      cpu::tile_dot<1, 5, 7>();
      cpu::tile_load<6>(values_[weave][2], cpu::kTileLine);
      cpu::tile_load<7>(values_[weave][3], cpu::kTileLine);
      cpu::tile_dot<2, 4, 6>();
      cpu::tile_dot<3, 4, 7>();
      cpu::tile_dot<2, 5, 6>();
      cpu::tile_dot<3, 5, 7>();
    }
    cpu::tile_store<0>(of.sums[tile], cpu::kTileLine);
    cpu::tile_store<1>(of.sums[tile + 1], cpu::kTileLine);
    cpu::tile_store<2>(of.sums[tile + 2], cpu::kTileLine);
    cpu::tile_store<3>(of.sums[tile + 3], cpu::kTileLine);
  }

  static void sums_of(const OfGroup& of, int64_t h, float* out) {
    for (int64_t tile = 0; tile < kColumnTiles; tile += 2, out += 32) {
      const auto a = cpu::load<cpu::f32v>(of.sums[tile][h]), b = cpu::load<cpu::f32v>(of.sums[tile + 1][h]);
      cpu::store(out, __builtin_shufflevector(a, b, 0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23));
      cpu::store(out + 16, __builtin_shufflevector(a, b, 8, 9, 10, 11, 24, 25, 26, 27, 12, 13, 14, 15, 28, 29, 30, 31));
    }
  }

  const Call& call_;
  float scale_;
  int64_t count_ = 0;
  const uint16_t* row_[kTileTokens];
  Keys tile_[kTileTokens / 16];
  Group groups_[kTaskGroups] = {};  // of 0 heads: none yet
  alignas(64) uint16_t keys_[kTileTokens][kKeyDim];
  uint16_t values_[kWeaves][4][512];  // operands b
  float scores_[kTileTokens][kGroupHeads];
  OfGroup of_[kTaskGroups];
};

// Tasks [begin, end) of all pieces' tasks.
inline void run_tile_tasks(int64_t begin, int64_t end, void* context) {
  auto& call = *static_cast<Call*>(context);
  void* memory = nullptr;
  if (begin >= end) return;
  if (posix_memalign(&memory, 64, sizeof(TileTask)) != 0) {
    __atomic_store_n(&call.status, kNoMemory, __ATOMIC_RELAXED);
    return;
  }
  const cpu::Tiles tiles;
  TileTask& task = *new (memory) TileTask(call);
  const int64_t bytes = kKeyDim * (call.kv == Kind::k16 ? 2 : 1);
  TileRows two[2], *rows = &two[0], *next = &two[1];
  Work work = work_of(call, begin / call.tasks);
  int64_t last = work.request < 0 ? 0 : rows->find(call, work, work.begin);
  for (int64_t at = begin; at < end; ++at) {
    const Work after = at + 1 < end ? work_of(call, (at + 1) / call.tasks) : no_work();
    const bool some = work.request >= 0;
    if (some) task.begin(work, at % call.tasks);
    while (some && last < work.end) {
      last = next->find(call, work, last);
      Ahead ahead(*next, bytes);
      task.add(*rows, ahead);
      std::swap(rows, next);
    }
    next->count = 0;
    const int64_t first = after.request < 0 ? 0 : next->find(call, after, after.begin);
    if (some) {
      Ahead ahead(*next, bytes);
      if (work.begin < work.end) task.add(*rows, ahead);
      task.end();
    }
    std::swap(rows, next);
    work = after;
    last = first;
  }
  free(memory);
}

}  // namespace aiterlite::mla

#endif  // AITERLITE_CPU_AMX
