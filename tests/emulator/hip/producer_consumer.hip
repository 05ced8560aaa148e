// Waves with different jobs that hand tiles over through LDS: wave 0 fetches, waves 1 to 3 work.
//
// out[i] = sum over tiles of tile[(i * 5 + tile) % 192] * (tile + 1), for 192 consumers. Two buffers: while one is
// consumed the other is filled, with one barrier a tile. The loops of producer and consumers are apart, so the same
// number of barriers is reached at different addresses. relay: a value passed from wave to wave through one LDS word.
#include <device.h>

KERNEL(256) producer_consumer(const uint32_t* x, uint32_t* out, uint32_t tiles) {
  SHARED(uint32_t, buffer, 2)[192];
  const uint32_t lane = thread_x() % 64;
  x += static_cast<uint64_t>(group_x()) * tiles * 192;
  if (thread_x() < 64) {
    for (uint32_t tile = 0; tile < tiles; ++tile) {
      for (uint32_t j = 0; j < 3; ++j) buffer[tile % 2][lane + 64 * j] = x[tile * 192 + lane + 64 * j];
      barrier();
    }
    barrier();
    return;
  }
  const uint32_t i = thread_x() - 64;
  uint32_t sum = 0;
  barrier();
  for (uint32_t tile = 0; tile < tiles; ++tile) {
    sum += buffer[tile % 2][(i * 5 + tile) % 192] * (tile + 1);
    barrier();
  }
  out[group_x() * 192 + i] = sum;
}

KERNEL(512) relay(const uint32_t* x, uint32_t* out) {
  SHARED(uint32_t, word, 1);
  const uint32_t wave = thread_x() / 64;
  if (thread_x() == 0) word[0] = x[group_x()];
  for (uint32_t turn = 0; turn < 8; ++turn) {
    barrier();
    if (wave == turn && thread_x() % 64 == wave) word[0] = word[0] * 3 + wave;
  }
  barrier();
  out[group_x() * 512 + thread_x()] = word[0] + thread_x();
}
