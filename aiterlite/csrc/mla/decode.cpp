// MLA decode on a CPU: softmax(scale * q k^T) v over paged rows of KV, for a plan's pieces or for equal splits
// (mla/args.h); bf16, fp16 and both 8-bit formats. Where the CPU has AMX, all but fp16 goes by mla/cpu_tiles.h.
//
// A task is a piece of KV and up to four groups of at most 16 heads of one row of q, and runs over its tokens in
// blocks: scores (cpu/attention.h), online softmax, sums of values. So a block's KV comes from memory once and then
// from the cache, 24 or 48 KiB; a further block is asked for while scores are made. 8-bit KV becomes 16-bit, exactly, a
// block at a time; 8-bit q once a task. Products and sums are fp32, weights too; the result is rounded once.
//
// Traffic: a token's row once a task. Rows of KV that a row of q does not see, and indices that name no page, are not
// among a block's rows for it: nothing is read of them. Bits depend on the pieces only, not on threads.
#include <aiterlite/host_abi.h>
#include <aiterlite/mla/cpu_task.h>
#include <aiterlite/mla/cpu_tiles.h>
#include <stdlib.h>
#include <string.h>

namespace {

using namespace aiterlite::cpu;
using namespace aiterlite::mla;

constexpr int64_t kBlock = 48;  // tokens whose weights are made together
constexpr int64_t kStep = 2 * kLanes, kSteps = kKeyDim / kStep;
constexpr int64_t kHeadsPacked = (kGroupHeads + kScoreHeads - 1) / kScoreHeads * kScoreHeads;
static_assert(kKeyDim % kStep == 0 && kValueDim % kStep == 0 && kBlock % kScoreRows == 0 && kBlock % kLanes == 0);
static_assert(kGroupHeads % kValueHeads == 0 && kHeadsPacked == kGroupHeads);

using BlockRows = Rows<kBlock>;

// What one thread works in.
struct Scratch {
  uint16_t q[kTaskGroups][kGroupHeads * kKeyDim];
  float sums[kTaskGroups][kGroupHeads][kValueDim];
  float maximum[kTaskGroups][kGroupHeads];
  float total[kTaskGroups][kGroupHeads];
  float scores[kGroupHeads][kBlock];
  float weights[kGroupHeads / kValueHeads][kBlock][kValueHeads];
  float factors[kGroupHeads];
  uint16_t wide[kBlock][kKeyDim];
};

template <class Element>
void pack_q(const Call& call, const Group& group, uint16_t* out) {
  uint16_t row[kKeyDim];
  for (int64_t h = 0; h < kGroupHeads; ++h) {
    const int64_t at = (group.row * call.args->heads + group.head + (h < group.heads ? h : 0)) * kKeyDim;
    if (call.q == Kind::k16) {
      memcpy(row, static_cast<const uint16_t*>(call.args->q) + at, sizeof(row));
    } else {
      widen_row<Element>(row, static_cast<const uint8_t*>(call.args->q) + at, kKeyDim, call.q);
    }
    uint16_t* to = out + h / kScoreHeads * kScoreHeads * kKeyDim + h % kScoreHeads * kStep;
    for (int64_t i = 0; i < kSteps; ++i) memcpy(to + i * kScoreHeads * kStep, row + i * kStep, kStep * sizeof(*row));
  }
}

template <class Element>
void widen_block(const Call& call, const BlockRows& next, BlockRows& rows, Scratch& scratch) {
  for (int64_t r = 0; r < rows.count; ++r) {
    if (r < next.count) {
      const auto* line = reinterpret_cast<const char*>(next.of[r]);
      for (int64_t byte = 0; byte < kKeyDim; byte += 64) __builtin_prefetch(line + byte, 0, 2);
    }
    widen_row<Element>(scratch.wide[r], reinterpret_cast<const uint8_t*>(rows.of[r]), kKeyDim, call.kv);
    rows.of[r] = scratch.wide[r];
  }
}

// scores[head][row] of the first `count` rows, in log2; rows behind them up to a multiple of kScoreRows are repeats.
template <class Element>
void make_scores(const BlockRows& rows, const BlockRows& next, int64_t count, int64_t heads, const uint16_t* q,
                 float scale, bool ahead, float (&scores)[kGroupHeads][kBlock]) {
  const int64_t tiles = (heads + kScoreHeads - 1) / kScoreHeads;
  for (int64_t r = 0; r < count; r += kScoreRows) {
    const uint16_t *of[kScoreRows], *following[kScoreRows];
    for (int64_t i = 0; i < kScoreRows; ++i) {
      of[i] = rows.of[r + i < count ? r + i : count - 1];
      following[i] = r + i < next.count ? next.of[r + i] : of[i];
    }
    for (int64_t tile = 0; tile < tiles; ++tile) {
      f32v lanes[kScoreHeads][kScoreRows];
      const int first = ahead ? static_cast<int>(kScoreRows * tile / tiles) : 0;
      const int last = ahead ? static_cast<int>(kScoreRows * (tile + 1) / tiles) : 0;
      score_tile<Element>(of, q + tile * kScoreHeads * kKeyDim, kSteps, following, first, last, lanes);
      for (int64_t h = 0; h < kScoreHeads; ++h) {
        const f32q four = sum_lanes(lanes[h][0], lanes[h][1], lanes[h][2], lanes[h][3]) * scale;
        store(&scores[tile * kScoreHeads + h][r], four);
      }
    }
  }
}

// Scores to weights, relative to the maximum so far.
void make_weights(int64_t count, int64_t heads, Scratch& scratch, float* maximum, float* total) {
  const int64_t padded = (count + kLanes - 1) / kLanes * kLanes;
  for (int64_t h = 0; h < kGroupHeads; ++h) {
    float* weight = &scratch.weights[h / kValueHeads][0][h % kValueHeads];
    if (h >= heads) {
      scratch.factors[h] = 0.0f;
      for (int64_t r = 0; r < count; ++r) weight[r * kValueHeads] = 0.0f;
      continue;
    }
    float* scores = scratch.scores[h];
    for (int64_t r = count; r < padded; ++r) scores[r] = -__builtin_inff();
    f32v most = load<f32v>(scores);
    for (int64_t r = kLanes; r < padded; r += kLanes) {
      const f32v other = load<f32v>(scores + r);
      most = other > most ? other : most;
    }
    const float piece = largest(most), before = maximum[h];
    maximum[h] = piece > before ? piece : before;
    const float base = maximum[h] == -__builtin_inff() ? 0.0f : maximum[h];
    f32v sums = {};
    for (int64_t r = 0; r < padded; r += kLanes) {
      const f32v value = aiterlite::cpu::exp2(load<f32v>(scores + r) - base);
      sums += value;
      store(scores + r, value);
    }
    scratch.factors[h] = exp2f(before - base);
    total[h] = total[h] * scratch.factors[h] + sum(sums);
    for (int64_t r = 0; r < count; ++r) weight[r * kValueHeads] = scores[r];
  }
}

template <class Element>
void add_values(const BlockRows& rows, int64_t count, int64_t heads, const Scratch& scratch,
                float (&sums)[kGroupHeads][kValueDim]) {
  for (int64_t column = 0; column < kValueDim; column += kStep) {
    for (int64_t tile = 0; tile * kValueHeads < heads; ++tile) {
      value_tile<Element>(rows.of, column, count, &scratch.weights[tile][0][0], scratch.factors + tile * kValueHeads,
                          &sums[tile * kValueHeads][column], kValueDim);
    }
  }
}

template <class Element>
void store_group(const Call& call, const Group& group, Scratch& scratch, int64_t number) {
  for (int64_t h = 0; h < group.heads; ++h) {
    const float* sums = scratch.sums[number][h];
    store_head(call, group, h, scratch.maximum[number][h], scratch.total[number][h], [&](float* out) {
      for (int64_t i = 0; i < kValueDim; ++i) {
        const int at = static_cast<int>(i % kStep);
        out[i - at + column_of<Element>(at)] = sums[i];
      }
    });
  }
}

template <class Element>
void run_task(const Call& call, const Work& work, int64_t task, Scratch& scratch) {
  Group groups[kTaskGroups];
  const int64_t count = find_groups(work, task, groups);
  if (count == 0) return;
  for (int64_t g = 0; g < count; ++g) {
    pack_q<Element>(call, groups[g], scratch.q[g]);
    for (int64_t h = 0; h < kGroupHeads; ++h) {
      scratch.maximum[g][h] = -__builtin_inff();
      scratch.total[g][h] = 0.0f;
    }
    memset(scratch.sums[g], 0, sizeof(scratch.sums[g]));
  }
  const float scale = score_scale(call);
  const bool wide = call.kv == Kind::k16;
  BlockRows two[2];
  int64_t end = two[0].find(call, work, work.begin);
  for (int64_t number = 0, begin = work.begin; begin < work.end; ++number) {
    BlockRows &rows = two[number % 2], &next = two[1 - number % 2];
    begin = end;
    end = next.find(call, work, begin);
    if (!wide) widen_block<Element>(call, next, rows, scratch);
    for (int64_t g = 0; g < count; ++g) {
      const int64_t seen = rows.seen(groups[g].seen);
      if (seen == 0) continue;
      make_scores<Element>(rows, next, seen, groups[g].heads, scratch.q[g], scale, wide && g == 0, scratch.scores);
      make_weights(seen, groups[g].heads, scratch, scratch.maximum[g], scratch.total[g]);
      add_values<Element>(rows, seen, groups[g].heads, scratch, scratch.sums[g]);
    }
  }
  for (int64_t g = 0; g < count; ++g) store_group<Element>(call, groups[g], scratch, g);
}

template <class Element>
void run_tasks(int64_t begin, int64_t end, void* context) {
  auto& call = *static_cast<Call*>(context);
  void* memory = nullptr;
  if (posix_memalign(&memory, 64, sizeof(Scratch)) != 0) {
    __atomic_store_n(&call.status, kNoMemory, __ATOMIC_RELAXED);
    return;
  }
  for (int64_t at = begin; at < end; ++at) {
    const Work work = work_of(call, at / call.tasks);
    if (work.request >= 0) run_task<Element>(call, work, at % call.tasks, *static_cast<Scratch*>(memory));
  }
  free(memory);
}

template <class Element>
int32_t run(const aiterlite_mla_decode_args& args, Kind q, Kind kv, bool to_fp16, parallel_for_t parallel_for) {
  const int64_t groups = (int64_t{args.heads} + kGroupHeads - 1) / kGroupHeads * args.q_len;
  Call call = {&args, q, kv, to_fp16, 0, (groups + kTaskGroups - 1) / kTaskGroups, 0};
  const int32_t planned = args.splits > 0 ? 0 : args.work_indptr[args.workgroups];
  call.items = args.splits > 0            ? int64_t{args.batch} * args.splits
               : planned < args.work_rows ? planned
                                          : args.work_rows;
  const int64_t all = call.items * call.tasks;
  if (all <= 0) return 0;
  auto* work = run_tasks<Element>;
#if AITERLITE_CPU_AMX
  if constexpr (__is_same(Element, Bf16)) {
    if (has_amx()) work = run_tile_tasks;
  }
#endif
  const int32_t status = parallel_for(0, all, 1, work, &call);
  return status != 0 ? status : call.status;
}

}  // namespace

#define MLA_DECODE(q, kv, o, element, q_kind, kv_kind, to_fp16)                                              \
  AITERLITE_EXPORT int32_t aiterlite_mla_decode_cpu_##q##_##kv##_##o(const aiterlite_mla_decode_args* args,  \
                                                                     parallel_for_t parallel_for, int32_t) { \
    return run<element>(*args, Kind::q_kind, Kind::kv_kind, to_fp16, parallel_for);                          \
  }
MLA_DECODE(bf16, bf16, bf16, Bf16, k16, k16, false)
MLA_DECODE(fp16, fp16, fp16, Fp16, k16, k16, true)
MLA_DECODE(bf16, e4m3fn, bf16, Bf16, k16, kE4m3fn, false)
MLA_DECODE(bf16, e4m3fnuz, bf16, Bf16, k16, kE4m3fnuz, false)
MLA_DECODE(fp16, e4m3fn, fp16, Fp16, k16, kE4m3fn, true)
MLA_DECODE(fp16, e4m3fnuz, fp16, Fp16, k16, kE4m3fnuz, true)
MLA_DECODE(e4m3fn, e4m3fn, bf16, Bf16, kE4m3fn, kE4m3fn, false)
MLA_DECODE(e4m3fn, e4m3fn, fp16, Bf16, kE4m3fn, kE4m3fn, true)
MLA_DECODE(e4m3fnuz, e4m3fnuz, bf16, Bf16, kE4m3fnuz, kE4m3fnuz, false)
MLA_DECODE(e4m3fnuz, e4m3fnuz, fp16, Bf16, kE4m3fnuz, kE4m3fnuz, true)
