// Entry points of the CPU kernels, called through ctypes by couplings/ops/native.py.
//
// The library needs neither torch's headers nor its C++ ABI: tensors come as addresses and strides,
// threads from torch_parallel_for, a function of torch's stable C ABI. It is compiled once for each
// instruction set, as couplings/ops/native/build.py says.
#include "affine.h"
#include "spline.h"
#include "rotation.h"

#define KERNEL(name, Arguments)                                                           \
  extern "C" __attribute__((visibility("default"))) void name(                            \
      ParallelFor parallel_for, int64_t is_double, const Arguments* arguments) {          \
    is_double ? name<double>(parallel_for, *arguments) : name<float>(parallel_for, *arguments); \
  }

KERNEL(affine_forward, AffineForward)
KERNEL(affine_backward, AffineBackward)
KERNEL(spline_couple, SplineForward)
KERNEL(spline_couple_backward, SplineBackward)
KERNEL(rotate_forward, RotationForward)
KERNEL(rotate_backward, RotationBackward)

// Sources that this library was compiled from, so that a stale one is not called.
extern "C" __attribute__((visibility("default"))) const char* kernels_version() {
  return KERNELS_VERSION;
}
