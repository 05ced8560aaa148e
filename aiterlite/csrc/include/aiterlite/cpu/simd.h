// One fp32 vector type, as wide as the compile's target level allows, and the few operations that a GEMM tile needs.
//
// GCC vector extensions (clang has them too) carry the arithmetic, so that x86-64, x86-64-v3, x86-64-v4 and aarch64
// share one source. Intrinsics appear only where the extensions cannot say for certain what is meant.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__AVX512F__) && defined(__AVX512BW__)
#define AITERLITE_CPU_AVX512 1
// For tests: 0 makes a unit for AVX-512 act as on a CPU without AVX512_BF16.
#ifndef AITERLITE_CPU_BF16_DOT
#define AITERLITE_CPU_BF16_DOT 1
#endif
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define AITERLITE_CPU_AVX2 1
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif
#ifndef AITERLITE_CPU_BF16_DOT
#define AITERLITE_CPU_BF16_DOT 0
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "The lane order of bf16 pairs assumes a little-endian machine."
#endif

namespace aiterlite::cpu {

#if defined(AITERLITE_CPU_AVX512)
constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;
#elif defined(AITERLITE_CPU_AVX2)
constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 16;
#endif

typedef float f32v __attribute__((vector_size(4 * kLanes)));
typedef int32_t i32v __attribute__((vector_size(4 * kLanes)));
typedef uint32_t u32v __attribute__((vector_size(4 * kLanes)));
typedef uint16_t u16v __attribute__((vector_size(4 * kLanes)));
typedef uint16_t u16v_half __attribute__((vector_size(2 * kLanes)));  // the lanes of f32v
typedef int16_t i16v_half __attribute__((vector_size(2 * kLanes)));
typedef float f32q __attribute__((vector_size(16)));

template <class Vector>
inline Vector load(const void* p) {
  Vector v;
  memcpy(&v, p, sizeof(v));
  return v;
}

template <class Vector>
inline void store(void* p, Vector v) {
  memcpy(p, &v, sizeof(v));
}

// a * b + c with one rounding; baseline x86-64 has no such instruction and rounds twice.
inline f32v multiply_add(f32v a, f32v b, f32v c) {
#if defined(AITERLITE_CPU_AVX512)
  return (f32v)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(AITERLITE_CPU_AVX2)
  return (f32v)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
  return (f32v)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
  return a * b + c;
#endif
}

// Adds the 16-byte quarters of a vector to each other, lane by lane.
inline f32q fold(f32v v) {
#if defined(AITERLITE_CPU_AVX512)
  typedef float f32o __attribute__((vector_size(32)));
  const f32o half = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                    __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif defined(AITERLITE_CPU_AVX2)
  return __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  return v;
#endif
}

// Four sums over lanes at once, which costs a third of four single ones.
inline f32q sum_lanes(f32v a, f32v b, f32v c, f32v d) {
  const f32q qa = fold(a), qb = fold(b), qc = fold(c), qd = fold(d);
  const f32q ab = __builtin_shufflevector(qa, qb, 0, 4, 1, 5) + __builtin_shufflevector(qa, qb, 2, 6, 3, 7);
  const f32q cd = __builtin_shufflevector(qc, qd, 0, 4, 1, 5) + __builtin_shufflevector(qc, qd, 2, 6, 3, 7);
  return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

}  // namespace aiterlite::cpu
