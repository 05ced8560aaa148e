// AMD CDNA, gfx942 and gfx950: one instruction, or a short fixed sequence, a function. See the parts.
#pragma once
#include <aiterlite/isa/amdgcn_buffer.h>
#include <aiterlite/isa/amdgcn_convert.h>
#include <aiterlite/isa/amdgcn_core.h>
#include <aiterlite/isa/amdgcn_lanes.h>
#include <aiterlite/isa/amdgcn_lds.h>
#include <aiterlite/isa/amdgcn_match.h>
#include <aiterlite/isa/amdgcn_matrix.h>
#include <aiterlite/isa/amdgcn_matrix_32x32.h>
#include <aiterlite/isa/amdgcn_matrix_f8f6f4.h>
#include <aiterlite/isa/amdgcn_memory.h>
