// Prints what tile/layout.h says, on the host: a line "name rows row_bytes pitch bytes" and one of at(row, byte) for
// each 4 bytes of each row, and one of source(offset) for each 4 bytes of the tile as row * 65536 + byte.
#include <hostsim/isa.h>
// After it, the header's own includes find the simulation.
#include <aiterlite/tile/layout.h>

namespace {

template <class Layout>
void print(const char* name) {
  printf("%s %u %u %u %u\n", name, Layout::kRows, Layout::kRowBytes, Layout::kPitch, Layout::kBytes);
  for (uint32_t row = 0; row < Layout::kRows; ++row) {
    for (uint32_t byte = 0; byte < Layout::kRowBytes; byte += 4) printf("%u ", Layout::at(row, byte));
  }
  printf("\n");
  for (uint32_t offset = 0; offset < Layout::kBytes; offset += 4) {
    const aiterlite::RowByte place = Layout::source(offset);
    printf("%u ", place.row << 16 | place.byte);
  }
  printf("\n");
}

using aiterlite::Padded;
using aiterlite::pitch_for;
using aiterlite::Reading;

template <uint32_t kRowBytes>
void print_padded() {
  print<Padded<64, kRowBytes, pitch_for<Reading::kOperand16>(kRowBytes)>>("operand16");
  print<Padded<64, kRowBytes, pitch_for<Reading::kOperand32>(kRowBytes)>>("operand32");
  print<Padded<64, kRowBytes, kRowBytes>>("dense");
}

}  // namespace

int main() {
  print_padded<64>();
  print_padded<128>();
  print_padded<144>();
  print_padded<192>();
  print_padded<256>();
  print_padded<512>();
  print_padded<576>();
  print_padded<1152>();
  print<aiterlite::Swizzled<64, 32>>("swizzled");
  print<aiterlite::Swizzled<64, 64>>("swizzled");
  print<aiterlite::Swizzled<64, 128>>("swizzled");
  print<aiterlite::Swizzled<64, 256>>("swizzled");
  print<aiterlite::Swizzled<64, 512>>("swizzled");
  print<aiterlite::Swizzled<64, 1024>>("swizzled");
  print<aiterlite::SwizzledOdd<64, 1152>>("swizzled_odd_128");
  print<aiterlite::SwizzledOdd<64, 384>>("swizzled_odd_128");
  print<aiterlite::SwizzledOdd<64, 576>>("swizzled_odd_64");
  print<aiterlite::SwizzledOdd<64, 192>>("swizzled_odd_64");
}
