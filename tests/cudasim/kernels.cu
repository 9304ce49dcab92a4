// Kernels that are right. selftest.c runs them for every architecture and compares with plain C.
typedef unsigned int u32;
#define GLOBAL extern "C" __global__ void

GLOBAL axpy(float *y, const float *x, float a, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = fmaf(a, x[i], y[i]);
}

GLOBAL axpy4(float4 *y, const float4 *__restrict__ x, float a, size_t n)
{
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        float4 v = x[i], w = y[i];
        w.x += a * v.x; w.y -= a * v.y; w.z /= v.z; w.w = sqrtf(v.w);
        y[i] = w;
    }
}

GLOBAL sum(float *out, const float *x, int n)   // one block
{
    __shared__ float parts[32];
    float s = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x) s += x[i];
    for (int d = 16; d; d >>= 1) s += __shfl_xor_sync(0xffffffffu, s, d);
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x >> 5] = s;
    __syncthreads();
    if (threadIdx.x < 32) {
        s = threadIdx.x < blockDim.x / 32 ? parts[threadIdx.x] : 0;
        for (int d = 16; d; d >>= 1) s += __shfl_down_sync(0xffffffffu, s, d);
        if (threadIdx.x == 0) *out = s;
    }
}

__device__ u32 arrived;
GLOBAL sum_blocks(float *out, float *parts, const float *x, int n)  // the last block to arrive adds the parts in order
{
    __shared__ float all[128];
    __shared__ bool last;
    float s = 0;
    for (int i = blockIdx.x * 128 + threadIdx.x; i < n; i += gridDim.x * 128) s += x[i];
    all[threadIdx.x] = s;
    for (int d = 64; d; d >>= 1) { __syncthreads(); if (threadIdx.x < d) all[threadIdx.x] += all[threadIdx.x + d]; }
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = all[0];
        __threadfence();
        last = atomicAdd(&arrived, 1u) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();
    if (last && threadIdx.x == 0) {
        s = 0;
        for (int b = 0; b < gridDim.x; b++) s += parts[b];
        *out = s;
        arrived = 0;
    }
}

#define T 16
GLOBAL gemm(float *c, const float *a, const float *b, int m, int n, int k)
{
    __shared__ float as[T][T + 1], bs[T][T];
    int row = blockIdx.y * T + threadIdx.y, column = blockIdx.x * T + threadIdx.x;
    float s = 0;
    for (int t = 0; t < k; t += T) {
        as[threadIdx.y][threadIdx.x] = row < m && t + threadIdx.x < k ? a[row * k + t + threadIdx.x] : 0.f;
        bs[threadIdx.y][threadIdx.x] = column < n && t + threadIdx.y < k ? b[(t + threadIdx.y) * n + column] : 0.f;
        __syncthreads();
        for (int i = 0; i < T; i++) s = fmaf(as[threadIdx.y][i], bs[i][threadIdx.x], s);
        __syncthreads();
    }
    if (row < m && column < n) c[row * n + column] = s;
}

GLOBAL philox(u32 *out, u32 k0, u32 k1, int n)
{
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u32 c0 = i, c1 = 1, c2 = 2, c3 = 3;
    for (int r = 0; r < 10; r++) {
        u32 h0 = __umulhi(0xD2511F53u, c0), l0 = 0xD2511F53u * c0, h1 = __umulhi(0xCD9E8D57u, c2), l1 = 0xCD9E8D57u * c2;
        c0 = h1 ^ c1 ^ k0; c1 = l1; c2 = h0 ^ c3 ^ k1; c3 = l0;
        k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
    }
    out[4 * i] = c0; out[4 * i + 1] = c1; out[4 * i + 2] = c2; out[4 * i + 3] = c3;
}

GLOBAL softmax(float *y, const float *x, int n)  // one warp a row
{
    int row = blockIdx.x * blockDim.y + threadIdx.y;
    float top = __int_as_float(0xff800000), sum = 0;
    for (int i = threadIdx.x; i < n; i += 32) top = fmaxf(top, x[row * n + i]);
    for (int d = 16; d; d >>= 1) top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, d));
    for (int i = threadIdx.x; i < n; i += 32) sum += expf(x[row * n + i] - top);
    for (int d = 16; d; d >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, d);
    for (int i = threadIdx.x; i < n; i += 32) y[row * n + i] = expf(x[row * n + i] - top) / sum;
}

GLOBAL functions(float *o, const float *x, int n)
{
    int i = threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    o += i * 32;
    o[0] = expf(v);
    o[1] = logf(fabsf(v) + 1);
    o[2] = tanhf(v);
    o[3] = sinf(v);
    o[4] = cosf(v);
    o[5] = powf(fabsf(v), 1.3f);
    o[6] = erff(v);
    o[7] = 1 / sqrtf(v * v + 1);
    o[8] = floorf(v);
    o[9] = ceilf(v);
    o[10] = rintf(v);
    o[11] = truncf(v);
    o[12] = fminf(v, 1);
    o[13] = fmaxf(v, -1);
    o[14] = (float)(int)v;
    o[15] = (float)__float2uint_rn(v);
    o[16] = copysignf(1, v);
    o[17] = fmodf(v, 3);
    o[18] = isnan(v) ? 1 : 0;
    o[19] = __int_as_float(__float_as_int(v) ^ 0x80000000);
    o[20] = exp2f(v);
    o[21] = log2f(v * v + 1);
    o[22] = log1pf(v * v);
    o[23] = expm1f(v);
    o[24] = cbrtf(v);
    o[25] = ldexpf(v, 3);
    o[26] = v / 3;
    o[27] = __fadd_rz(v, 1.1f);
    o[28] = __fmul_rd(v, 1.1f);
    o[29] = __fadd_ru(v, 1.1f);
    o[30] = __saturatef(v); o[31] = (float)((double)v / 3 + sqrt(fabs((double)v)) + exp((double)v) + log(fabs((double)v) + 1));
}

GLOBAL approximations(float *o, const float *x, int n)
{
    int i = threadIdx.x;
    if (i >= n) return;
    float v = x[i];
    o += i * 8;
    o[0] = __expf(v);
    o[1] = __logf(v);
    o[2] = __sinf(v);
    o[3] = __cosf(v);
    o[4] = __fdividef(v, 3);
    o[5] = __powf(v, 2);
    o[6] = __frcp_rn(v);
    o[7] = rsqrtf(v);
}

GLOBAL integers(int *o, const int *x, const u32 *u, long long *l, unsigned long long *ul, int n)
{
    int i = threadIdx.x;
    if (i >= n) return;
    int v = x[i];
    u32 w = u[i];
    o += i * 32;
    o[0] = v / 7;
    o[1] = v % 7;
    o[2] = w / 7;
    o[3] = w % 13;
    o[4] = __popc(w);
    o[5] = __clz(w);
    o[6] = __ffs(w);
    o[7] = __brev(w);
    o[8] = abs(v);
    o[9] = min(v, 3);
    o[10] = max(v, 5);
    o[11] = v << 3;
    o[12] = v >> 2;
    o[13] = w >> 5;
    o[14] = __mulhi(v, v);
    o[15] = __byte_perm(v, w, 0x3214);
    o[16] = __funnelshift_l(v, w, 5);
    o[17] = __funnelshift_r(v, w, w);
    o[18] = v / (x[i + 1] | 1);
    o[19] = w / (u[i + 1] | 1);
    o[20] = v % (x[i + 1] | 1);
    o[21] = __dp4a(v, v, v);
    o[22] = (v ^ (int)w) & ~(v | 5);
    o[23] = v * 3 + 1;
    long long p = l[i];
    unsigned long long q = ul[i];
    l[i] = p / (v | 1) + p % 1000 + p * v + (p >> (v & 31)) + __mul64hi(p, v) + (p < 5 ? p : 5);
    ul[i] = q / (w | 1) + (q >> (w & 63)) + __umul64hi(q, w) + __popcll(q) + __clzll(q);
}

GLOBAL atomics(int *a, u32 *b, float *f, unsigned long long *l, double *d)
{
    __shared__ int s;
    int i = threadIdx.x;
    if (i == 0) s = 0;
    __syncthreads();
    atomicAdd(&s, 1);
    atomicAdd(a, i); atomicMax(a + 1, i); atomicMin(a + 2, i); atomicExch(a + 3, 7); atomicCAS(a + 4, 0, 9);
    atomicAnd(b, ~(1u << (i & 7)));
    atomicOr(b + 1, 1u << (i & 31));
    atomicXor(b + 2, i);
    atomicInc(b + 3, 5);
    atomicDec(b + 4, 5);
    atomicSub(b + 5, 1);
    atomicAdd(f, 1.f); atomicAdd(l, 1ull); atomicMax(l + 1, (unsigned long long)i); atomicAdd(d, 0.5);
    __syncthreads();
    if (i == 0) atomicAdd(a + 5, s);
}

GLOBAL votes(u32 *o, const int *x)
{
    int i = threadIdx.x;
    o += i * 16;
    o[0] = __ballot_sync(~0u, x[i] > 0); o[1] = __all_sync(~0u, x[i] > -1000); o[2] = __any_sync(~0u, x[i] > 1000);
    o[3] = __shfl_sync(~0u, i, 3);
    o[4] = __shfl_up_sync(~0u, i, 1, 8);
    o[5] = __shfl_down_sync(~0u, i, 2, 16);
    o[6] = __shfl_xor_sync(~0u, i, 5);
    o[7] = __syncthreads_count(x[i] > 0); o[8] = __syncthreads_or(x[i] > 1000); o[9] = __syncthreads_and(x[i] > -1000);
    if (i & 1) { __syncwarp(0xaaaaaaaau); o[10] = __shfl_sync(0xaaaaaaaau, i, 5); } else o[10] = __shfl_sync(0x55555555u, i, 4);
    __syncwarp();
    o[11] = __activemask();
}

GLOBAL bytes(unsigned char *o, const unsigned char *x, const signed char *s, const short *h, unsigned short *b, float *f, int n)
{
    int i = threadIdx.x;
    if (i >= n) return;
    o[i] = x[i] + s[i];
    f[i] = (float)x[i] / 255.f + h[i];
    u32 u = __float_as_uint(f[i]);
    b[i] = (unsigned short)((u + 0x7fff + (u >> 16 & 1)) >> 16);
    f[i] += __uint_as_float((u32)b[i] << 16);
}

GLOBAL reverse(float *o, int n)   // dynamic shared memory, and local memory with an index
{
    extern __shared__ float dynamic[];
    float mine[8];
    dynamic[threadIdx.x] = o[threadIdx.x];
    __syncthreads();
    o[threadIdx.x] = dynamic[n - 1 - threadIdx.x];
    for (int i = 0; i < 8; i++) mine[i] = dynamic[(threadIdx.x + i) % n];
    o[threadIdx.x] += mine[threadIdx.x & 7];
}

__constant__ float table[64] = { 1, 2, 3 };
__device__ float counted[64];
struct packed { float *a; const float *b; int n[4]; float s; };
__device__ __noinline__ float twice(float x, int y) { return y > 3 ? x * y + 1 : x; }
GLOBAL variables(float *o, packed p)
{
    int i = threadIdx.x;
    o[i] = table[i] + counted[i] + twice(p.b[i], i);
    counted[i] = i;
    if (i < p.n[i & 3]) p.a[i] = p.b[i] * p.s;
}

GLOBAL choose(float *o, const int *x)
{
    int i = threadIdx.x;
    switch (x[i]) {
    case 0: o[i] = 1; break;
    case 1: o[i] = 5 + o[i]; break;
    case 2: o[i] = sqrtf(o[i]); break;
    case 3: o[i] = 7; break;
    case 4: o[i] = o[i] * 3; break;
    case 5: for (int k = 0; k < i; k++) o[i] += k; break;
    default: o[i] = 0;
    }
}

#if __CUDA_ARCH__ >= 800
GLOBAL mma_tf32(float *c, const u32 *a, const u32 *b)
{
    int l = threadIdx.x;
    float d[4] = { 0, 0, 0, 0 };
    u32 r[6];
    for (int i = 0; i < 4; i++)
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[i]) : "f"(__uint_as_float(a[(l / 4 + 8 * (i & 1)) * 8 + l % 4 + 4 * (i >> 1)])));
    for (int i = 0; i < 2; i++)
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r[4 + i]) : "f"(__uint_as_float(b[(l % 4 + 4 * i) * 8 + l / 4])));
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(r[4]), "r"(r[5]));
    for (int i = 0; i < 4; i++) c[(l / 4 + 8 * (i >> 1)) * 8 + l % 4 * 2 + (i & 1)] = d[i];
}

GLOBAL mma_bf16(float *c, const unsigned short *a, const unsigned short *b) // a [16,16], b [16,8], through cp.async and ldmatrix
{
    __shared__ __align__(16) unsigned short as[16 * 16], bs[16 * 8];
    int l = threadIdx.x;
    u32 r[4], s[2];
    float d[4] = { 0, 0, 0, 0 };
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" :: "r"((u32)__cvta_generic_to_shared(as + l * 8)), "l"(a + l * 8));
    asm volatile(
        "cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"((u32)__cvta_generic_to_shared(bs + l * 4)), "l"(b + l * 4), "r"(8));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 0;");
    __syncthreads();
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
        : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"((u32)__cvta_generic_to_shared(as + l % 16 * 16 + l / 16 * 8)));
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(s[0]), "=r"(s[1])
                 : "r"((u32)__cvta_generic_to_shared(bs + l % 16 * 8)));
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]), "r"(s[0]), "r"(s[1]));
    for (int i = 0; i < 4; i++) c[(l / 4 + 8 * (i >> 1)) * 8 + l % 4 * 2 + (i & 1)] = d[i];
}

GLOBAL copy_groups(float *y, const float *x) // 12 of 16 bytes; the group before the last is there, then the last
{
    __shared__ __align__(16) float s[2][128];
    int l = threadIdx.x;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((u32)__cvta_generic_to_shared(s[0] + 4 * l)), "l"(x + 4 * l), "r"(12));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"((u32)__cvta_generic_to_shared(s[1] + l)), "l"(x + l));
    asm volatile("cp.async.commit_group;");
    asm volatile("cp.async.wait_group 1;" ::: "memory");
    __syncthreads();
    for (int k = 0; k < 4; k++) y[4 * l + k] = s[0][(4 * l + k + 37) % 128];
    asm volatile("cp.async.wait_group 0;" ::: "memory");
    __syncthreads();
    y[128 + l] = s[1][(l + 1) % 32];
}
#endif
