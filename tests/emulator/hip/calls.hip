// Calls that are not inlined: through a table of functions by lane, recursion with a stack, many arguments.
//
// out[0, i] = op[x[i] % 4](x[i], y[i]); out[1, i] = Ackermann-like recursion of small arguments; out[2, i] = a mix of
// twenty arguments, of which some travel on the stack.
#include <device.h>

#define APART __attribute__((noinline))

APART DEVICE uint32_t add(uint32_t a, uint32_t b) { return a + b; }
APART DEVICE uint32_t subtract(uint32_t a, uint32_t b) { return a - b; }
APART DEVICE uint32_t scale(uint32_t a, uint32_t b) { return a * (b | 1); }
APART DEVICE uint32_t fold(uint32_t a, uint32_t b) { return (a ^ b) + (a >> 16); }

APART DEVICE uint32_t depth(uint32_t a, uint32_t b) {
  if (a == 0) return b + 1;
  if (b == 0) return depth(a - 1, 1) + 1;
  return depth(a - 1, b - 1) * 2 + depth(a - 1, b / 2);
}

struct Mix {
  uint32_t v[5];
};
APART DEVICE uint32_t mix(Mix a, Mix b, Mix c, Mix d, uint64_t e, uint32_t f, uint32_t g, uint32_t h, uint32_t i,
                          uint32_t j, uint32_t k, uint32_t l, uint32_t m) {
  uint32_t s = 0;
  for (uint32_t t = 0; t < 5; ++t) s = s * 7 + a.v[t] + 2 * b.v[t] + 3 * c.v[t] + 5 * d.v[t];
  return s + static_cast<uint32_t>(e >> 7) + f * 3 + g * 5 + h * 7 + i * 11 + j * 13 + k * 17 + l * 19 + m * 23;
}

KERNEL(64) calls(const uint32_t* x, const uint32_t* y, uint32_t* out, uint32_t n) {
  const uint32_t i = group_x() * 64 + thread_x();
  if (i >= n) return;
  const uint32_t a = x[i], b = y[i];
  uint32_t (*operation)(uint32_t, uint32_t) = add;
  if (a % 4 == 1) operation = subtract;
  if (a % 4 == 2) operation = scale;
  if (a % 4 == 3) operation = fold;
  out[i] = operation(a, b);
  out[n + i] = depth(a % 4, b % 6);
  const Mix m{{a, b, a ^ b, a + b, a - b}}, w{{b, a, i, 3, a & b}};
  out[2 * n + i] = mix(m, w, w, m, static_cast<uint64_t>(a) * b, a, b, i, a * 3, b * 5, a | b, i * i, a >> 3);
}
