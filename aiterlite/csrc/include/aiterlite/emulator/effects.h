// What a decoded instruction does to registers, and what the sanitizers must know of its timing.
//
// Vector registers are numbered 0..511: VGPRs, then AGPRs. Scalar registers have their source encoding, 0..127.
#pragma once
#include <aiterlite/emulator/inst.h>
#include <stddef.h>
#include <stdint.h>

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>

namespace aiterlite::emulator {

struct MicroOp;
struct Program;

// A set of vector registers.
struct VectorSet {
  uint64_t word[8] = {};
  void add(uint32_t first, uint32_t count) {
    for (uint32_t r = first; r < first + count && r < 512; ++r) word[r / 64] |= 1ull << (r % 64);
  }
  void remove(uint32_t first, uint32_t count) {
    for (uint32_t r = first; r < first + count && r < 512; ++r) word[r / 64] &= ~(1ull << (r % 64));
  }
  bool has(uint32_t r) const { return word[r / 64] >> (r % 64) & 1; }
  bool meets(const VectorSet& o) const {
    uint64_t any = 0;
    for (int i = 0; i < 8; ++i) any |= word[i] & o.word[i];
    return any != 0;
  }
  bool empty() const {
    uint64_t any = 0;
    for (const uint64_t w : word) any |= w;
    return any == 0;
  }
  // The lowest register in both, or -1.
  int first_common(const VectorSet& o) const {
    for (int i = 0; i < 8; ++i) {
      if (const uint64_t both = word[i] & o.word[i]) return 64 * i + __builtin_ctzll(both);
    }
    return -1;
  }
};

// A set of scalar registers.
struct ScalarSet {
  uint64_t word[2] = {};
  void add(uint32_t first, uint32_t count) {
    for (uint32_t r = first; r < first + count && r < 128; ++r) word[r / 64] |= 1ull << (r % 64);
  }
  void remove(uint32_t r) { word[r / 64] &= ~(1ull << (r % 64)); }
  bool has(uint32_t r) const { return word[r / 64] >> (r % 64) & 1; }
  bool meets(const ScalarSet& o) const { return ((word[0] & o.word[0]) | (word[1] & o.word[1])) != 0; }
  bool empty() const { return (word[0] | word[1]) == 0; }
  int first_common(const ScalarSet& o) const {
    for (int i = 0; i < 2; ++i) {
      if (const uint64_t both = word[i] & o.word[i]) return 64 * i + __builtin_ctzll(both);
    }
    return -1;
  }
};

// Consecutive vector registers; none when count is 0.
struct Span {
  uint16_t first = 0;
  uint16_t count = 0;
  bool meets(const Span& o) const { return first < o.first + o.count && o.first < first + count; }
  bool operator==(const Span&) const = default;
};

enum class Unit : uint8_t {
  salu,
  branch,
  message,
  waitcnt,
  nop,
  barrier,
  end,
  valu,
  trans,  // transcendental
  dot,
  xdl,      // matrix instructions of the fast cores
  smatrix,  // f32 matrix instructions
  dmatrix,  // f64 ones
  smem,
  lds,
  vmem,  // buffer, global, scratch
  flat,
};
constexpr bool is_matrix(Unit u) { return u == Unit::xdl || u == Unit::smatrix || u == Unit::dmatrix; }
constexpr bool is_valu(Unit u) { return u >= Unit::valu && u <= Unit::dmatrix; }
constexpr bool is_vector_memory(Unit u) { return u == Unit::vmem || u == Unit::flat; }

// Each bit is a pair of instructions that needs wait states between them; see check_hazards.cpp.
enum Hazard : uint32_t {
  kHazardTrans = 1u << 0,
  kHazardPartial = 1u << 1,
  kHazardScalarRead = 1u << 2,
  kHazardReadLane = 1u << 3,
  kHazardExecLane = 1u << 4,
  kHazardStoreData = 1u << 5,
  kHazardScalarVmem = 1u << 6,
  kHazardDpp = 1u << 7,
  kHazardExecDpp = 1u << 8,
  kHazardDivFmas = 1u << 9,
  kHazardLaneSelect = 1u << 10,
  kHazardSetreg = 1u << 11,
  kHazardM0 = 1u << 12,
  kHazardVskip = 1u << 13,
  kHazardPermlane = 1u << 14,
  kHazardCmpxPermlane = 1u << 15,
  kHazardExecMatrix = 1u << 16,
  kHazardMatrixSource = 1u << 17,
  kHazardDot = 1u << 18,
};

struct Effects {
  VectorSet reads, writes;
  ScalarSet scalar_reads, scalar_writes;
  Span source[4];    // vector registers of src[0..3]
  Span scale[2];     // of the block scales
  Span result;       // vector registers of dst[0]
  Span accumulator;  // SrcC of a matrix instruction
  Unit unit = Unit::salu;
  uint8_t passes = 0;  // matrix instructions: passes of four cycles
  uint8_t wait_states = 1;
  bool reads_scc = false, writes_scc = false;
  bool counts_vm = false, counts_lgkm = false;
  bool loads = false;                // its results come when a counter says so
  bool is_store = false;             // vector memory that writes memory
  bool to_lds = false;               // loads to LDS
  bool partial = false;              // leaves a part of its result register as it was
  bool reads_result = false;         // accumulates
  uint32_t causes = 0, suffers = 0;  // hazards
};

Effects effects_of(Arch arch, const MicroOp& op);

// The effects of a program's instructions, made when first asked for. Safe from any thread.
class EffectsCache {
 public:
  explicit EffectsCache(size_t slots) : known_(new std::atomic<const Effects*>[slots]()) {}
  const Effects& of(const Program& program, const MicroOp* op);

 private:
  std::unique_ptr<std::atomic<const Effects*>[]> known_;
  std::mutex mutex_;
  std::deque<Effects> all_;
};

// "v5", "a5", "s5", "vcc_lo", "exec_hi", ...
std::string vector_name(uint32_t number);
std::string scalar_name(uint32_t number);

}  // namespace aiterlite::emulator
