// Dense matrix multiply-accumulate. EXEC plays no part in it.
#include <aiterlite/emulator/lanes.h>
#include <aiterlite/emulator/mfma.h>
#include <aiterlite/emulator/runtime.h>

namespace aiterlite::emulator {
namespace {

// The lanes that A is read from when CBSZ broadcasts block ABID to a group of blocks, and those of B under BLGP.
int broadcast_lane(int lane, int m, int blocks, int cbsz, int abid) {
  const int row = lane % m;
  const int block = lane / m % blocks;
  const int group = lane / (m * blocks);
  return row + m * ((block & ~((1 << cbsz) - 1)) + abid + blocks * group);
}
int permuted_lane(int lane, int blgp) {
  switch (blgp) {
    case 1:
      return lane & 31;
    case 2:
      return lane | 32;
    case 3:
      return (lane + 16) & 63;
    case 4:
      return lane & 15;
    case 5:
      return (lane & 15) + 16;
    case 6:
      return (lane & 15) + 32;
    case 7:
      return (lane & 15) + 48;
    default:
      return lane;
  }
}

struct Operands {
  const uint32_t* a;
  const uint32_t* b;
};

// The registers of A and B, copied to `room` where a broadcast moves lanes about.
Operands gather(Wave& w, const MicroOp* op, int m, int blocks, int regs, uint32_t* room) {
  const Inst& inst = *op->inst;
  Operands o{vector_source(w, op, 0), vector_source(w, op, 1)};
  if (inst.cbsz) {
    for (int r = 0; r < regs; ++r) {
      for (int l = 0; l < kWave; ++l)
        room[r * kWave + l] = o.a[r * kWave + broadcast_lane(l, m, blocks, inst.cbsz, inst.abid)];
    }
    o.a = room;
    room += regs * kWave;
  }
  if (inst.blgp) {
    for (int r = 0; r < regs; ++r) {
      for (int l = 0; l < kWave; ++l) room[r * kWave + l] = o.b[r * kWave + permuted_lane(l, inst.blgp)];
    }
    o.b = room;
  }
  return o;
}

// M x M results in `kBlocks` blocks over K.
template <class A, class B, int M, int K, int kBlocks, bool kInteger, bool kExact>
const MicroOp* mfma(Wave& w, const MicroOp* op) {
  constexpr int kPerLane = K * M * kBlocks / kWave;
  constexpr int kRegs = kPerLane / A::kPerDword;
  constexpr int kOut = kResultRegs<M>;
  alignas(64) uint32_t room[2 * (kRegs ? kRegs : 1) * kWave];
  alignas(64) float a[kWave * kPerLane];
  alignas(64) float b[kWave * kPerLane];
  const Operands o = gather(w, op, M, kBlocks, kRegs, room);
  widen_matrix<A, M>(o.a, kPerLane, a);
  widen_matrix<B, M>(o.b, kPerLane, b);
  alignas(64) uint32_t constant[kOut * kBlocks * kWave];
  const uint32_t* c = accumulator(w, op->src[2], kOut * kBlocks, constant);
  uint32_t* d = w.at(op->dst);
  for (int block = 0; block < kBlocks; ++block) {
    // One block has K rows of its array; with several, lane group and block are the same thing.
    const float* ab = a + block * K * M;
    const float* bb = b + block * K * M;
    const int shift = block * kOut * kWave;
    if constexpr (kInteger) {
      alignas(64) float sums[kOut * kWave];
      multiply<M, true>(K, ab, bb, nullptr, sums);
      add_integer(kOut, sums, c + shift, d + shift);
    } else {
      multiply<M, kExact>(K, ab, bb, reinterpret_cast<const float*>(c + shift), reinterpret_cast<float*>(d + shift));
    }
  }
  return next(op);
}

// Sixteen 4x4 blocks: row r of every block is result register r, and a quad of lanes is a block.
template <class A, int K, bool kInteger, bool kExact>
const MicroOp* mfma_4x4(Wave& w, const MicroOp* op) {
  constexpr int kRegs = K / A::kPerDword;
  alignas(64) uint32_t room[2 * kRegs * kWave];
  const Operands o = gather(w, op, 4, 16, kRegs, room);
  alignas(64) uint32_t constant[4 * kWave];
  const uint32_t* c = accumulator(w, op->src[2], 4, constant);
  uint32_t* d = w.at(op->dst);
  for (int l = 0; l < kWave; l += kLanes) {
    vf32 a[K], b[K];
    for (int k = 0; k < K; ++k) {
      a[k] = A::element(load<vu32>(o.a + k / A::kPerDword * kWave + l), k % A::kPerDword);
      b[k] = A::element(load<vu32>(o.b + k / A::kPerDword * kWave + l), k % A::kPerDword);
    }
#pragma GCC unroll 4
    for (int r = 0; r < 4; ++r) {
      vi32 pick;
      for (int i = 0; i < kLanes; ++i) pick[i] = (i & ~3) + r;
      vf32 sum = kInteger ? vf32{} : load<vf32>(c + r * kWave + l);
      for (int k = 0; k < K; ++k) sum = multiply_add<kExact>(__builtin_shuffle(a[k], pick), b[k], sum);
      if constexpr (kInteger) {
        const vi32 whole = __builtin_convertvector(sum, vi32);
        store(d + r * kWave + l, bits(whole) + load<vu32>(c + r * kWave + l));
      } else {
        store(d + r * kWave + l, sum);
      }
    }
  }
  return next(op);
}

// f64: BLGP negates A, B and C instead of moving lanes.
template <int M, int kBlocks>
const MicroOp* mfma_f64(Wave& w, const MicroOp* op) {
  const Inst& inst = *op->inst;
  const uint32_t* ra = vector_source(w, op, 0);
  const uint32_t* rb = vector_source(w, op, 1);
  alignas(64) uint32_t constant[8 * kWave];
  constexpr int kOut = M * M * kBlocks / kWave;  // doubles a lane
  const Source& sc = op->src[2];
  const uint32_t* rc = sc.ref == Ref::reg ? w.at(sc.value) : constant;
  if (sc.ref != Ref::reg) {
    const uint32_t* from = vector_source(w, op, 2);
    for (int r = 0; r < 2 * kOut; ++r) memcpy(constant + r * kWave, from + r % 2 * kWave, kRegisterBytes);
  }
  double a[kWave], b[kWave], d[kOut][kWave];
  const bool flip_a = inst.blgp & 1, flip_b = inst.blgp & 2, flip_c = inst.blgp & 4;
  for (int l = 0; l < kWave; ++l) {
    const int from = broadcast_lane(l, M, kBlocks, inst.cbsz, inst.cbsz ? inst.abid : 0);
    a[l] = read_lane<double>(ra + (inst.cbsz ? from : l)) * (flip_a ? -1.0 : 1.0);
    b[l] = read_lane<double>(rb + l) * (flip_b ? -1.0 : 1.0);
  }
  FloatGuard guard(w, true);
  constexpr int kGroups = kWave / (M * kBlocks);
  for (int r = 0; r < kOut; ++r) {
    for (int l = 0; l < kWave; ++l) {
      const int column = l % M;
      const int block = l / M % kBlocks;
      const int row = kGroups * r + l / (M * kBlocks);
      double sum = read_lane<double>(rc + 2 * r * kWave + l) * (flip_c ? -1.0 : 1.0);
      for (int k = 0; k < kGroups; ++k) {
        const int group = M * (block + kBlocks * k);
        sum = __builtin_fma(a[row + group], b[column + group], sum);
      }
      d[r][l] = sum;
    }
  }
  uint32_t* out = w.at(op->dst);
  for (int r = 0; r < kOut; ++r) {
    for (int l = 0; l < kWave; ++l) write_lane(out + 2 * r * kWave + l, d[r][l]);
  }
  return next(op);
}

// Element e of a lane whose elements are `bits` wide and packed without gaps.
inline vu32 packed_element(const uint32_t* regs, int lane, int e, int bits) {
  const int at = e * bits;
  const vu32 low = load<vu32>(regs + at / 32 * kWave + lane) >> static_cast<uint32_t>(at % 32);
  if (at % 32 + bits <= 32) return low;
  return low | load<vu32>(regs + (at / 32 + 1) * kWave + lane) << static_cast<uint32_t>(32 - at % 32);
}

// 2^(byte - 127) for the scale byte that op_sel and op_sel_hi choose; 255 is NaN.
inline vf32 block_scale(vu32 word, uint32_t byte) {
  const vu32 e = word >> (8 * byte) & 0xffu;
  const vu32 normal = select(e == 0u, splat(0x00400000u), e << 23);
  return as_f32(select(e == 255u, splat(0x7fc00000u), normal));
}

// Widens 32 elements a lane of the format `code` (0 fp8, 1 bf8, 2 fp6, 3 bf6, 4 fp4). Lane group g holds k from 32 g
// on, but 8-bit elements come in two runs of 16 that lie half of K apart: 16 g and K/2 + 16 g. Row i's scale for k 32 b
// to 32 b + 31 is in lane i + M b whatever the format.
template <int M>
void widen_f8f6f4(const uint32_t* regs, int code, const uint32_t* scales, uint32_t scale_byte, float* to) {
  constexpr int kK = 32 * kWave / M;
  for (int lane = 0; lane < kWave; lane += kLanes) {
    const int group = lane / M;
    const int row = lane % M;
    for (int e = 0; e < 32; ++e) {
      vf32 v;
      switch (code) {
        case 0:
          v = DecodeFp8<Fp8::fp8_ocp>::element(load<vu32>(regs + e / 4 * kWave + lane), e % 4);
          break;
        case 1:
          v = DecodeFp8<Fp8::bf8_ocp>::element(load<vu32>(regs + e / 4 * kWave + lane), e % 4);
          break;
        case 2:
          v = widen_codes<2, 3, 1>(packed_element(regs, lane, e, 6));
          break;
        case 3:
          v = widen_codes<3, 2, 3>(packed_element(regs, lane, e, 6));
          break;
        default:
          v = widen_codes<2, 1, 1>(packed_element(regs, lane, e, 4));
          break;
      }
      const int k = code > 1 ? 32 * group + e : 16 * group + e % 16 + e / 16 * (kK / 2);
      if (scales) v *= block_scale(load<vu32>(scales + row + k / 32 * M), scale_byte);
      store(to + k * M + row, v);
    }
  }
}

template <int M, bool kScaled>
const MicroOp* mfma_f8f6f4(Wave& w, const MicroOp* op) {
  constexpr int kK = 32 * kWave / M;
  alignas(64) float a[kK * M];
  alignas(64) float b[kK * M];
  const Inst& inst = *op->inst;
  if (inst.cbsz > 4 || inst.blgp > 4) return unsupported(w, op, "a matrix format past 4 (fp4)");
  const uint32_t* scale_a = nullptr;
  const uint32_t* scale_b = nullptr;
  if constexpr (kScaled) {
    scale_a = op->src[3].ref == Ref::reg ? w.at(op->src[3].value) : spread_source(w, op->src[3], 2);
    scale_b = op->extra.ref == Ref::reg ? w.at(op->extra.value) : spread_source(w, op->extra, 3);
  }
  const auto byte = [&](int slot) -> uint32_t { return (inst.op_sel >> slot & 1) | (inst.op_sel_hi >> slot & 1) << 1; };
  widen_f8f6f4<M>(vector_source(w, op, 0), inst.cbsz, scale_a, byte(0), a);
  widen_f8f6f4<M>(vector_source(w, op, 1), inst.blgp, scale_b, byte(1), b);
  constexpr int kOut = kResultRegs<M>;
  alignas(64) uint32_t constant[kOut * kWave];
  const uint32_t* c = accumulator(w, op->src[2], kOut, constant);
  multiply<M, true>(kK, a, b, reinterpret_cast<const float*>(c), reinterpret_cast<float*>(w.at(op->dst)));
  return next(op);
}

// The 8-bit formats differ by target, which is known when the wave runs.
template <bool kBf8A, bool kBf8B, int M, int K>
const MicroOp* mfma_fp8(Wave& w, const MicroOp* op) {
  constexpr Fp8 kFnuz[2] = {Fp8::fp8_fnuz, Fp8::bf8_fnuz};
  constexpr Fp8 kOcp[2] = {Fp8::fp8_ocp, Fp8::bf8_ocp};
  if (w.launch->program->arch == Arch::gfx942) {
    return mfma<DecodeFp8<kFnuz[kBf8A]>, DecodeFp8<kFnuz[kBf8B]>, M, K, 1, false, true>(w, op);
  }
  return mfma<DecodeFp8<kOcp[kBf8A]>, DecodeFp8<kOcp[kBf8B]>, M, K, 1, false, true>(w, op);
}

template <class D, int M, int K, int kBlocks>
constexpr Handler kFloat = mfma<D, D, M, K, kBlocks, false, true>;
template <class D, int M, int K, int kBlocks>
constexpr Handler kFull = mfma<D, D, M, K, kBlocks, false, false>;
template <int M, int K, int kBlocks>
constexpr Handler kInt8 = mfma<DecodeI8, DecodeI8, M, K, kBlocks, true, true>;

}  // namespace

void register_mfma(HandlerTable& t) {
  t.set(Op::v_mfma_f32_32x32x1_2b_f32, kFull<DecodeF32, 32, 1, 2>);
  t.set(Op::v_mfma_f32_16x16x1_4b_f32, kFull<DecodeF32, 16, 1, 4>);
  t.set(Op::v_mfma_f32_4x4x1_16b_f32, mfma_4x4<DecodeF32, 1, false, false>);
  t.set(Op::v_mfma_f32_32x32x2_f32, kFull<DecodeF32, 32, 2, 1>);
  t.set(Op::v_mfma_f32_16x16x4_f32, kFull<DecodeF32, 16, 4, 1>);
  t.set(Op::v_mfma_f32_16x16x8_xf32, kFull<DecodeXf32, 16, 8, 1>);
  t.set(Op::v_mfma_f32_32x32x4_xf32, kFull<DecodeXf32, 32, 4, 1>);

#define BOTH(type, Decode)                                                  \
  t.set(Op::v_mfma_f32_32x32x4_2b_##type, kFloat<Decode, 32, 4, 2>);        \
  t.set(Op::v_mfma_f32_16x16x4_4b_##type, kFloat<Decode, 16, 4, 4>);        \
  t.set(Op::v_mfma_f32_4x4x4_16b_##type, mfma_4x4<Decode, 4, false, true>); \
  t.set(Op::v_mfma_f32_32x32x8_##type, kFloat<Decode, 32, 8, 1>);           \
  t.set(Op::v_mfma_f32_16x16x16_##type, kFloat<Decode, 16, 16, 1>);         \
  t.set(Op::v_mfma_f32_32x32x16_##type, kFloat<Decode, 32, 16, 1>);         \
  t.set(Op::v_mfma_f32_16x16x32_##type, kFloat<Decode, 16, 32, 1>)
  BOTH(f16, DecodeF16);
  BOTH(bf16, DecodeBf16);
#undef BOTH

  t.set(Op::v_mfma_i32_32x32x4_2b_i8, kInt8<32, 4, 2>);
  t.set(Op::v_mfma_i32_16x16x4_4b_i8, kInt8<16, 4, 4>);
  t.set(Op::v_mfma_i32_4x4x4_16b_i8, mfma_4x4<DecodeI8, 4, true, true>);
  t.set(Op::v_mfma_i32_32x32x16_i8, kInt8<32, 16, 1>);
  t.set(Op::v_mfma_i32_16x16x32_i8, kInt8<16, 32, 1>);
  t.set(Op::v_mfma_i32_16x16x64_i8, kInt8<16, 64, 1>);
  t.set(Op::v_mfma_i32_32x32x32_i8, kInt8<32, 32, 1>);

#define FP8(a, b, is_bf8_a, is_bf8_b)                                             \
  t.set(Op::v_mfma_f32_16x16x32_##a##_##b, mfma_fp8<is_bf8_a, is_bf8_b, 16, 32>); \
  t.set(Op::v_mfma_f32_32x32x16_##a##_##b, mfma_fp8<is_bf8_a, is_bf8_b, 32, 16>)
  FP8(fp8, fp8, false, false);
  FP8(fp8, bf8, false, true);
  FP8(bf8, fp8, true, false);
  FP8(bf8, bf8, true, true);
#undef FP8

  t.set(Op::v_mfma_f64_16x16x4_f64, mfma_f64<16, 1>);
  t.set(Op::v_mfma_f64_4x4x4_4b_f64, mfma_f64<4, 4>);
  t.set(Op::v_mfma_f32_16x16x128_f8f6f4, mfma_f8f6f4<16, false>);
  t.set(Op::v_mfma_f32_32x32x64_f8f6f4, mfma_f8f6f4<32, false>);
  t.set(Op::v_mfma_scale_f32_16x16x128_f8f6f4, mfma_f8f6f4<16, true>);
  t.set(Op::v_mfma_scale_f32_32x32x64_f8f6f4, mfma_f8f6f4<32, true>);
}

}  // namespace aiterlite::emulator
