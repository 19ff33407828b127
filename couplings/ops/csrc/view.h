// Tensors as the kernels see them: samples of `outer` rows of `inner` numbers, with any strides.
#pragma once
#include <cstdint>
#include <cstring>

#include "math.h"

// Of torch's stable C ABI: runs work(begin, end, context) on parts of a range in torch's threads.
using Work = void (*)(int64_t, int64_t, void*);
using ParallelFor = int32_t (*)(int64_t, int64_t, int64_t, Work, void*);

enum Dtype : int64_t { float32, float64, bfloat16, int16 };

// Strides are in numbers. A view of one number per sample has outer = inner = 1.
struct View {
  char* data;
  int64_t dtype, sample, row, column;

  INLINE int64_t size() const { return dtype == float64 ? 8 : dtype == float32 ? 4 : 2; }
  INLINE View at(int64_t offset) const {
    View moved = *this;
    moved.data += offset * size();
    return moved;
  }
};

// Numbers of one sample to work on at a time: rows [row, row + rows), columns [column, + columns).
struct Block {
  int64_t row, rows, column, columns;
  INLINE int64_t count() const { return rows * columns; }
};

template <class T> constexpr int64_t dtype_of = sizeof(T) == 8 ? float64 : float32;

INLINE float widened(uint16_t x) { return __builtin_bit_cast(float, uint32_t(x) << 16); }
// Rounds to nearest, ties to even; NaN stays NaN.
INLINE uint16_t narrowed(float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  return x == x ? rounded : 0x7fc0;
}
template <class T, class S> INLINE T converted(S x) { return T(x); }
template <> INLINE float converted<float, uint16_t>(uint16_t x) { return widened(x); }
template <> INLINE double converted<double, uint16_t>(uint16_t x) { return widened(x); }
template <> INLINE uint16_t converted<uint16_t, float>(float x) { return narrowed(x); }
template <> INLINE uint16_t converted<uint16_t, double>(double x) { return narrowed(float(x)); }

// Rows of at most N numbers side by side, as narrow images with channels innermost have.
template <int N, class To, class From>
INLINE void copy_narrow(To* to, int64_t to_row, const From* from, int64_t from_row, int64_t rows,
                        int64_t columns) {
  if (columns == N)
    for (int64_t r = 0; r < rows; ++r)
#pragma GCC unroll 16
      for (int c = 0; c < N; ++c) to[r * to_row + c] = converted<To>(from[r * from_row + c]);
  else if constexpr (N > 1)
    copy_narrow<N - 1>(to, to_row, from, from_row, rows, columns);
}

template <class To, class From>
void copy_strided(To* __restrict to, int64_t to_row, int64_t to_column, const From* __restrict from,
                  int64_t from_row, int64_t from_column, int64_t rows, int64_t columns) {
  const bool adjacent = to_column == 1 && from_column == 1;
  if (adjacent && columns <= 12) return copy_narrow<12>(to, to_row, from, from_row, rows, columns);
  for (int64_t r = 0; r < rows; ++r) {
    To* out = to + r * to_row;
    const From* in = from + r * from_row;
    if (adjacent)
      for (int64_t c = 0; c < columns; ++c) out[c] = converted<To>(in[c]);
    else
      for (int64_t c = 0; c < columns; ++c) out[c * to_column] = converted<To>(in[c * from_column]);
  }
}

template <class T> INLINE bool is_dense(const View& view, const Block& block) {
  return view.dtype == dtype_of<T> && (view.column == 1 || block.columns == 1) &&
         (block.rows == 1 || view.row == block.columns);
}

// Return the block as dense numbers: those of the tensor itself, or converted ones in `buffer`.
template <class T> const T* read(const View& view, int64_t sample, const Block& block, T* buffer) {
  const View start = view.at(sample * view.sample + block.row * view.row + block.column * view.column);
  if (is_dense<T>(view, block)) return reinterpret_cast<const T*>(start.data);
  const auto copy = [&](auto* from) {
    copy_strided(buffer, block.columns, 1, from, view.row, view.column, block.rows, block.columns);
  };
  if (view.dtype == float32) copy(reinterpret_cast<const float*>(start.data));
  else if (view.dtype == float64) copy(reinterpret_cast<const double*>(start.data));
  else copy(reinterpret_cast<const uint16_t*>(start.data));
  return buffer;
}

// Return where to write the block's dense numbers; `write` takes them to the tensor.
template <class T> T* target(const View& view, int64_t sample, const Block& block, T* buffer) {
  const View start = view.at(sample * view.sample + block.row * view.row + block.column * view.column);
  return is_dense<T>(view, block) ? reinterpret_cast<T*>(start.data) : buffer;
}

// Write rows of numbers that lie `row` apart.
template <class T>
void write_rows(const View& view, int64_t sample, const Block& block, const T* values, int64_t row) {
  const View start = view.at(sample * view.sample + block.row * view.row + block.column * view.column);
  const auto copy = [&](auto* to) {
    copy_strided(to, view.row, view.column, values, row, 1, block.rows, block.columns);
  };
  if (view.dtype == float32) copy(reinterpret_cast<float*>(start.data));
  else if (view.dtype == float64) copy(reinterpret_cast<double*>(start.data));
  else if (view.dtype == int16) copy(reinterpret_cast<int16_t*>(start.data));
  else copy(reinterpret_cast<uint16_t*>(start.data));
}

template <class T> void write(const View& view, int64_t sample, const Block& block, const T* values) {
  if (values != target(view, sample, block, static_cast<T*>(nullptr)))
    write_rows(view, sample, block, values, block.columns);
}

// Call work(block) for blocks of at most `limit` numbers, which stay in the first cache.
template <class F> INLINE void for_blocks(int64_t rows, int64_t columns, int64_t limit, F work) {
  if (columns > limit / 2) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t c = 0; c < columns; c += limit) work(Block{r, 1, c, lesser(limit, columns - c)});
  } else {
    int64_t step = limit / greater(columns, int64_t(1));
    if (step > 16) step -= step % 16;  // whole vectors, whatever the number of columns
    for (int64_t r = 0; r < rows; r += step) work(Block{r, lesser(step, rows - r), 0, columns});
  }
}

// Copy a sample as it is, or through numbers of type T where the two types differ.
template <class T> INLINE void copy_sample(const View& from, const View& to, int64_t sample,
                                           int64_t rows, int64_t columns) {
  const View source = from.at(sample * from.sample), copy = to.at(sample * to.sample);
  const auto as_it_is = [&](auto* data) {
    copy_strided(data, to.row, to.column, reinterpret_cast<decltype(data)>(source.data), from.row,
                 from.column, rows, columns);
  };
  if (from.dtype == to.dtype && from.dtype == float32)
    return as_it_is(reinterpret_cast<float*>(copy.data));
  if (from.dtype == to.dtype && from.dtype == bfloat16)
    return as_it_is(reinterpret_cast<uint16_t*>(copy.data));
  T buffer[1024];
  for_blocks(rows, columns, 1024, [&](const Block& block) {
    write(to, sample, block, read(from, sample, block, buffer));
  });
}

// Run work(sample) for every sample, a few in each of torch's threads.
template <class F> void for_samples(ParallelFor parallel_for, int64_t samples, F work) {
  const auto part = [](int64_t begin, int64_t end, void* context) {
    for (int64_t sample = begin; sample < end; ++sample) (*static_cast<F*>(context))(sample);
  };
  parallel_for(0, samples, 1, part, &work);
}
