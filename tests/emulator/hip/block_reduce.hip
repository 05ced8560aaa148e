// sums[g] and maxima[g] of the elements that workgroup g visits in a grid-stride loop.
//
// Each work-item sums its elements in order; then a tree of 8 steps through LDS, a barrier a step. The stride comes
// from the implicit kernel arguments. Reads each input once, writes 8 bytes a workgroup; any n, at least one workgroup.
#include <device.h>

KERNEL(256) block_reduce(const float* x, const int32_t* y, float* sums, int32_t* maxima, uint32_t n) {
  SHARED(float, sum, 256);
  SHARED(int32_t, maximum, 256);
  const uint32_t t = thread_x();
  float s = 0;
  int32_t m = INT32_MIN;
  for (uint32_t i = group_x() * group_size_x() + t; i < n; i += grid_size_x()) {
    s += x[i];
    m = larger(m, y[i]);
  }
  sum[t] = s;
  maximum[t] = m;
  barrier();
  for (uint32_t half = 128; half > 0; half >>= 1) {
    if (t < half) {
      sum[t] += sum[t + half];
      maximum[t] = larger(maximum[t], maximum[t + half]);
    }
    barrier();
  }
  if (t == 0) {
    sums[group_x()] = sum[0];
    maxima[group_x()] = maximum[0];
  }
}
