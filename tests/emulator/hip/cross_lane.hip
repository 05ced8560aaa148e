// Values that travel between lanes by index: permutes through the LDS crossbar, readlane and writelane, votes.
//
// Rows of out, for 64 lanes: ds_bpermute (pull), ds_permute (push, a permutation), the same two with lanes off,
// ds_swizzle as quad permutation and as bit mask, readlane with a computed lane, readfirstlane of the lanes that are
// on, writelane, prefix counts of a vote, number of votes, and the first lane of each distinct value.
#include <device.h>

// v with lane 9 replaced. The compiler has no builtin for it.
INLINE int32_t write_lane_9(int32_t v, int32_t value) {
  // Nothing but these wait states keeps the vector ALU from reading the scalar that it wrote last.
  asm("s_nop 1\n\tv_writelane_b32 %0, %1, 9" : "+v"(v) : "s"(__builtin_amdgcn_readfirstlane(value)));
  return v;
}

KERNEL(64) cross_lane(const int32_t* x, const int32_t* index, int32_t* out) {
  const uint32_t t = thread_x();
  const uint32_t i = group_x() * 64 + t;
  const uint32_t n = grid_size_x();
  const int32_t v = x[i], at = index[i];
  int32_t* to = out + i;
  auto put = [&](int32_t value) {
    *to = value;
    to += n;
  };
  put(__builtin_amdgcn_ds_bpermute(at * 4, v));
  put(__builtin_amdgcn_ds_permute(at * 4, v));
  int32_t pulled = -1, first = -2;
  if (t % 3 != 1) {
    pulled = __builtin_amdgcn_ds_bpermute(at * 4, v);
    if (v > 0) first = __builtin_amdgcn_readfirstlane(v);
  }
  put(pulled);
  put(first);
  put(__builtin_amdgcn_ds_swizzle(v, 0x8000 | 0x4e));     // quads [2,3,0,1]
  put(__builtin_amdgcn_ds_swizzle(v, 0x1f | (1 << 10)));  // lane ^ 1
  put(__builtin_amdgcn_ds_swizzle(v, 0x07 | (9 << 5) | (4 << 10)));
  put(__builtin_amdgcn_readlane(v, __builtin_amdgcn_readfirstlane(at) & 63));
  const int32_t lane = __builtin_amdgcn_readlane(at, 5) & 63;
  put(static_cast<uint32_t>(lane) == t ? __builtin_amdgcn_readlane(v, 7) : v);
  const uint64_t votes = __builtin_amdgcn_ballot_w64(v > 100);
  put(static_cast<int32_t>(__builtin_amdgcn_mbcnt_hi(static_cast<uint32_t>(votes >> 32),
                                                     __builtin_amdgcn_mbcnt_lo(static_cast<uint32_t>(votes), 0))));
  put(__builtin_popcountll(votes));
  // A loop over the distinct values of the wave: each turn serves all lanes that hold the first lane's value.
  int32_t turns = 0, mine = -1;
  for (bool open = true; open;) {
    const int32_t value = __builtin_amdgcn_readfirstlane(at & 7);
    ++turns;
    if ((at & 7) == value) {
      mine = turns;
      open = false;
    }
  }
  put(mine);
  put(write_lane_9(v, __builtin_amdgcn_readlane(v, group_x() % 2 + 3)));
}
