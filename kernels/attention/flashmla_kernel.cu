// MLA decode for Hopper (sm_90a): bf16, pages of 64 tokens, any number of heads in groups of 64.
//
// A block of threads ("program") attends with 64 heads to one run of 64-token blocks; runs and parts are those
// of mla_kernels.py, and its combination joins the parts. Three warpgroups of 128 threads:
//   0, 1  consumers: each holds the output of 64 heads x 256 columns in registers (wgmma, fp32).
//   2     producer: one thread copies q and pages into shared memory (TMA), two pages in flight.
// Page t is scored by consumer t % 2, which writes the weights P and the row maxima to shared memory; then
// both multiply P with their half of the page's values. The other page loads meanwhile.
//
// Shared memory holds tiles of 64 rows x 64 numbers, 128 bytes a row, with 16-byte pieces swizzled by the row
// (SWIZZLE_128B): 9 tiles of q, 2 x 9 of pages, 1 of P. A page is loaded once: its 9 tiles are the keys
// (K-major operand of Q K^T), the first 8 the values (MN-major operand of P V).
//
// No torch here: flashmla.py builds this file into a library and calls `mla_decode_launch`.

#include <dlfcn.h>

#include "flashmla_ptx.cuh"

namespace {

constexpr int kHeads = 64;    // of a program: the rows of a wgmma
constexpr int kTokens = 64;   // of a block, which is a page
constexpr int kWidth = 576;   // numbers of a token: the key
constexpr int kValue = 512;   // the first of them are the value
constexpr int kChunks = kWidth / kChunk;
constexpr int kBlockBytes = kChunks * kTileBytes;
constexpr int kStages = 2;
constexpr int kHalf = kValue / 2;  // columns of the output that a consumer holds
constexpr int kThreads = 384;
constexpr int kConsumers = 256;
constexpr int kConsumerWarps = 8;
constexpr float kLn2 = 0.6931471805599453f;

// Offsets into shared memory, from a multiple of 1024 bytes on, which the swizzle needs.
constexpr int kQ = 0;
constexpr int kPages = kQ + kBlockBytes;
constexpr int kP = kPages + kStages * kBlockBytes;
constexpr int kTop = kP + kTileBytes;            // float[64]: row maxima
constexpr int kWeight = kTop + kHeads * 4;       // float[2][64]: row sums of each consumer
constexpr int kBarriers = kWeight + 2 * kHeads * 4;
constexpr int kSharedBytes = kBarriers + (2 + 2 * kStages) * 8 + 1024;  // 1024: to align the start
static_assert(kSharedBytes <= 232448, "more shared memory than a block of Hopper may have");

// Named barriers; 0 is __syncthreads.
constexpr int kReady = 1;      // + stage: P and maxima of a page are written
constexpr int kCleaned = 3;    // + consumer: its page's unused rows are 0
constexpr int kSummed = 5;     // row sums are written
constexpr int kSumsRead = 6;

struct Params {
  const int* table;
  const int* lengths;
  __nv_bfloat16* out;
  float* lse;  // may be null
  float* parts;
  float* part_lse;
  float scale;  // includes log2(e)
  int batch, heads, width, programs, least;
};

#ifdef MLA_HOPPER

__device__ __forceinline__ int tokens_of(const Params& p, int row) {
  return min(max(p.lengths[row], 0), p.width * kTokens);
}

__device__ __forceinline__ int blocks_of(int tokens) { return (tokens + kTokens - 1) / kTokens; }

// The run of a program: its first block and its end, counted over the batch; the request of the first block, and
// the first block of that request. Every warp finds it for itself.
struct Run {
  int at, end, row, base;
};

__device__ Run locate(const Params& p, int program) {
  const int lane = threadIdx.x & 31;
  int total = 0;
  for (int start = 0; start < p.batch; start += 32) {
    int count = start + lane < p.batch ? blocks_of(tokens_of(p, start + lane)) : 0;
    total += __reduce_add_sync(0xFFFFFFFFu, count);
  }
  const int length = max((total + p.programs - 1) / p.programs, p.least);
  Run run{program * length, min(program * length + length, total), 0, 0};
  int before = 0;
  for (int start = 0; start < p.batch; start += 32) {
    int sum = start + lane < p.batch ? blocks_of(tokens_of(p, start + lane)) : 0;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      int other = __shfl_up_sync(0xFFFFFFFFu, sum, step);
      if (lane >= step) sum += other;
    }
    const bool passed = start + lane < p.batch && before + sum <= run.at;
    const int rows = __popc(__ballot_sync(0xFFFFFFFFu, passed));  // passed requests come first
    const int last = __shfl_sync(0xFFFFFFFFu, sum, max(rows - 1, 0));
    run.row = start + rows;
    run.base = before + (rows ? last : 0);
    if (rows < 32) break;
    before = run.base;
  }
  return run;
}

// The part of a run that lies in one request.
struct Segment {
  int first, last, count, length;
};

__device__ __forceinline__ Segment segment_of(const Params& p, const Run& run) {
  const int length = tokens_of(p, run.row), count = blocks_of(length);
  return Segment{run.at - run.base, min(run.end - run.base, count), count, length};
}

__device__ __forceinline__ void advance(Run& run, const Segment& segment) {
  if (segment.count) run.at = run.base + segment.last;
  run.base += segment.count;
  run.row += 1;
}

struct Barriers {
  uint32_t start;
  __device__ __forceinline__ uint32_t q_full() const { return start; }
  __device__ __forceinline__ uint32_t q_empty() const { return start + 8; }
  __device__ __forceinline__ uint32_t full(int stage) const { return start + 16 + 8 * stage; }
  __device__ __forceinline__ uint32_t empty(int stage) const { return start + 16 + 8 * (kStages + stage); }
};

__device__ void produce(const Params& p, const CUtensorMap* q_map, const CUtensorMap* cache_map, Run run,
                        uint32_t shared, const Barriers& barriers) {
  const int group = blockIdx.x;
  int t = 0, segments = 0;
  while (run.at < run.end) {
    const Segment segment = segment_of(p, run);
    if (segment.count) {
      barrier_wait(barriers.q_empty(), (segments & 1) ^ 1);
      barrier_expect(barriers.q_full(), kBlockBytes);
      for (int c = 0; c < kChunks; ++c) {
        load_tile(shared + kQ + c * kTileBytes, q_map, c * kChunk, run.row * p.heads + group * kHeads,
                  barriers.q_full());
      }
      const int* pages = p.table + int64_t(run.row) * p.width;
      int page = pages[segment.first];
      for (int block = segment.first; block < segment.last; ++block, ++t) {
        const int stage = t & 1;
        const int next = block + 1 < segment.last ? pages[block + 1] : 0;
        barrier_wait(barriers.empty(stage), ((t >> 1) & 1) ^ 1);
        barrier_expect(barriers.full(stage), kBlockBytes);
        for (int c = 0; c < kChunks; ++c) {
          load_tile(shared + kPages + stage * kBlockBytes + c * kTileBytes, cache_map, c * kChunk, page * kTokens,
                    barriers.full(stage));
        }
        page = next;
      }
      ++segments;
    }
    advance(run, segment);
  }
}

// Weights of a page from its scores: P in registers as the operand of P V, and in shared memory for the other
// consumer. Row maxima and the thread's sums move on; returns the factors of what was summed before.
__device__ __forceinline__ float2 weigh(float (&s)[32], uint32_t (&weights)[4][4], float (&top)[2],
                                        float (&sum)[2], float scale, int left, int row, int lane,
                                        unsigned char* shared) {
  float most[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * j + 2 * (lane & 3) + (i & 1);
      s[4 * j + i] = token < left ? s[4 * j + i] * scale : -INFINITY;
      most[i >> 1] = fmaxf(most[i >> 1], s[4 * j + i]);
    }
  }
  float factor[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFu, most[half], 1));
    most[half] = fmaxf(most[half], __shfl_xor_sync(0xFFFFFFFFu, most[half], 2));
    most[half] = fmaxf(most[half], top[half]);
    factor[half] = exp2_fast(top[half] - most[half]);
    top[half] = most[half];
    sum[half] *= factor[half];
  }
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float low = exp2_fast(s[4 * j + 2 * half] - top[half]);
      const float high = exp2_fast(s[4 * j + 2 * half + 1] - top[half]);
      sum[half] += low + high;
      const uint32_t both = pack(low, high);
      weights[j >> 1][2 * (j & 1) + half] = both;
      const int at = row + 8 * half;
      const int piece = j ^ (at & 7);  // the swizzle
      *reinterpret_cast<uint32_t*>(shared + kP + at * kRowBytes + piece * 16 + (lane & 3) * 4) = both;
    }
  }
  if ((lane & 3) == 0) {
    float* tops = reinterpret_cast<float*>(shared + kTop);
    tops[row] = top[0];
    tops[row + 8] = top[1];
  }
  return make_float2(factor[0], factor[1]);
}

// What a page holds beyond the request may be anything, also NaN, which a weight of 0 would not hide.
__device__ __forceinline__ void clean(unsigned char* page, int left, int thread, int consumer) {
  const int rows = kTokens - left;
  for (int at = thread; at < rows * 8 * (kValue / kChunk); at += 128) {
    const int piece = at & 7, row = left + (at >> 3) % rows, chunk = (at >> 3) / rows;
    *reinterpret_cast<uint4*>(page + chunk * kTileBytes + row * kRowBytes + piece * 16) = make_uint4(0, 0, 0, 0);
  }
  fence_async();
  named_sync(kCleaned + consumer, 128);
}

__device__ __forceinline__ void rescale(float (&acc)[128], float2 factor) {
  // Maxima settle after a few pages: mostly there is nothing to do.
  if (__all_sync(0xFFFFFFFFu, factor.x == 1.0f && factor.y == 1.0f)) return;
#pragma unroll
  for (int j = 0; j < 32; ++j) {
    acc[4 * j] *= factor.x;
    acc[4 * j + 1] *= factor.x;
    acc[4 * j + 2] *= factor.y;
    acc[4 * j + 3] *= factor.y;
  }
}

// The output of a segment: to its place if it is the whole request, else as a part.
__device__ __forceinline__ void store(const Params& p, const float (&acc)[128], const float (&top)[2],
                                      const float (&total)[2], const Run& run, const Segment& segment, int row,
                                      int lane, int consumer) {
  const bool whole = segment.first == 0 && segment.last == segment.count;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int head = blockIdx.x * kHeads + row + 8 * half;
    if (head >= p.heads) continue;
    const int64_t here = int64_t(whole ? run.row : blockIdx.y + run.row) * p.heads + head;
    const int64_t at = here * kValue + consumer * kHalf + 2 * (lane & 3);
    const float inverse = 1.0f / total[half];
    if (whole) {
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        *reinterpret_cast<uint32_t*>(p.out + at + 8 * j) =
            pack(acc[4 * j + 2 * half] * inverse, acc[4 * j + 2 * half + 1] * inverse);
      }
    } else {
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        *reinterpret_cast<float2*>(p.parts + at + 8 * j) =
            make_float2(acc[4 * j + 2 * half] * inverse, acc[4 * j + 2 * half + 1] * inverse);
      }
    }
    if (consumer == 0 && (lane & 3) == 0) {
      const float sums = top[half] + log2f(total[half]);
      if (!whole) {
        p.part_lse[here] = sums;
      } else if (p.lse != nullptr) {
        p.lse[here] = sums * kLn2;
      }
    }
  }
}

__device__ void consume(const Params& p, Run run, unsigned char* memory, uint32_t shared,
                        const Barriers& barriers, int consumer) {
  const int thread = threadIdx.x & 127, lane = threadIdx.x & 31;
  const int row = 16 * (thread / 32) + lane / 4;  // and row + 8: of 64 heads
  float* tops = reinterpret_cast<float*>(memory + kTop);
  float* sums = reinterpret_cast<float*>(memory + kWeight);
  int t = 0, segments = 0;
  while (run.at < run.end) {
    const Segment segment = segment_of(p, run);
    if (segment.count) {
      float acc[128];
#pragma unroll
      for (int i = 0; i < 128; ++i) acc[i] = 0.0f;
      float top[2] = {-INFINITY, -INFINITY}, sum[2] = {0.0f, 0.0f};
      barrier_wait(barriers.q_full(), segments & 1);
      for (int block = segment.first; block < segment.last; ++block, ++t) {
        const int stage = t & 1;
        const uint32_t page = shared + kPages + stage * kBlockBytes;
        const uint32_t values = page + consumer * (kHalf / kChunk) * kTileBytes;
        barrier_wait(barriers.full(stage), (t >> 1) & 1);
        if (stage == consumer) {
          const int left = segment.length - block * kTokens;
          if (left < kTokens) clean(memory + kPages + stage * kBlockBytes, left, thread, consumer);
          float s[32];
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kWidth / 16; ++k) {
            const int offset = (k / 4) * kTileBytes + (k % 4) * kStepK;
            multiply_qk(s, k_major(shared + kQ + offset), k_major(page + offset), k > 0);
          }
          wgmma_commit();
          wgmma_wait();
          pin(s);
          uint32_t weights[4][4];
          const float2 factor = weigh(s, weights, top, sum, p.scale, left, row, lane, memory);
          fence_async();
          named_arrive(kReady + stage, kConsumers);
          rescale(acc, factor);
          pin(acc);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kTokens / 16; ++k) {
            multiply_pv_registers(acc, weights[k], mn_major(values + k * kStepRows), 1);
          }
          wgmma_commit();
        } else {
          named_sync(kReady + stage, kConsumers);
          const float now[2] = {tops[row], tops[row + 8]};
          const float2 factor = make_float2(exp2_fast(top[0] - now[0]), exp2_fast(top[1] - now[1]));
          top[0] = now[0], top[1] = now[1];
          sum[0] *= factor.x, sum[1] *= factor.y;
          rescale(acc, factor);
          pin(acc);
          wgmma_fence();
#pragma unroll
          for (int k = 0; k < kTokens / 16; ++k) {
            multiply_pv_shared(acc, k_major(shared + kP + k * kStepK), mn_major(values + k * kStepRows), 1);
          }
          wgmma_commit();
        }
        wgmma_wait();
        pin(acc);
        __syncwarp();
        if (lane == 0) barrier_arrive(barriers.empty(stage));
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(barriers.q_empty());
      ++segments;
      // Each consumer has summed the weights of its own pages.
      float total[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 1);
        sum[half] += __shfl_xor_sync(0xFFFFFFFFu, sum[half], 2);
        if ((lane & 3) == 0) sums[consumer * kHeads + row + 8 * half] = sum[half];
      }
      named_sync(kSummed, kConsumers);
      total[0] = sums[row] + sums[kHeads + row];
      total[1] = sums[row + 8] + sums[kHeads + row + 8];
      named_sync(kSumsRead, kConsumers);
      store(p, acc, top, total, run, segment, row, lane, consumer);
    }
    advance(run, segment);
  }
}

#endif  // MLA_HOPPER

__global__ void __launch_bounds__(kThreads, 1)
    mla_decode_kernel(const __grid_constant__ CUtensorMap q_map, const __grid_constant__ CUtensorMap cache_map,
                      const Params p) {
#ifdef MLA_HOPPER
  extern __shared__ unsigned char raw[];
  unsigned char* memory = raw + (1024 - (shared_address(raw) & 1023)) % 1024;
  const uint32_t shared = shared_address(memory);
  const Barriers barriers{shared + kBarriers};
  if (threadIdx.x == 0) {
    barrier_init(barriers.q_full(), 1);
    barrier_init(barriers.q_empty(), kConsumerWarps);
    for (int stage = 0; stage < kStages; ++stage) {
      barrier_init(barriers.full(stage), 1);
      barrier_init(barriers.empty(stage), kConsumerWarps);
    }
    barriers_made();
  }
  const Run run = locate(p, blockIdx.y);
  __syncthreads();
  const int role = threadIdx.x / 128;
  if (role == 2) {
    fewer_registers<40>();
    if (threadIdx.x == 256) produce(p, &q_map, &cache_map, run, shared, barriers);
  } else {
    more_registers<232>();
    consume(p, run, memory, shared, barriers, role);
  }
#else
  __trap();  // never launched: mla_decode_launch refuses other architectures
#endif
}

using Encode = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                            const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                            CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's function, without linking against the driver.
Encode find_encode() {
  void* driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_GLOBAL);
  return driver ? reinterpret_cast<Encode>(dlsym(driver, "cuTensorMapEncodeTiled")) : nullptr;
}

// A matrix of rows of 576 numbers, in boxes of 64 x 64; what lies beyond the last row is read as 0.
bool make_map(Encode encode, CUtensorMap* map, const void* data, uint64_t rows) {
  const cuuint64_t sizes[2] = {kWidth, rows};
  const cuuint64_t strides[1] = {kWidth * 2};
  const cuuint32_t box[2] = {kChunk, 64};
  const cuuint32_t steps[2] = {1, 1};
  return encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, strides, box, steps,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

// Results other than cudaError_t: see mla_decode_error.
enum { kWrongDevice = 100001, kNoDriver = 100002, kNoMap = 100003 };

extern "C" const char* mla_decode_error(int code) {
  switch (code) {
    case kWrongDevice:
      return "the kernel is for compute capability 9.0 (Hopper)";
    case kNoDriver:
      return "libcuda.so.1 has no cuTensorMapEncodeTiled";
    case kNoMap:
      return "cuTensorMapEncodeTiled refused q or cache: both must start at a multiple of 16 bytes";
    default:
      return cudaGetErrorString(static_cast<cudaError_t>(code));
  }
}

// Bytes of shared memory that a block takes, for tests of the library.
extern "C" int mla_decode_shared_bytes() { return kSharedBytes; }

// q [batch, heads, 576], cache [pages, 64, 576], table [batch, width], lengths [batch], out [batch, heads, 512],
// lse [batch, heads] or null, parts [programs + batch, heads, 512], part_lse [programs + batch, heads].
extern "C" int mla_decode_launch(const void* q, const void* cache, const int* table, const int* lengths, void* out,
                                 float* lse, float* parts, float* part_lse, float scale, int batch, int heads,
                                 int64_t pages, int width, int programs, int least, void* stream) {
  int device = 0, major = 0, minor = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error != cudaSuccess) return error;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  if (major != 9 || minor != 0) return kWrongDevice;
  static const Encode encode = find_encode();
  if (encode == nullptr) return kNoDriver;
  CUtensorMap q_map, cache_map;
  if (!make_map(encode, &q_map, q, uint64_t(batch) * heads) ||
      !make_map(encode, &cache_map, cache, uint64_t(pages) * kTokens)) {
    return kNoMap;
  }
  error = cudaFuncSetAttribute(mla_decode_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (error != cudaSuccess) return error;
  const Params params{table,    lengths, static_cast<__nv_bfloat16*>(out), lse,      parts, part_lse, scale, batch,
                      heads, width,   programs,                          least};
  const dim3 grid((heads + kHeads - 1) / kHeads, programs);
  mla_decode_kernel<<<grid, kThreads, kSharedBytes, static_cast<cudaStream_t>(stream)>>>(q_map, cache_map, params);
  return cudaGetLastError();
}
