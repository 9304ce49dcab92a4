// Planted bugs: each kernel has one. selftest.c says what must be reported for each.
typedef unsigned int u32;
#define GLOBAL extern "C" __global__ void
#define T 16

#define GEMM(name, first, second) \
    GLOBAL name(float *c, const float *a, const float *b, int n) \
    { \
        __shared__ float as[T][T + 1], bs[T][T]; \
        int row = blockIdx.y * T + threadIdx.y, column = blockIdx.x * T + threadIdx.x; \
        float s = 0; \
        for (int t = 0; t < n; t += T) { \
            as[threadIdx.y][threadIdx.x] = a[row * n + t + threadIdx.x]; \
            bs[threadIdx.y][threadIdx.x] = b[(t + threadIdx.y) * n + column]; \
            first; \
            for (int i = 0; i < T; i++) s = fmaf(as[threadIdx.y][i], bs[i][threadIdx.x], s); \
            second; \
        } \
        c[row * n + column] = s; \
    }
GEMM(gemm_no_first_barrier, , __syncthreads())
GEMM(gemm_no_second_barrier, __syncthreads(), )

GLOBAL read_beyond(float *y, const float *x, int n) { int i = threadIdx.x; if (i <= n) y[i == n ? 0 : i] = x[i] + 1; }
GLOBAL write_beyond(float *y, const float *x, int n) { int i = threadIdx.x; if (i <= n) y[i] = x[0]; }
GLOBAL shared_beyond(float *y, const float *x, int n)
{
    __shared__ float s[32];
    s[threadIdx.x + (threadIdx.x == 31 ? n - 31 : 0)] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[31 - threadIdx.x];
}
GLOBAL misaligned(float *y, const float *x, int n) { if (threadIdx.x == 2) *(float4 *)(y + 4) = *(const float4 *)(x + n % 31); }
GLOBAL shared_uninitialised(float *y, const float *x, int n)
{
    __shared__ float s[64];
    if (threadIdx.x < 31) s[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x];
}
GLOBAL global_uninitialised(float *y, const float *x, int n) { y[threadIdx.x] = y[threadIdx.x + 32] + x[0]; }
GLOBAL local_uninitialised(float *y, const float *x, int n)
{
    float l[16];
    for (int i = 0; i < n - 24; i++) l[(i * n + 3) & 15] = x[i];
    y[threadIdx.x] = l[threadIdx.x & 15];
}
GLOBAL blocks_write(float *y, const float *x, int n) { if (threadIdx.x == 0) y[0] = blockIdx.x + x[0]; }
GLOBAL blocks_no_fence(float *y, float *x, int n)
{
    __shared__ u32 last;
    x[blockIdx.x] = blockIdx.x;
    last = atomicAdd((u32 *)y, 1u);
    if (last == gridDim.x - 1) {
        float s = 0;
        for (int b = 0; b < gridDim.x; b++) s += ((volatile float *)x)[b] + x[b];
        y[1] = s;
    }
}
GLOBAL divergent_barrier(float *y, const float *x, int n)
{
    if (threadIdx.x < 16) asm volatile("bar.sync 0;" ::: "memory");
    else y[threadIdx.x] = x[threadIdx.x];
}
GLOBAL barrier_count(float *y, const float *x, int n)
{
    asm volatile("bar.sync 1, 96;" ::: "memory");
    y[threadIdx.x] = x[threadIdx.x];
}
GLOBAL shuffle_exited(float *y, const float *x, int n)
{
    if (threadIdx.x >= 20) return;
    y[threadIdx.x] = __shfl_sync(0xffffffffu, x[threadIdx.x], 1);
}
GLOBAL shuffle_from_outside(float *y, const float *x, int n)
{
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffu, x[threadIdx.x], 20);
}
GLOBAL shuffle_not_named(float *y, const float *x, int n)
{
    if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0x00ffu, x[threadIdx.x], 2);
}
GLOBAL no_syncwarp(float *y, const float *x, int n)
{
    __shared__ float s[32];
    s[threadIdx.x] = x[threadIdx.x];
    asm volatile("" ::: "memory");
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
GLOBAL hang(float *y, const float *x, int n) { while (((volatile float *)y)[1] != 77) { } }
GLOBAL traps(float *y, const float *x, int n) { if (threadIdx.x == 9) asm volatile("trap;"); }
GLOBAL constant_written(float *y, const float *x, int n)
{
    y[threadIdx.x] = x[0];
    __syncthreads();
    y[threadIdx.x] += __ldg(y + (threadIdx.x ^ 1));
}
GLOBAL atomic_and_plain(float *y, const float *x, int n)
{
    if (threadIdx.x == 0) atomicAdd(y, x[0]);
    else if (threadIdx.x == 40) y[1] = y[0];
}
GLOBAL null_pointer(float *y, const float *x, int n) { if (threadIdx.x == 3) *(float *)(size_t)(n - 31) = 1; }
GLOBAL good(float *y, const float *x, int n) { y[threadIdx.x] = x[threadIdx.x] + n; }
#if __CUDA_ARCH__ >= 800
GLOBAL copy_no_wait(float *y, const float *x, int n)
{
    __shared__ __align__(16) float s[128];
    asm volatile(
        "cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(s + threadIdx.x)), "l"(x + threadIdx.x));
    asm volatile("cp.async.commit_group;");
    __syncthreads();
    y[threadIdx.x] = s[threadIdx.x ^ 1];
}
GLOBAL copy_no_barrier(float *y, const float *x, int n)
{
    __shared__ __align__(16) float s[128];
    asm volatile(
        "cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(s + threadIdx.x)), "l"(x + threadIdx.x));
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[threadIdx.x] = s[(threadIdx.x + 33) & 63];
}
GLOBAL copy_wait_short(float *y, const float *x, int n) // two groups, of which one may be left: the second is read
{
    __shared__ __align__(16) float s[128];
    for (int k = 0; k < 2; k++) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(s + 64 * k + threadIdx.x)), "l"(x + threadIdx.x));
        asm volatile("cp.async.commit_group;");
    }
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    y[threadIdx.x] = s[64 + threadIdx.x];
}
GLOBAL copy_misaligned(float *y, const float *x, int n)
{
    __shared__ __align__(16) float s[256];
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(s + 4 * threadIdx.x)), "l"(x + 1), "r"(4));
    asm volatile("cp.async.wait_all;" ::: "memory");
    y[threadIdx.x] = s[4 * threadIdx.x];
}
#endif
