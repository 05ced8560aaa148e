// act(gate) * up of rows of 16-bit floats, rounded to their type, on a CPU.
#pragma once
#include <aiterlite/cpu/activation.h>
#include <aiterlite/cpu/quantise.h>

namespace aiterlite::cpu {

enum { kSilu, kGelu, kGeluTanh };  // activation of the argument structs

template <int kActivation>
f32v activate(f32v x) {
  if constexpr (kActivation == kSilu) return silu(x);
  if constexpr (kActivation == kGelu) return gelu(x);
  if constexpr (kActivation == kGeluTanh) return gelu_tanh(x);
}

template <class In, int kActivation>
void gate_vector(uint16_t* to, const uint16_t* gate, const uint16_t* up, float limit) {
  f32v x = widen_in_order(In{}, gate), y = widen_in_order(In{}, up);
  // Without a limit it is infinite, and nothing is beyond it.
  x = x > limit ? f32v{} + limit : x;
  y = y > limit ? f32v{} + limit : y < -limit ? f32v{} - limit : y;
  const f32v made = activate<kActivation>(x) * y;
  for (int i = 0; i < kLanes; ++i) to[i] = In::from_float(made[i]);
}

template <class In, int kActivation>
void gate_all(uint16_t* to, const uint16_t* gate, const uint16_t* up, int64_t count, float limit) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) gate_vector<In, kActivation>(to + i, gate + i, up + i, limit);
  if (i == count) return;
  uint16_t last[3][kLanes] = {};
  const size_t bytes = (count - i) * sizeof *to;
  memcpy(last[0], gate + i, bytes);
  memcpy(last[1], up + i, bytes);
  gate_vector<In, kActivation>(last[2], last[0], last[1], limit);
  memcpy(to + i, last[2], bytes);
}

// `count` elements; a limit of 0 is none.
template <class In>
__attribute__((noinline)) void gate_elements(int activation, uint16_t* to, const uint16_t* gate, const uint16_t* up,
                                             int64_t count, float given) {
  const float limit = given > 0.0f ? given : __builtin_inff();
  if (activation == kGelu) {
    gate_all<In, kGelu>(to, gate, up, count, limit);
  } else if (activation == kGeluTanh) {
    gate_all<In, kGeluTanh>(to, gate, up, count, limit);
  } else {
    gate_all<In, kSilu>(to, gate, up, count, limit);
  }
}

}  // namespace aiterlite::cpu
