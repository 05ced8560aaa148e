// Of each row of x[batch, heads, width]: its sum, and where its first largest element is; peak becomes that element and
// half of itself.
//
// Two kernels of one wave a workgroup. The first has a workgroup for each TOY_TILE elements of a row and leaves a sum
// and a place; the second has one for each row and joins these. Traffic: 4 bytes an element, once, and 8 bytes a part,
// twice.
#include <aiterlite/platform.h>
#include <aiterlite/toy_rows_args.h>

namespace {

using namespace aiterlite;

AITERLITE_DEVICE uint32_t head() { return __builtin_amdgcn_workgroup_id_y(); }
AITERLITE_DEVICE uint32_t batch() { return __builtin_amdgcn_workgroup_id_z(); }

struct Top {
  float value;
  uint32_t place;
};

// The larger of two elements, the first of equal ones.
AITERLITE_DEVICE Top larger(Top a, Top b) {
  const bool second = b.value > a.value || (b.value == a.value && b.place < a.place);
  return second ? b : a;
}

AITERLITE_DEVICE Top larger_of_wave(Top top) {
  for (uint32_t mask = kWaveSize / 2; mask > 0; mask /= 2) {
    const float place = shuffle_xor(__builtin_bit_cast(float, top.place), mask);
    top = larger(top, {shuffle_xor(top.value, mask), __builtin_bit_cast(uint32_t, place)});
  }
  return top;
}

AITERLITE_DEVICE float sum_of_wave(float sum) {
  for (uint32_t mask = kWaveSize / 2; mask > 0; mask /= 2) sum += shuffle_xor(sum, mask);
  return sum;
}

template <class Args>
AITERLITE_DEVICE const float* row(const Args& args) {
  return static_cast<const float*>(args.x) + batch() * args.stride_batch + head() * args.stride_head;
}

}  // namespace

AITERLITE_KERNEL(64) aiterlite_toy_parts(aiterlite_toy_parts_args args) {
  const float* x = row(args);
  const auto width = static_cast<uint32_t>(args.width);
  float sum = 0;
  Top top = {-__builtin_inff(), ~0u};
  for (uint32_t i = workgroup_id() * TOY_TILE + thread_id(); i < (workgroup_id() + 1) * TOY_TILE; i += kWaveSize) {
    const bool inside = TOY_WHOLE || i < width;
    const float value = load_f32(x + (inside ? i : 0));
    sum += inside ? value : 0;
    if (inside) top = larger(top, {value, i});
  }
  sum = sum_of_wave(sum);
  top = larger_of_wave(top);
  if (thread_id() == 0) {
    const uint32_t part = (batch() * args.heads + head()) * args.parts + workgroup_id();
    store_u32(static_cast<uint32_t*>(args.sums) + part, __builtin_bit_cast(uint32_t, sum));
    store_u32(static_cast<uint32_t*>(args.tops) + part, top.place);
  }
}

AITERLITE_KERNEL(64) aiterlite_toy_join(aiterlite_toy_join_args args) {
  const float* x = row(args);
  const uint32_t at = batch() * args.heads + head(), parts = static_cast<uint32_t>(args.parts);
  float sum = 0;
  Top top = {-__builtin_inff(), ~0u};
  for (uint32_t i = thread_id(); i < parts; i += kWaveSize) {
    sum += load_f32(static_cast<const float*>(args.sums) + at * parts + i);
    const float place = load_f32(static_cast<const float*>(args.tops) + at * parts + i);
    const auto index = __builtin_bit_cast(uint32_t, place);
    top = larger(top, {load_f32(x + index), index});
  }
  sum = sum_of_wave(sum);
  top = larger_of_wave(top);
  if (thread_id() == 0) {
    auto* peak = static_cast<float*>(args.peak) + at;
    const float before = load_f32(peak);
    store_u32(peak, __builtin_bit_cast(uint32_t, top.value + before / 2));
    store_u32(static_cast<uint32_t*>(args.total) + at, __builtin_bit_cast(uint32_t, sum));
    store_u32(static_cast<uint32_t*>(args.index) + at, top.place);
  }
}
