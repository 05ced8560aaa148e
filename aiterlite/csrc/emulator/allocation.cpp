// Registers past the end of what a kernel's descriptor allocates, in the code that the kernel reaches.
//
// What the descriptor's fields mean is from LLVM's AMDGPU usage guide (GRANULATED_WORKITEM_VGPR_COUNT, ACCUM_OFFSET,
// GRANULATED_WAVEFRONT_SGPR_COUNT): vector registers come in groups of 8, of which those from ACCUM_OFFSET on are the
// AGPRs; scalar ones in groups of 16, of which a program can name 102. VCC, FLAT_SCRATCH, XNACK_MASK and the trap
// registers have encodings of their own and are there in any case. (On older chips VCC was the last two scalar
// registers of the allocation; the manuals of these say s[106:107]. That a kernel uses both is not looked at.)
//
// VGPRs past ACCUM_OFFSET work: of the 2,871 objects that upstream ships for the two targets, 42 use them, have no
// AGPR, and are in production. Two more use v255 beside the AGPR that it is.
#include <aiterlite/emulator/allocation.h>
#include <aiterlite/emulator/runtime.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

constexpr uint32_t kNamedSgprs = 102;
constexpr uint32_t kTrackedSgprs = 108;
static_assert(kVgprs == 256);

std::string number(uint32_t n) { return std::to_string(n); }

// Addresses that straight code computes: s_getpc_b64, then an addition to each half.
class KnownAddresses {
 public:
  // The address that `op` completes, or 0.
  uint64_t step(const MicroOp* op) {
    const Inst& inst = *op->inst;
    const Pair done = result(op);
    for (const Operand& d : inst.dst) {
      if (!d.is_scalar_register()) continue;
      const uint32_t end = std::min<uint32_t>(d.index + std::max<uint32_t>(d.dwords, 1), kTrackedSgprs);
      for (uint32_t r = d.index; r < end; ++r) pairs_[r / 2] = {};
    }
    if (done.stage == Stage::none) return 0;
    pairs_[inst.dst[0].index / 2] = done;
    return done.stage == Stage::complete ? done.value : 0;
  }

  uint64_t of(const Operand& o) const {
    const Pair p = pair(o, 0);
    return p.stage == Stage::complete ? p.value : 0;
  }

 private:
  enum class Stage : uint8_t { none, pc, low_added, complete };
  struct Pair {
    uint64_t value = 0;
    Stage stage = Stage::none;
  };

  // The pair of which `o` is the low (0) or the high (1) register.
  Pair pair(const Operand& o, uint32_t half) const {
    if (!o.is_scalar_register() || o.index >= kTrackedSgprs || o.index % 2 != half) return {};
    return pairs_[o.index / 2];
  }

  Pair result(const MicroOp* op) const {
    const Inst& inst = *op->inst;
    const uint64_t added = static_cast<uint32_t>(inst.src[1].value);
    if (inst.dst[0].index >= kTrackedSgprs) return {};
    switch (inst.op) {
      case Op::s_getpc_b64:
        return {op->address + op->len * 4u, Stage::pc};
      case Op::s_add_u32: {
        // The carry into the high half is counted here.
        const Pair p = pair(inst.src[0], 0);
        if (p.stage != Stage::pc || !inst.src[1].is_constant()) return {};
        return {p.value + added, Stage::low_added};
      }
      case Op::s_addc_u32: {
        const Pair p = pair(inst.dst[0], 1);
        if (p.stage != Stage::low_added || !inst.src[1].is_constant()) return {};
        return {p.value + (added << 32), Stage::complete};
      }
      case Op::s_mov_b64:
        return pair(inst.src[0], 0);
      default:
        return {};
    }
  }

  Pair pairs_[kTrackedSgprs / 2];
};

void add(const Unallocated& wrong, std::vector<Unallocated>* found) {
  for (auto it = found->rbegin(); it != found->rend() && it->op == wrong.op; ++it) {
    if (it->file != wrong.file) continue;
    if (wrong.number > it->number) *it = wrong;
    return;
  }
  found->push_back(wrong);
}

bool ends_straight_code(Op op) {
  switch (op) {
    case Op::s_branch:
    case Op::s_endpgm:
    case Op::s_endpgm_saved:
    case Op::s_setpc_b64:
      return true;
    default:
      return false;
  }
}

}  // namespace

Allocation allocation_of(const KernelDescriptor& d) {
  Allocation a;
  a.total = d.vgprs;
  a.accum_offset = d.accum_offset;
  a.vgprs = std::min<uint32_t>(d.vgprs, kVgprs);
  a.agprs = d.vgprs > d.accum_offset ? std::min<uint32_t>(d.vgprs - d.accum_offset, kVgprs) : 0;
  a.sgprs = std::min(d.sgprs, kNamedSgprs);
  return a;
}

std::string register_name(RegisterFile file, uint32_t n) {
  return (file == RegisterFile::vgpr ? "v" : file == RegisterFile::agpr ? "a" : "s") + number(n);
}

std::string describe(const Unallocated& found, const Allocation& a) {
  const std::string name = register_name(found.file, found.number);
  const uint32_t count = a.of(found.file);
  const std::string has =
      count ? register_name(found.file, 0) + " to " + register_name(found.file, count - 1) : "none of that kind";
  const std::string offset = ".amdhsa_accum_offset", vectors = ".amdhsa_next_free_vgpr";
  const std::string end = "or use a lower register";
  if (found.shared) {
    const bool v = found.file == RegisterFile::vgpr;
    const std::string other = v ? register_name(RegisterFile::agpr, found.number - a.accum_offset)
                                : register_name(RegisterFile::vgpr, found.number + a.accum_offset);
    return name + " and " + other +
           " are the same register, and the kernel uses both: its descriptor has AGPRs begin at " +
           number(a.accum_offset) + " (" + offset + "): raise that above every VGPR, and " + vectors +
           " by as much, or use a lower VGPR";
  }
  const std::string past = name + " is past the end of what the kernel descriptor allocates, " + has;
  switch (found.file) {
    case RegisterFile::vgpr:
      return past + ": raise " + vectors + " to " + number(found.number + 1) + " at least, with " + offset +
             " above the VGPRs, " + end;
    case RegisterFile::agpr:
      return past + " (" + offset + " " + number(a.accum_offset) + " of " + number(a.total) + " registers): raise " +
             vectors + " to " + number(a.accum_offset + found.number + 1) + " at least, " + end;
    case RegisterFile::sgpr:
      break;
  }
  if (found.number >= kNamedSgprs)
    return past + ": a program can name s0 to " + register_name(found.file, kNamedSgprs - 1);
  return past + ": raise .amdhsa_next_free_sgpr to " + number(found.number + 1) + " at least, " + end;
}

Reach::Reach(const Program& program, const Allocation& allocation)
    : program_(program),
      allocation_(allocation),
      good_((program.ops.size() + 63) / 64),
      followed_(program.ops.size(), false) {}

bool Reach::allows(const MicroOp* op, RegisterFile file, uint32_t first, uint32_t last, Unallocated* wrong) const {
  if (last >= allocation_.of(file)) {
    *wrong = {op, file, last, false};
    return false;
  }
  const uint32_t offset = allocation_.accum_offset;
  for (uint32_t r = first; r <= last && file != RegisterFile::sgpr; ++r) {
    const bool v = file == RegisterFile::vgpr;
    const uint32_t other = v ? r - offset : r + offset;
    if ((v && r < offset) || other >= kVgprs || !(v ? agprs_ : vgprs_)[other].load(std::memory_order_relaxed)) continue;
    *wrong = {op, file, r, true};
    return false;
  }
  return true;
}

void Reach::look(const MicroOp* op, std::vector<Unallocated>* found) {
  const auto look_at = [&](const Operand& o) {
    RegisterFile file;
    switch (o.kind) {
      case OperandKind::vgpr:
        file = RegisterFile::vgpr;
        break;
      case OperandKind::agpr:
        file = RegisterFile::agpr;
        break;
      case OperandKind::sgpr:
        file = RegisterFile::sgpr;
        break;
      default:
        return;
    }
    const uint32_t last = o.index + std::max<uint32_t>(o.dwords, 1) - 1;
    Unallocated wrong;
    if (!allows(op, file, o.index, last, &wrong)) add(wrong, found);
    Names* names = file == RegisterFile::agpr ? &agprs_ : file == RegisterFile::vgpr ? &vgprs_ : nullptr;
    for (uint32_t r = o.index; names && r <= last && r < kVgprs; ++r) {
      if ((*names)[r].load(std::memory_order_relaxed)) continue;
      (*names)[r].store(op, std::memory_order_relaxed);
      fresh_names_.emplace_back(names, r);
    }
  };
  for (const Operand& o : op->inst->dst) look_at(o);
  for (const Operand& o : op->inst->src) look_at(o);
  for (const Operand& o : op->inst->scale) look_at(o);
}

size_t Reach::index(const MicroOp* op) const { return static_cast<size_t>(op - program_.ops.data()); }

void Reach::follow(std::vector<const MicroOp*> open, std::vector<Unallocated>* found) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const size_t before = found->size();
  std::vector<size_t> fresh;
  fresh_names_.clear();
  // Functions whose address the code computes: one of them is what a jump to an unknown place may mean.
  std::vector<const MicroOp*> functions;
  bool jumps = false;
  while (!open.empty() || (jumps && !functions.empty())) {
    if (open.empty()) open.swap(functions);
    const MicroOp* op = open.back();
    open.pop_back();
    KnownAddresses known;
    // Code that was not decoded has no instruction, and executing it is an error of its own.
    for (; op && op->inst && !followed_[index(op)]; op = next(op)) {
      followed_[index(op)] = true;
      fresh.push_back(index(op));
      look(op, found);
      const Inst& inst = *op->inst;
      if (is_direct_branch(inst.op)) open.push_back(op->target);
      if (inst.op == Op::s_setpc_b64 || inst.op == Op::s_swappc_b64) {
        const uint64_t to = known.of(inst.src[0]);
        if (to) open.push_back(program_.at(to));
        jumps |= !to;
      }
      if (ends_straight_code(inst.op)) break;
      const uint64_t address = known.step(op);
      if (address && std::binary_search(program_.functions.begin(), program_.functions.end(), address)) {
        functions.push_back(program_.at(address));
      }
    }
  }
  if (found->size() > before) {
    // To be found again by whoever comes next.
    for (const size_t i : fresh) followed_[i] = false;
    for (const auto& [names, r] : fresh_names_) (*names)[r].store(nullptr, std::memory_order_relaxed);
    std::sort(found->begin() + static_cast<std::ptrdiff_t>(before), found->end(),
              [](const Unallocated& x, const Unallocated& y) { return x.op < y.op; });
    return;
  }
  for (const size_t i : fresh) good_[i / 64].fetch_or(1ull << (i % 64), std::memory_order_release);
}

}  // namespace aiterlite::emulator
