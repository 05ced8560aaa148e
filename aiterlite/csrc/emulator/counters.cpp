// A launch's counters as JSON, with what follows from them: cycles and occupancy.
//
// Cycles are a model, for comparing kernels, and no prediction of time. A wave's instruction takes an issue slot of 4
// cycles of its SIMD, on which the 16 lanes of the vector unit work through 64 work-items; transcendentals (exp, log,
// rcp, rsq, sqrt, sin, cos, of f64 too) run at a quarter of that rate, 16 cycles. f64 arithmetic, integer products and
// packed f32 run at the full rate on both targets: their published vector peaks are 16 lanes a cycle and SIMD. A matrix
// instruction takes one issue slot and then its passes, of 4 cycles each, of the SIMD's matrix unit. LDS cycles are
// those of its banks, in the model of watch_counters.cpp.
//
// Occupancy: a SIMD has 512 vector registers a lane, shared by VGPRs and AGPRs in steps of 8, 800 scalar ones in steps
// of 16, and room for 8 waves; a CU has four SIMDs, 16 barriers for workgroups of several waves, and 64 KiB of LDS in
// steps of 512 bytes (gfx942) or 160 KiB in steps of 1280 (gfx950).
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/runtime.h>
#include <aiterlite/emulator/traits.h>

#include <algorithm>
#include <map>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kSlot = 4;
constexpr uint64_t kQuarterRate = 16;

uint32_t round_up(uint32_t n, uint32_t step) { return (n + step - 1) / step * step; }

const char* unit_of(Kind kind) {
  switch (kind) {
    case Kind::salu:
      return "salu";
    case Kind::smem:
      return "smem";
    case Kind::valu:
    case Kind::transcendental:
      return "valu";
    case Kind::mfma:
      return "mfma";
    case Kind::lds:
      return "lds";
    case Kind::branch:
      return "branch";
    case Kind::sync:
      return "sync";
    default:
      return "vmem";
  }
}

struct Matrix {
  uint64_t count = 0, cycles = 0;
};

struct Totals {
  uint64_t kinds[kKinds] = {};
  uint64_t skipped = 0;
  std::map<std::string, Matrix> matrix;
  uint64_t matrix_cycles = 0;
};

Totals total(const Launch& launch, const Counters& c) {
  Totals t;
  for (size_t i = 0; i < c.executed.size(); ++i) {
    t.skipped += c.skipped[i];
    if (!c.executed[i]) continue;
    const Inst& inst = *launch.program->ops[i].inst;
    t.kinds[static_cast<int>(traits(inst.op).kind)] += c.executed[i];
    if (traits(inst.op).kind != Kind::mfma) continue;
    const uint64_t cycles = c.executed[i] * matrix_passes(launch.program->arch, inst) * kSlot;
    Matrix& m = t.matrix[mnemonic(inst)];
    m.count += c.executed[i];
    m.cycles += cycles;
    t.matrix_cycles += cycles;
  }
  return t;
}

void write_instructions(JsonWriter& j, const Totals& t) {
  uint64_t all = 0;
  j.key("instructions").open('{');
  for (int k = 0; k < kKinds; ++k) {
    j.field(name(static_cast<Kind>(k)), t.kinds[k]);
    all += t.kinds[k];
  }
  j.field("total", all).field("skipped", t.skipped).close('}');
  j.key("mfma").open('{');
  for (const auto& [mnemonic, m] : t.matrix) {
    j.key(mnemonic).open('{').field("count", m.count).field("cycles", m.cycles).close('}');
  }
  j.close('}');
}

void write_cycles(JsonWriter& j, const Totals& t, const LdsTime& lds) {
  std::map<std::string_view, uint64_t> units;
  uint64_t all = 0;
  for (int k = 0; k < kKinds; ++k) {
    const Kind kind = static_cast<Kind>(k);
    const uint64_t cycles = t.kinds[k] * (kind == Kind::transcendental ? kQuarterRate : kSlot);
    units[unit_of(kind)] += cycles;
    all += cycles;
  }
  j.key("issue_cycles").open('{');
  for (const auto& [unit, cycles] : units) j.field(unit, cycles);
  j.field("total", all).close('}');
  j.field("matrix_cycles", t.matrix_cycles);
  j.key("lds").open('{').field("accesses", lds.accesses).field("cycles", lds.cycles);
  j.field("minimum_cycles", lds.minimum_cycles).field("conflict_cycles", lds.cycles - lds.minimum_cycles).close('}');
}

// `size`: the bytes of the argument, where it is one.
void write_traffic(JsonWriter& j, const char* key, const Traffic& t, bool unique, uint64_t size = 0) {
  j.key(key).open('{').field("read", t.read).field("written", t.written);
  if (unique) j.field("unique_read", t.unique_read).field("unique_written", t.unique_written);
  if (size) j.field("size", size);
  j.close('}');
}

void write_bytes(JsonWriter& j, const Launch& launch, const Counters& c) {
  Traffic global;
  for (const Traffic& t : c.ranges) {
    global.read += t.read;
    global.written += t.written;
    global.unique_read += t.unique_read;
    global.unique_written += t.unique_written;
  }
  j.key("bytes").open('{');
  write_traffic(j, "global", global, true);
  write_traffic(j, "scalar", c.scalar, false);
  write_traffic(j, "lds", c.lds, false);
  write_traffic(j, "scratch", c.scratch, false);
  j.close('}');
  j.key("arguments").open('{');
  for (size_t i = 0; i < c.ranges.size(); ++i) {
    const Traffic& t = c.ranges[i];
    if (!t.read && !t.written) continue;
    const Range& range = launch.memory->ranges()[i];
    write_traffic(j, range.name.c_str(), t, true, range.end - range.base);
  }
  j.close('}');
}

void write_coalescing(JsonWriter& j, const char* key, const Coalescing& c) {
  j.key(key).open('{').field("accesses", c.accesses);
  j.field("segments64", c.segments64).field("minimum64", c.minimum64);
  j.field("segments128", c.segments128).field("minimum128", c.minimum128).close('}');
}

}  // namespace

void write_occupancy(JsonWriter& j, const Occupancy& o) {
  j.key("occupancy").open('{');
  j.field("vgprs", o.vgprs).field("agprs", o.agprs).field("sgprs", o.sgprs).field("lds_bytes", o.lds_bytes);
  j.field("waves_per_workgroup", o.waves_per_workgroup).field("waves_per_simd", o.waves_per_simd);
  j.field("workgroups_per_cu", o.workgroups_per_cu).field("limit", o.limit).close('}');
}

Occupancy occupancy(const Launch& launch) {
  const KernelDescriptor& d = launch.descriptor;
  const bool gfx942 = launch.program->arch == Arch::gfx942;
  const uint32_t items = launch.block[0] * launch.block[1] * launch.block[2];
  Occupancy o{};
  const uint32_t registers = round_up(std::max<uint32_t>(d.vgprs, 1), 8);
  o.vgprs = d.accum_offset && d.accum_offset < registers ? d.accum_offset : registers;
  o.agprs = registers - o.vgprs;
  o.sgprs = round_up(std::max<uint32_t>(d.sgprs, 1), 16);
  o.lds_bytes = launch.lds_bytes;
  o.waves_per_workgroup = (items + kWave - 1) / kWave;
  struct Limit {
    const char* name;
    uint32_t workgroups;
  };
  const uint32_t granule = gfx942 ? 512 : 1280, lds = gfx942 ? 65536 : 163840;
  const auto by_waves = [&](uint32_t a_simd) { return a_simd * 4 / o.waves_per_workgroup; };
  const Limit limits[] = {
      {"waves", by_waves(8)},
      {"vgprs", by_waves(512 / registers)},
      {"sgprs", by_waves(800 / o.sgprs)},
      {"lds", o.lds_bytes ? lds / round_up(o.lds_bytes, granule) : ~0u},
      {"barriers", o.waves_per_workgroup > 1 ? 16 : ~0u},
  };
  // Of equal limits the first is named: a kernel that fills the SIMDs is limited by nothing of its own.
  const Limit* least = limits;
  for (const Limit& l : limits) {
    if (l.workgroups < least->workgroups) least = &l;
  }
  o.limit = least->name;
  o.workgroups_per_cu = least->workgroups;
  o.waves_per_simd = (least->workgroups * o.waves_per_workgroup + 3) / 4;
  return o;
}

void write_counters(JsonWriter& j, const Launch& launch) {
  const Counters& c = *launch.observations->counters(launch);
  const Totals t = total(launch, c);
  j.key("counters").open('{').field("target", name(launch.program->arch));
  const uint64_t launched = static_cast<uint64_t>(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  j.field("launched", launched);
  j.field("workgroups", c.workgroups).field("waves", c.waves).field("largest_workgroup", c.largest_workgroup);
  write_instructions(j, t);
  write_cycles(j, t, c.lds_time);
  write_bytes(j, launch, c);
  j.key("coalescing").open('{');
  write_coalescing(j, "load", c.loads);
  write_coalescing(j, "store", c.stores);
  write_coalescing(j, "atomic", c.atomics);
  j.close('}');
  write_occupancy(j, occupancy(launch));
  j.close('}');
}

}  // namespace aiterlite::emulator
