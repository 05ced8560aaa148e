// Feeds random and mutated input to the loader and the decoder: fuzz [count] [seed] [code object...].
//
// A program of its own, built with -fsanitize=address,undefined. A third of the inputs are random bytes, the others are
// mutants of the code objects given (of a bare header without any). Each input is copied to a buffer of exactly its
// size, loaded, imaged, listed and described; the random ones, and one mutant in eight, are decoded as plain code for
// both targets as well. An alarm ends an input that
// takes longer than kSecondsPerInput; the number of the input is printed on any abnormal end, and repeats it.
#include <aiterlite/emulator/inst.h>
#include <aiterlite/emulator/listing.h>
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <vector>

extern "C" {
void aiterlite_emulator_free(char* text);
int aiterlite_emulator_describe(const uint8_t* data, size_t size, char** out, size_t* out_size);
int aiterlite_emulator_disassemble(const uint8_t* data, size_t size, char** out, size_t* out_size);
int aiterlite_emulator_coverage(const uint8_t* data, size_t size, char** out, size_t* out_size);
}

namespace {

using namespace aiterlite::emulator;
using Bytes = std::vector<uint8_t>;

constexpr unsigned kSecondsPerInput = 20;
// Larger images are legal, but zeroing them for every input would take the time.
constexpr uint64_t kLargestImage = 1 << 22;
constexpr size_t kLargestRandom = 600;

unsigned long long current = 0;

void on_alarm(int) {
  fprintf(stderr, "input %llu hangs\n", current);
  abort();
}

Bytes read_file(const char* path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) {
    fprintf(stderr, "cannot read %s\n", path);
    exit(2);
  }
  return Bytes(std::istreambuf_iterator<char>(in), {});
}

Bytes bare_header() {
  Bytes b(64 + 56, 0);
  const uint8_t ident[] = {0x7f, 'E', 'L', 'F', 2, 1, 1, 64, 4};
  std::copy(std::begin(ident), std::end(ident), b.begin());
  b[16] = 3;
  b[18] = 224;
  b[32] = 64;
  b[48] = 0x4c;
  b[54] = 56;
  b[56] = 1;
  b[64] = 1;
  return b;
}

uint64_t interesting(std::mt19937_64& rng) {
  constexpr uint64_t kValues[] = {0,
                                  1,
                                  2,
                                  3,
                                  7,
                                  8,
                                  63,
                                  64,
                                  255,
                                  256,
                                  0x7fff,
                                  0xffff,
                                  0x7fffffff,
                                  0x80000000,
                                  0xffffffff,
                                  0x100000000,
                                  0x7fffffffffffffff,
                                  0x8000000000000000,
                                  0xffffffffffffffff,
                                  0xfffffffffffffff8,
                                  0x10000000,
                                  0x0fffffff};
  return kValues[rng() % std::size(kValues)];
}

void mutate(Bytes& b, std::mt19937_64& rng) {
  const int edits = 1 + static_cast<int>(rng() % 8);
  for (int i = 0; i < edits && !b.empty(); ++i) {
    // The first kilobytes hold the headers, notes and symbols: aim there half the time.
    const size_t reach = rng() % 2 ? b.size() : std::min<size_t>(b.size(), 2048);
    const size_t at = rng() % reach;
    switch (rng() % 7) {
      case 0:
        b[at] ^= static_cast<uint8_t>(1u << rng() % 8);
        break;
      case 1:
        b[at] = static_cast<uint8_t>(rng());
        break;
      case 2: {  // a field
        const size_t width = size_t{1} << rng() % 4;
        const uint64_t v = rng() % 2 ? interesting(rng) : rng() % (2 * b.size());
        const size_t first = at / width * width;
        for (size_t k = 0; k < width && first + k < b.size(); ++k) b[first + k] = static_cast<uint8_t>(v >> 8 * k);
        break;
      }
      case 3:
        if (rng() % 4 == 0) b.resize(at);
        break;
      case 4: {  // a copy of another place
        const size_t from = rng() % b.size(), n = 1 + rng() % 64;
        for (size_t k = 0; k < n && at + k < b.size() && from + k < b.size(); ++k) b[at + k] = b[from + k];
        break;
      }
      case 5: {
        const size_t n = std::min<size_t>(1 + rng() % 16, b.size() - at);
        if (rng() % 4 == 0) b.erase(b.begin() + static_cast<ptrdiff_t>(at), b.begin() + static_cast<ptrdiff_t>(at + n));
        break;
      }
      default:
        for (size_t k = at; k < b.size() && k < at + rng() % 32; ++k) b[k] = static_cast<uint8_t>(rng());
        break;
    }
  }
}

uint64_t decode_all(const uint8_t* data, size_t size) {
  uint64_t decoded = 0;
  for (const Arch arch : {Arch::gfx942, Arch::gfx950}) {
    for (size_t at = 0; at < size;) {
      Inst inst;
      const Decoded d = decode(arch, data + at, size - at, &inst);
      const std::string text = d ? disassemble(arch, inst) : describe(arch, d);
      if (text.empty() || (d && d.size > size - at)) abort();
      decoded += static_cast<bool>(d);
      at += d ? d.size : 1 + at % 4;
    }
  }
  return decoded;
}

struct Totals {
  uint64_t loaded = 0, refused = 0, decoded = 0;
};

void run(const Bytes& input, bool as_code, Totals* totals) {
  const std::unique_ptr<uint8_t[]> data(new uint8_t[input.size()]);
  std::copy(input.begin(), input.end(), data.get());
  CodeObject object;
  const LoadResult result = load_code_object(data.get(), input.size(), &object);
  if (!result && result.message.empty()) abort();
  if (result) {
    ++totals->loaded;
    if (object.image_size <= kLargestImage) {
      const std::unique_ptr<uint8_t[]> image(new uint8_t[object.image_size]);
      build_image(object, data.get(), 0x7f0000000000, image.get());
    }
  } else {
    ++totals->refused;
  }
  const auto text_of = [&](auto call) {
    char* text = nullptr;
    size_t size = 0;
    const int status = call(data.get(), input.size(), &text, &size);
    if ((status == 0) != static_cast<bool>(result)) abort();
    aiterlite_emulator_free(text);
  };
  text_of(aiterlite_emulator_describe);
  if (result) {
    text_of(aiterlite_emulator_disassemble);
    text_of(aiterlite_emulator_coverage);
  }
  if (as_code) totals->decoded += decode_all(data.get(), input.size());
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long long count = argc > 1 ? strtoull(argv[1], nullptr, 10) : 100000;
  const unsigned long long seed = argc > 2 ? strtoull(argv[2], nullptr, 10) : 1;
  std::vector<Bytes> seeds{bare_header()};
  for (int i = 3; i < argc; ++i) seeds.push_back(read_file(argv[i]));
  signal(SIGALRM, on_alarm);
  Totals totals;
  for (current = 0; current < count; ++current) {
    // Each input has a generator of its own, so that it can be repeated alone.
    std::mt19937_64 rng(seed * 0x9e3779b97f4a7c15 + current);
    Bytes input;
    const bool random = current % 3 == 0;
    if (random) {
      input.resize(rng() % kLargestRandom);
      for (uint8_t& b : input) b = static_cast<uint8_t>(rng());
    } else {
      input = seeds[rng() % seeds.size()];
      mutate(input, rng);
    }
    alarm(kSecondsPerInput);
    run(input, random || rng() % 8 == 0, &totals);
  }
  alarm(0);
  printf("%llu inputs: %llu loaded, %llu refused, %llu instructions decoded\n", count,
         static_cast<unsigned long long>(totals.loaded), static_cast<unsigned long long>(totals.refused),
         static_cast<unsigned long long>(totals.decoded));
  return 0;
}
