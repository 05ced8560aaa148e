#include <aiterlite/emulator/msgpack.h>

namespace aiterlite::emulator {

bool Msgpack::fail() {
  failed_ = true;
  return false;
}

bool Msgpack::header(uint8_t* type) {
  if (failed_ || p_ == end_) return fail();
  *type = *p_++;
  return true;
}

// A big-endian integer of 1, 2, 4 or 8 bytes.
bool Msgpack::length(int count, uint64_t* value) {
  if (end_ - p_ < count) return fail();
  uint64_t v = 0;
  for (int i = 0; i < count; ++i) v = v << 8 | *p_++;
  *value = v;
  return true;
}

bool Msgpack::bytes(uint64_t count) {
  if (static_cast<uint64_t>(end_ - p_) < count) return fail();
  p_ += count;
  return true;
}

bool Msgpack::map(uint32_t* entries) {
  uint8_t type;
  uint64_t n;
  if (!header(&type)) return false;
  if (type >> 4 == 0x8) {
    n = type & 0xf;
  } else if (type == 0xde || type == 0xdf) {
    if (!length(type == 0xde ? 2 : 4, &n)) return false;
  } else {
    return fail();
  }
  // Each entry takes two bytes at least: a larger count is a lie, and would make the caller loop for nothing.
  if (n > static_cast<uint64_t>(end_ - p_) / 2) return fail();
  *entries = static_cast<uint32_t>(n);
  return true;
}

bool Msgpack::array(uint32_t* elements) {
  uint8_t type;
  uint64_t n;
  if (!header(&type)) return false;
  if (type >> 4 == 0x9) {
    n = type & 0xf;
  } else if (type == 0xdc || type == 0xdd) {
    if (!length(type == 0xdc ? 2 : 4, &n)) return false;
  } else {
    return fail();
  }
  if (n > static_cast<uint64_t>(end_ - p_)) return fail();
  *elements = static_cast<uint32_t>(n);
  return true;
}

bool Msgpack::string(std::string_view* text) {
  uint8_t type;
  uint64_t n;
  if (!header(&type)) return false;
  if (type >> 5 == 0x5) {
    n = type & 0x1f;
  } else if (type >= 0xd9 && type <= 0xdb) {
    if (!length(1 << (type - 0xd9), &n)) return false;
  } else {
    return fail();
  }
  const uint8_t* start = p_;
  if (!bytes(n)) return false;
  *text = std::string_view(reinterpret_cast<const char*>(start), n);
  return true;
}

bool Msgpack::unsigned_int(uint64_t* value) {
  uint8_t type;
  if (!header(&type)) return false;
  if (type < 0x80) {
    *value = type;
    return true;
  }
  if (type >= 0xcc && type <= 0xcf) return length(1 << (type - 0xcc), value);
  if (type >= 0xd0 && type <= 0xd3) {
    const int count = 1 << (type - 0xd0);
    return length(count, value) && (!(*value >> (8 * count - 1)) || fail());
  }
  return fail();
}

bool Msgpack::boolean(bool* value) {
  uint8_t type;
  if (!header(&type)) return false;
  if (type != 0xc2 && type != 0xc3) return fail();
  *value = type == 0xc3;
  return true;
}

bool Msgpack::skip() {
  // Counts what is still to be skipped instead of recursing, so that nesting cannot exhaust the stack.
  uint64_t pending = 1;
  while (pending > 0) {
    uint8_t type;
    if (!header(&type)) return false;
    --pending;
    uint64_t n = 0;
    if (type < 0x80 || type >= 0xe0 || type == 0xc0 || type == 0xc2 || type == 0xc3) continue;
    if (type < 0x90) {
      pending += 2 * (type & 0xf);
    } else if (type < 0xa0) {
      pending += type & 0xf;
    } else if (type < 0xc0) {
      if (!bytes(type & 0x1f)) return false;
    } else if (type >= 0xc4 && type <= 0xc6) {  // binary
      if (!length(1 << (type - 0xc4), &n) || !bytes(n)) return false;
    } else if (type >= 0xc7 && type <= 0xc9) {  // extension: a type byte and data
      if (!length(1 << (type - 0xc7), &n) || !bytes(n + 1)) return false;
    } else if (type == 0xca || type == 0xcb) {  // floats
      if (!bytes(type == 0xca ? 4 : 8)) return false;
    } else if (type >= 0xcc && type <= 0xd3) {  // integers
      if (!bytes(uint64_t{1} << (type & 3))) return false;
    } else if (type >= 0xd4 && type <= 0xd8) {  // fixed-size extensions
      if (!bytes(1 + (uint64_t{1} << (type - 0xd4)))) return false;
    } else if (type >= 0xd9 && type <= 0xdb) {  // strings
      if (!length(1 << (type - 0xd9), &n) || !bytes(n)) return false;
    } else if (type >= 0xdc && type <= 0xdf) {  // arrays, maps
      if (!length(type & 1 ? 4 : 2, &n)) return false;
      pending += type >= 0xde ? 2 * n : n;
    } else {
      return fail();
    }
    if (pending > static_cast<uint64_t>(end_ - p_)) return fail();
  }
  return true;
}

}  // namespace aiterlite::emulator
