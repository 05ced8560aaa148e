// NVIDIA sm_80 and later: one instruction, or a short fixed sequence, a function. See the parts. What is marked sm_90
// assembles for sm_90a only.
#pragma once
#include <aiterlite/isa/ptx_cluster.h>
#include <aiterlite/isa/ptx_convert.h>
#include <aiterlite/isa/ptx_core.h>
#include <aiterlite/isa/ptx_lanes.h>
#include <aiterlite/isa/ptx_match.h>
#include <aiterlite/isa/ptx_matrix.h>
#include <aiterlite/isa/ptx_memory.h>
#include <aiterlite/isa/ptx_shared.h>
#include <aiterlite/isa/ptx_warpgroup.h>
