// The least that a memory-bound CPU kernel must do: read every byte once. Sums 64-byte vectors into one word a block,
// so that the loads cannot be dropped. Traffic: M * K elements of 16 bits, once, and a word a block.
//
// args: weight, m, k, n = the number of equal blocks (a tail of less than 256 bytes of each is left out), and y, which
// takes a word of 64 bits a block. x, bias and the strides are not used.
#include <aiterlite/gemm_args.h>
#include <aiterlite/host_abi.h>
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

AITERLITE_EXPORT int32_t aiterlite_read_floor_cpu(const aiterlite_gemm_args* args, parallel_for_t parallel_for,
                                                  int32_t) {
  const int64_t bytes = int64_t{2} * args->m * args->k, blocks = args->n;
  Job job = {static_cast<const char*>(args->weight), bytes, (bytes + blocks - 1) / blocks,
             static_cast<uint64_t*>(args->y)};
  return parallel_for(0, blocks, 1, read_blocks, &job);
}
