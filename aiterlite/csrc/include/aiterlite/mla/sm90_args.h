// Arguments of sm_90's MLA kernels that take KV by the copy engine's boxes (mla/sm90_boxes.h).
#pragma once
#include <aiterlite/mla/args.h>
#include <aiterlite/tensor_map.h>

// The map of kv_buffer stands before what every kernel has.
struct aiterlite_sm90_mla_args {
  aiterlite_tensor_map kv_map;
  struct aiterlite_mla_decode_args decode;
};
