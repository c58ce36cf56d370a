// Memory that costs nothing until it is touched, in huge pages where the kernel gives them.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

#include "simd.h"

namespace bark {

// A zeroed anonymous mapping. Huge pages matter for weights and caches that are streamed on every
// step: the hardware prefetcher stops at page borders.
class Region {
 public:
  Region() = default;
  explicit Region(size_t bytes) : bytes_(bytes) {
    if (bytes == 0) return;
    // Rounded up to whole huge pages, and over-mapped by one to start on a border.
    const size_t mapped = round_up(bytes, kHugePage) + kHugePage;
    void* raw = mmap(nullptr, mapped, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (raw == MAP_FAILED) throw std::bad_alloc();
    mapping_ = static_cast<uint8_t*>(raw);
    mapped_ = mapped;
    data_ = mapping_ + (kHugePage - reinterpret_cast<uintptr_t>(raw) % kHugePage) % kHugePage;
    if (bytes >= kHugePage) madvise(data_, round_up(bytes, kHugePage), MADV_HUGEPAGE);
  }
  Region(Region&& other) noexcept { swap(other); }
  Region& operator=(Region&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Region() {
    if (mapping_ != nullptr) munmap(mapping_, mapped_);
  }

  // Give the pages back; the region stays, and reads as zeros until it is written again.
  void discard() {
    if (mapping_ != nullptr) madvise(mapping_, mapped_, MADV_DONTNEED);
  }

  uint8_t* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;

  void swap(Region& other) {
    std::swap(mapping_, other.mapping_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(mapped_, other.mapped_);
  }

  uint8_t* mapping_ = nullptr;
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0;
  size_t mapped_ = 0;
};

// `count` items of T in a region of their own, with rows that start on cache lines.
template <class T>
class Rows {
 public:
  Rows() = default;
  // NOTE: one cache line of padding keeps rows of a power-of-two length out of the same cache sets.
  Rows(size_t num_rows, size_t columns)
      : stride_(round_up(columns, 64 / sizeof(T)) + 64 / sizeof(T)),
        region_(num_rows * stride_ * sizeof(T)) {}

  T* row(size_t index) const { return region_.template as<T>() + index * stride_; }
  size_t stride() const { return stride_; }

 private:
  size_t stride_ = 0;
  Region region_;
};

}  // namespace bark
