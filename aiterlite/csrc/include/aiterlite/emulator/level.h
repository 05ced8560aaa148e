// Vector types at the width of the instruction-set level this translation unit is compiled for: 64 bytes with AVX-512
// (x86-64-v4), 32 with AVX2 (x86-64-v3), 16 otherwise. Every 64-lane register array is walked in steps of kLanes.
#pragma once
#include <stdint.h>

#if defined(__GNUC__) && !defined(__clang__)
// g++ 12 warns about its own header once its functions are inlined, and about vector types as template arguments.
#pragma GCC diagnostic ignored "-Wignored-attributes"
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace aiterlite::emulator {

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define AITERLITE_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define AITERLITE_VECTOR_BYTES 32
#else
#define AITERLITE_VECTOR_BYTES 16
#endif

inline constexpr int kVectorBytes = AITERLITE_VECTOR_BYTES;
inline constexpr int kLanes = kVectorBytes / 4;  // 32-bit elements in one vector
inline constexpr int kWave = 64;

typedef uint32_t vu32 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef int32_t vi32 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef float vf32 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef uint64_t vu64 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef int64_t vi64 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef double vf64 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef uint16_t vu16 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef int16_t vi16 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
typedef uint8_t vu8 __attribute__((vector_size(AITERLITE_VECTOR_BYTES), may_alias));
// Half-width companions, for converting between 32-bit and 64-bit elements.
typedef float vf32h __attribute__((vector_size(AITERLITE_VECTOR_BYTES / 2), may_alias));
typedef uint32_t vu32h __attribute__((vector_size(AITERLITE_VECTOR_BYTES / 2), may_alias));
typedef int32_t vi32h __attribute__((vector_size(AITERLITE_VECTOR_BYTES / 2), may_alias));

template <class V, class T>
inline V load(const T* p) {
  return *reinterpret_cast<const V*>(p);
}
template <class V, class T>
inline void store(T* p, V v) {
  *reinterpret_cast<V*>(p) = v;
}

inline vu32 splat(uint32_t x) { return vu32{} + x; }
inline vf32 splat(float x) { return vf32{} + x; }
inline vi32 splat(int32_t x) { return vi32{} + x; }

inline vu32 bits(vf32 v) { return reinterpret_cast<vu32&>(v); }
inline vu32 bits(vi32 v) { return reinterpret_cast<vu32&>(v); }
inline vf32 as_f32(vu32 v) { return reinterpret_cast<vf32&>(v); }
inline vf32 as_f32(vi32 v) { return reinterpret_cast<vf32&>(v); }
inline vi32 as_i32(vu32 v) { return reinterpret_cast<vi32&>(v); }
inline vi32 as_i32(vf32 v) { return reinterpret_cast<vi32&>(v); }
inline vu64 bits(vf64 v) { return reinterpret_cast<vu64&>(v); }
inline vf64 as_f64(vu64 v) { return reinterpret_cast<vf64&>(v); }
inline vf64 as_f64(vi64 v) { return reinterpret_cast<vf64&>(v); }

inline vu32 select(vi32 mask, vu32 a, vu32 b) { return mask ? a : b; }
inline vf32 select(vi32 mask, vf32 a, vf32 b) { return as_f32(mask ? bits(a) : bits(b)); }
inline vi32 select(vi32 mask, vi32 a, vi32 b) { return mask ? a : b; }
inline vf64 select(vi64 mask, vf64 a, vf64 b) { return as_f64(mask ? bits(a) : bits(b)); }

// Lane numbers of one step.
inline vu32 iota() {
  vu32 v;
  for (int i = 0; i < kLanes; ++i) v[i] = static_cast<uint32_t>(i);
  return v;
}

// Bit l of `mask` becomes element l, all ones or all zeros; only the low kLanes bits count.
inline vi32 expand_mask(uint32_t mask) {
#if AITERLITE_VECTOR_BYTES == 64
  return reinterpret_cast<vi32>(_mm512_movm_epi32(static_cast<__mmask16>(mask)));
#else
  vu32 bit;
  for (int i = 0; i < kLanes; ++i) bit[i] = 1u << i;
  return (splat(mask) & bit) != 0u;
#endif
}

// The reverse: bit l is the top bit of element l.
inline uint32_t compress_mask(vi32 m) {
#if AITERLITE_VECTOR_BYTES == 64
  return _mm512_movepi32_mask(reinterpret_cast<__m512i>(m));
#elif AITERLITE_VECTOR_BYTES == 32
  return static_cast<uint32_t>(_mm256_movemask_ps(reinterpret_cast<__m256>(m)));
#elif defined(__x86_64__)
  return static_cast<uint32_t>(_mm_movemask_ps(reinterpret_cast<__m128>(m)));
#else
  uint32_t r = 0;
  for (int i = 0; i < kLanes; ++i) r |= (static_cast<uint32_t>(m[i]) >> 31) << i;
  return r;
#endif
}

inline bool any(vi32 m) { return compress_mask(m) != 0; }

// The bits of a 64-bit lane mask that belong to the step beginning at `lane`.
inline uint32_t step_mask(uint64_t mask, int lane) {
  return static_cast<uint32_t>(mask >> lane) & static_cast<uint32_t>((1ull << kLanes) - 1);
}

inline vf64 to_f64(vf32h v) { return __builtin_convertvector(v, vf64); }
inline vf32h to_f32(vf64 v) { return __builtin_convertvector(v, vf32h); }
inline vf32h lower(vf32 v) { return *reinterpret_cast<vf32h*>(&v); }
inline vf32h upper(vf32 v) { return *(reinterpret_cast<vf32h*>(&v) + 1); }
inline vf32 join(vf32h lo, vf32h hi) {
  vf32 r;
  *reinterpret_cast<vf32h*>(&r) = lo;
  *(reinterpret_cast<vf32h*>(&r) + 1) = hi;
  return r;
}

}  // namespace aiterlite::emulator
