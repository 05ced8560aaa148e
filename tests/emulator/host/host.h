// Runs a corpus kernel on the host: each work-item is a fiber that runs until a barrier or its end.
//
// Workgroups run one after another, so LDS is plain static memory. A kernel whose workgroups or waves wait for each
// other other than by barriers, or that uses the lanes of a wave, cannot run here.
#pragma once
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <memory>
#include <utility>
#include <vector>

#define DEVICE static inline
#define INLINE static inline
#define CONSTANT static const
#define SHARED(type, name, count) static type name[count]
#define DYNAMIC_SHARED(type, name) type* const name = reinterpret_cast<type*>(corpus::dynamic_shared)
#define KERNEL(threads) static void

namespace corpus {

struct Geometry {
  uint32_t grid[3];
  uint32_t block[3];
  uint32_t dynamic_shared;
};

struct Item {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  uint32_t id[3];
  bool waits = false;
  bool done = false;
};

constexpr size_t kStackBytes = 64 * 1024;
alignas(64) inline char dynamic_shared[64 * 1024];
inline Geometry geometry;
inline uint32_t group[3];
inline ucontext_t scheduler;
inline Item* current = nullptr;
inline void (*body)(void** arguments);
inline void** body_arguments;

inline void enter() {
  body(body_arguments);
  current->done = true;
}

// False when there is nothing left to resume. A barrier releases once all that still run wait at it.
inline bool step(std::vector<Item>& items) {
  bool live = false;
  for (Item& item : items) {
    if (item.done) continue;
    live = true;
    current = &item;
    item.waits = false;
    swapcontext(&scheduler, &item.context);
  }
  return live;
}

inline void run_group() {
  memset(dynamic_shared, 0xa5, sizeof dynamic_shared);
  std::vector<Item> items(geometry.block[0] * geometry.block[1] * geometry.block[2]);
  uint32_t linear = 0;
  for (Item& item : items) {
    item.id[0] = linear % geometry.block[0];
    item.id[1] = linear / geometry.block[0] % geometry.block[1];
    item.id[2] = linear / geometry.block[0] / geometry.block[1];
    ++linear;
    item.stack.reset(new char[kStackBytes]);
    getcontext(&item.context);
    item.context.uc_stack.ss_sp = item.stack.get();
    item.context.uc_stack.ss_size = kStackBytes;
    item.context.uc_link = &scheduler;
    makecontext(&item.context, enter, 0);
  }
  while (step(items)) continue;
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_reference_t<A>*>(arguments[I])...);
}

// arguments[i] points at the value of argument i.
template <auto kernel>
struct Entry;
template <class... A, void (*kernel)(A...)>
struct Entry<kernel> {
  static void run(void** arguments) { call(kernel, arguments, std::index_sequence_for<A...>()); }
};

template <auto kernel>
void launch(const Geometry& g, void** arguments) {
  geometry = g;
  body = Entry<kernel>::run;
  body_arguments = arguments;
  for (group[2] = 0; group[2] < g.grid[2]; ++group[2]) {
    for (group[1] = 0; group[1] < g.grid[1]; ++group[1]) {
      for (group[0] = 0; group[0] < g.grid[0]; ++group[0]) run_group();
    }
  }
}

}  // namespace corpus

#define CORPUS_ENTRY(kernel) \
  extern "C" void run_##kernel(const corpus::Geometry* g, void** arguments) { corpus::launch<kernel>(*g, arguments); }

INLINE uint32_t thread_x() { return corpus::current->id[0]; }
INLINE uint32_t thread_y() { return corpus::current->id[1]; }
INLINE uint32_t thread_z() { return corpus::current->id[2]; }
INLINE uint32_t group_x() { return corpus::group[0]; }
INLINE uint32_t group_y() { return corpus::group[1]; }
INLINE uint32_t group_z() { return corpus::group[2]; }
INLINE uint32_t group_size_x() { return corpus::geometry.block[0]; }
INLINE uint32_t grid_size_x() { return corpus::geometry.block[0] * corpus::geometry.grid[0]; }

INLINE void barrier() {
  corpus::current->waits = true;
  swapcontext(&corpus::current->context, &corpus::scheduler);
}

// Fibers give way only at barriers, so plain arithmetic is atomic.
namespace corpus {
template <class T, class F>
T update(T* p, F change) {
  const T old = *p;
  *p = static_cast<T>(change(old));
  return old;
}
template <class T>
T fetch_add(T* p, T v) {
  return update(p, [&](T o) { return o + v; });
}
template <class T>
T fetch_and(T* p, T v) {
  return update(p, [&](T o) { return o & v; });
}
template <class T>
T fetch_or(T* p, T v) {
  return update(p, [&](T o) { return o | v; });
}
template <class T>
T fetch_xor(T* p, T v) {
  return update(p, [&](T o) { return o ^ v; });
}
template <class T>
T fetch_min(T* p, T v) {
  return update(p, [&](T o) { return v < o ? v : o; });
}
template <class T>
T fetch_max(T* p, T v) {
  return update(p, [&](T o) { return o < v ? v : o; });
}
template <class T>
T exchange(T* p, T v) {
  return update(p, [&](T) { return v; });
}
}  // namespace corpus
#define ATOMIC(operation, pointer, value) \
  corpus::operation(pointer, static_cast<std::remove_reference_t<decltype(*(pointer))>>(value))

template <class T>
INLINE bool compare_swap(T* p, T& expected, T wanted) {
  if (*p == expected) {
    *p = wanted;
    return true;
  }
  expected = *p;
  return false;
}
