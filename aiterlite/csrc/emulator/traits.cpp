// Instructions by kind, and how long the matrix unit works on one.
//
// Sources of the passes: the scheduling model of LLVM's AMDGPU target, which agrees with the vendor's peak figures (an
// MI300X of 1307.4 TFLOP/s in f16 at 304 CUs, four SIMDs and 2.1 GHz does 512 operations a cycle and SIMD; an MI355X of
// 2516.6 at 256 CUs and 2.4 GHz does 1024). gfx950 differs in f64, which takes twice as long, and in the shapes it
// adds, which do twice the work in the passes of the old ones; f8f6f4 takes twice as long if either operand is 8 bits
// wide.
#include <aiterlite/emulator/traits.h>

#include <array>

namespace aiterlite::emulator {
namespace {

bool has(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

bool is_transcendental(std::string_view n) {
  for (const std::string_view stem : {"v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_sin_", "v_cos_"}) {
    if (n.starts_with(stem)) return true;
  }
  return false;
}

bool is_sync(std::string_view n) {
  for (const std::string_view one : {"s_waitcnt", "s_nop", "s_barrier", "s_sleep", "s_endpgm", "s_setprio", "s_wakeup",
                                     "s_sethalt", "s_dcache_inv", "s_dcache_wb", "s_icache_inv"}) {
    if (n == one) return true;
  }
  return false;
}

bool is_branch(std::string_view n) {
  return n.starts_with("s_branch") || n.starts_with("s_cbranch") || n.starts_with("s_setpc") ||
         n.starts_with("s_swappc") || n.starts_with("s_call");
}

Kind vector_memory(std::string_view n) {
  if (n == "buffer_wbl2" || n == "buffer_inv") return Kind::sync;
  if (has(n, "_atomic_")) return Kind::vmem_atomic;
  return has(n, "_store_") ? Kind::vmem_store : Kind::vmem_load;
}

OpTraits make(Op op) {
  const std::string_view n = name(op);
  OpTraits t;
  switch (group(op)) {
    case OpGroup::SALU:
      t.kind = is_sync(n) ? Kind::sync : is_branch(n) ? Kind::branch : Kind::salu;
      break;
    case OpGroup::SMEM:
      t.kind = is_sync(n) ? Kind::sync : Kind::smem;
      t.atomic = has(n, "_atomic_");
      break;
    case OpGroup::VALU:
    case OpGroup::VOPC:
    case OpGroup::VOP3P:
      t.kind = is_transcendental(n) ? Kind::transcendental : Kind::valu;
      break;
    case OpGroup::MFMA:
      t.kind = Kind::mfma;
      break;
    case OpGroup::DS: {
      t.kind = Kind::lds;
      t.lgkm = n != "ds_nop";
      const bool moves =
          n.starts_with("ds_read") || n.starts_with("ds_write") || has(n, "permute") || has(n, "swizzle");
      t.atomic = t.lgkm && !moves;
      t.pair = n.starts_with("ds_read2") || n.starts_with("ds_write2") || n.starts_with("ds_wrxchg2");
      break;
    }
    case OpGroup::FLAT:
      t.kind = Kind::flat;
      t.lgkm = t.vm = true;
      t.atomic = has(n, "_atomic_");
      break;
    case OpGroup::SCRATCH:
      t.kind = Kind::scratch;
      t.vm = true;
      break;
    case OpGroup::GLOBAL:
    case OpGroup::MUBUF:
    case OpGroup::MTBUF:
      t.kind = vector_memory(n);
      t.vm = t.kind != Kind::sync;
      t.atomic = t.kind == Kind::vmem_atomic;
      break;
  }
  return t;
}

std::array<OpTraits, kNumOps> make_all() {
  std::array<OpTraits, kNumOps> all;
  for (int i = 0; i < kNumOps; ++i) all[static_cast<size_t>(i)] = make(static_cast<Op>(i));
  return all;
}

// M, K and the blocks in a mnemonic like v_mfma_f32_16x16x4_4b_f16.
struct Shape {
  uint32_t m = 0, k = 0, blocks = 1;
};
Shape shape_of(std::string_view n) {
  Shape s;
  const auto number = [&](size_t* at) {
    uint32_t v = 0;
    while (*at < n.size() && n[*at] >= '0' && n[*at] <= '9') v = v * 10 + static_cast<uint32_t>(n[(*at)++] - '0');
    return v;
  };
  size_t at = 0;
  for (const std::string_view stem : {"_4x4x", "_16x16x", "_32x32x"}) {
    const size_t found = n.find(stem);
    if (found != std::string_view::npos) at = found + 1;
  }
  s.m = number(&at);
  at = n.find('x', n.find('x', at) + 1) + 1;
  s.k = number(&at);
  if (at + 1 < n.size() && n[at] == '_') {
    size_t next = at + 1;
    const uint32_t blocks = number(&next);
    if (blocks && next < n.size() && n[next] == 'b') s.blocks = blocks;
  }
  return s;
}

}  // namespace

const char* name(Kind kind) {
  static constexpr const char* kNames[kKinds] = {"salu",    "smem",      "valu",       "transcendental", "mfma",
                                                 "lds",     "vmem_load", "vmem_store", "vmem_atomic",    "flat",
                                                 "scratch", "branch",    "sync"};
  return kNames[static_cast<int>(kind)];
}

const OpTraits& traits(Op op) {
  static const std::array<OpTraits, kNumOps> all = make_all();
  return all[static_cast<size_t>(op)];
}

uint32_t matrix_passes(Arch arch, const Inst& inst) {
  const std::string_view n = name(inst.op);
  if (group(inst.op) != OpGroup::MFMA || n == "v_mfma_ld_scale_b32") return 0;
  const Shape s = shape_of(n);
  if (n.ends_with("f64")) return s.m == 4 ? 4 : arch == Arch::gfx950 ? 16 : 8;
  if (has(n, "f8f6f4")) {
    const bool wide = inst.cbsz < 2 || inst.blgp < 2;  // 0 fp8, 1 bf8
    return (s.m == 16 ? 4 : 8) * (wide ? 2 : 1);
  }
  if (s.m == 4) return 2;
  if (n.starts_with("v_smfmac")) return s.m == 16 ? 4 : 8;
  // The oldest shapes: those of several blocks, and f32.
  const bool old = s.blocks > 1 || n.ends_with("_f32");
  return (s.m == 16 ? 4 : 8) * (old ? 2 : 1);
}

}  // namespace aiterlite::emulator
