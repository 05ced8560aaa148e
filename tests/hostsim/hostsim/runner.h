// Reads cases from a file, runs each on a kernel and appends the rows of its y to another file. A case is a CaseHeader
// and the rows of x, w and bias; tests/test_gemm_hostsim.py writes it.
#pragma once
#include <aiterlite/gemm_args.h>
#include <hostsim/isa.h>
#include <sys/mman.h>

namespace hostsim {

struct Kernel {
  void (*entry)(aiterlite_gemm_args);
  uint32_t threads;
  uint32_t cluster;
  uint32_t rows;
};

// In elements. A tensor is an allocation of its own that ends with its last row's last element, so that
// AddressSanitizer guards both ends. Its first row begins `offset` into it.
struct Layout {
  int64_t rows, width, pitch, offset;
};

struct CaseHeader {
  int32_t kernel, seed;
  Layout x, w, bias, y;
};

constexpr uint16_t kPoison = 0x7fc1;  // a NaN in both types, and no result of arithmetic

class Tensor {
 public:
  explicit Tensor(const Layout& layout) : layout_(layout) {
    size_ = layout.rows ? static_cast<size_t>(layout.offset + (layout.rows - 1) * layout.pitch + layout.width) : 0;
    if (huge()) {
      void* pages = mmap(nullptr, size_ * sizeof(uint16_t), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED) fail("no address space for a tensor");
      data_ = static_cast<uint16_t*>(pages);
    } else {
      data_ = static_cast<uint16_t*>(malloc(size_ * sizeof(uint16_t)));
      std::fill(data_, data_ + size_, kPoison);
    }
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() {
    if (huge()) {
      munmap(data_, size_ * sizeof(uint16_t));
    } else {
      free(data_);
    }
  }

  uint16_t* row(int64_t index) { return data_ + layout_.offset + index * layout_.pitch; }

  void read(FILE* file) {
    const auto width = static_cast<size_t>(layout_.width);
    for (int64_t i = 0; i < layout_.rows; ++i) {
      if (fread(row(i), sizeof(uint16_t), width, file) != width) fail("the case file is too short");
    }
  }

  void write(FILE* file) {
    for (int64_t i = 0; i < layout_.rows; ++i) {
      fwrite(row(i), sizeof(uint16_t), static_cast<size_t>(layout_.width), file);
      if (i + 1 == layout_.rows || huge()) continue;
      const bool untouched = std::all_of(row(i) + layout_.width, row(i + 1), [](uint16_t v) { return v == kPoison; });
      if (!untouched) fail("the kernel wrote between the rows of y");
    }
  }

 private:
  // There for the width of its strides: only the pages of its rows become resident, and nothing guards it.
  bool huge() const { return size_ > size_t{1} << 24; }

  Layout layout_;
  uint16_t* data_;
  size_t size_;
};

inline int run_cases(const char* cases, const char* results, const Kernel* kernels, size_t count) {
  FILE* in = fopen(cases, "rb");
  FILE* out = fopen(results, "wb");
  if (!in || !out) fail("cannot open the case or the result file");
  CaseHeader header;
  while (fread(&header, sizeof header, 1, in) == 1) {
    if (header.kernel < 0 || static_cast<size_t>(header.kernel) >= count) fail("no such kernel");
    const Kernel& kernel = kernels[header.kernel];
    Tensor x(header.x), w(header.w), bias(header.bias), y(header.y);
    x.read(in);
    w.read(in);
    bias.read(in);
    const aiterlite_gemm_args args{x.row(0),
                                   w.row(0),
                                   header.bias.rows ? bias.row(0) : nullptr,
                                   y.row(0),
                                   header.x.pitch,
                                   header.w.pitch,
                                   header.bias.rows == 1 ? 0 : header.bias.pitch,
                                   header.y.pitch,
                                   static_cast<int32_t>(header.y.rows),
                                   static_cast<int32_t>(header.y.width),
                                   static_cast<int32_t>(header.x.width),
                                   0};
    const uint32_t groups = (static_cast<uint32_t>(args.m) + kernel.rows - 1) / kernel.rows;
    for (uint32_t group = 0; group < groups; ++group) {
      scheduler.run(group * kernel.cluster, kernel.cluster, kernel.threads, aiterlite::kWaveSize,
                    static_cast<uint32_t>(header.seed) + group, [&] { kernel.entry(args); });
    }
    y.write(out);
  }
  fclose(in);
  fclose(out);
  return 0;
}

}  // namespace hostsim
