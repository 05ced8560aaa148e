// A loaded code object, and a launch of one of its kernels.
#pragma once
#include <aiterlite/emulator/elf.h>
#include <aiterlite/emulator/runtime.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

namespace aiterlite::emulator {

enum class Status : int32_t {
  ok = 0,
  bad_object = 1,  // the bytes are no code object that can be loaded
  unknown_kernel = 2,
  bad_launch = 3,  // grid, block, arguments or LDS do not fit the kernel or the persona
  memory_violation = 4,
  unsupported = 5,   // an instruction, or a form of one, that the executor does not have
  unallocated = 12,  // a register past the end of what the kernel descriptor allocates
  bad_jump = 6,
  limit = 7,
  deadlock = 8,
  trap = 9,
  out_of_memory = 10,
  interrupted = 11,  // by the caller, which knows why
};

// What the launch runs on.
struct Persona {
  uint32_t compute_units = 304;
  uint32_t lds_bytes = 65536;  // of one compute unit
  uint32_t xcds = 0;           // dies; 0: one
};

struct ReadyKernel {
  const Kernel* kernel = nullptr;
  const MicroOp* entry = nullptr;
  bool ordered = false;
  std::unique_ptr<Reach> reach;
  std::vector<Unallocated> unallocated;  // in what can be followed before the kernel runs, by address
};

class Module {
 public:
  // Null on failure, with the reason in *error.
  static std::unique_ptr<Module> load(const uint8_t* data, size_t size, std::string* error);

  const CodeObject& object() const { return object_; }
  const Program& program() const { return *program_; }
  uint64_t base() const { return reinterpret_cast<uint64_t>(image_); }
  // Decodes the kernel on first use; null if the object has none of that name.
  const ReadyKernel* prepare(const std::string& name);
  // The segments as ranges that a kernel may touch.
  void add_ranges(MemoryMap* map) const;
  ~Module();

 private:
  Module() = default;
  CodeObject object_;
  uint8_t* image_ = nullptr;
  std::unique_ptr<Program> program_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<ReadyKernel>> ready_;
  bool all_decoded_ = false;
};

struct LaunchRequest {
  std::string kernel;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t dynamic_lds = 0;
  std::vector<uint8_t> kernarg;  // the explicit arguments; hidden ones are added
  std::vector<Range> ranges;
  LaunchOptions options;
  Persona persona;
};

struct LaunchReport {
  Status status = Status::ok;
  std::string message;  // empty on success
  std::string json;     // everything known about the run
};

LaunchReport launch(Module& module, const LaunchRequest& request);

// Explicit arguments from pointers to them, in the metadata's order; false if the kernel has no metadata.
bool pack_arguments(const Kernel& kernel, void** params, std::vector<uint8_t>* kernarg);

// What the code shows without being run (straight.cpp), as JSON: for each kernel its occupancy, at its largest
// workgroup and without dynamic LDS, and the findings in the straight lines of its code.
std::string inspect(Module& module);

}  // namespace aiterlite::emulator
