/* The gold values of test_ops.c in float: SIMD and portable kernels against PyTorch in double. */
#define OPS_FLOAT
#include "test_ops.c"
