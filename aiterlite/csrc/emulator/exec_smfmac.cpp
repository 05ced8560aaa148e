// Sparse matrix multiply-accumulate: of every four consecutive k, A stores two values, and an index register says
// which.
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/mfma.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

// A lane stores per_lane values of A, covering 2 * per_lane consecutive k of its group, and per_lane * 2 index bits.
template <class A, class B, int M, int K, bool kInteger>
const MicroOp* smfmac(Wave& w, const MicroOp* op) {
  constexpr int kStored = K * M / kWave / 2;
  constexpr int kDense = 2 * kStored;
  constexpr int kOut = kResultRegs<M>;
  const Inst& inst = *op->inst;
  const uint32_t* ra = vector_source(w, op, 0);
  const uint32_t* rb = vector_source(w, op, 1);
  const uint32_t* index = vector_source(w, op, 2);
  alignas(64) float a[K * M];
  alignas(64) float b[K * M];
  alignas(64) float stored[kStored][kWave];
  widen_matrix<B, M>(rb, kDense, b);
  for (int l = 0; l < kWave; l += kLanes) {
    for (int e = 0; e < kStored; ++e) {
      store(stored[e] + l, A::element(load<vu32>(ra + e / A::kPerDword * kWave + l), e % A::kPerDword));
    }
  }
  // The index register holds as many sets as fit; ABID picks one, unless CBSZ says the first.
  constexpr int kIndexBits = 2 * kStored;
  const int set = inst.cbsz ? 0 : inst.abid % (32 / kIndexBits);
  memset(a, 0, sizeof(a));
  for (int l = 0; l < kWave; ++l) {
    float* column = a + (l / M * kDense) * M + l % M;
    for (int e = 0; e < kStored; ++e) {
      const int place = index[l] >> (set * kIndexBits + 2 * e) & 3;
      column[(e / 2 * 4 + place) * M] = stored[e][l];
    }
  }
  uint32_t* d = w.at(op->dst);
  if constexpr (kInteger) {
    alignas(64) float sums[kOut * kWave];
    multiply<M, true>(K, a, b, nullptr, sums);
    add_integer(kOut, sums, d, d);
  } else {
    multiply<M, true>(K, a, b, reinterpret_cast<const float*>(d), reinterpret_cast<float*>(d));
  }
  return next(op);
}

template <bool kBf8A, bool kBf8B, int M, int K>
const MicroOp* smfmac_fp8(Wave& w, const MicroOp* op) {
  constexpr Fp8 kFnuz[2] = {Fp8::fp8_fnuz, Fp8::bf8_fnuz};
  constexpr Fp8 kOcp[2] = {Fp8::fp8_ocp, Fp8::bf8_ocp};
  if (w.launch->program->arch == Arch::gfx942) {
    return smfmac<DecodeFp8<kFnuz[kBf8A]>, DecodeFp8<kFnuz[kBf8B]>, M, K, false>(w, op);
  }
  return smfmac<DecodeFp8<kOcp[kBf8A]>, DecodeFp8<kOcp[kBf8B]>, M, K, false>(w, op);
}

}  // namespace

void register_smfmac(HandlerTable& t) {
#define BOTH(type, Decode)                                                        \
  t.set(Op::v_smfmac_f32_16x16x32_##type, smfmac<Decode, Decode, 16, 32, false>); \
  t.set(Op::v_smfmac_f32_32x32x16_##type, smfmac<Decode, Decode, 32, 16, false>); \
  t.set(Op::v_smfmac_f32_16x16x64_##type, smfmac<Decode, Decode, 16, 64, false>); \
  t.set(Op::v_smfmac_f32_32x32x32_##type, smfmac<Decode, Decode, 32, 32, false>)
  BOTH(f16, DecodeF16);
  BOTH(bf16, DecodeBf16);
#undef BOTH
  t.set(Op::v_smfmac_i32_16x16x64_i8, smfmac<DecodeI8, DecodeI8, 16, 64, true>);
  t.set(Op::v_smfmac_i32_32x32x32_i8, smfmac<DecodeI8, DecodeI8, 32, 32, true>);
  t.set(Op::v_smfmac_i32_16x16x128_i8, smfmac<DecodeI8, DecodeI8, 16, 128, true>);
  t.set(Op::v_smfmac_i32_32x32x64_i8, smfmac<DecodeI8, DecodeI8, 32, 64, true>);
#define FP8(a, b, is_bf8_a, is_bf8_b)                                                   \
  t.set(Op::v_smfmac_f32_16x16x64_##a##_##b, smfmac_fp8<is_bf8_a, is_bf8_b, 16, 64>);   \
  t.set(Op::v_smfmac_f32_32x32x32_##a##_##b, smfmac_fp8<is_bf8_a, is_bf8_b, 32, 32>);   \
  t.set(Op::v_smfmac_f32_16x16x128_##a##_##b, smfmac_fp8<is_bf8_a, is_bf8_b, 16, 128>); \
  t.set(Op::v_smfmac_f32_32x32x64_##a##_##b, smfmac_fp8<is_bf8_a, is_bf8_b, 32, 64>)
  FP8(fp8, fp8, false, false);
  FP8(fp8, bf8, false, true);
  FP8(bf8, fp8, true, false);
  FP8(bf8, bf8, true, true);
#undef FP8
}

}  // namespace aiterlite::emulator
