// A machine of 16 operations on two 32-bit registers: each work-item runs its own slice of a byte code.
//
// Work-items of a wave take different cases of the switch at the same time. Item i runs `steps` codes from
// program[i % stride], stopping early at code 15 once its counter is used up. No LDS; one load of code a step.
#include <device.h>

KERNEL(64)
integer_switch(const uint8_t* program, const uint32_t* x, uint32_t* out, uint32_t n, uint32_t stride, uint32_t steps) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  uint32_t a = x[i], b = i * 2654435761u, stops = i % 4;
  const uint8_t* code = program + i % stride;
  for (uint32_t s = 0; s < steps; ++s) {
    switch (code[s] & 15) {
      case 0:
        a += b;
        break;
      case 1:
        a -= b;
        break;
      case 2:
        a ^= b;
        break;
      case 3:
        a *= b | 1;
        break;
      case 4:
        b = a >> 3;
        break;
      case 5:
        b = static_cast<uint32_t>(static_cast<int32_t>(a) >> 5);
        break;
      case 6:
        a = (a << 7) | (a >> 25);
        break;
      case 7:
        b = ~b & a;
        break;
      case 8:
        a = a > b ? a - b : b - a;
        break;
      case 9:
        b = static_cast<int32_t>(a) < static_cast<int32_t>(b) ? a : b;
        break;
      case 10:
        a = static_cast<uint32_t>(__builtin_popcount(b)) + (a << 1);
        break;
      case 11:
        b = b / ((a & 0xff) + 1);
        break;
      case 12:
        a = a % ((b & 0xffff) + 3);
        break;
      case 13: {
        const uint32_t t = a;
        a = b;
        b = t;
        break;
      }
      case 14:
        for (uint32_t j = 0; j < (b & 3); ++j) a = a * 5 + j;
        break;
      default:
        if (stops-- == 0) s = steps;
        break;
    }
  }
  out[2 * i] = a;
  out[2 * i + 1] = b;
}
