// One exchange of float sums between the workgroups of a cluster (block/cluster.h); a workgroup alone keeps its own.
#pragma once
#include <aiterlite/block/cluster.h>

namespace aiterlite {

// One exchange of floats, or of Quads of them, between the kSize workgroups of a cluster: every thread calls open, then
// await_start; then any thread sends, and each one that needs what was sent calls await. A sender does not wait, and
// may end at once.
template <uint32_t kSize>
class Mailbox {
 public:
#if AITERLITE_NVIDIA
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  static_assert(kSize == 1, "only sm_90 and later have clusters");
#endif
  AITERLITE_DEVICE explicit Mailbox(uint64_t* shared) : shared_(shared) {}
  AITERLITE_DEVICE static uint32_t rank() { return cluster_rank(); }

  // `count` floats will arrive here. Does not wait.
  AITERLITE_DEVICE void open(uint32_t count) {
    if (thread_id() == 0) mailbox_open(shared_, count * sizeof(float));
    cluster_arrive();
  }
  // Another workgroup's shared memory may not be written until it has started and opened its mailbox.
  AITERLITE_DEVICE void await_start() { cluster_wait(); }
  // Writes to where `local`, in this workgroup's shared memory, lies in the workgroup of rank `to`.
  template <class Value>  // float, or Quad
  AITERLITE_DEVICE void send(uint32_t to, Value* local, const Value& value) {
    mailbox_send(shared_, to, local, value);
  }
  AITERLITE_DEVICE void await() { mailbox_wait(shared_); }

 private:
  uint64_t* shared_;
#else
  static_assert(kSize == 1, "only sm_90 and later have clusters");
#endif
};

// A workgroup alone finishes its sums where they are.
template <>
class Mailbox<1> {
 public:
  AITERLITE_DEVICE explicit Mailbox(uint64_t*) {}
  AITERLITE_DEVICE static uint32_t rank() { return 0; }
  AITERLITE_DEVICE void open(uint32_t) {}
  AITERLITE_DEVICE void await_start() {}
  template <class Value>
  AITERLITE_DEVICE void send(uint32_t, Value*, const Value&) {}
  AITERLITE_DEVICE void await() {}
};

}  // namespace aiterlite
