// The registers that a kernel's descriptor allocates, and whether the code that the kernel reaches keeps to them.
//
// One object holds many kernels, and functions that several of them call: an instruction is held to the descriptor of
// the kernel that reaches it, and code that no kernel reaches to none. Code is followed through branches, through calls
// of a known address, and, when a wave takes it, through any other jump.
//
// Hardware reads v0 or s0 for a source past the end and drops a result (CDNA3 and CDNA4 instruction set manuals,
// section 3.6.1): the kernel goes on with wrong numbers.
#pragma once
#include <aiterlite/emulator/elf.h>
#include <aiterlite/emulator/inst.h>
#include <stdint.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace aiterlite::emulator {

struct MicroOp;
struct Program;

enum class RegisterFile : uint8_t { vgpr, agpr, sgpr };

// How many registers of each file a wave can name. VGPRs from accum_offset on are AGPRs by another name: kernels
// without AGPRs may use them, and production kernels do.
struct Allocation {
  uint32_t vgprs = 256, agprs = 256, sgprs = 102;
  uint32_t total = 512, accum_offset = 256;

  uint32_t of(RegisterFile file) const {
    return file == RegisterFile::vgpr ? vgprs : file == RegisterFile::agpr ? agprs : sgprs;
  }
};
Allocation allocation_of(const KernelDescriptor& descriptor);

// An instruction that names a register past the end, or a VGPR that the kernel uses as an AGPR too.
struct Unallocated {
  const MicroOp* op = nullptr;
  RegisterFile file = RegisterFile::vgpr;
  uint32_t number = 0;  // the last register of the operand
  bool shared = false;
};

// "v40 is past the end of ...", with what to raise.
std::string describe(const Unallocated& found, const Allocation& allocation);
std::string register_name(RegisterFile file, uint32_t number);

// The code that one kernel reaches. Threads of one launch share it.
class Reach {
 public:
  Reach(const Program& program, const Allocation& allocation);

  // Follows the code from these places on and adds what is wrong in it, in the order of addresses: for an instruction
  // and a file of registers the highest one.
  void follow(std::vector<const MicroOp*> open, std::vector<Unallocated>* found);
  // Whether the code at `op` was followed and is all right.
  bool covers(const MicroOp* op) const {
    const size_t i = index(op);
    return good_[i / 64].load(std::memory_order_acquire) >> (i % 64) & 1;
  }
  // Whether `op` may use registers first to last, one of which is then *wrong.
  bool allows(const MicroOp* op, RegisterFile file, uint32_t first, uint32_t last, Unallocated* wrong) const;
  const Allocation& allocation() const { return allocation_; }

 private:
  // By register: the first instruction that names it.
  using Names = std::array<std::atomic<const MicroOp*>, 256>;

  size_t index(const MicroOp* op) const;
  void look(const MicroOp* op, std::vector<Unallocated>* found);

  const Program& program_;
  const Allocation allocation_;
  std::vector<std::atomic<uint64_t>> good_;
  std::vector<bool> followed_;
  // VGPRs from accum_offset on and the AGPRs that they are.
  Names vgprs_{}, agprs_{};
  std::vector<std::pair<Names*, uint32_t>> fresh_names_;
  std::mutex mutex_;
};

}  // namespace aiterlite::emulator
