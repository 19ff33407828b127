// Rotation of the channels with scale and offset: the formulas stand in couplings/ops/matmul.py.
#pragma once
#include "product.h"
#include "view.h"

constexpr int64_t ROTATION_CHANNELS = 128, ROTATION_BLOCK = 64;

// With channels_last a row is a position, else a channel.
struct Rotation {
  int64_t samples, rows, columns, channels_last, inverse;
  View rotation, log_scale, offset;  // (C, C), (C,), (C,)
};

struct RotationForward {
  Rotation map;
  View x, y;
};

struct RotationBackward {
  Rotation map;
  View grad, z, grad_input, sums;  // sums: (B, 2, C), of g_z and g_z (z - o)
};

// Matrix of the product, transposed for the gradient; its rows are filled up to whole vectors.
template <class T> struct Folded {
  int64_t channels, width;
  T matrix[ROTATION_CHANNELS * ROTATION_CHANNELS] = {}, bias[ROTATION_CHANNELS] = {};

  // W = e^g R and o, or R^T e^-g and -W o. `transposed`: W^T and no bias.
  Folded(const Rotation& map, bool transposed) {
    channels = map.channels_last ? map.columns : map.rows;
    width = (channels + lanes<T> - 1) / lanes<T> * lanes<T>;
    double buffers[3][ROTATION_CHANNELS], sums[ROTATION_CHANNELS] = {};
    const Block all{0, 1, 0, channels};
    const double* log_scale = read(map.log_scale, 0, all, buffers[0]);
    const double* offset = read(map.offset, 0, all, buffers[1]);
    for (int64_t i = 0; i < channels; ++i) {
      const double scale = exponential(map.inverse ? -log_scale[i] : log_scale[i]);
      const double* row = read(map.rotation, 0, Block{i, 1, 0, channels}, buffers[2]);
      for (int64_t j = 0; j < channels; ++j) {
        // To channel i from channel j, or the other way round; channels-last rows multiply W^T.
        const bool by_rows = (map.inverse != 0) == (transposed != (map.channels_last != 0));
        matrix[by_rows ? i * width + j : j * width + i] = T(scale * row[j]);
        sums[j] -= scale * row[j] * offset[i];
      }
    }
    if (transposed) return;
    for (int64_t c = 0; c < channels; ++c) bias[c] = T(map.inverse ? sums[c] : offset[c]);
  }
};

// Rows of a matrix in place, if its numbers are adjacent ones of this type, or copied to `buffer`.
template <class T>
INLINE Matrix<const T> matrix_of(const View& view, int64_t sample, const Block& block, T* buffer) {
  if (view.dtype != dtype_of<T> || view.column != 1)
    return {read(view, sample, block, buffer), block.columns};
  const View start = view.at(sample * view.sample + block.row * view.row + block.column);
  return {reinterpret_cast<const T*>(start.data), view.row};
}

// Multiply one block; return its result, in place or in `buffer`, which `finish` takes there.
template <class T>
INLINE Matrix<T> multiplied(const Rotation& map, const Folded<T>& folded, Matrix<const T> x,
                            const View& y, int64_t sample, const Block& block, T* buffer) {
  const int64_t width = map.channels_last ? folded.width : block.columns;
  const bool direct = y.dtype == dtype_of<T> && y.column == 1 && width == block.columns;
  const View start = y.at(sample * y.sample + block.row * y.row + block.column * y.column);
  Matrix<T> out = direct ? Matrix<T>{reinterpret_cast<T*>(start.data), y.row} : Matrix<T>{buffer, width};
  const Matrix<const T> matrix{folded.matrix, folded.width};
  if (map.channels_last)
    product<T>(x, matrix, out, block.rows, width, folded.channels, nullptr, folded.bias);
  else
    product<T>(matrix, x, out, folded.channels, width, folded.channels, folded.bias, nullptr);
  if (!direct) write_rows(y, sample, block, out.data, out.row);
  return out;
}

// Blocks of positions. A block of fewer channels-first columns than a vector has begins earlier.
template <class F> INLINE void for_positions(const Rotation& map, int64_t least, F work) {
  const int64_t positions = map.channels_last ? map.rows : map.columns;
  for (int64_t p = 0; p < positions; p += ROTATION_BLOCK) {
    const int64_t stop = lesser(p + ROTATION_BLOCK, positions);
    const int64_t first = map.channels_last ? p : greater(lesser(p, stop - least), int64_t(0));
    work(map.channels_last ? Block{p, stop - p, 0, map.columns} : Block{0, map.rows, first, stop - first},
         p - first);
  }
}

template <class T> void rotate_forward(ParallelFor parallel_for, const RotationForward& f) {
  const Folded<T> folded(f.map, false);
  for_samples(parallel_for, f.map.samples, [&](int64_t b) {
    T x[ROTATION_CHANNELS * ROTATION_BLOCK], y[ROTATION_CHANNELS * ROTATION_BLOCK];
    for_positions(f.map, lanes<T>, [&](const Block& block, int64_t) {
      multiplied(f.map, folded, matrix_of(f.x, b, block, x), f.y, b, block, y);
    });
  });
}

// Add g and g (z - o) of each channel to the sums; `skip` columns have been added before.
template <class T>
INLINE void add_sums(const Rotation& map, const Block& block, int64_t skip, Matrix<const T> g,
                     Matrix<const T> z, const T* offset, T* sums, T* products) {
  for (int64_t r = 0; r < block.rows; ++r) {
    const T *gradient = g.data + r * g.row, *latent = z.data + r * z.row;
    if (map.channels_last) {
      for (int64_t c = 0; c < block.columns; ++c) {
        sums[c] += gradient[c];
        products[c] += gradient[c] * (latent[c] - offset[c]);
      }
    } else {
      T sum = 0, product = 0;
      const T shift = offset[r];
#pragma omp simd reduction(+ : sum, product)
      for (int64_t c = skip; c < block.columns; ++c) {
        sum += gradient[c];
        product += gradient[c] * (latent[c] - shift);
      }
      sums[r] += sum;
      products[r] += product;
    }
  }
}

template <class T> void rotate_backward(ParallelFor parallel_for, const RotationBackward& f) {
  const Folded<T> folded(f.map, true);
  T buffer[ROTATION_CHANNELS];
  const T* offset = read(f.map.offset, 0, Block{0, 1, 0, folded.channels}, buffer);
  for_samples(parallel_for, f.map.samples, [&](int64_t b) {
    constexpr int64_t size = ROTATION_CHANNELS * ROTATION_BLOCK;
    T buffers[3][size], sums[2][ROTATION_CHANNELS] = {};
    for_positions(f.map, lanes<T>, [&](const Block& block, int64_t skip) {
      const Matrix<const T> grad = matrix_of(f.grad, b, block, buffers[0]);
      const Matrix<const T> z = matrix_of(f.z, b, block, buffers[1]);
      const Matrix<T> grad_input = multiplied(f.map, folded, grad, f.grad_input, b, block, buffers[2]);
      const Matrix<const T> on_z = f.map.inverse ? Matrix<const T>{grad_input.data, grad_input.row} : grad;
      add_sums(f.map, block, skip, on_z, z, offset, sums[0], sums[1]);
    });
    for (int64_t k = 0; k < 2; ++k)
      write(f.sums, b, Block{k, 1, 0, folded.channels}, sums[k]);
  });
}
