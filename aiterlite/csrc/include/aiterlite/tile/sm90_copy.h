// sm_90's copy engine: one thread asks, the bytes arrive in shared memory and are counted there by a barrier.
//
// Boxes of a row-major matrix that the host described: what lies outside the matrix arrives as zeros, and is not read.
// Bytes in a row: addresses and sizes are multiples of 16. A copy whose addresses differ by lane is a loop over the
// lanes, 60 to 95 cycles a row and warp on an H200, so rows want several warps that ask.
//
// To a whole cluster, each workgroup's tile and barrier at the same offset: the copy reads once, and every workgroup in
// `ranks` (bit r: rank r) gets and counts the bytes. AMD has no copy engine: tile/copy.h.
#pragma once
#include <aiterlite/tile/sm90_barrier.h>

namespace aiterlite {

// A CUtensorMap of the driver: the matrix, and the box that one copy takes of it. A kernel parameter.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

// How long the L2 should keep what a copy reads.
AITERLITE_DEVICE uint64_t keep_briefly() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
AITERLITE_DEVICE uint64_t keep_long() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

// The box at (column, row), to `to`, counted by `barrier`.
AITERLITE_DEVICE void copy_box(void* to, const TensorMap& map, uint32_t column, uint32_t row, Barrier& barrier,
                               uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address()), "l"(policy)
      : "memory");
}

// The box at (x, y, z) of a tensor of three dimensions.
AITERLITE_DEVICE void copy_box(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z, Barrier& barrier,
                               uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier.address()), "l"(policy)
      : "memory");
}

// Of four.
AITERLITE_DEVICE void copy_box(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z, uint32_t w,
                               Barrier& barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3, %4, %5}], [%6], %7;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier.address()), "l"(policy)
      : "memory");
}

// Fetches the box to the L2 from memory; what is written afterwards is not missed.
AITERLITE_DEVICE void prefetch_box(const TensorMap& map, uint32_t x, uint32_t y, uint32_t z) {
  asm volatile("cp.async.bulk.prefetch.tensor.3d.L2.global.tile [%0, {%1, %2, %3}];" ::"l"(&map), "r"(x), "r"(y), "r"(z)
               : "memory");
}

AITERLITE_DEVICE void fetch_map_early(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

AITERLITE_DEVICE void copy_box_to_ranks(void* to, const TensorMap& map, uint32_t column, uint32_t row, Barrier& barrier,
                                        uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(shared_address(to)),
      "l"(&map), "r"(column), "r"(row), "r"(barrier.address()), "h"(ranks)
      : "memory");
}

AITERLITE_DEVICE void copy_box_to_ranks(void* to, const TensorMap& map, uint32_t x, uint32_t y, uint32_t z,
                                        Barrier& barrier, uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(to)),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier.address()), "h"(ranks)
      : "memory");
}

AITERLITE_DEVICE void copy_bytes(void* to, const void* from, uint32_t bytes, Barrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(barrier.address())
               : "memory");
}
AITERLITE_DEVICE void copy_bytes(void* to, const void* from, uint32_t bytes, Barrier& barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(barrier.address()), "l"(policy)
      : "memory");
}
AITERLITE_DEVICE void copy_bytes_to_ranks(void* to, const void* from, uint32_t bytes, Barrier& barrier,
                                          uint16_t ranks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1], %2, [%3], "
      "%4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(barrier.address()), "h"(ranks)
      : "memory");
}

// Shared memory to where `to` lies in the workgroup of a rank, counted by `barrier` there.
AITERLITE_DEVICE void send_bytes(uint32_t rank, void* to, const void* from, uint32_t bytes, Barrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   address_in_rank(to, rank)),
               "r"(shared_address(from)), "r"(bytes), "r"(barrier.address_in(rank))
               : "memory");
}

// Shared memory to global memory. Closed in groups; await_stores returns when at most `pending` groups are still being
// read from shared memory, which may not be written before.
AITERLITE_DEVICE void store_bytes(void* to, const void* from, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)),
               "r"(bytes)
               : "memory");
}
AITERLITE_DEVICE void commit_stores() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <uint32_t pending>
AITERLITE_DEVICE void await_stores() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}
// The same, until they are also written.
template <uint32_t pending>
AITERLITE_DEVICE void await_stored() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}

}  // namespace aiterlite
