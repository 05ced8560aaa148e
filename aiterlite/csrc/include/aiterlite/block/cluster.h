// Thread-block clusters of sm_90: workgroups that are resident together and reach into each other's shared memory:
// cluster_rank, cluster_barrier, address_in_rank and what loads, stores or adds there (isa/ptx_cluster.h), whole tiles
// in tile/sm90_copy.h, counted sums in block/mailbox.h. AMD has none: every function there says so where it is used.
//
// A kernel declares its cluster after AITERLITE_KERNEL: AITERLITE_CLUSTER_DIMS(size). No workgroup may end, nor be
// written to, before the others know: a cluster_barrier after the start, and one after the last access to another's
// memory.
#pragma once
#include <aiterlite/platform.h>

#define AITERLITE_CLUSTER_DIMS_PASTE(size) AITERLITE_CLUSTER_DIMS_##size
#define AITERLITE_CLUSTER_DIMS(size) AITERLITE_CLUSTER_DIMS_PASTE(size)
#define AITERLITE_CLUSTER_DIMS_1
#define AITERLITE_CLUSTER_DIMS_2 AITERLITE_CLUSTER_ATTRIBUTE(2)
#define AITERLITE_CLUSTER_DIMS_3 AITERLITE_CLUSTER_ATTRIBUTE(3)
#define AITERLITE_CLUSTER_DIMS_4 AITERLITE_CLUSTER_ATTRIBUTE(4)
#define AITERLITE_CLUSTER_DIMS_5 AITERLITE_CLUSTER_ATTRIBUTE(5)
#define AITERLITE_CLUSTER_DIMS_6 AITERLITE_CLUSTER_ATTRIBUTE(6)
#define AITERLITE_CLUSTER_DIMS_7 AITERLITE_CLUSTER_ATTRIBUTE(7)
#define AITERLITE_CLUSTER_DIMS_8 AITERLITE_CLUSTER_ATTRIBUTE(8)
#define AITERLITE_CLUSTER_DIMS_16 AITERLITE_CLUSTER_ATTRIBUTE(16)
