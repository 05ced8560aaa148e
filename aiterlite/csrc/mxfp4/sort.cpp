// MX scales of rows in the order of entries sorted by experts, on a CPU: mxfp4/sort_args.h. A task is some tiles of 32
// entries.
#include <aiterlite/cpu/mxfp4_scale.h>
#include <aiterlite/host_abi.h>
#include <aiterlite/mxfp4/sort_args.h>
#include <string.h>

namespace {

using namespace aiterlite::cpu;
using Args = aiterlite_mxfp4_sort_args;

constexpr uint32_t kSlotShift = 24, kTokenMask = (1u << kSlotShift) - 1;

void run_tiles(int64_t begin, int64_t end, void* context) {
  const Args& args = *static_cast<const Args*>(context);
  const MxScalePlaces places = {true, 0, 0, args.block_tiles};
  auto* scales = static_cast<uint8_t*>(args.scales);
  const auto* row_scales = static_cast<const uint8_t*>(args.row_scales);
  const int64_t bytes = args.block_tiles * kScaleTileBytes;
  const int64_t valid = *args.num_valid_ids < args.entries ? *args.num_valid_ids : args.entries;
  const int64_t used = valid > 0 ? (valid + kScaleTileRows - 1) / kScaleTileRows : 0;
  end = end < used ? end : used;
  if (begin >= end) return;
  memset(scales + begin * bytes, 0, (end - begin) * bytes);
  const int64_t last = end * kScaleTileRows < valid ? end * kScaleTileRows : valid;
  for (int64_t entry = begin * kScaleTileRows; entry < last; ++entry) {
    const auto id = static_cast<uint32_t>(args.sorted_ids[entry]);
    const int64_t token = id & kTokenMask, slot = id >> kSlotShift;
    if (token >= args.tokens || (args.topk > 1 && slot >= args.topk)) continue;
    const uint8_t* row = row_scales + (args.topk == 1 ? token : token * args.topk + slot) * args.stride_row;
    for (int64_t block = 0; block < args.blocks; ++block) {
      scales[places.at(entry, block)] = row[block * args.stride_block];
    }
  }
}

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_mxfp4_sort_cpu(const aiterlite_mxfp4_sort_args* args, parallel_for_t parallel_for,
                                                  int32_t) {
  return parallel_for(0, args->row_tiles, 16, run_tiles, const_cast<Args*>(args));
}
