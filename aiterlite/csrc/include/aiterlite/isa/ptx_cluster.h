// NVIDIA, sm_90 and later: clusters of workgroups that are resident together, and their distributed shared memory.
#pragma once
#include <aiterlite/isa/ptx_core.h>

namespace aiterlite {

// Thread-block clusters, sm_90 and later. Threads of a workgroup may leave a barrier of the cluster only after all
// threads of all its workgroups have arrived.
AITERLITE_DEVICE uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}
AITERLITE_DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory"); }
AITERLITE_DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire;" ::: "memory"); }

// All threads of the cluster's workgroups have come, and what each wrote before, to any of their shared memories too,
// is visible to all.
AITERLITE_DEVICE void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

// Where `local`, in this workgroup's shared memory, lies in the workgroup of a rank: an address for the functions here.
AITERLITE_DEVICE uint32_t address_in_rank(const void* local, uint32_t rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(local)), "r"(rank));
  return address;
}
AITERLITE_DEVICE void store_in_rank(uint32_t address, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
AITERLITE_DEVICE void store_in_rank(uint32_t address, uint32_t value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
AITERLITE_DEVICE void store_in_rank(uint32_t address, const Quad& value) {
  asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(value.value[0]),
               "f"(value.value[1]), "f"(value.value[2]), "f"(value.value[3])
               : "memory");
}
AITERLITE_DEVICE void store_in_rank(uint32_t address, const Vector16& value) {
  asm volatile("st.shared::cluster.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(value.word[0]),
               "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
               : "memory");
}
AITERLITE_DEVICE float load_from_rank(uint32_t address) {
  float value;
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}
// Adds in an order that is not defined: exact for counts, and not the same bits every time for floats.
AITERLITE_DEVICE void add_in_rank(uint32_t address, uint32_t value) {
  asm volatile("red.relaxed.cluster.shared::cluster.add.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}
AITERLITE_DEVICE void add_in_rank(uint32_t address, float value) {
  asm volatile("red.relaxed.cluster.shared::cluster.add.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}

// A mailbox counts the bytes that arrive from the cluster. One thread opens it; the fence orders that before the
// cluster barrier that follows.
AITERLITE_DEVICE void mailbox_open(uint64_t* mailbox, uint32_t bytes) {
  asm volatile(
      "mbarrier.init.shared::cta.b64 [%0], 1;\n"
      "fence.mbarrier_init.release.cluster;\n"
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(mailbox)),
      "r"(bytes)
      : "memory");
}
// Stores to where `local` lies in the workgroup of rank `to`, and counts it in the mailbox there. Nothing waits.
AITERLITE_DEVICE void mailbox_send(uint64_t* mailbox, uint32_t to, float* local, float value) {
  asm volatile(
      "{\n"
      ".reg .b32 data, box;\n"
      "mapa.shared::cluster.u32 data, %0, %2;\n"
      "mapa.shared::cluster.u32 box, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [data], %3, [box];\n"
      "}" ::"r"(shared_address(local)),
      "r"(shared_address(mailbox)), "r"(to), "f"(value)
      : "memory");
}
AITERLITE_DEVICE void mailbox_send(uint64_t* mailbox, uint32_t to, void* local, const Vector8& value) {
  asm volatile(
      "{\n"
      ".reg .b32 data, box;\n"
      "mapa.shared::cluster.u32 data, %0, %2;\n"
      "mapa.shared::cluster.u32 box, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [data], {%3, %4}, [box];\n"
      "}" ::"r"(shared_address(local)),
      "r"(shared_address(mailbox)), "r"(to), "r"(value.word[0]), "r"(value.word[1])
      : "memory");
}
AITERLITE_DEVICE void mailbox_send(uint64_t* mailbox, uint32_t to, Quad* local, const Quad& value) {
  asm volatile(
      "{\n"
      ".reg .b32 data, box;\n"
      "mapa.shared::cluster.u32 data, %0, %2;\n"
      "mapa.shared::cluster.u32 box, %1, %2;\n"
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [data], {%3, %4, %5, %6}, [box];\n"
      "}" ::"r"(shared_address(local)),
      "r"(shared_address(mailbox)), "r"(to), "f"(value.value[0]), "f"(value.value[1]), "f"(value.value[2]),
      "f"(value.value[3])
      : "memory");
}
// Returns when all bytes have arrived, and makes them visible to this thread.
AITERLITE_DEVICE void mailbox_wait(uint64_t* mailbox) {
  asm volatile(
      "{\n"
      ".reg .pred complete;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 complete, [%0], 0;\n"
      "@!complete bra again;\n"
      "}" ::"r"(shared_address(mailbox))
      : "memory");
}

}  // namespace aiterlite
