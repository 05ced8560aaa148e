// sm_90's copies, clusters, named barriers and moving registers.
#include <aiterlite/block/cluster.h>
#include <aiterlite/tile/layout.h>
#include <aiterlite/tile/sm90_copy.h>

namespace {

using aiterlite::Barrier;
using aiterlite::Vector16;

constexpr uint32_t kRowBytes = 576;
using Tile = aiterlite::Padded<64, kRowBytes, aiterlite::pitch_for<aiterlite::Reading::kOperand16>(kRowBytes)>;

AITERLITE_DEVICE void open_one(Barrier& barrier, uint32_t arrivals) {
  if (aiterlite::thread_id() == 0) {
    barrier.open(arrivals);
    aiterlite::publish_barriers();
  }
  aiterlite::workgroup_barrier();
}

}  // namespace

// 64 rows by number, a copy each, in two phases of a ring of one stage; out[2][64][36].
AITERLITE_KERNEL(128) copy_rows(const char* x, const uint32_t* rows, Vector16* out) {
  AITERLITE_SHARED(Vector16, tile, Tile::kBytes / 16);
  __shared__ Barrier full;
  open_one(full, 1);
  const uint32_t thread = aiterlite::thread_id();
  const uint64_t once = aiterlite::keep_briefly();
  for (uint32_t phase = 0; phase < 2; ++phase) {
    if (thread == 0) full.arrive_expecting(64 * kRowBytes);
    aiterlite::workgroup_barrier();
    if (thread < 64) {
      char* to = reinterpret_cast<char*>(tile) + Tile::at(thread, 0);
      const char* from = x + rows[phase * 64 + thread] * kRowBytes;
      if (phase == 0) {
        aiterlite::copy_bytes(to, from, kRowBytes, full);
      } else {
        aiterlite::copy_bytes(to, from, kRowBytes, full, once);
      }
    }
    full.wait(phase);
    for (uint32_t i = thread; i < 64 * 36; i += 128) {
      out[phase * 64 * 36 + i] = tile[Tile::at(i / 36, i % 36 * 16) / 16];
    }
    aiterlite::workgroup_barrier();
  }
}

// copy_async counted by a barrier that all threads arrive at when theirs are complete; every third is zeros.
AITERLITE_KERNEL(128) copy_counted(const Vector16* x, Vector16* out) {
  AITERLITE_SHARED(Vector16, tile, 256);
  __shared__ Barrier full;
  open_one(full, 128);
  const uint32_t thread = aiterlite::thread_id();
  for (uint32_t i = thread; i < 256; i += 128) aiterlite::copy_async(tile + i, x + i, i % 3 != 0);
  full.arrive_after_copies();
  full.wait(0);
  for (uint32_t i = thread; i < 256; i += 128) out[i] = tile[255 - i];
}

// Each of four workgroups copies a quarter to all four; out[4][4][64].
AITERLITE_KERNEL(64) AITERLITE_CLUSTER_DIMS(4) copy_to_cluster(const Vector16* x, Vector16* out) {
  AITERLITE_SHARED(Vector16, tile, 4 * 64) __attribute__((aligned(128)));
  __shared__ Barrier full;
  open_one(full, 1);
  const uint32_t thread = aiterlite::thread_id(), rank = aiterlite::cluster_rank();
  if (thread == 0) full.arrive_expecting(4 * 64 * 16);
  aiterlite::cluster_barrier();
  if (thread == 0) aiterlite::copy_bytes_to_ranks(tile + rank * 64, x + rank * 64, 64 * 16, full, 0xf);
  full.wait_for_cluster(0);
  for (uint32_t i = thread; i < 4 * 64; i += 64) out[rank * 4 * 64 + i] = tile[i];
  aiterlite::cluster_barrier();
}

// Ranks leave words, quads, sums and rows of bytes in the shared memory of the next, and read of the one before.
AITERLITE_KERNEL(64)
AITERLITE_CLUSTER_DIMS(4)
exchange(const float* x, float* words, float* quads, uint32_t* counts, float* sums, float* rows, float* read) {
  AITERLITE_SHARED(float, word, 64);
  AITERLITE_SHARED(aiterlite::Quad, quad, 64);
  AITERLITE_SHARED(uint32_t, count, 1);
  AITERLITE_SHARED(float, sum, 1);
  AITERLITE_SHARED(aiterlite::Quad, row, 64);
  AITERLITE_SHARED(aiterlite::Quad, own, 64);
  __shared__ Barrier full;
  __shared__ Barrier empty;
  const uint32_t thread = aiterlite::thread_id(), rank = aiterlite::cluster_rank(), next = (rank + 1) % 4;
  const uint32_t i = rank * 64 + thread;
  if (thread == 0) {
    count[0] = 0;
    sum[0] = 0.0f;
    empty.open(64);
  }
  own[thread] = {{x[i], x[i] + 1.0f, x[i] + 2.0f, x[i] + 3.0f}};
  open_one(full, 1);
  if (thread == 0) full.arrive_expecting(64 * 16);
  aiterlite::cluster_barrier();

  aiterlite::store_in_rank(aiterlite::address_in_rank(word + thread, next), x[i]);
  aiterlite::store_in_rank(aiterlite::address_in_rank(quad + thread, next), own[thread]);
  for (uint32_t to = 0; to < 4; ++to) {
    aiterlite::add_in_rank(aiterlite::address_in_rank(count, to), thread);
    aiterlite::add_in_rank(aiterlite::address_in_rank(sum, to), 1.0f);
  }
  empty.arrive_in(next);
  empty.wait_for_cluster(0);
  words[i] = word[thread];
  aiterlite::publish_to_engines();
  aiterlite::workgroup_barrier();
  if (thread == 0) aiterlite::send_bytes(next, row, own, 64 * 16, full);
  full.wait_for_cluster(0);
  read[i] = aiterlite::load_from_rank(aiterlite::address_in_rank(&own[thread].value[2], (rank + 3) % 4));
  aiterlite::cluster_barrier();
  for (uint32_t j = 0; j < 4; ++j) {
    quads[4 * i + j] = quad[thread].value[j];
    rows[4 * i + j] = row[thread].value[j];
  }
  if (thread == 0) {
    counts[rank] = count[0];
    sums[rank] = sum[0];
  }
}

// Shared memory to global memory by the copy engine.
AITERLITE_KERNEL(64) store_rows(const Vector16* x, Vector16* out) {
  AITERLITE_SHARED(Vector16, tile, 128) __attribute__((aligned(128)));
  const uint32_t thread = aiterlite::thread_id();
  for (uint32_t i = thread; i < 128; i += 64) tile[i] = x[127 - i];
  aiterlite::publish_to_engines();
  aiterlite::workgroup_barrier();
  if (thread == 0) {
    aiterlite::store_bytes(out, tile, 64 * 16);
    aiterlite::commit_stores();
    aiterlite::store_bytes(out + 64, tile + 64, 64 * 16);
    aiterlite::commit_stores();
    aiterlite::await_stores<0>();
  }
}

// A warpgroup that gives registers up makes numbers, one that takes them sums: handed over in turns by named barriers.
AITERLITE_KERNEL(256) take_turns(const float* x, float* out, uint32_t turns) {
  AITERLITE_SHARED(float, slot, 128);
  const uint32_t thread = aiterlite::thread_id();
  constexpr uint32_t kFull = 1, kEmpty = 2;
  if (thread < 128) {
    aiterlite::give_registers<24>();
    for (uint32_t turn = 0; turn < turns; ++turn) {
      aiterlite::named_barrier_wait(kEmpty, 256);
      slot[thread] = x[turn * 128 + thread];
      aiterlite::named_barrier_arrive(kFull, 256);
    }
  } else {
    aiterlite::take_registers<240>();
    float sum = 0.0f;
    for (uint32_t turn = 0; turn < turns; ++turn) {
      aiterlite::named_barrier_arrive(kEmpty, 256);
      aiterlite::named_barrier_wait(kFull, 256);
      sum += slot[(thread + turn) % 128] * static_cast<float>(turn + 1);
    }
    out[thread - 128] = sum;
  }
}
