// A reader of MessagePack that never leaves its buffer: values are taken one after the other, and skipped where they
// are of no interest. Source: the MessagePack specification.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string_view>

namespace aiterlite::emulator {

class Msgpack {
 public:
  Msgpack(const uint8_t* data, size_t size) : p_(data), end_(data + size) {}

  // Each returns false, and leaves the reader failed, when the next value is of another type or is cut off.
  bool map(uint32_t* entries);
  bool array(uint32_t* elements);
  bool string(std::string_view* text);
  bool unsigned_int(uint64_t* value);  // a non-negative integer
  bool boolean(bool* value);
  bool skip();  // the next value, with all it contains

  bool failed() const { return failed_; }
  bool at_end() const { return p_ == end_; }

 private:
  bool fail();
  bool header(uint8_t* type);
  bool length(int bytes, uint64_t* value);
  bool bytes(uint64_t count);

  const uint8_t* p_;
  const uint8_t* end_;
  bool failed_ = false;
};

}  // namespace aiterlite::emulator
