// Loading a code object into host memory, and launching its kernels there.
#include <aiterlite/emulator/counters.h>
#include <aiterlite/emulator/module.h>
#include <aiterlite/emulator/report.h>
#include <stdlib.h>

#include <algorithm>

namespace aiterlite::emulator {
namespace {

constexpr uint64_t kPage = 4096;
constexpr uint32_t kMaxGroupItems = 1024;
constexpr uint32_t kDynamicStack = 16384;  // bytes a lane, for kernels whose stack use is not known

std::string number(uint64_t v) { return std::to_string(v); }

// Sets `bytes` bytes at `offset` of the kernel arguments.
template <class T>
void put(std::vector<uint8_t>* kernarg, const KernelArg& arg, T value) {
  uint8_t raw[8] = {};
  memcpy(raw, &value, sizeof(T));
  const size_t n = std::min<size_t>(arg.size, sizeof(raw));
  if (arg.offset + n <= kernarg->size()) memcpy(kernarg->data() + arg.offset, raw, n);
}

// The implicit arguments of code object V5.
void fill_hidden(const LaunchRequest& r, const Kernel& kernel, std::vector<uint8_t>* kernarg) {
  static constexpr const char* kAxes[3] = {"x", "y", "z"};
  for (const KernelArg& arg : kernel.args) {
    if (!arg.hidden()) continue;
    for (int i = 0; i < 3; ++i) {
      if (arg.value_kind == std::string("hidden_block_count_") + kAxes[i]) put(kernarg, arg, r.grid[i]);
      if (arg.value_kind == std::string("hidden_group_size_") + kAxes[i]) put(kernarg, arg, r.block[i]);
      // hidden_remainder and hidden_global_offset stay zero: a grid is a whole number of workgroups from zero on.
    }
    if (arg.value_kind == "hidden_grid_dims")
      put(kernarg, arg, r.grid[2] * r.block[2] > 1 ? 3u : r.grid[1] * r.block[1] > 1 ? 2u : 1u);
    if (arg.value_kind == "hidden_dynamic_lds_size") put(kernarg, arg, r.dynamic_lds);
    if (arg.value_kind == "hidden_private_base") put(kernarg, arg, kPrivateAperture);
    if (arg.value_kind == "hidden_shared_base") put(kernarg, arg, kSharedAperture);
  }
}

// The bytes that a caller must give: up to the end of the last argument that is not the runtime's, or all where the
// object does not say which these are.
size_t explicit_bytes(const Kernel& kernel) {
  if (kernel.args.empty()) return kernel.kernarg_bytes();
  size_t bytes = 0;
  for (const KernelArg& arg : kernel.args) {
    if (!arg.hidden()) bytes = std::max<size_t>(bytes, static_cast<size_t>(arg.offset) + arg.size);
  }
  return bytes;
}

// The packet that a kernel with a dispatch pointer reads its sizes from (HSA kernel dispatch packet).
struct DispatchPacket {
  uint16_t header, setup;
  uint16_t workgroup[3], reserved0;
  uint32_t grid[3];
  uint32_t private_bytes, group_bytes;
  uint64_t kernel_object, kernarg, reserved1, completion;
};
static_assert(sizeof(DispatchPacket) == 64);

std::string check_request(const LaunchRequest& r, const Kernel& k, uint64_t lds) {
  uint64_t items = 1;
  for (int i = 0; i < 3; ++i) {
    if (!r.grid[i] || !r.block[i]) return "grid and block sizes must be at least 1";
    items *= r.block[i];
    if (items > kMaxGroupItems) return "a workgroup of more than " + number(kMaxGroupItems) + " work-items";
  }
  if (static_cast<uint64_t>(r.grid[0]) * r.grid[1] >= 1ull << 32 ||
      static_cast<uint64_t>(r.grid[1]) * r.grid[2] >= 1ull << 32) {
    return "a grid of too many workgroups";
  }
  if (k.has_metadata && k.max_flat_workgroup_size && items > k.max_flat_workgroup_size) {
    return "the workgroup has " + number(items) + " work-items, the kernel was compiled for at most " +
           number(k.max_flat_workgroup_size);
  }
  for (int i = 0; i < 3; ++i) {
    if (k.reqd_workgroup_size[i] && k.reqd_workgroup_size[i] != r.block[i]) {
      return "the kernel requires a workgroup of " + number(k.reqd_workgroup_size[0]) + " x " +
             number(k.reqd_workgroup_size[1]) + " x " + number(k.reqd_workgroup_size[2]);
    }
  }
  if (k.has_metadata && k.wavefront_size && k.wavefront_size != kWave)
    return "the kernel was compiled for waves of " + number(k.wavefront_size);
  if (lds > r.persona.lds_bytes) {
    return "the kernel needs " + number(lds) + " bytes of LDS (" + number(k.descriptor.group_segment_size) +
           " static, " + number(r.dynamic_lds) + " dynamic), the persona has " + number(r.persona.lds_bytes);
  }
  return "";
}

// Workgroups that the persona's compute units hold at a time, by registers, LDS and wave slots.
uint64_t occupancy(const KernelDescriptor& d, uint32_t waves, uint64_t lds, const Persona& persona) {
  const uint32_t granule = 8;
  const uint32_t vgprs = std::max<uint32_t>((d.vgprs + granule - 1) / granule * granule, granule);
  const uint32_t waves_per_simd = std::clamp<uint32_t>(512 / vgprs, 1, 8);
  uint64_t groups = std::max<uint64_t>(4ull * waves_per_simd / waves, 1);
  if (lds) groups = std::min<uint64_t>(groups, std::max<uint64_t>(persona.lds_bytes / lds, 1));
  return groups * persona.compute_units;
}

Status status_of(const Launch& launch) {
  if (launch.interrupted) return Status::interrupted;
  if (launch.out_of_memory) return Status::out_of_memory;
  switch (launch.failure.kind) {
    case FaultKind::none:
      return Status::ok;
    case FaultKind::out_of_range:
    case FaultKind::read_only:
    case FaultKind::misaligned:
      return Status::memory_violation;
    case FaultKind::unsupported:
      return Status::unsupported;
    case FaultKind::unallocated:
      return Status::unallocated;
    case FaultKind::bad_jump:
      return Status::bad_jump;
    case FaultKind::limit:
      return Status::limit;
    case FaultKind::deadlock:
      return Status::deadlock;
    case FaultKind::trap:
      return Status::trap;
  }
  return Status::bad_launch;
}

LaunchReport refuse(Status status, std::string message) {
  LaunchReport report;
  report.status = status;
  report.message = std::move(message);
  report.json = refusal_json(status, report.message);
  return report;
}

LaunchReport refuse_registers(const Program& program, const ReadyKernel& ready) {
  LaunchReport report;
  report.status = Status::unallocated;
  report.message = unallocated_text(program, ready);
  report.json = unallocated_json(program, ready, report.message);
  return report;
}

}  // namespace

Module::~Module() { free(image_); }

std::unique_ptr<Module> Module::load(const uint8_t* data, size_t size, std::string* error) {
  std::unique_ptr<Module> m(new Module);
  const LoadResult result = load_code_object(data, size, &m->object_);
  if (!result) {
    *error = result.message;
    return nullptr;
  }
  const uint64_t bytes = std::max<uint64_t>((m->object_.image_size + kPage - 1) / kPage * kPage, kPage);
  m->image_ = static_cast<uint8_t*>(aligned_alloc(kPage, bytes));
  if (!m->image_) {
    *error = "no memory for an image of " + number(bytes) + " bytes";
    return nullptr;
  }
  memset(m->image_, 0, bytes);
  build_image(m->object_, data, m->base(), m->image_);
  uint64_t first = ~0ull, last = 0;
  for (const Segment& s : m->object_.segments) {
    if (!s.executable || !s.memory_size) continue;
    first = std::min(first, s.vaddr);
    last = std::max(last, s.vaddr + s.memory_size);
  }
  if (first >= last) {
    *error = "the object has no executable segment";
    return nullptr;
  }
  m->program_ = std::make_unique<Program>(m->object_.arch, m->base() + first, last - first);
  m->program_->listed = first;
  for (const Symbol& s : m->object_.symbols) {
    if (s.defined && s.function) m->program_->functions.push_back(m->base() + s.vaddr);
  }
  std::sort(m->program_->functions.begin(), m->program_->functions.end());
  return m;
}

const ReadyKernel* Module::prepare(const std::string& name) {
  std::lock_guard<std::mutex> lock(mutex_);
  for (const auto& r : ready_) {
    if (r->kernel->name == name) return r.get();
  }
  const Kernel* kernel = object_.find_kernel(name);
  if (!kernel) return nullptr;
  auto r = std::make_unique<ReadyKernel>();
  r->kernel = kernel;
  const uint64_t begin = base() + kernel->descriptor.entry;
  const uint64_t end = kernel->code_size ? begin + kernel->code_size : program_->base + program_->bytes;
  program_->decode_range(begin, end);
  CodeTraits traits = scan_code(*program_, begin, end);
  if (traits.calls) {
    if (!all_decoded_) {
      for (const Symbol& s : object_.symbols) {
        if (s.defined && s.function && s.size) program_->decode_range(base() + s.vaddr, base() + s.vaddr + s.size);
      }
      all_decoded_ = true;
    }
    traits.ordered |= scan_code(*program_, program_->base, program_->base + program_->bytes).ordered;
  }
  r->ordered = traits.ordered;
  r->entry = program_->at(begin + (kernel->descriptor.kernarg_preload_length ? 256 : 0));
  if (!r->entry) r->entry = program_->at(begin);
  r->reach = std::make_unique<Reach>(*program_, allocation_of(kernel->descriptor));
  r->reach->follow({program_->at(begin), r->entry}, &r->unallocated);
  ready_.push_back(std::move(r));
  return ready_.back().get();
}

void Module::add_ranges(MemoryMap* map) const {
  for (const Segment& s : object_.segments) {
    if (!s.memory_size) continue;
    Range range;
    range.base = base() + s.vaddr;
    range.end = range.base + s.memory_size;
    range.writable = s.writable;
    range.name = s.executable ? "code of the object"
                 : s.writable ? "variables of the object"
                              : "constants of the object";
    map->add(std::move(range));
  }
}

bool pack_arguments(const Kernel& kernel, void** params, std::vector<uint8_t>* kernarg) {
  if (!kernel.has_metadata) return false;
  kernarg->assign(kernel.kernarg_bytes(), 0);
  size_t next = 0;
  for (const KernelArg& arg : kernel.args) {
    if (arg.hidden()) continue;
    if (static_cast<uint64_t>(arg.offset) + arg.size > kernarg->size()) return false;
    memcpy(kernarg->data() + arg.offset, params[next++], arg.size);
  }
  return true;
}

LaunchReport launch(Module& module, const LaunchRequest& request) {
  const ReadyKernel* ready = module.prepare(request.kernel);
  if (!ready) {
    std::string known;
    for (const Kernel& k : module.object().kernels) known += (known.empty() ? "" : ", ") + k.name;
    return refuse(Status::unknown_kernel,
                  "no kernel `" + request.kernel + "` in the object; it has: " + (known.empty() ? "none" : known));
  }
  const Kernel& kernel = *ready->kernel;
  if (!ready->unallocated.empty()) return refuse_registers(module.program(), *ready);
  const uint64_t lds = static_cast<uint64_t>(kernel.descriptor.group_segment_size) + request.dynamic_lds;
  std::string wrong = check_request(request, kernel, lds);
  if (!wrong.empty()) return refuse(Status::bad_launch, wrong);

  const size_t given = request.kernarg.size(), least = explicit_bytes(kernel);
  if (given < least) {
    return refuse(Status::bad_launch, "kernel `" + kernel.name + "` declares " + number(least) +
                                          " bytes of arguments, " + number(given) + " are given; give all of them");
  }
  // An object that declares nothing takes what it is given; of any other, a driver passes what it declares.
  const size_t declared = kernel.kernarg_bytes() ? kernel.kernarg_bytes() : given;
  std::vector<uint8_t> kernarg(declared, 0);
  std::copy_n(request.kernarg.begin(), std::min(given, declared), kernarg.begin());
  fill_hidden(request, kernel, &kernarg);
  // The hardware aligns the segment, and loads of whole cache lines may reach past its last argument. What lies there
  // is no argument, and is made to look like none.
  kernarg.resize((kernarg.size() + 127) / 64 * 64, 0xa5);
  std::vector<uint64_t> aligned(kernarg.size() / 8 + 8);
  const uint64_t at = (reinterpret_cast<uint64_t>(aligned.data()) + 63) & ~63ull;
  memcpy(reinterpret_cast<void*>(at), kernarg.data(), kernarg.size());

  MemoryMap map;
  module.add_ranges(&map);
  map.add({at, at + kernarg.size(), false, "kernel arguments"});
  DispatchPacket packet{};
  packet.header = 2;
  packet.setup = 3;
  for (int i = 0; i < 3; ++i) {
    packet.workgroup[i] = static_cast<uint16_t>(request.block[i]);
    packet.grid[i] = request.grid[i] * request.block[i];
  }
  packet.private_bytes = kernel.descriptor.private_segment_size;
  packet.group_bytes = static_cast<uint32_t>(lds);
  packet.kernarg = at;
  const uint64_t packet_at = reinterpret_cast<uint64_t>(&packet);
  map.add({packet_at, packet_at + sizeof(packet), false, "dispatch packet"});
  for (const Range& range : request.ranges) {
    if (range.base == range.end) continue;
    if (!map.add(range)) {
      return refuse(Status::bad_launch, "range `" + range.name + "` is empty, wraps around, or overlaps another one");
    }
  }

  Launch l;
  l.program = &module.program();
  l.memory = &map;
  l.options = request.options;
  if (l.options.quantum == 0) l.options.quantum = 1;
  l.entry = ready->entry;
  l.reach = ready->reach.get();
  std::copy(request.grid, request.grid + 3, l.grid);
  std::copy(request.block, request.block + 3, l.block);
  l.lds_bytes = static_cast<uint32_t>(lds);
  l.scratch_bytes = kernel.descriptor.private_segment_size;
  if (kernel.descriptor.uses_dynamic_stack || kernel.uses_dynamic_stack)
    l.scratch_bytes = std::max(l.scratch_bytes, kDynamicStack);
  l.descriptor = kernel.descriptor;
  l.kernarg = at;
  l.kernarg_bytes = static_cast<uint32_t>(declared);
  if (given > declared) {
    note(l, "arguments: " + number(given) + " bytes are given, and a driver passes the " + number(declared) +
                " that the kernel declares; the others were not passed");
  }
  l.dispatch_packet = packet_at;
  const uint32_t items = request.block[0] * request.block[1] * request.block[2];
  l.resident = occupancy(kernel.descriptor, (items + kWave - 1) / kWave, lds, request.persona);
  l.xcds = std::max(request.persona.xcds, 1u);
  l.ordered = ready->ordered;

  if (TimelineOptions& shown = l.options.timeline; shown.group >= 0) {
    const uint64_t groups = static_cast<uint64_t>(l.grid[0]) * l.grid[1] * l.grid[2];
    shown.group = std::min(shown.group, static_cast<int64_t>(groups) - 1);
    const uint64_t units = std::max(request.persona.compute_units, 1u);
    // The compute units that have workgroups share the memory, and none takes more than the caches give.
    Timings& t = shown.timings;
    t.memory_bytes = std::min(t.memory_bytes / static_cast<double>(std::min(units, groups)), t.cache_bytes);
    if (!shown.together) {
      shown.together = static_cast<uint32_t>(std::min<uint64_t>(
          std::max(aiterlite::emulator::occupancy(l).workgroups_per_cu, 1u), (groups + units - 1) / units));
    }
  }
  if (l.options.sanitize || l.options.count || l.options.timeline.group >= 0)
    l.observations = std::make_unique<Observations>();

  run(l);
  LaunchReport report;
  report.status = status_of(l);
  report.message = report.status == Status::ok ? "" : failure_text(l, kernel.name);
  report.json = run_json(l, kernel.name, report.status, report.message);
  return report;
}

}  // namespace aiterlite::emulator
