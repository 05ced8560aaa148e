// fragment/sm90_wgmma.h on the host: e4m3fn and 16-bit types with both operands in shared memory, rows along k, and
// bf16 and e4m3fn with a in registers. From the PTX manual's layouts of wgmma.m64nNk32 and k16 and of its matrix
// descriptors. Found before the header of that name.
//
// Products are made where their group is waited for, of what shared memory then holds; registers must not have changed.
#pragma once
#include <aiterlite/numeric/types.h>
#include <aiterlite/tile/sm90_barrier.h>

#include <array>
#include <map>
#include <type_traits>
#include <utility>

namespace aiterlite {

inline constexpr uint32_t kGroupRows = 64;
inline constexpr uint32_t kGroupWaves = 4;
inline constexpr uint32_t kSwizzledElements = 64;
enum class Swizzle : uint64_t { kNone = 0, k128 = 1 };
enum class Start { kSums, kZero };

inline uint64_t operand_descriptor(const void* operand, Swizzle swizzle, uint32_t stride, uint32_t leading) {
  return static_cast<uint64_t>(swizzle) << 62 | static_cast<uint64_t>(stride / 16) << 32 |
         static_cast<uint64_t>(leading / 16) << 16 | (shared_address(operand) & 0x3ffff) / 16;
}
inline uint64_t tile_descriptor(const void* tile) { return operand_descriptor(tile, Swizzle::k128, 1024, 16); }
inline uint64_t advanced(uint64_t descriptor, uint32_t k) { return descriptor + k * 2 / 16; }
inline uint64_t advanced_bytes(uint64_t descriptor, uint32_t bytes) { return descriptor + bytes / 16; }

// Byte k of a row (column): the place in the pattern is that of the address, of which bits 4 to 6 are exchanged.
inline const uint8_t* shared_byte(uint64_t descriptor, uint32_t row, uint32_t k) {
  const uint32_t start = static_cast<uint32_t>(descriptor & 0x3fff) * 16;
  const uint32_t leading = static_cast<uint32_t>(descriptor >> 16 & 0x3fff) * 16;
  const uint32_t stride = static_cast<uint32_t>(descriptor >> 32 & 0x3fff) * 16;
  uint32_t at = start + row / 8 * stride;
  if (descriptor >> 62 == 0) {
    at += row % 8 * 16 + k / 16 * leading + k % 16;
  } else {
    at += row % 8 * 128 + k;
    at ^= at / 128 % 8 * 16;
  }
  return at_shared_address(at);
}
inline float shared_element(e4m3fn, uint64_t descriptor, uint32_t row, uint32_t k) {
  static const auto numbers = [] {
    std::array<float, 256> all;
    for (uint32_t code = 0; code < 256; ++code) all[code] = Fp8Operand::decode(code);
    return all;
  }();
  return numbers[*shared_byte(descriptor, row, k)];
}
template <class Element>
float shared_element(Element, uint64_t descriptor, uint32_t row, uint32_t k) {
  uint16_t bits;
  memcpy(&bits, shared_byte(descriptor, row, 2 * k), sizeof bits);
  return to_float(Element{bits});
}

struct GroupProduct {
  float* d;
  uint32_t sums;
  uint64_t a, b;
  bool zero;
  uint32_t depth;
  float (*element)(uint64_t descriptor, uint32_t row, uint32_t k);
  const uint32_t* registers = nullptr;  // of a, where it is there; and what they held
  std::array<uint32_t, 4> held = {};

  void multiply_shared(uint32_t wave, uint32_t lane) const {
    for (uint32_t i = 0; i < sums; ++i) {
      const uint32_t row = 16 * wave + lane / 4 + 8 * (i / 2 % 2), column = 8 * (i / 4) + lane % 4 * 2 + i % 2;
      float sum = zero ? 0.0f : d[i];
      for (uint32_t k = 0; k < depth; ++k) sum = fmaf(element(a, row, k), element(b, column, k), sum);
      d[i] = sum;
    }
  }
  // `of_lane` is the same product of a lane of this wave: lanes 4 r to 4 r + 3 hold rows r and r + 8.
  template <class OfLane>
  void multiply_registers(uint32_t lane, const OfLane& of_lane) const {
    float row[2][32];
    for (uint32_t quad = 0; quad < 4; ++quad) {
      const GroupProduct& other = of_lane(lane / 4 * 4 + quad);
      // A word is two elements of 16 bits, or four of 8.
      const uint32_t each = depth / 8, bits = 32 / each;
      for (uint32_t word = 0; word < 4; ++word) {
        for (uint32_t c = 0; c < each; ++c) {
          const uint32_t held_bits = other.held[word] >> (bits * c) & ((1u << bits) - 1);
          row[word % 2][word / 2 * (depth / 2) + each * quad + c] =
              each == 2 ? Bf16Operand::decode(held_bits) : Fp8Operand::decode(held_bits);
        }
      }
    }
    for (uint32_t i = 0; i < sums; ++i) {
      float sum = zero ? 0.0f : d[i];
      const uint32_t column = 8 * (i / 4) + lane % 4 * 2 + i % 2;
      for (uint32_t k = 0; k < depth; ++k) sum = fmaf(row[i / 2 % 2][k], element(b, column, k), sum);
      constexpr uint32_t kNan = 0x7fffffff;
      if (isnan(sum)) memcpy(&sum, &kNan, sizeof kNan);
      d[i] = sum;
    }
  }
};
// Of the threads of the cluster, by rank and number.
using OfThread = std::map<std::pair<uint32_t, uint32_t>, std::deque<std::vector<GroupProduct>>>;
inline OfThread products;
inline std::map<const hostsim::Thread*, std::vector<GroupProduct>> open_products;

inline void begin_group() {}
template <uint32_t kCount>
void hold_sums(float (&)[kCount]) {}
template <Start kStart = Start::kSums, class Element, uint32_t kCount>
void multiply_group(Element, float (&d)[kCount], uint64_t a, uint64_t b) {
  const auto element = [](uint64_t descriptor, uint32_t row, uint32_t k) {
    return shared_element(Element{}, descriptor, row, k);
  };
  constexpr uint32_t kDepth = 32 / sizeof(Element::bits);
  open_products[&scheduler.current()].push_back({d, kCount, a, b, kStart == Start::kZero, kDepth, element});
}
template <Start kStart = Start::kSums, class Element, uint32_t kCount>
void multiply_group(Element, float (&d)[kCount], const uint32_t (&a)[4], uint64_t b) {
  static_assert(std::is_same_v<Element, bf16> || std::is_same_v<Element, e4m3fn>, "no other a in registers");
  const auto element = [](uint64_t descriptor, uint32_t row, uint32_t k) {
    return shared_element(Element{}, descriptor, row, k);
  };
  constexpr uint32_t kDepth = 32 / sizeof(Element::bits);
  open_products[&scheduler.current()].push_back(
      {d, kCount, 0, b, kStart == Start::kZero, kDepth, element, a, {a[0], a[1], a[2], a[3]}});
}
inline void commit_group() {
  auto& opened = open_products[&scheduler.current()];
  products[{scheduler.workgroup().rank, thread_id()}].push_back(std::move(opened));
  opened.clear();
}
template <uint32_t pending>
void await_group() {
  hostsim::Meeting& group = hostsim::own_dynamic().groups[thread_id() / 128];
  group.size = 128;
  scheduler.meet(group, 0, "await_group", nullptr, [] {});
  const uint32_t rank = scheduler.workgroup().rank, lane = thread_id() % 32, first = thread_id() - lane;
  auto& held = products[{rank, thread_id()}];
  for (size_t number = 0; number + pending < held.size(); ++number) {
    for (size_t at = 0; at < held[number].size(); ++at) {
      const GroupProduct& one = held[number][at];
      if (one.registers == nullptr) {
        one.multiply_shared(thread_id() / 32 % 4, lane);
        continue;
      }
      if (memcmp(one.registers, one.held.data(), sizeof one.held) != 0) {
        hostsim::fail("registers were written that were still to be multiplied");
      }
      one.multiply_registers(
          lane, [&](uint32_t other) -> const GroupProduct& { return products[{rank, first + other}][number][at]; });
    }
  }
  // Nobody says that a stage is free before all have multiplied.
  scheduler.meet(group, 0, "await_group", nullptr, [] {});
  while (held.size() > pending) held.pop_front();
}

}  // namespace aiterlite
