// The primitives of isa_ptx.h (AITERLITE_HOST_SIM=90) or isa_amdgcn.h (942, 950) on the host, for tests.
//
// Matrix instructions are written from the register layouts that the PTX manual and the CDNA manuals document, not from
// fragment/, which is thereby checked against them. Loads go through ordinary memory, so that AddressSanitizer sees an
// access outside a tensor.
#pragma once
#include <hostsim/scheduler.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#if AITERLITE_HOST_SIM == 90
#define AITERLITE_AMD 0
#define AITERLITE_NVIDIA 1
#elif AITERLITE_HOST_SIM == 942 || AITERLITE_HOST_SIM == 950
#define AITERLITE_AMD 1
#define AITERLITE_NVIDIA 0
#else
#error "AITERLITE_HOST_SIM must be 90, 942 or 950"
#endif

#define AITERLITE_DEVICE inline
#include <aiterlite/isa/registers.h>
#define AITERLITE_KERNEL(threads) inline void
#define AITERLITE_KERNEL_RESIDENT(threads, workgroups) inline void
#define AITERLITE_CLUSTER_ATTRIBUTE(size)
#define AITERLITE_SHARED(type, name, count) type* name = ::hostsim::shared_array<type>(count)

inline int __popc(uint32_t bits) { return __builtin_popcount(bits); }

namespace aiterlite {

using hostsim::scheduler;

inline constexpr uint32_t kWaveSize = AITERLITE_NVIDIA ? 32 : 64;
inline constexpr uint32_t kSimdRegisters = AITERLITE_NVIDIA ? 16384 : 32768;
inline constexpr bool kPredicatedLoads = AITERLITE_NVIDIA;

inline uint32_t thread_id() { return scheduler.current().id; }
inline uint32_t workgroup_id() { return scheduler.workgroup().id; }

// Waits for the wave. The last lane to come runs act(operands by lane).
template <class Operand, class Act>
void wave_meeting(const char* kind, Operand& operand, const Act& act) {
  hostsim::Meeting& wave = scheduler.workgroup().waves[thread_id() / kWaveSize];
  scheduler.meet(wave, thread_id() % kWaveSize, kind, &operand,
                 [&] { act([&](uint32_t lane) -> Operand& { return *static_cast<Operand*>(wave.operands[lane]); }); });
}

inline uint32_t uniform(uint32_t value) {
  if (AITERLITE_NVIDIA) return value;
  wave_meeting("uniform", value, [](const auto& lane) {
    for (uint32_t i = 1; i < kWaveSize; ++i) {
      if (lane(i) != lane(0)) hostsim::fail("uniform: lanes differ");
    }
  });
  return value;
}

inline void workgroup_barrier() {
  scheduler.meet(scheduler.workgroup().barrier, thread_id(), "workgroup_barrier", nullptr, [] {});
}
inline void schedule_barrier() {}

inline uint32_t permute_bytes(uint32_t high, uint32_t low, uint32_t which) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t made = 0;
  for (int i = 0; i < 4; ++i) made |= static_cast<uint32_t>(both >> (which >> (8 * i) & 7) * 8 & 0xff) << (8 * i);
  return made;
}
inline uint16_t opaque(uint16_t value) { return value; }
inline uint32_t opaque(uint32_t value) { return value; }

inline constexpr bool kStreamsRows = AITERLITE_AMD;

template <bool streaming>
Vector16 load_vector(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0)
    hostsim::fail("a 16-byte load at an address that is not a multiple of 16");
  Vector16 v;
  memcpy(&v, p, sizeof v);
  return v;
}
template <bool streaming>
Vector16 load_vector_if(const void* p, bool wanted, const void* safe) {
  if (AITERLITE_AMD) load_vector<streaming>(wanted ? p : safe);
  return wanted ? load_vector<streaming>(p) : Vector16{};
}
inline uint32_t load_latest(const void* p) { return *static_cast<const uint32_t*>(p); }
inline uint32_t load_latest_byte(const void* p) { return *static_cast<const uint8_t*>(p); }
inline Vector16 load_latest_vector(const void* p) { return load_vector<true>(p); }
inline uint8_t load_u8(const void* p) { return *static_cast<const uint8_t*>(p); }
inline uint16_t load_u16(const void* p) { return *static_cast<const uint16_t*>(p); }
inline float load_f32(const void* p) { return *static_cast<const float*>(p); }
inline int32_t load_i32(const void* p) { return *static_cast<const int32_t*>(p); }
inline int64_t load_i64(const void* p) { return *static_cast<const int64_t*>(p); }
inline int32_t load_constant_i32(const void* p) { return *static_cast<const int32_t*>(p); }
inline void store_u8(void* p, uint8_t value) { *static_cast<uint8_t*>(p) = value; }
inline void store_u16(void* p, uint16_t value) { *static_cast<uint16_t*>(p) = value; }
inline void store_u32(void* p, uint32_t value) { *static_cast<uint32_t*>(p) = value; }

inline Vector8 load_vector8(const void* p) {
  if (reinterpret_cast<uintptr_t>(p) % 8 != 0)
    hostsim::fail("an 8-byte load at an address that is not a multiple of 8");
  Vector8 value;
  memcpy(&value, p, sizeof value);
  return value;
}
inline void store_vector8(void* p, const Vector8& value) {
  if (reinterpret_cast<uintptr_t>(p) % 8 != 0)
    hostsim::fail("an 8-byte store at an address that is not a multiple of 8");
  memcpy(p, &value, sizeof value);
}
inline void store_quad(float* p, const Quad& value) { memcpy(p, &value, sizeof value); }

// Workgroups run one after the other, so memory is always coherent; what is checked is that no workgroup counts itself
// in before all that its threads published is complete.
inline void publish(float* p, const Quad& value) {
  scheduler.current().incomplete = true;
  if (reinterpret_cast<uintptr_t>(p) % 16 != 0) hostsim::fail("a published quad is not aligned");
  store_quad(p, value);
}
inline void publish_add(float* p, float value) {
  scheduler.current().incomplete = true;
  *p += value;
}
inline void complete_published() { scheduler.current().incomplete = false; }
inline uint32_t count_in(uint32_t* p) {
  if (scheduler.incomplete()) hostsim::fail("a workgroup counted itself in before its sums were complete");
  return (*p)++;
}
inline void accept_published() { scheduler.current().accepted = true; }
inline Quad load_published(const float* p) {
  if (!scheduler.current().accepted) hostsim::fail("sums of other workgroups were read before they were accepted");
  Quad value;
  memcpy(&value, p, sizeof value);
  return value;
}

// IEEE binary16 in integers: compilers disagree about having the type.
inline float half_bits_to_float(uint16_t bits) {
  const int exponent = bits >> 10 & 31;
  const int fraction = bits & 1023;
  const float sign = bits & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? NAN : sign * INFINITY;
  return sign * (exponent ? ldexpf(static_cast<float>(fraction + 1024), exponent - 25)
                          : ldexpf(static_cast<float>(fraction), -24));
}
inline uint16_t float_to_half_bits(float value) {
  const uint16_t sign = signbit(value) ? 0x8000 : 0;
  if (isnan(value)) return sign | 0x7e00;
  const float magnitude = fabsf(value);
  if (magnitude == 0.0f) return sign;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  int exponent = 0;
  frexpf(magnitude, &exponent);
  const int quantum = exponent - 11 > -24 ? exponent - 11 : -24;  // log2 of the spacing of halves here
  const float units = nearbyintf(ldexpf(magnitude, -quantum));
  // The biased exponent counts from the spacing; a carry out of the fraction runs into it, as it should.
  return sign | static_cast<uint16_t>((quantum + 24) * 1024 + static_cast<int>(units));
}

// A storage type of matrix operands: how many elements a word holds, and what number each is.
struct Bf16Operand {
  static constexpr uint32_t kPerWord = 2;
  static float decode(uint32_t bits) {
    const uint32_t wide = bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
  }
};
struct Fp16Operand {
  static constexpr uint32_t kPerWord = 2;
  static float decode(uint32_t bits) { return half_bits_to_float(static_cast<uint16_t>(bits)); }
};
// OCP 8-bit floating point (e4m3), or its FNUZ variant on gfx942.
struct Fp8Operand {
  static constexpr uint32_t kPerWord = 4;
  static constexpr bool kFnuz = AITERLITE_HOST_SIM == 942;
  static float decode(uint32_t bits) {
    if (kFnuz ? bits == 0x80 : (bits & 0x7f) == 0x7f) return NAN;
    const int exponent = static_cast<int>(bits >> 3 & 15);
    const int fraction = static_cast<int>(bits & 7);
    const int bias = kFnuz ? 8 : 7;
    const float magnitude = exponent ? ldexpf(static_cast<float>(8 + fraction), exponent - bias - 3)
                                     : ldexpf(static_cast<float>(fraction), -bias - 2);
    return bits & 0x80 ? -magnitude : magnitude;
  }
};
template <class Type>
float operand_element(const uint32_t* words, uint32_t index) {
  constexpr uint32_t kBits = 32 / Type::kPerWord;
  return Type::decode(words[index / Type::kPerWord] >> (index % Type::kPerWord * kBits) & ((1u << kBits) - 1));
}

#if AITERLITE_NVIDIA

// PTX ISA, mma.m16n8k16 with .f16 or .bf16 and mma.m16n8k32 with .e4m3: groupID = lane >> 2, threadID_in_group = lane
// % 4.
struct MmaOperands {
  float* d;
  uint32_t a[4];
  uint32_t b[2];
};
template <class Type>
void mma_m16n8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1) {
  MmaOperands operands{d, {a0, a1, a2, a3}, {b0, b1}};
  wave_meeting("mma_m16n8", operands, [](const auto& lane) {
    constexpr uint32_t kPerWord = Type::kPerWord;
    constexpr uint32_t kK = 8 * kPerWord;
    float a[16][kK], b[kK][8];
    for (uint32_t l = 0; l < 32; ++l) {
      const uint32_t group = l >> 2;
      const uint32_t in_group = l % 4;
      for (uint32_t i = 0; i < 4 * kPerWord; ++i) {
        const uint32_t word = i / kPerWord;
        const uint32_t row = word == 0 || word == 2 ? group : group + 8;
        const uint32_t column = in_group * kPerWord + i % kPerWord + (word < 2 ? 0 : kK / 2);
        a[row][column] = operand_element<Type>(lane(l).a, i);
      }
      for (uint32_t i = 0; i < 2 * kPerWord; ++i) {
        const uint32_t row = in_group * kPerWord + i % kPerWord + (i < kPerWord ? 0 : kK / 2);
        b[row][group] = operand_element<Type>(lane(l).b, i);
      }
    }
    for (uint32_t l = 0; l < 32; ++l) {
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = (l >> 2) + (i < 2 ? 0 : 8);
        const uint32_t column = l % 4 * 2 + (i & 1);
        for (uint32_t k = 0; k < kK; ++k) lane(l).d[i] = fmaf(a[row][k], b[k][column], lane(l).d[i]);
        // The hardware's NaN, which a rounding in integers would carry into the sign.
        constexpr uint32_t kNan = 0x7fffffff;
        if (isnan(lane(l).d[i])) memcpy(&lane(l).d[i], &kNan, sizeof kNan);
      }
    }
  });
}
inline void mma_m16n8k16_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                              uint32_t b1) {
  mma_m16n8<Bf16Operand>(d, a0, a1, a2, a3, b0, b1);
}
inline void mma_m16n8k16_fp16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                              uint32_t b1) {
  mma_m16n8<Fp16Operand>(d, a0, a1, a2, a3, b0, b1);
}
inline void mma_m16n8k32_e4m3(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                              uint32_t b1) {
  mma_m16n8<Fp8Operand>(d, a0, a1, a2, a3, b0, b1);
}

inline uint32_t cluster_rank() { return scheduler.workgroup().rank; }

// Split barrier: what is waited for is the generation that the thread's last arrival belonged to.
inline void cluster_arrive() {
  scheduler.current().cluster_generation = scheduler.cluster().generation;
  scheduler.arrive(scheduler.cluster());
}
inline void cluster_wait() {
  scheduler.wait([] { return scheduler.cluster().generation > scheduler.current().cluster_generation; });
}

inline void mailbox_open(uint64_t*, uint32_t bytes) {
  hostsim::Workgroup& group = scheduler.workgroup();
  if (group.mailbox_open) hostsim::fail("a mailbox was opened twice");
  group.mailbox_open = true;
  group.mailbox_missing = bytes;
}
inline void mailbox_send(uint64_t*, uint32_t to, float* local, float value) {
  if (scheduler.cluster().generation == 0) hostsim::fail("a message was sent before the cluster had started");
  hostsim::Workgroup& other = scheduler.member(to);
  if (!other.mailbox_open) hostsim::fail("a message was sent to a mailbox that is not open");
  scheduler.post({&other, hostsim::in_workgroup(other, local), value});
}
inline void mailbox_wait(uint64_t*) {
  scheduler.wait([] { return scheduler.workgroup().mailbox_missing == 0; });
}

#else

// CDNA3 and CDNA4: A row = lane % 16, B column = lane % 16; 16x16x16: k = 4 * (lane / 16) + i; 16x16x32: k = 8 * (lane
// / 16) + i; as many instructions as a lane's 16 bytes need. D: row 4 * (lane / 16) + i, column lane % 16.
struct MfmaOperands {
  float* d;
  const Vector16* a;
  const Vector16* b;
};
template <class Type, uint32_t kPerLane>
void mfma_16x16(float (&d)[4], const Vector16& a_lane, const Vector16& b_lane) {
  MfmaOperands operands{d, &a_lane, &b_lane};
  wave_meeting("mfma_16x16", operands, [](const auto& lane) {
    for (uint32_t first = 0; first < 4 * Type::kPerWord; first += kPerLane) {
      float a[16][4 * kPerLane], b[4 * kPerLane][16];
      for (uint32_t l = 0; l < 64; ++l) {
        for (uint32_t i = 0; i < kPerLane; ++i) {
          a[l % 16][kPerLane * (l / 16) + i] = operand_element<Type>(lane(l).a->word, first + i);
          b[kPerLane * (l / 16) + i][l % 16] = operand_element<Type>(lane(l).b->word, first + i);
        }
      }
      for (uint32_t l = 0; l < 64; ++l) {
        for (uint32_t i = 0; i < 4; ++i) {
          float& d = lane(l).d[i];
          for (uint32_t k = 0; k < 4 * kPerLane; ++k) d = fmaf(a[4 * (l / 16) + i][k], b[k][l % 16], d);
        }
      }
    }
  });
}
inline constexpr uint32_t kLaneHalves = AITERLITE_HOST_SIM == 942 ? 4 : 8;
inline void mfma_16x16_bf16(float (&d)[4], const Vector16& a, const Vector16& b) {
  mfma_16x16<Bf16Operand, kLaneHalves>(d, a, b);
}
inline void mfma_16x16_fp16(float (&d)[4], const Vector16& a, const Vector16& b) {
  mfma_16x16<Fp16Operand, kLaneHalves>(d, a, b);
}
inline void mfma_16x16_fp8(float (&d)[4], const Vector16& a, const Vector16& b) { mfma_16x16<Fp8Operand, 8>(d, a, b); }

#endif

}  // namespace aiterlite

#include <hostsim/convert.h>
#include <hostsim/lanes.h>
#include <hostsim/match.h>
#include <hostsim/shared.h>
