// RMSNorm with results of MXFP4 on a CPU: mxfp4/norm_args.h. A row is made in chunks, as cpu/rms_norm.h has them, which
// are quantised on the stack.
#include <aiterlite/cpu/mxfp4.h>
#include <aiterlite/cpu/mxfp4_scale.h>
#include <aiterlite/cpu/rms_norm.h>
#include <aiterlite/mxfp4/norm_args.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_mxfp4_norm_args;

aiterlite_norm_args norm_of(const Args& args) {
  aiterlite_norm_args norm = {};
  norm.x = args.x;
  norm.weight = args.weight;
  norm.residual_in = args.residual_in;
  norm.residual_out = args.residual_out;
  norm.stride_x = args.stride_x;
  norm.stride_in = args.stride_in;
  norm.stride_sum = args.stride_sum;
  norm.rows = args.rows;
  norm.width = args.width;
  norm.epsilon = args.epsilon;
  norm.inverse_width = args.inverse_width;
  return norm;
}

template <class In>
void run_row(const Args& args, const aiterlite_norm_args& of_norm, int64_t r) {
  constexpr int64_t kChunk = norm::kChunk;
  const MxScalePlaces places = {args.layout == kShuffledScales, args.stride_row, args.stride_block,
                                args.scale_blocks / kScaleTileBlocks};
  const norm::Row<In> row = norm::row_of<In>(of_norm, r);
  auto* codes = static_cast<uint8_t*>(args.out) + r * (args.width / 2);
  auto* scales = static_cast<uint8_t*>(args.scales);
  uint16_t made[kChunk];
  uint8_t bytes[kChunk / kMxBlock];
  for (int64_t first = 0; first < args.width; first += kChunk) {
    const int64_t count = args.width - first < kChunk ? args.width - first : kChunk, blocks = count / kMxBlock;
    row.make(made, first, count);
    if (args.plain != nullptr) {
      memcpy(static_cast<uint16_t*>(args.plain) + r * args.stride_plain + first, made, count * sizeof *made);
    }
    encode_blocks<In>(codes + first / 2, bytes, made, blocks, args.carry, args.least);
    for (int64_t i = 0; i < blocks; ++i) scales[places.at(r, first / kMxBlock + i)] = bytes[i];
  }
}

// Rows, or, shuffled, tiles of 32 of them, whose scales are zero first.
template <class In>
void run_rows(int64_t begin, int64_t end, void* context) {
  const Args& args = *static_cast<const Args*>(context);
  const aiterlite_norm_args of_norm = norm_of(args);
  if (args.layout == kShuffledScales) {
    const int64_t bytes = int64_t{args.scale_blocks} * kScaleTileRows;
    memset(static_cast<uint8_t*>(args.scales) + begin * bytes, 0, (end - begin) * bytes);
    begin *= kScaleTileRows, end *= kScaleTileRows;
    end = end < args.rows ? end : args.rows;
  }
  for (int64_t row = begin; row < end; ++row) run_row<In>(args, of_norm, row);
}

template <class In>
int32_t run(const Args& args, parallel_for_t parallel_for) {
  const int64_t rows = args.width < norm::kTask ? norm::kTask / args.width : 1;
  const bool tiles = args.layout == kShuffledScales;
  const int64_t count = tiles ? args.scale_rows / kScaleTileRows : args.rows;
  const int64_t grain = tiles ? (rows + kScaleTileRows - 1) / kScaleTileRows : rows;
  return parallel_for(0, count, grain, run_rows<In>, const_cast<Args*>(&args));
}

}  // namespace

#define AITERLITE_MXFP4_NORM(name, In)                                                             \
  AITERLITE_EXPORT int32_t aiterlite_mxfp4_norm_cpu_##name(const aiterlite_mxfp4_norm_args* args,  \
                                                           parallel_for_t parallel_for, int32_t) { \
    return run<In>(*args, parallel_for);                                                           \
  }
AITERLITE_MXFP4_NORM(bf16, Bf16)
AITERLITE_MXFP4_NORM(fp16, Fp16)
