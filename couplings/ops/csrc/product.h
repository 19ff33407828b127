// Products of small matrices, a tile of the result in registers.
#pragma once
#include <cstdint>

#include "math.h"

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64, TILE = 4;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32, TILE = 2;
#else
constexpr int VECTOR_BYTES = 16, TILE = 2;
#endif

template <class T> struct Vector {
  typedef T type __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(T)), may_alias));
};
template <class T> constexpr int64_t lanes = VECTOR_BYTES / sizeof(T);

// Matrix in rows, a number of numbers apart.
template <class T> struct Matrix {
  T* data;
  int64_t row;
  INLINE Matrix at(int64_t r, int64_t c) const { return {data + r * row + c, row}; }
};

// c[m, n] = row_bias[m] + column_bias[n] + sum_k a[m, k] b[k, n] for M rows, N vectors of columns.
template <class T, int M, int N>
INLINE void product_tile(Matrix<const T> a, Matrix<const T> b, Matrix<T> c, int64_t depth,
                         const T* row_bias, const T* column_bias) {
  using V = typename Vector<T>::type;
  const auto load = [](const T* from) { return *reinterpret_cast<const V*>(from); };
  V sums[M][N];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      sums[m][n] = V{};
      if (row_bias) sums[m][n] += row_bias[m];
      if (column_bias) sums[m][n] += load(column_bias + n * lanes<T>);
    }
  for (int64_t k = 0; k < depth; ++k) {
    V columns[N];
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) columns[n] = load(b.data + k * b.row + n * lanes<T>);
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const T factor = a.data[m * a.row + k];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sums[m][n] += columns[n] * factor;
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) *reinterpret_cast<V*>(c.data + m * c.row + n * lanes<T>) = sums[m][n];
}

// M rows, all columns: at least `lanes`. The last tile overlaps the one before it, whose numbers it
// writes again.
template <class T, int M>
INLINE void product_rows(Matrix<const T> a, Matrix<const T> b, Matrix<T> c, int64_t columns,
                         int64_t depth, const T* row_bias, const T* column_bias) {
  constexpr int64_t step = lanes<T>;
  int64_t n = 0;
  for (; n + TILE * step <= columns; n += TILE * step)
    product_tile<T, M, TILE>(a, b.at(0, n), c.at(0, n), depth, row_bias,
                             column_bias ? column_bias + n : nullptr);
  while (n < columns) {
    n = lesser(n, columns - step);
    product_tile<T, M, 1>(a, b.at(0, n), c.at(0, n), depth, row_bias,
                          column_bias ? column_bias + n : nullptr);
    n += step;
  }
}

// c = a b + biases, for (rows, depth) and (depth, columns).
template <class T>
void product(Matrix<const T> a, Matrix<const T> b, Matrix<T> c, int64_t rows, int64_t columns,
             int64_t depth, const T* row_bias, const T* column_bias) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4)
    product_rows<T, 4>(a.at(m, 0), b, c.at(m, 0), columns, depth, row_bias ? row_bias + m : nullptr,
                       column_bias);
  for (; m < rows; ++m)
    product_rows<T, 1>(a.at(m, 0), b, c.at(m, 0), columns, depth, row_bias ? row_bias + m : nullptr,
                       column_bias);
}
