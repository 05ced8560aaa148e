// The tables behind Shadow.
#include <aiterlite/emulator/shadow.h>

#include <algorithm>

namespace aiterlite::emulator {

void Shadow::clear() {
  pages_.clear();
  std::fill(std::begin(recent_), std::end(recent_), Recent{});
}

Shadow::Page* Shadow::find_page(uint64_t number) {
  std::unique_ptr<Page>& page = pages_[number];
  if (!page) page = std::make_unique<Page>();
  return page.get();
}

void Shadow::split(Line& line) {
  line.dwords = std::make_unique<Dwords>();
  Set<16>& d = line.dwords->set;
  std::fill(std::begin(d.written), std::end(d.written), line.whole.written);
  std::fill(std::begin(d.read), std::end(d.read), line.whole.read);
  std::fill(std::begin(d.earlier), std::end(d.earlier), line.whole.earlier);
}

void Shadow::split_dwords(Line& line) {
  const Set<16>& d = line.dwords->set;
  line.dwords->bytes = std::make_unique<Set<64>>();
  Set<64>& b = *line.dwords->bytes;
  for (int i = 0; i < 64; ++i) {
    b.written[i] = d.written[i / 4];
    b.read[i] = d.read[i / 4];
    b.earlier[i] = d.earlier[i / 4];
  }
}

}  // namespace aiterlite::emulator
