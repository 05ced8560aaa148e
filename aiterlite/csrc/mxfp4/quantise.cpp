// Quantisation to MXFP4 on a CPU: mxfp4/quant_args.h. A task is some rows, of whole tiles where scales are shuffled. A
// row is taken in chunks: blocks of it that lie beside each other, or what an activation makes of them, on the stack.
#include <aiterlite/cpu/gated.h>
#include <aiterlite/cpu/mxfp4.h>
#include <aiterlite/cpu/mxfp4_scale.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/mxfp4/quant_args.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_mxfp4_quant_args;

// Elements below which a thread of its own costs more than it saves.
constexpr int64_t kTask = 32768;
constexpr int64_t kChunk = 128;  // blocks

struct Call {
  const Args* args;
  int64_t live;
};

template <class In>
void run_row(const Args& args, int64_t row) {
  const auto* x = static_cast<const uint16_t*>(args.x) + row * args.stride_x;
  auto* out = static_cast<uint8_t*>(args.out) + row * args.blocks * (kMxBlock / 2);
  auto* scales = static_cast<uint8_t*>(args.scales);
  const MxScalePlaces places = {args.layout == kShuffledScales, args.stride_row, args.stride_block, args.block_tiles};
  uint8_t bytes[kChunk];
  uint16_t made[kChunk * kMxBlock];
  int64_t count = 0;
  for (int64_t block = 0; block < args.blocks; block += count) {
    const int64_t part = block / args.part_blocks, inside = block % args.part_blocks;
    count = args.part_blocks - inside < kChunk ? args.part_blocks - inside : kChunk;
    const uint16_t* from = x + part * args.stride_part + inside * kMxBlock;
    if (args.activation >= 0) {
      const uint16_t* up = from + int64_t{args.blocks} * kMxBlock;
      gate_elements<In>(args.activation, made, from, up, count * kMxBlock, 0.0f);
      from = made;
    }
    encode_blocks<In>(out + block * (kMxBlock / 2), bytes, from, count, args.carry, args.least);
    for (int64_t i = 0; i < count; ++i) scales[places.at(row, block + i)] = bytes[i];
  }
}

template <class In>
void run_rows(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Call*>(context);
  for (int64_t row = begin; row < end; ++row) run_row<In>(*call.args, row);
}

// Tiles of rows: first all zeros, padding too.
template <class In>
void run_tiles(int64_t begin, int64_t end, void* context) {
  const auto& call = *static_cast<const Call*>(context);
  const int64_t bytes = call.args->block_tiles * kScaleTileBytes;
  memset(static_cast<uint8_t*>(call.args->scales) + begin * bytes, 0, (end - begin) * bytes);
  const int64_t last = end * kScaleTileRows < call.live ? end * kScaleTileRows : call.live;
  for (int64_t row = begin * kScaleTileRows; row < last; ++row) run_row<In>(*call.args, row);
}

template <class In>
int32_t quantise(const Args& args, parallel_for_t parallel_for) {
  Call call = {&args, args.rows};
  if (args.num_rows != nullptr) {
    const int64_t asked = int64_t{*args.num_rows} * args.num_rows_factor;
    call.live = asked < 0 ? 0 : asked < args.rows ? asked : args.rows;
  }
  const int64_t width = int64_t{args.blocks} * kMxBlock, rows = width < kTask ? kTask / width : 1;
  if (args.layout == kShuffledScales) {
    return parallel_for(0, args.row_tiles, (rows + kScaleTileRows - 1) / kScaleTileRows, run_tiles<In>, &call);
  }
  return call.live == 0 ? 0 : parallel_for(0, call.live, rows, run_rows<In>, &call);
}

}  // namespace

#define AITERLITE_MXFP4_QUANTISE(name, In)                                                             \
  AITERLITE_EXPORT int32_t aiterlite_mxfp4_quantise_cpu_##name(const aiterlite_mxfp4_quant_args* args, \
                                                               parallel_for_t parallel_for, int32_t) { \
    return quantise<In>(*args, parallel_for);                                                          \
  }
AITERLITE_MXFP4_QUANTISE(bf16, Bf16)
AITERLITE_MXFP4_QUANTISE(fp16, Fp16)
