// The least that a memory-bound CPU kernel must do: read every byte once. Sums 64-byte vectors into one word a block,
// so that the loads cannot be dropped. Traffic: rows * row_bytes, nothing written but a word a thread.
#include <stdint.h>

namespace {

typedef uint64_t Vector __attribute__((vector_size(64), aligned(1)));

struct Job {
  const char* data;
  int64_t bytes;
  int64_t block;
  uint64_t* sums;
};

void read_blocks(int64_t begin, int64_t end, void* context) {
  const Job& job = *static_cast<const Job*>(context);
  for (int64_t index = begin; index < end; ++index) {
    const char* from = job.data + index * job.block;
    const int64_t left = job.bytes - index * job.block;
    const int64_t bytes = (left < job.block ? left : job.block) / 256 * 256;
    Vector a = {}, b = {}, c = {}, d = {};
    for (int64_t at = 0; at < bytes; at += 256) {
      a += *reinterpret_cast<const Vector*>(from + at);
      b += *reinterpret_cast<const Vector*>(from + at + 64);
      c += *reinterpret_cast<const Vector*>(from + at + 128);
      d += *reinterpret_cast<const Vector*>(from + at + 192);
    }
    a += b + c + d;
    uint64_t sum = 0;
    for (int lane = 0; lane < 8; ++lane) sum += a[lane];
    job.sums[index] = sum;
  }
}

}  // namespace

typedef int32_t (*aiterlite_parallel_for)(int64_t begin, int64_t end, int64_t grain,
                                          void (*body)(int64_t, int64_t, void*), void* context);

// Reads `bytes` bytes (a tail of less than 256 per block is left out) in `blocks` equal blocks; sums[blocks] is
// written.
extern "C" __attribute__((visibility("default"))) int32_t aiterlite_read_floor_cpu(
    const void* data, int64_t bytes, int64_t blocks, uint64_t* sums, aiterlite_parallel_for parallel_for) {
  if (blocks < 1) return -1;
  Job job = {static_cast<const char*>(data), bytes, (bytes + blocks - 1) / blocks, sums};
  return parallel_for(0, blocks, 1, read_blocks, &job);
}
