// The C interface to the loader, the decoder and the coverage report. Every call makes one text, which the caller gives
// back with aiterlite_emulator_free. The result is 0, or a LoadStatus or DecodeStatus with the text saying why.
#include <aiterlite/emulator/json.h>
#include <aiterlite/emulator/listing.h>

#include <cstdlib>
#include <cstring>
#include <iterator>

namespace aiterlite::emulator {
namespace {

constexpr int kOutOfMemory = 100;

int give(int status, const std::string& text, char** out, size_t* out_size) {
  *out_size = text.size();
  *out = static_cast<char*>(std::malloc(text.size() + 1));
  if (!*out) return kOutOfMemory;
  std::memcpy(*out, text.data(), text.size());
  (*out)[text.size()] = 0;
  return status;
}

const char* feature(FeatureMode mode) {
  constexpr const char* kNames[] = {"unsupported", "any", "off", "on"};
  return kNames[static_cast<int>(mode)];
}

void write_descriptor(JsonWriter& json, const KernelDescriptor& d) {
  json.key("descriptor").open('{');
  json.field("group_segment_size", d.group_segment_size).field("private_segment_size", d.private_segment_size);
  json.field("kernarg_size", d.kernarg_size).field("entry", d.entry);
  json.field("rsrc1", d.rsrc1).field("rsrc2", d.rsrc2).field("rsrc3", d.rsrc3);
  json.field("properties", static_cast<uint32_t>(d.properties));
  json.field("vgprs", d.vgprs).field("accum_offset", d.accum_offset).field("sgprs", d.sgprs);
  json.field("round_mode_32", int{d.round_mode_32}).field("round_mode_16_64", int{d.round_mode_16_64});
  json.field("denorm_mode_32", int{d.denorm_mode_32}).field("denorm_mode_16_64", int{d.denorm_mode_16_64});
  json.field("dx10_clamp", d.dx10_clamp).field("ieee_mode", d.ieee_mode).field("fp16_overflow", d.fp16_overflow);
  json.field("tg_split", d.tg_split).field("user_sgprs", d.user_sgprs);
  json.field("sgpr_private_segment_buffer", int{d.sgpr_private_segment_buffer});
  json.field("sgpr_dispatch_ptr", int{d.sgpr_dispatch_ptr}).field("sgpr_queue_ptr", int{d.sgpr_queue_ptr});
  json.field("sgpr_kernarg_ptr", int{d.sgpr_kernarg_ptr}).field("sgpr_dispatch_id", int{d.sgpr_dispatch_id});
  json.field("sgpr_flat_scratch_init", int{d.sgpr_flat_scratch_init});
  json.field("sgpr_private_segment_size", int{d.sgpr_private_segment_size});
  json.field("kernarg_preload_length", int{d.kernarg_preload_length});
  json.field("kernarg_preload_offset", int{d.kernarg_preload_offset}).field("sgpr_preload", int{d.sgpr_preload});
  json.field("workgroup_id_x", d.workgroup_id_x).field("workgroup_id_y", d.workgroup_id_y);
  json.field("workgroup_id_z", d.workgroup_id_z).field("workgroup_info", d.workgroup_info);
  json.field("scratch_enabled", d.scratch_enabled).field("workitem_id", int{d.workitem_id});
  json.field("uses_dynamic_stack", d.uses_dynamic_stack);
  json.close('}');
}

void write_kernel(JsonWriter& json, const Kernel& k) {
  json.open('{').field("name", k.name).field("code_size", k.code_size);
  write_descriptor(json, k.descriptor);
  json.field("has_metadata", k.has_metadata).field("kernarg_bytes", k.kernarg_bytes());
  if (k.has_metadata) {
    json.field("kernarg_segment_size", k.kernarg_segment_size).field("kernarg_segment_align", k.kernarg_segment_align);
    json.field("max_flat_workgroup_size", k.max_flat_workgroup_size).field("wavefront_size", k.wavefront_size);
    json.key("reqd_workgroup_size").open('[');
    for (const uint32_t n : k.reqd_workgroup_size) json.value(n);
    json.close(']');
    json.field("sgpr_count", k.sgpr_count).field("vgpr_count", k.vgpr_count).field("agpr_count", k.agpr_count);
    json.field("sgpr_spill_count", k.sgpr_spill_count).field("vgpr_spill_count", k.vgpr_spill_count);
    json.field("uniform_work_group_size", k.uniform_work_group_size);
    json.field("uses_dynamic_stack", k.uses_dynamic_stack);
    json.key("args").open('[');
    for (const KernelArg& a : k.args) {
      json.open('{').field("name", a.name).field("offset", a.offset).field("size", a.size);
      json.field("value_kind", a.value_kind).field("address_space", a.address_space).field("hidden", a.hidden());
      json.close('}');
    }
    json.close(']');
  }
  json.close('}');
}

std::string describe_object(const CodeObject& object) {
  JsonWriter json;
  json.open('{').field("arch", name(object.arch)).field("target", object.target);
  json.field("abi_version", int{object.abi_version});
  json.field("xnack", feature(object.xnack)).field("sramecc", feature(object.sramecc));
  json.field("image_size", object.image_size).field("code_base", object.code_base());
  json.field("relocations", static_cast<uint64_t>(object.relocations.size()));
  json.key("kernels").open('[');
  for (const Kernel& k : object.kernels) write_kernel(json, k);
  json.close(']').close('}');
  return json.text();
}

std::string describe_coverage(const CodeObject& object, const uint8_t* data) {
  JsonWriter json;
  json.open('{').field("arch", name(object.arch)).field("code_base", object.code_base()).key("functions").open('[');
  for (const FunctionCoverage& f : cover_object(object, data)) {
    json.open('{').field("name", f.name).field("kernel", f.kernel).field("instructions", f.instructions);
    json.key("forms").open('[');
    for (const FormUse& use : f.forms) {
      json.open('{').field("op", name(use.first.op)).field("encoding", form(use.first)).field("count", use.count);
      json.field("first_pc", use.first_pc).field("example", disassemble(object.arch, use.first));
      json.key("code").open('[');
      for (int i = 0; i < use.first.num_dwords; ++i) json.value(use.first.raw[i]);
      json.close(']').close('}');
    }
    json.close(']').key("unknown").open('[');
    for (const UnknownCode& u : f.unknown) json.open('{').field("pc", u.pc).field("reason", u.reason).close('}');
    json.close(']').close('}');
  }
  json.close(']').close('}');
  return json.text();
}

void write_operand(JsonWriter& json, const Operand& op) {
  constexpr const char* kKinds[] = {"none", "sgpr", "vgpr", "agpr", "special", "inline_int", "inline_float", "literal"};
  json.open('{').field("kind", kKinds[static_cast<int>(op.kind)]).field("index", int{op.index});
  json.field("dwords", int{op.dwords}).field("value", op.value).close('}');
}

std::string explain(const Inst& inst) {
  JsonWriter json;
  json.open('{').field("op", name(inst.op)).field("encoding", form(inst)).field("size", int{inst.size});
  const auto operands = [&](const char* key, const Operand* first, size_t count) {
    json.key(key).open('[');
    for (size_t i = 0; i < count; ++i) write_operand(json, first[i]);
    json.close(']');
  };
  operands("dst", inst.dst, std::size(inst.dst));
  operands("src", inst.src, std::size(inst.src));
  operands("scale", inst.scale, std::size(inst.scale));
  json.field("abs", int{inst.abs}).field("neg", int{inst.neg}).field("op_sel", int{inst.op_sel});
  json.field("op_sel_hi", int{inst.op_sel_hi}).field("neg_lo", int{inst.neg_lo}).field("neg_hi", int{inst.neg_hi});
  json.field("clamp", inst.clamp).field("omod", int{inst.omod}).field("bitop", int{inst.bitop});
  json.key("dpp").open('{').field("present", inst.dpp.present).field("ctrl", int{inst.dpp.ctrl});
  json.field("row_mask", int{inst.dpp.row_mask}).field("bank_mask", int{inst.dpp.bank_mask});
  json.field("bound_ctrl", inst.dpp.bound_ctrl).close('}');
  json.key("sdwa").open('{').field("present", inst.sdwa.present);
  json.field("dst_sel", static_cast<int>(inst.sdwa.dst_sel));
  json.field("dst_unused", static_cast<int>(inst.sdwa.dst_unused));
  json.field("src0_sel", static_cast<int>(inst.sdwa.src_sel[0]));
  json.field("src1_sel", static_cast<int>(inst.sdwa.src_sel[1])).field("sext", int{inst.sdwa.sext}).close('}');
  json.field("cbsz", int{inst.cbsz}).field("abid", int{inst.abid}).field("blgp", int{inst.blgp});
  json.field("offset", int{inst.offset}).field("offset0", int{inst.offset0}).field("offset1", int{inst.offset1});
  json.field("gds", inst.gds).field("sc0", inst.sc0).field("sc1", inst.sc1).field("nt", inst.nt);
  json.field("lds", inst.lds).field("offen", inst.offen).field("idxen", inst.idxen);
  json.field("dfmt", int{inst.dfmt}).field("nfmt", int{inst.nfmt}).field("simm16", int{inst.simm16});
  json.close('}');
  return json.text();
}

template <typename Write>
int with_object(const uint8_t* data, size_t size, char** out, size_t* out_size, Write write) {
  CodeObject object;
  const LoadResult r = load_code_object(data, size, &object);
  if (!r) return give(static_cast<int>(r.status), r.message, out, out_size);
  return give(0, write(object), out, out_size);
}

}  // namespace
}  // namespace aiterlite::emulator

using namespace aiterlite::emulator;

#pragma GCC visibility push(default)

extern "C" {

void aiterlite_emulator_free(char* text) { std::free(text); }

// JSON: target, features, kernels with descriptor and metadata.
int aiterlite_emulator_describe(const uint8_t* data, size_t size, char** out, size_t* out_size) {
  return with_object(data, size, out, out_size, [](const CodeObject& object) { return describe_object(object); });
}

// The listing of every function.
int aiterlite_emulator_disassemble(const uint8_t* data, size_t size, char** out, size_t* out_size) {
  return with_object(data, size, out, out_size, [data](const CodeObject& object) { return list_object(object, data); });
}

// JSON: for each function the instruction forms it uses, with counts, and what cannot be decoded.
int aiterlite_emulator_coverage(const uint8_t* data, size_t size, char** out, size_t* out_size) {
  return with_object(data, size, out, out_size,
                     [data](const CodeObject& object) { return describe_coverage(object, data); });
}

// One instruction of raw code; arch is 0 for gfx942, 1 for gfx950. *consumed is its size in bytes.
int aiterlite_emulator_disassemble_one(int arch, const uint8_t* data, size_t size, char** out, size_t* out_size,
                                       size_t* consumed, const char** encoding, const char** op) {
  const Arch target = arch == 0 ? Arch::gfx942 : Arch::gfx950;
  Inst inst;
  const Decoded d = decode(target, data, size, &inst);
  *consumed = d.size;
  *encoding = name(d.format);
  *op = d ? name(inst.op) : "";
  return give(static_cast<int>(d.status), d ? disassemble(target, inst) : describe(target, d), out, out_size);
}

// JSON: everything that was decoded of one instruction.
int aiterlite_emulator_explain_one(int arch, const uint8_t* data, size_t size, char** out, size_t* out_size) {
  const Arch target = arch == 0 ? Arch::gfx942 : Arch::gfx950;
  Inst inst;
  const Decoded d = decode(target, data, size, &inst);
  return give(static_cast<int>(d.status), d ? explain(inst) : describe(target, d), out, out_size);
}

// The mnemonics that the decoder knows, one a line.
int aiterlite_emulator_mnemonics(char** out, size_t* out_size) {
  std::string text;
  for (int i = 0; i < kNumOps; ++i) text += std::string(name(static_cast<Op>(i))) + '\n';
  return give(0, text, out, out_size);
}

}  // extern "C"

#pragma GCC visibility pop
