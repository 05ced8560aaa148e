// The C interface to loading and launching.
//
// Two ways in. aiterlite_emulator_launch takes everything at once and gives a report. The other calls have the shape of
// the HIP driver's (load, get function, launch, error text), for a launcher that keeps a table of driver entry points;
// what a driver would know by itself, the memory that may be touched and the chip, is set per thread beforehand.
#include <aiterlite/emulator/json.h>
#include <aiterlite/emulator/module.h>
#include <aiterlite/emulator/report.h>
#include <stdlib.h>

using namespace aiterlite::emulator;

extern "C" {

struct aiterlite_emulator_range {
  uint64_t base;
  uint64_t bytes;
  const char* name;
  int32_t writable;
  const uint8_t* elements;  // a bit for each byte that may be touched, lowest first; null: all of them
};

struct aiterlite_emulator_options {
  int32_t threads;  // 0: chosen by what the kernel does
  uint32_t quantum;
  uint64_t seed;
  int32_t check_memory;
  int32_t buffer_findings;
  uint32_t fill;
  uint64_t max_instructions;
  int64_t trace_group;  // -1: no trace
  uint32_t trace_wave;
  uint64_t trace_lines;
  uint32_t sanitize;
  int32_t count;
  uint32_t compute_units;
  uint32_t lds_bytes;
  uint32_t xcds;
  int32_t timeline;  // whether a workgroup is shown
  uint64_t timeline_group;
  uint32_t timeline_together;
  uint64_t timeline_noted;
  uint64_t timeline_events;
  aiterlite::emulator::Timings timings;
  uint64_t only;  // 0: all workgroups
};

}  // extern "C"

namespace {

struct Function {
  Module* module;
  std::string name;
};

struct Context {
  std::vector<Range> ranges;
  LaunchOptions options;
  Persona persona;
  int (*poll)() = nullptr;
  std::string error;
  std::string report;
};

Context& context() {
  thread_local Context c;
  return c;
}

int give(Status status, const std::string& text, char** out, size_t* out_size) {
  *out_size = text.size();
  *out = static_cast<char*>(malloc(text.size() + 1));
  if (!*out) return static_cast<int>(Status::out_of_memory);
  memcpy(*out, text.c_str(), text.size() + 1);
  return static_cast<int>(status);
}

std::vector<Range> to_ranges(const aiterlite_emulator_range* ranges, size_t count) {
  std::vector<Range> out;
  out.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    out.push_back({ranges[i].base, ranges[i].base + ranges[i].bytes, ranges[i].writable != 0,
                   ranges[i].name ? ranges[i].name : "", nullptr});
    if (const uint8_t* bits = ranges[i].elements)
      out.back().elements = std::make_shared<const std::vector<uint8_t>>(bits, bits + (ranges[i].bytes + 7) / 8);
  }
  return out;
}

void set_options(const aiterlite_emulator_options& o, LaunchOptions* options, Persona* persona) {
  options->threads = o.threads;
  options->quantum = o.quantum;
  options->seed = o.seed;
  options->check_memory = o.check_memory != 0;
  options->buffer_findings = o.buffer_findings != 0;
  options->fill = o.fill;
  options->max_instructions = o.max_instructions;
  options->trace_group = o.trace_group;
  options->trace_wave = o.trace_wave;
  options->trace_lines = o.trace_lines;
  options->sanitize = o.sanitize;
  options->count = o.count != 0;
  options->timeline = {o.timeline ? static_cast<int64_t>(o.timeline_group) : -1, o.timeline_together, o.timeline_noted,
                       o.timeline_events, o.timings};
  options->only = o.only;
  persona->compute_units = o.compute_units;
  persona->lds_bytes = o.lds_bytes;
  persona->xcds = o.xcds;
}

// Runs `call`, turning what it throws into an error code.
template <class F>
int guarded(F call) {
  try {
    return static_cast<int>(call());
  } catch (const std::bad_alloc&) {
    context().error = "out of host memory";
    return static_cast<int>(Status::out_of_memory);
  } catch (const std::exception& e) {
    context().error = e.what();
    return static_cast<int>(Status::bad_launch);
  }
}

// The size of an ELF file that is given without one: its section headers come last.
size_t elf_bytes(const uint8_t* p) {
  uint64_t offset;
  uint16_t entry, count;
  memcpy(&offset, p + 0x28, 8);
  memcpy(&entry, p + 0x3a, 2);
  memcpy(&count, p + 0x3c, 2);
  return offset + static_cast<uint64_t>(entry) * count;
}

Status fail(Status status, std::string message) {
  context().error = std::move(message);
  return status;
}

Status load(const uint8_t* data, size_t size, void** module) {
  std::string error;
  std::unique_ptr<Module> m = Module::load(data, size, &error);
  if (!m) return fail(Status::bad_object, std::move(error));
  *module = m.release();
  return Status::ok;
}

// The packed arguments of a launch call: one pointer for each, or HIP's list of tags with a buffer and its size.
Status arguments(const Kernel& kernel, void** params, void** extra, std::vector<uint8_t>* kernarg) {
  if (params) {
    if (pack_arguments(kernel, params, kernarg)) return Status::ok;
    return fail(Status::bad_launch,
                "kernel `" + kernel.name + "` has no metadata to take the sizes of its arguments from");
  }
  if (!extra) return Status::ok;
  const uint8_t* buffer = nullptr;
  size_t size = 0;
  for (void** e = extra; reinterpret_cast<uintptr_t>(*e) != 3; e += 2) {  // HIP_LAUNCH_PARAM_END
    if (reinterpret_cast<uintptr_t>(*e) == 1) buffer = static_cast<const uint8_t*>(e[1]);
    if (reinterpret_cast<uintptr_t>(*e) == 2) size = *static_cast<const size_t*>(e[1]);
  }
  if (!buffer) return fail(Status::bad_launch, "the list of launch parameters names no buffer");
  kernarg->assign(buffer, buffer + size);
  return Status::ok;
}

}  // namespace

#pragma GCC visibility push(default)

extern "C" {

// Loads a code object. On failure the text of aiterlite_emulator_error says why.
int aiterlite_emulator_load(const uint8_t* data, size_t size, void** module) {
  return guarded([&] { return load(data, size, module); });
}

void aiterlite_emulator_unload(void* module) { delete static_cast<Module*>(module); }

// The text of this thread's last error.
const char* aiterlite_emulator_error() { return context().error.c_str(); }

// Launches `kernel`; the report is JSON, to be freed with aiterlite_emulator_free. Returns a Status.
int aiterlite_emulator_launch(void* module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                              uint32_t dynamic_lds, const uint8_t* kernarg, size_t kernarg_bytes,
                              const aiterlite_emulator_range* ranges, size_t range_count,
                              const aiterlite_emulator_options* options, char** report, size_t* report_size) {
  *report = nullptr;
  *report_size = 0;
  return guarded([&] {
    LaunchRequest r;
    r.kernel = kernel;
    for (int i = 0; i < 3; ++i) {
      r.grid[i] = grid[i];
      r.block[i] = block[i];
    }
    r.dynamic_lds = dynamic_lds;
    r.kernarg.assign(kernarg, kernarg + kernarg_bytes);
    r.ranges = to_ranges(ranges, range_count);
    set_options(*options, &r.options, &r.persona);
    r.options.poll = context().poll;
    const LaunchReport result = launch(*static_cast<Module*>(module), r);
    context().error = result.message;
    return static_cast<Status>(give(result.status, result.json, report, report_size));
  });
}

// What the code of a loaded object shows without being run, as JSON.
int aiterlite_emulator_inspect(void* module, char** out, size_t* out_size) {
  return guarded(
      [&] { return static_cast<Status>(give(Status::ok, inspect(*static_cast<Module*>(module)), out, out_size)); });
}

// Why the executor cannot run an instruction, or an empty text if it can. Takes one encoded instruction.
int aiterlite_emulator_refusal(int arch, const uint8_t* data, size_t size, char** out, size_t* out_size) {
  const Arch target = arch == 0 ? Arch::gfx942 : Arch::gfx950;
  Inst inst;
  const Decoded d = decode(target, data, size, &inst);
  if (!d) return give(Status::unsupported, describe(target, d), out, out_size);
  Program scratch(target, 0, 0);
  MicroOp op;
  std::string reason;
  const bool ok = build_microop(&scratch, inst, &op, &reason);
  return give(ok ? Status::ok : Status::unsupported, reason, out, out_size);
}

// JSON: registers that kernels name and their descriptors do not allocate. Takes the bytes of a code object.
int aiterlite_emulator_unallocated(const uint8_t* data, size_t size, char** out, size_t* out_size) {
  return guarded([&] {
    std::string error;
    const std::unique_ptr<Module> module = Module::load(data, size, &error);
    if (!module) return static_cast<Status>(give(Status::bad_object, error, out, out_size));
    return static_cast<Status>(give(Status::ok, list_unallocated(*module), out, out_size));
  });
}

// The memory that kernels launched by this thread may touch, until it is set again.
int aiterlite_emulator_set_ranges(const aiterlite_emulator_range* ranges, size_t count) {
  return guarded([&] {
    context().ranges = to_ranges(ranges, count);
    return Status::ok;
  });
}

int aiterlite_emulator_set_options(const aiterlite_emulator_options* options) {
  set_options(*options, &context().options, &context().persona);
  return 0;
}

// What launches of this thread ask now and then, on this thread; an answer that is not 0 ends the launch with
// Status::interrupted. Null: nothing is asked.
void aiterlite_emulator_set_poll(int (*poll)()) { context().poll = poll; }

// The report of this thread's last launch through the call below.
const char* aiterlite_emulator_report() { return context().report.c_str(); }

// As hipInit, hipModuleLoadData, hipModuleGetFunction, hipModuleUnload and hipDrvGetErrorString.
int aiterlite_emulator_init(unsigned) { return 0; }

int aiterlite_emulator_module_load_data(void** module, const void* image) {
  const uint8_t* p = static_cast<const uint8_t*>(image);
  return guarded([&] {
    if (memcmp(p, "\177ELF", 4) != 0) return fail(Status::bad_object, "the image is no ELF file");
    return load(p, elf_bytes(p), module);
  });
}

// A function lives as long as the process: modules that launchers load are never given back.
int aiterlite_emulator_module_get_function(void** function, void* module, const char* name) {
  return guarded([&] {
    Module* m = static_cast<Module*>(module);
    if (!m->prepare(name)) return fail(Status::unknown_kernel, std::string("no kernel `") + name + "` in the object");
    *function = new Function{m, name};
    return Status::ok;
  });
}

int aiterlite_emulator_function_set_attribute(void*, int, int) { return 0; }

int aiterlite_emulator_get_error_string(int, const char** text) {
  *text = context().error.c_str();
  return 0;
}

// As hipModuleLaunchKernel. The stream is ignored: the kernel has run when the call returns.
int aiterlite_emulator_launch_kernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                                     unsigned bz, unsigned shared_bytes, void* stream, void** kernel_params,
                                     void** extra) {
  (void)stream;
  return guarded([&] {
    const Function& f = *static_cast<const Function*>(function);
    Context& c = context();
    LaunchRequest r;
    r.kernel = f.name;
    const uint32_t grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
    for (int i = 0; i < 3; ++i) {
      r.grid[i] = grid[i];
      r.block[i] = block[i];
    }
    r.dynamic_lds = shared_bytes;
    const Kernel* kernel = f.module->object().find_kernel(f.name);
    if (!kernel) return fail(Status::unknown_kernel, "no kernel `" + f.name + "` in the object");
    const Status packed = arguments(*kernel, kernel_params, extra, &r.kernarg);
    if (packed != Status::ok) return packed;
    r.ranges = c.ranges;
    r.options = c.options;
    r.options.poll = c.poll;
    r.persona = c.persona;
    LaunchReport result = launch(*f.module, r);
    c.error = std::move(result.message);
    c.report = std::move(result.json);
    return result.status;
  });
}

}  // extern "C"

#pragma GCC visibility pop
