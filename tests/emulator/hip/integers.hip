// Integer arithmetic, one operation a row of the output: out[op, i] = op(a[i], b[i]).
//
// integers64: what the compiler expands for 64 bits (products, quotients, remainders, shifts, comparisons, counts).
// integers32: 32-bit forms, high products, quotients, and patterns that become single instructions (bit fields, 24-bit
// products, three-operand adds, rotates). Divisors are never 0, and no quotient overflows.
#include <device.h>

KERNEL(64) integers64(const uint64_t* a, const uint64_t* b, uint64_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const uint64_t x = a[i], y = b[i];
  const int64_t sx = static_cast<int64_t>(x), sy = static_cast<int64_t>(y);
  const uint32_t shift = y & 63;
  uint64_t* o = out + i;
  uint32_t row = 0;
  auto put = [&](uint64_t value) { o[static_cast<uint64_t>(row++) * n] = value; };
  put(x + y);
  put(x - y);
  put(x * y);
  put(x / y);
  put(x % y);
  put(static_cast<uint64_t>(sx / sy));
  put(static_cast<uint64_t>(sx % sy));
  put(x << shift);
  put(x >> shift);
  put(static_cast<uint64_t>(sx >> shift));
  put(x & ~y);
  put((x ^ y) | (x >> 32));
  put(x < y);
  put(sx < sy);
  put(sx >= sy ? x : y);
  put(x == y + 1);
  put(static_cast<uint64_t>(__builtin_popcountll(x)));
  put(x ? static_cast<uint64_t>(__builtin_clzll(x)) : 64);
  put(x ? static_cast<uint64_t>(__builtin_ctzll(x)) : 64);
  put(static_cast<uint64_t>((static_cast<unsigned __int128>(x) * y) >> 64));
  put(static_cast<uint64_t>((static_cast<__int128>(sx) * sy) >> 64));
  put(static_cast<uint64_t>(sx < 0 ? -sx : sx));
  put(__builtin_bswap64(x));
  put(static_cast<uint64_t>(static_cast<uint32_t>(x)) * static_cast<uint32_t>(y) + x);
  put(static_cast<uint64_t>(static_cast<int64_t>(static_cast<int32_t>(x)) * static_cast<int32_t>(y) + sy));
  put((x << 4) + y);
  put((x << shift) | (x >> ((64 - shift) & 63)));
}

KERNEL(64) integers32(const uint32_t* a, const uint32_t* b, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const uint32_t x = a[i], y = b[i];
  const int32_t sx = static_cast<int32_t>(x), sy = static_cast<int32_t>(y);
  const uint32_t shift = y & 31;
  uint32_t* o = out + i;
  uint32_t row = 0;
  auto put = [&](uint32_t value) { o[static_cast<uint64_t>(row++) * n] = value; };
  put(x * y);
  put(static_cast<uint32_t>((static_cast<uint64_t>(x) * y) >> 32));
  put(static_cast<uint32_t>((static_cast<int64_t>(sx) * sy) >> 32));
  put(x / y);
  put(x % y);
  put(static_cast<uint32_t>(sx / sy));
  put(static_cast<uint32_t>(sx % sy));
  put((x & 0xffffff) * (y & 0xffffff));
  put(static_cast<uint32_t>((sx << 8 >> 8) * (sy << 8 >> 8)) + x);
  put((x >> 7) & 0x1ff);
  put(static_cast<uint32_t>(sx << 9 >> 21));
  put(x + y + 77);
  put((x << 3) + y);
  put((x + y) << 5);
  put((x << 6) | y);
  put((x & y) | 0x1234567);
  put((x & y) | (~x & (y >> 3)));
  put((x << shift) | (x >> ((32 - shift) & 31)));
  put(static_cast<uint32_t>(sx >> shift));
  put(x << shift);
  put(x >> shift);
  put(static_cast<uint32_t>(__builtin_popcount(x)) + y);
  put(x ? static_cast<uint32_t>(__builtin_clz(x)) : 32);
  put(x ? static_cast<uint32_t>(__builtin_ctz(x)) : 32);
  put(__builtin_bswap32(x));
  put(larger(sx, larger(sy, -5)));
  put(smaller(x, smaller(y, 1u << 30)));
  put(larger(-100, smaller(sx, 100)));
  put(sx < 0 ? 0u - x : x);
  put(static_cast<uint32_t>(static_cast<int8_t>(x)) + static_cast<uint16_t>(y));
  put(x < y ? x - y : 0);
  put(static_cast<uint32_t>(sx < sy) + static_cast<uint32_t>(x <= y) * 2 + static_cast<uint32_t>(x != y) * 4);
  const uint64_t sum = static_cast<uint64_t>(x) + y;
  put(sum > 0xffffffffull ? 0xffffffffu : static_cast<uint32_t>(sum));
  put(__builtin_bit_cast(uint32_t, static_cast<float>(x)));
  put(__builtin_bit_cast(uint32_t, static_cast<float>(sx)));
  put((static_cast<uint32_t>(static_cast<uint16_t>(x)) * static_cast<uint16_t>(y) + (x >> 16)) & 0xffff);
  put(static_cast<uint32_t>(static_cast<uint16_t>(x) < static_cast<uint16_t>(y)) +
      2 * static_cast<uint32_t>(static_cast<int16_t>(x) >= static_cast<int16_t>(y)));
}
