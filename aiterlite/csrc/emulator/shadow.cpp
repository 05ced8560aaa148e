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

void Shadow::split(Line& line, uint32_t step) {
  auto groups = std::make_unique<Stamps[]>(kLine / step / 4);
  for (uint32_t i = 0; i < kLine / step; ++i) {
    const uint32_t from = i * step / line.step;
    const Stamps* old = line.groups ? &line.groups[from / 4] : nullptr;
    Stamps& s = groups[i / 4];
    s.written[i % 4] = old ? old->written[from % 4] : line.written;
    s.read[i % 4] = old ? old->read[from % 4] : line.read;
    s.earlier[i % 4] = old ? old->earlier[from % 4] : line.earlier;
  }
  line.groups = std::move(groups);
  line.step = step;
}

}  // namespace aiterlite::emulator
