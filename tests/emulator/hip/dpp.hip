// Data movement inside a wave by DPP: out[control, i] = what lane i receives, old[i] where it receives nothing.
//
// dpp: every kind of control, with and without bounds control, with row and bank masks, and with lanes switched off
// (the last rows). wave_sums: a reduction and an inclusive scan by the classic sequence of row shifts and broadcasts.
// One wave a workgroup; x and old hold 64 values for each.
#include <device.h>

template <int control, int rows, int banks, bool bound>
INLINE int32_t move(int32_t old, int32_t v) {
  return __builtin_amdgcn_update_dpp(old, v, control, rows, banks, bound);
}

KERNEL(64) dpp(const int32_t* x, const int32_t* old, int32_t* out) {
  const uint32_t t = thread_x();
  const uint32_t i = group_x() * 64 + t;
  const uint32_t n = grid_size_x();
  const int32_t v = x[i], o = old[i];
  int32_t* to = out + i;
  auto put = [&](int32_t value) {
    *to = value;
    to += n;
  };
  put(move<0x1b, 0xf, 0xf, false>(o, v));   // quad_perm:[3,2,1,0]
  put(move<0x93, 0xf, 0xf, false>(o, v));   // quad_perm:[3,0,1,2]
  put(move<0x101, 0xf, 0xf, false>(o, v));  // row_shl:1
  put(move<0x105, 0xf, 0xf, true>(o, v));   // row_shl:5, zeros enter
  put(move<0x111, 0xf, 0xf, false>(o, v));  // row_shr:1
  put(move<0x11f, 0xf, 0xf, true>(o, v));   // row_shr:15
  put(move<0x123, 0xf, 0xf, false>(o, v));  // row_ror:3
  put(move<0x130, 0xf, 0xf, false>(o, v));  // wave_shl:1
  put(move<0x134, 0xf, 0xf, false>(o, v));  // wave_rol:1
  put(move<0x138, 0xf, 0xf, true>(o, v));   // wave_shr:1
  put(move<0x13c, 0xf, 0xf, false>(o, v));  // wave_ror:1
  put(move<0x140, 0xf, 0xf, false>(o, v));  // row_mirror
  put(move<0x141, 0xf, 0xf, false>(o, v));  // row_half_mirror
  put(move<0x142, 0xa, 0xf, false>(o, v));  // row_bcast:15
  put(move<0x143, 0xc, 0xf, false>(o, v));  // row_bcast:31
  put(move<0x15a, 0xf, 0xf, false>(o, v));  // row_newbcast:10
  put(move<0x112, 0x5, 0xf, false>(o, v));  // row_shr:2, rows 0 and 2
  put(move<0x1b, 0xf, 0x6, false>(o, v));   // quad_perm, banks 1 and 2
  put(move<0x121, 0x9, 0x3, true>(o, v));   // row_ror:1, both masks
  // Lanes that are off: they receive nothing and give nothing.
  int32_t shifted = -1, mirrored = -2;
  if (t % 5 != 2) {
    shifted = move<0x111, 0xf, 0xf, false>(o, v);
    mirrored = move<0x140, 0xf, 0xf, true>(o, v);
  }
  put(shifted);
  put(mirrored);
}

template <int control, int rows>
INLINE int32_t add_moved(int32_t v) {
  return v + move<control, rows, 0xf, false>(0, v);
}

KERNEL(64) wave_sums(const int32_t* x, int32_t* scanned, int32_t* totals) {
  const uint32_t i = group_x() * 64 + thread_x();
  int32_t v = x[i];
  v = add_moved<0x111, 0xf>(v);
  v = add_moved<0x112, 0xf>(v);
  v = add_moved<0x114, 0xf>(v);
  v = add_moved<0x118, 0xf>(v);
  v = add_moved<0x142, 0xa>(v);
  v = add_moved<0x143, 0xc>(v);
  scanned[i] = v;
  totals[group_x()] = __builtin_amdgcn_readlane(v, 63);
}
