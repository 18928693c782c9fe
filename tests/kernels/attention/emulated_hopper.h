// A Hopper streaming multiprocessor on a CPU, as far as flashmla_kernel.cu needs one: a thread is a thread, and
// barriers, TMA and wgmma act on plain memory. It stands in for the CUDA headers and for flashmla_ptx.cuh; the
// descriptors and their constants are cut out of that file and included as descriptors.inc.
#pragma once
#include <barrier>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#define __device__
#define __global__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define MLA_HOPPER 1

struct dim3 {
  unsigned x = 0, y = 0, z = 0;
};
struct float2 {
  float x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
using __nv_bfloat16 = uint16_t;
struct CUtensorMap {
  const uint16_t* data;
  int64_t rows;
};
using std::max;
using std::min;

namespace emulator {
struct Named {
  std::mutex mutex;
  std::condition_variable changed;
  int arrived = 0, generation = 0;
};
struct Phased {
  std::mutex mutex;
  std::condition_variable changed;
  int count = 0, pending = 0, phase = 0;
  int64_t bytes = 0;
  void settle() {
    if (pending == 0 && bytes == 0) phase ^= 1, pending = count, changed.notify_all();
  }
};
struct Warp {
  std::barrier<> meet{32};
  uint32_t values[32][4];
};
struct Block {
  Named named[16];
  Phased phased[64];
  std::vector<std::unique_ptr<Warp>> warps;
  std::barrier<> all{384};
};
alignas(1024) inline unsigned char shared[240 * 1024];
inline Block* block;
inline Phased& at(uint32_t barrier) { return block->phased[(barrier / 8) % 64]; }
inline float widen(uint16_t x) {
  uint32_t bits = uint32_t(x) << 16;
  float y;
  std::memcpy(&y, &bits, 4);
  return y;
}
inline uint16_t narrow(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}
// A number of shared memory as the tensor core reads it: bits 4 to 6 of the address crossed with bits 7 to 9.
inline float fetch(uint32_t address) {
  uint16_t x;
  std::memcpy(&x, shared + (address ^ (((address >> 7) & 7) << 4)), 2);
  return widen(x);
}
inline float k_major(uint64_t d, int row, int k) {
  return fetch(uint32_t(d & 0x3FFF) * 16 + row / 8 * uint32_t((d >> 32) & 0x3FFF) * 16 + row % 8 * 128 + 2 * k);
}
inline float mn_major(uint64_t d, int n, int k) {
  return fetch(uint32_t(d & 0x3FFF) * 16 + n / 64 * uint32_t((d >> 16) & 0x3FFF) * 16 +
               k / 8 * uint32_t((d >> 32) & 0x3FFF) * 16 + k % 8 * 128 + n % 64 * 2);
}
}  // namespace emulator

inline thread_local dim3 threadIdx, blockIdx;

inline emulator::Warp& warp() { return *emulator::block->warps[threadIdx.x / 32]; }
template <class T, class F>
auto exchange(T value, F read) {
  auto& w = warp();
  std::memcpy(w.values[threadIdx.x % 32], &value, sizeof value);
  w.meet.arrive_and_wait();
  auto result = read([&](int lane) {
    T other;
    std::memcpy(&other, w.values[lane], sizeof other);
    return other;
  });
  w.meet.arrive_and_wait();
  return result;
}
template <class T>
T __shfl_sync(unsigned, T v, int from) {
  return exchange(v, [&](auto of) { return of(from); });
}
template <class T>
T __shfl_up_sync(unsigned, T v, int by) {
  int lane = threadIdx.x % 32;
  return exchange(v, [&](auto of) { return of(lane >= by ? lane - by : lane); });
}
template <class T>
T __shfl_xor_sync(unsigned, T v, int mask) {
  return exchange(v, [&](auto of) { return of(int(threadIdx.x % 32) ^ mask); });
}
inline unsigned __ballot_sync(unsigned, bool v) {
  return exchange(int(v), [](auto of) {
    unsigned bits = 0;
    for (int i = 0; i < 32; ++i) bits |= unsigned(of(i)) << i;
    return bits;
  });
}
inline bool __all_sync(unsigned mask, bool v) { return __ballot_sync(mask, v) == 0xFFFFFFFFu; }
inline int __reduce_add_sync(unsigned, int v) {
  return exchange(v, [](auto of) {
    int sum = 0;
    for (int i = 0; i < 32; ++i) sum += of(i);
    return sum;
  });
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline void __syncwarp() { warp().meet.arrive_and_wait(); }
inline void __syncthreads() { emulator::block->all.arrive_and_wait(); }

namespace {
#include "descriptors.inc"

inline uint32_t shared_address(const void* at) {
  return uint32_t(static_cast<const unsigned char*>(at) - emulator::shared);
}
inline void barrier_init(uint32_t barrier, int count) {
  auto& b = emulator::at(barrier);
  b.count = b.pending = count;
}
inline void barriers_made() {}
inline void barrier_arrive(uint32_t barrier) {
  auto& b = emulator::at(barrier);
  std::lock_guard lock(b.mutex);
  --b.pending, b.settle();
}
inline void barrier_expect(uint32_t barrier, int bytes) {
  auto& b = emulator::at(barrier);
  std::lock_guard lock(b.mutex);
  b.bytes += bytes, --b.pending, b.settle();
}
inline void barrier_wait(uint32_t barrier, int parity) {
  auto& b = emulator::at(barrier);
  std::unique_lock lock(b.mutex);
  b.changed.wait(lock, [&] { return b.phase != parity; });
}
inline void named_reach(int id, int threads, bool wait) {
  auto& b = emulator::block->named[id];
  std::unique_lock lock(b.mutex);
  const int generation = b.generation;
  if (++b.arrived == threads) {
    b.arrived = 0, ++b.generation, b.changed.notify_all();
  } else if (wait) {
    b.changed.wait(lock, [&] { return b.generation != generation; });
  }
}
inline void named_sync(int id, int threads) { named_reach(id, threads, true); }
inline void named_arrive(int id, int threads) { named_reach(id, threads, false); }
inline void fence_async() {}
template <int N>
void fewer_registers() {}
template <int N>
void more_registers() {}
inline void load_tile(uint32_t to, const CUtensorMap* map, int column, int row, uint32_t barrier) {
  for (int r = 0; r < 64; ++r) {
    for (int piece = 0; piece < 8; ++piece) {
      unsigned char* at = emulator::shared + to + r * 128 + (piece ^ (r & 7)) * 16;
      if (row + r < map->rows) {
        std::memcpy(at, map->data + (int64_t(row) + r) * 576 + column + piece * 8, 16);
      } else {
        std::memset(at, 0, 16);
      }
    }
  }
  auto& b = emulator::at(barrier);
  std::lock_guard lock(b.mutex);
  b.bytes -= 64 * 128, b.settle();
}
inline void wgmma_fence() {}
inline void wgmma_commit() {}
inline void wgmma_wait() { __syncwarp(); }
template <int N>
void pin(float (&)[N]) {}
inline float exp2_fast(float x) { return exp2f(x); }
inline uint32_t pack(float low, float high) {
  return emulator::narrow(low) | uint32_t(emulator::narrow(high)) << 16;
}
template <int N, class A, class B>
void multiply(float (&d)[N], A a, B b, int accumulate) {
  const int lane = threadIdx.x % 32, row = 16 * (threadIdx.x % 128 / 32) + lane / 4;
  float left[2][16];
  for (int k = 0; k < 16; ++k) left[0][k] = a(row, k), left[1][k] = a(row + 8, k);
  for (int j = 0; j < N / 4; ++j) {
    for (int i = 0; i < 4; ++i) {
      float sum = accumulate ? d[4 * j + i] : 0.0f;
      for (int k = 0; k < 16; ++k) sum += left[i / 2][k] * b(8 * j + 2 * (lane % 4) + i % 2, k);
      d[4 * j + i] = sum;
    }
  }
}
inline void multiply_qk(float (&d)[32], uint64_t a, uint64_t b, int accumulate) {
  multiply(d, [&](int r, int k) { return emulator::k_major(a, r, k); },
           [&](int n, int k) { return emulator::k_major(b, n, k); }, accumulate);
}
inline void multiply_pv_shared(float (&d)[128], uint64_t a, uint64_t b, int accumulate) {
  multiply(d, [&](int r, int k) { return emulator::k_major(a, r, k); },
           [&](int n, int k) { return emulator::mn_major(b, n, k); }, accumulate);
}
// Registers of fragment A: 0 and 2 are of row r, 1 and 3 of r + 8; 0 and 1 of k < 8; lanes have two k each.
inline void multiply_pv_registers(float (&d)[128], const uint32_t (&a)[4], uint64_t b, int accumulate) {
  struct Four {
    uint32_t of[4];
  } mine{{a[0], a[1], a[2], a[3]}};
  const int quad = threadIdx.x % 32 / 4;
  float rows[2][16];
  exchange(mine, [&](auto of) {
    for (int half = 0; half < 2; ++half) {
      for (int k = 0; k < 16; ++k) {
        const uint32_t both = of(4 * quad + k % 8 / 2).of[half + 2 * (k / 8)];
        rows[half][k] = emulator::widen(uint16_t(k % 2 ? both >> 16 : both));
      }
    }
    return 0;
  });
  const int first = 16 * (threadIdx.x % 128 / 32) + quad;
  multiply(d, [&](int r, int k) { return rows[r != first][k]; },
           [&](int n, int k) { return emulator::mn_major(b, n, k); }, accumulate);
}
}  // namespace
