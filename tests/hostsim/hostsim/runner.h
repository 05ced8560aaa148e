// Reads cases from a file, runs each on a kernel and appends the rows of its y to another file. A case is a CaseHeader
// and the rows of x, w and bias, and for 8-bit operands then the scales of x and of w's rows;
// tests/test_gemm_hostsim.py and tests/test_gemm_fp8_hostsim.py write it.
#pragma once
#include <aiterlite/gemm_args.h>
#include <hostsim/isa.h>
#include <sys/mman.h>

#include <vector>

namespace hostsim {

template <class Args>
struct Kernel {
  void (*entry)(Args);
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
  int64_t token_scales, row_scales;  // 1, or one for each row of x and of w; 0 for 16-bit operands
  Layout x, w, bias, y;
};

// A NaN in the types of these many bits, and of 16 bits no result of arithmetic.
template <class Bits>
constexpr Bits kPoison = sizeof(Bits) == 2           ? 0x7fc1
                         : AITERLITE_HOST_SIM == 942 ? 0x80
                                                     : 0x7f;

template <class Bits>
class Tensor {
 public:
  explicit Tensor(const Layout& layout) : layout_(layout) {
    size_ = layout.rows ? static_cast<size_t>(layout.offset + (layout.rows - 1) * layout.pitch + layout.width) : 0;
    if (huge()) {
      void* pages = mmap(nullptr, size_ * sizeof(Bits), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (pages == MAP_FAILED) fail("no address space for a tensor");
      data_ = static_cast<Bits*>(pages);
    } else {
      data_ = static_cast<Bits*>(malloc(size_ * sizeof(Bits)));
      std::fill(data_, data_ + size_, kPoison<Bits>);
    }
  }
  Tensor(const Tensor&) = delete;
  ~Tensor() {
    if (huge()) {
      munmap(data_, size_ * sizeof(Bits));
    } else {
      free(data_);
    }
  }

  Bits* row(int64_t index) { return data_ + layout_.offset + index * layout_.pitch; }

  void read(FILE* file) {
    const auto width = static_cast<size_t>(layout_.width);
    for (int64_t i = 0; i < layout_.rows; ++i) {
      if (fread(row(i), sizeof(Bits), width, file) != width) fail("the case file is too short");
    }
  }

  void write(FILE* file) {
    for (int64_t i = 0; i < layout_.rows; ++i) {
      fwrite(row(i), sizeof(Bits), static_cast<size_t>(layout_.width), file);
      if (i + 1 == layout_.rows || huge()) continue;
      const bool untouched = std::all_of(row(i) + layout_.width, row(i + 1), [](Bits v) { return v == kPoison<Bits>; });
      if (!untouched) fail("the kernel wrote between the rows of y");
    }
  }

 private:
  // There for the width of its strides: only the pages of its rows become resident, and nothing guards it.
  bool huge() const { return size_ > size_t{1} << 24; }

  Layout layout_;
  Bits* data_;
  size_t size_;
};

inline std::vector<float> read_floats(FILE* file, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  if (fread(values.data(), sizeof(float), values.size(), file) != values.size()) fail("the case file is too short");
  return values;
}

// `Bits` is what x and w consist of.
template <class Bits, class Args>
int run_cases(const char* cases, const char* results, const Kernel<Args>* kernels, size_t count) {
  FILE* in = fopen(cases, "rb");
  FILE* out = fopen(results, "wb");
  if (!in || !out) fail("cannot open the case or the result file");
  CaseHeader header;
  while (fread(&header, sizeof header, 1, in) == 1) {
    if (header.kernel < 0 || static_cast<size_t>(header.kernel) >= count) fail("no such kernel");
    const Kernel<Args>& kernel = kernels[header.kernel];
    Tensor<Bits> x(header.x), w(header.w);
    Tensor<uint16_t> bias(header.bias), y(header.y);
    x.read(in);
    w.read(in);
    bias.read(in);
    Args args = {};
    args.x = x.row(0);
    args.weight = w.row(0);
    args.bias = header.bias.rows ? bias.row(0) : nullptr;
    args.y = y.row(0);
    args.stride_x = header.x.pitch;
    args.stride_w = header.w.pitch;
    args.stride_bias = header.bias.rows == 1 ? 0 : header.bias.pitch;
    args.stride_y = header.y.pitch;
    args.n = static_cast<int32_t>(header.y.rows);
    args.m = static_cast<int32_t>(header.y.width);
    args.k = static_cast<int32_t>(header.x.width);
    std::vector<float> scale_x, scale_w;
    if constexpr (sizeof(Bits) == 1) {
      scale_x = read_floats(in, header.token_scales);
      scale_w = read_floats(in, header.row_scales);
      args.scale_x = scale_x.data();
      args.scale_w = scale_w.data();
      args.stride_scale_x = header.token_scales > 1 ? 1 : 0;
      args.stride_scale_w = header.row_scales > 1 ? 1 : 0;
    }
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
