// What every kernel starts with. Compiled by NVRTC with device functions as the default, no contraction, IEEE division and square root,
// subnormals kept; behind it comes the device code of dltrain.h, whose macros E_... have one number here where the CPU has a vector.
typedef unsigned char uint8_t;
typedef unsigned int uint32_t;
typedef int int32_t;
typedef unsigned long long uint64_t;
typedef long long int64_t, dl_index;
typedef float dl_real;
#define DL__REAL_IS_FLOAT 1
#define HUGE_VAL __longlong_as_double(0x7ff0000000000000ll)
#define HUGE_VALF __int_as_float(0x7f800000)
#define FLT_MIN 1.17549435e-38f
#define FLT_MAX 3.40282347e+38f
#define DBL_MAX 1.7976931348623157e308
#define DBL_MIN 2.2250738585072014e-308
#define DL__K(name) dl__##name##_cuda
#define DL__NOINLINE
#define E_V float
#define E_I uint32_t
#define E_W 1
#define E_IN static __device__ __forceinline__
#define E_OUT static __device__ __noinline__
#define E_K(c) ((float)(c))
#define E_ADD(a, b) __fadd_rn(a, b)
#define E_SUB(a, b) __fsub_rn(a, b)
#define E_MUL(a, b) __fmul_rn(a, b)
#define E_DIV(a, b) __fdiv_rn(a, b)
#define E_NEG(a) (-(a))
#define E_ABS(a) fabsf(a)
#define E_FMA(a, b, c) __fmaf_rn(a, b, c)
#define E_SQRT(a) __fsqrt_rn(a)
#define E_LT(a, b) ((a) < (b))
#define E_LE(a, b) ((a) <= (b))
#define E_GT(a, b) ((a) > (b))
#define E_GE(a, b) ((a) >= (b))
#define E_EQ(a, b) ((a) == (b))
#define E_NE(a, b) ((a) != (b))
#define E_SEL(m, a, b) ((m) ? (a) : (b))
#define E_ONE(m) ((m) ? 1.0f : 0.0f)
#define E_BITS(a) __float_as_uint(a)
#define E_FROM(i) __uint_as_float(i)
#define E_IK(c) ((uint32_t)(c))
#define E_IADD(a, b) ((a) + (b))
#define E_ISUB(a, b) ((a) - (b))
#define E_SHL(a, n) ((a) << (n))
#define E_SAR(a, n) ((uint32_t)((int32_t)(a) >> (n)))
#define E_TOF(i) ((float)(int32_t)(i))
static __device__ float dl__nan() { return __int_as_float(0x7fc00000); }
#define dl__fma(a, b, c) __fmaf_rn(a, b, c)
#define sqrt(x) __dsqrt_rn(x)
