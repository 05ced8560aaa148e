// Loops whose trip count differs from lane to lane, with breaks and continues inside.
//
// out[0, i]: steps of the Collatz sequence from x[i] to 1. out[1, i]: greatest common divisor of x[i] and y[i] by
// repeated remainders. out[2, i]: number of primes below x[i] % 200 by trial division, nested loops.
#include <device.h>

DEVICE bool is_prime(uint32_t p) {
  if (p < 2) return false;
  for (uint32_t d = 2; d * d <= p; ++d) {
    if (p % d == 0) return false;
  }
  return true;
}

KERNEL(128) collatz(const uint32_t* x, const uint32_t* y, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 128 + thread_x();
  if (i >= n) return;
  uint32_t steps = 0;
  for (uint64_t v = x[i]; v != 1; ++steps) {
    if (v & 1) {
      v = 3 * v + 1;
      continue;
    }
    v >>= 1;
    if (steps > 500) break;
  }
  out[i] = steps;

  uint32_t a = x[i], b = y[i];
  while (b != 0) {
    const uint32_t r = a % b;
    a = b;
    b = r;
  }
  out[n + i] = a;

  uint32_t primes = 0;
  for (uint32_t p = 0; p < x[i] % 200; ++p) primes += is_prime(p);
  out[2 * n + i] = primes;
}
