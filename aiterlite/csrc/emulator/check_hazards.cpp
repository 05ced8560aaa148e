// Wait states that the hardware does not insert, and that a program must: the tables of the CDNA3 and CDNA4 manuals
// ("manually inserted wait states") as LLVM's hazard recognizer reads them for gfx942 and gfx950.
//
// An instruction is one wait state, s_nop N is N + 1. The matrix core takes an instruction when it has finished with
// the one before: a matrix instruction behind another counts for as many wait states as the earlier one has passes.
#include <aiterlite/emulator/check.h>
#include <aiterlite/emulator/runtime.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

ScalarSet without_exec(ScalarSet s) {
  s.remove(exec_lo);
  s.remove(exec_hi);
  return s;
}

bool is_4x4(const MicroOp* op) { return op->inst->op == Op::v_mfma_f64_4x4x4_4b_f64; }

// A matrix instruction whose result is looked at. The functions below give the wait states from it ...
struct Producer {
  Unit unit;
  int passes;
  const MicroOp* op;
  bool is_950;
};

// ... to a matrix instruction that reads the result as A, B, an index or a scale.
int to_ab(const Producer& p) {
  if (p.unit == Unit::dmatrix) return is_4x4(p.op) ? 6 : p.is_950 ? 19 : 11;
  return p.unit == Unit::xdl ? p.passes + 3 + (p.passes != 2 && p.is_950) : p.passes + 2;
}

// ... to one that adds to it; `same`: D of the first is exactly C of the second.
int to_c(const Producer& p, Unit reader, const MicroOp* reader_op, bool same) {
  if (same) {
    if (is_4x4(p.op) && is_4x4(reader_op)) return 4;
    return p.passes == 2 ? 2 : 0;
  }
  if (p.unit == Unit::dmatrix) {
    if (reader == Unit::xdl) return 0;
    return is_4x4(p.op) ? 4 : p.is_950 ? 17 : 9;
  }
  if (p.unit == Unit::smatrix) return reader == Unit::xdl ? 0 : p.passes;
  return p.passes + 1 + (p.is_950 && (reader == Unit::xdl || p.passes != 2));
}

// ... to any other instruction that reads it.
int to_read(const Producer& p, bool memory) {
  if (p.unit == Unit::dmatrix) {
    if (memory) return is_4x4(p.op) ? 9 : 18;
    return is_4x4(p.op) ? 6 : p.is_950 ? 19 : 11;
  }
  return p.unit == Unit::xdl ? p.passes + 3 + (p.passes != 2 && p.is_950) : p.passes + 2;
}

// ... to any other instruction that writes over it.
int to_write(const Producer& p) {
  if (p.unit == Unit::dmatrix) return is_4x4(p.op) ? 6 : 11;
  return p.unit == Unit::xdl ? p.passes + 3 + (p.passes != 2 && p.is_950) : p.passes + 2;
}

// From a matrix instruction that reads a register as C to another that writes it.
int after_c(int passes) { return passes == 2 ? 1 : passes == 4 ? 3 : passes == 8 ? 7 : 15; }

VectorSet set_of(const Span& s) {
  VectorSet v;
  v.add(s.first, s.count);
  return v;
}

std::string nops(int missing) {
  std::string text = std::to_string(missing) + (missing == 1 ? " more wait state (" : " more wait states (");
  for (int left = missing; left > 0; left -= 8) {
    if (left != missing) text += ", ";
    text += "`s_nop " + std::to_string(std::min(left, 8) - 1) + "`";
  }
  return text + ") before it";
}

std::string scalars_name(int r) { return scalar_name(static_cast<uint32_t>(r)); }
std::string vectors_name(int r) { return vector_name(static_cast<uint32_t>(r)); }

}  // namespace

void HazardsState::look_back(const Step& at, uint32_t now, Worst* worst) const {
  const Effects& e = at.e;
  const uint32_t entries = std::min(recent_count_, kShort);
  for (uint32_t i = 0; i < entries; ++i) {
    const Past& p = recent_[(recent_count_ - 1 - i) % kShort];
    const int since = static_cast<int>(now - p.time) - 1;
    if (since >= static_cast<int>(kShortReach)) return;
    for (uint32_t hits = p.e->causes & e.suffers; hits; hits &= hits - 1) {
      const auto found = [&](int need, std::string what) {
        if (need - since <= worst->missing) return;
        *worst = {need - since, since, need, p.op, std::move(what)};
      };
      const auto vector_use = [&](int need, const VectorSet& used, const char* how) {
        if (const int r = p.e->writes.first_common(used); r >= 0) found(need, vectors_name(r) + how);
      };
      const auto scalar_use = [&](int need, const ScalarSet& used, const char* how) {
        const ScalarSet written = without_exec(p.e->scalar_writes);
        if (const int r = written.first_common(used); r >= 0) found(need, scalars_name(r) + how);
      };
      switch (static_cast<Hazard>(hits & -hits)) {
        case kHazardTrans:
          vector_use(1, e.reads, " is read");
          break;
        case kHazardPartial:
          vector_use(1, e.reads, " is read");
          vector_use(1, e.writes, " is written");
          break;
        case kHazardScalarRead:
          scalar_use(2, without_exec(e.scalar_reads), " is read by the vector ALU");
          break;
        case kHazardReadLane:
          vector_use(1, set_of(e.source[0]), " is read across lanes");
          break;
        case kHazardExecLane:
          found(4, "exec is used to read or write one lane");
          break;
        case kHazardStoreData:
          if (const int r = e.writes.first_common(set_of(p.e->source[1])); r >= 0)
            found(2, vectors_name(r) + ", stored data, is overwritten");
          break;
        case kHazardScalarVmem:
          scalar_use(5, without_exec(e.scalar_reads), " is read by vector memory");
          break;
        case kHazardDpp:
          vector_use(2, e.reads, " is read by DPP");
          break;
        case kHazardExecDpp:
          found(5, "exec is used by DPP");
          break;
        case kHazardDivFmas:
          found(4, "vcc is read by v_div_fmas");
          break;
        case kHazardLaneSelect: {
          ScalarSet select;
          select.add(at.op->inst->src[1].index, 1);
          scalar_use(4, select, " selects a lane");
          break;
        }
        case kHazardSetreg:
          if ((p.op->inst->simm16 & 63) == (at.op->inst->simm16 & 63)) found(2, "the hardware register is used");
          break;
        case kHazardM0:
          if (e.scalar_reads.has(m0)) found(1, "m0 is read");
          break;
        case kHazardVskip:
          found(p.op->inst->op == Op::s_setvskip ? 1 : 2, "MODE.vskip decides about it");
          break;
        case kHazardPermlane:
          vector_use(2, e.reads, " is swapped between lanes");
          break;
        case kHazardCmpxPermlane:
          found(4, "exec is used to swap lanes");
          break;
        case kHazardExecMatrix:
          found(4, "exec is used by a matrix instruction");
          break;
        case kHazardMatrixSource:
          vector_use(2, e.reads, " is read by a matrix instruction");
          break;
        case kHazardDot:
          break;
      }
    }
  }
}

void HazardsState::look_at_matrices(const Step& at, uint32_t now, Worst* worst) const {
  const Effects& e = at.e;
  const bool matrix = is_matrix(e.unit);
  const bool memory = is_vector_memory(e.unit) || e.unit == Unit::lds;
  const bool is_950 = at.w.launch->program->arch == Arch::gfx950;
  // Each register belongs to the instruction that wrote it last.
  VectorSet reads = e.reads;
  VectorSet writes = e.writes;
  VectorSet c;
  if (matrix) {
    c = set_of(e.accumulator);
    reads = {};
    for (const Span& s : {e.source[0], e.source[1], e.scale[0], e.scale[1]}) reads.add(s.first, s.count);
    if (!(e.source[2] == e.accumulator)) reads.add(e.source[2].first, e.source[2].count);
  }
  const uint32_t entries = std::min(matrix_count_, kLong);
  for (uint32_t i = 0; i < entries; ++i) {
    const Past& p = matrix_[(matrix_count_ - 1 - i) % kLong];
    const int since = static_cast<int>(now - p.time) - 1;
    if (since >= static_cast<int>(kLongReach)) return;
    const auto found = [&](int need, int r, const char* how) {
      if (need - since <= worst->missing) return;
      *worst = {need - since, since, need, p.op, vectors_name(r) + how};
    };
    const VectorSet& written = p.e->writes;
    const Span result = p.e->result;
    if (p.e->unit == Unit::dot) {
      if (matrix) continue;
      const bool same = p.op->inst->op == at.op->inst->op;
      VectorSet used = reads;
      if (same) {
        used = set_of(e.source[0]);
        used.add(e.source[1].first, e.source[1].count);
      }
      if (const int r = written.first_common(used); r >= 0) found(3, r, " is read");
      if (const int r = written.first_common(writes); r >= 0 && !same) found(3, r, " is overwritten");
      continue;
    }
    const Producer producer{p.e->unit, p.e->passes, p.op, is_950};
    if (matrix) {
      if (const int r = written.first_common(reads); r >= 0) {
        found(to_ab(producer), r, " is read as a factor");
        reads.remove(result.first, result.count);
      }
      if (const int r = written.first_common(c); r >= 0) {
        found(to_c(producer, e.unit, at.op, e.accumulator == result), r, " is read as the accumulator");
        c = {};
      }
      continue;
    }
    if (p.e->unit == Unit::dmatrix && (at.op->inst->op == Op::v_fma_f64 || at.op->inst->op == Op::v_fmac_f64))
      found(2, result.first, " is being computed by the f64 matrix core, which v_fma_f64 and v_fmac_f64 share");
    if (const int r = written.first_common(reads); r >= 0) {
      found(to_read(producer, memory), r, " is read");
      reads.remove(result.first, result.count);
    }
    if (const int r = written.first_common(writes); r >= 0) {
      found(to_write(producer), r, " is overwritten");
    } else if (p.e->unit == Unit::xdl) {
      const int read = set_of(p.e->accumulator).first_common(writes);
      if (read >= 0) found(after_c(p.e->passes), read, ", which it reads as its accumulator, is overwritten");
    }
    writes.remove(result.first, result.count);
  }
}

void HazardsState::step(const Step& at) {
  const Effects& e = at.e;
  const bool matrix = is_matrix(e.unit);
  uint32_t now = clock_;
  if (matrix) now = std::max(now, matrix_free_);
  Worst worst;
  if (e.suffers && recent_count_) look_back(at, now, &worst);
  if (matrix_count_ && (is_valu(e.unit) || is_vector_memory(e.unit) || e.unit == Unit::lds)) {
    look_at_matrices(at, now, &worst);
  }
  if (worst.op) {
    // What is inserted before a matrix instruction that waits for the core passes while it waits.
    const int stall = static_cast<int>(now - clock_);
    worst.missing += stall;
    worst.since -= stall;
    report(at, kCheckHazards, worst.op,
           worst.what + " " + std::to_string(worst.since) + (worst.since == 1 ? " wait state" : " wait states") +
               " after " + quoted(at.w, worst.op) + ", and " + std::to_string(worst.need) +
               (worst.need == 1 ? " is needed" : " are needed"),
           nops(worst.missing));
  }
  if (matrix) {
    matrix_free_ = now + e.passes;
    matrix_[matrix_count_++ % kLong] = {now, at.op, &e};
  } else if (e.unit == Unit::dot) {
    matrix_[matrix_count_++ % kLong] = {now, at.op, &e};
  }
  if (e.causes) recent_[recent_count_++ % kShort] = {now, at.op, &e};
  clock_ = now + e.wait_states;
}

}  // namespace aiterlite::emulator
