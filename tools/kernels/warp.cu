// Large matrix products, with the bits of matmul.cu: tiles of 128 x 128, 8 x 8 a thread. A warp computes 64 x 32, its threads read shared
// memory 128 bits at a time, all in one go; the next piece of 8 steps of k is on its way from global memory, 128 bits at a time where the
// operands are aligned, while this one is multiplied. Of more than one block of 256 steps the totals so far wait in w.partial
// [batch][m][n]: registers for them would spill.
enum { WIDE = 128, DEEP = 8 };
#define ROW_BY_ROW asm volatile("" ::: "memory") // or the compiler asks for all of a tile at once, and spills
struct Wide { float a[2][DEEP][WIDE + 4], b[2][DEEP][WIDE + 4]; };

// Which row and step of a piece a thread's four numbers begin at: of one row along k, or of four rows at one step
template <bool ALONG> static uint32_t wide_at_row() { return ALONG ? threadIdx.x / 2 : threadIdx.x % 32 * 4; }
template <bool ALONG> static uint32_t wide_at_k() { return ALONG ? threadIdx.x % 2 * 4 : threadIdx.x / 32; }

// Those four numbers, at p; `rows` and `steps` are left from there on
template <bool ALONG> static float4 wide_load(const float *p, int rows, int steps, bool aligned)
{
    float v[4] = { 0, 0, 0, 0 };
    int n = ALONG ? steps : rows;
    if (rows <= 0 || steps <= 0) n = 0;
    if (n >= 4 && aligned) return *(const float4 *)p;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (i < n) v[i] = p[i];
    return make_float4(v[0], v[1], v[2], v[3]);
}
template <bool ALONG> static void wide_store(float (*s)[WIDE + 4], float4 v)
{
    if (ALONG) {
        uint32_t row = wide_at_row<ALONG>(), k = wide_at_k<ALONG>();
        s[k][row] = v.x, s[k + 1][row] = v.y, s[k + 2][row] = v.z, s[k + 3][row] = v.w;
    } else *(float4 *)&s[wide_at_k<ALONG>()][wide_at_row<ALONG>()] = v;
}

// Number i of a thread's rows, j of its columns
static uint32_t wide_row(uint32_t row, int i) { return row + i / 4 * 32 + i % 4; }
static uint32_t wide_column(uint32_t column, int j) { return column + j / 4 * 16 + j % 4; }

template <bool ALONG_A, bool ALONG_B> static void wide(Wide &s, const Matmul &q, const Work &w, bool aligned)
{
    uint32_t m0 = blockIdx.x / w.across * WIDE, n0 = blockIdx.x % w.across * WIDE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4; // and 32 rows, 16 columns on
    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {
        float acc[8][8];
        dl_index at_a, at_b;
        matmul_batch(q, batch, &at_a, &at_b);
        uint32_t row_a = wide_at_row<ALONG_A>(), row_b = wide_at_row<ALONG_B>(), k_a = wide_at_k<ALONG_A>(), k_b = wide_at_k<ALONG_B>();
        const float *a = q.a + at_a + (m0 + row_a) * q.a_row + k_a * q.a_k, *b = q.b + at_b + (n0 + row_b) * q.b_row + k_b * q.b_k;
        int rows_a = (int)(w.m - m0 - row_a), rows_b = (int)(w.n - n0 - row_b), left = (int)w.k, k0 = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
#pragma unroll
            for (int j = 0; j < 8; j++) acc[i][j] = 0;
        float4 next_a = wide_load<ALONG_A>(a, rows_a, left - (int)k_a, aligned);
        float4 next_b = wide_load<ALONG_B>(b, rows_b, left - (int)k_b, aligned);
        wide_store<ALONG_A>(s.a[0], next_a);
        wide_store<ALONG_B>(s.b[0], next_b);
        __syncthreads();
        int buffer = 0;
        for (; left > 0; left -= DEEP, k0 += DEEP) {
            bool more = left > DEEP;
            if (more) {
                a += DEEP * (ALONG_A ? 1 : q.a_k), b += DEEP * (ALONG_B ? 1 : q.b_k);
                next_a = wide_load<ALONG_A>(a, rows_a, left - DEEP - (int)k_a, aligned);
                next_b = wide_load<ALONG_B>(b, rows_b, left - DEEP - (int)k_b, aligned);
            }
#pragma unroll
            for (int k = 0; k < DEEP; k++) {
                if (k >= left) break; // what lies behind is no product with 0: it is none
                float x[8], y[8];
                *(float4 *)x = *(const float4 *)&s.a[buffer][k][row], *(float4 *)(x + 4) = *(const float4 *)&s.a[buffer][k][row + 32];
                *(float4 *)y = *(const float4 *)&s.b[buffer][k][column], *(float4 *)(y + 4) = *(const float4 *)&s.b[buffer][k][column + 16];
#pragma unroll
                for (int i = 0; i < 8; i++)
#pragma unroll
                    for (int j = 0; j < 8; j++) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);
            }
            if ((k0 + DEEP) % DL__KB == 0 && more) {
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    uint32_t r = m0 + wide_row(row, i);
                    float *t = w.partial + ((uint64_t)batch * w.m + r) * w.n + n0 + column;
                    ROW_BY_ROW;
#pragma unroll
                    for (int j = 0; j < 8; j++) {
                        if (r < w.m && n0 + wide_column(column, j) < w.n) t[wide_column(0, j)] = each_time(k0 < DL__KB) ? acc[i][j] : E_ADD(t[wide_column(0, j)], acc[i][j]);
                        acc[i][j] = 0;
                    }
                }
            }
            if (more) {
                buffer ^= 1;
                wide_store<ALONG_A>(s.a[buffer], next_a);
                wide_store<ALONG_B>(s.b[buffer], next_b);
                __syncthreads();
            }
        }
#pragma unroll
        for (int i = 0; i < 8; i++) {
            uint32_t r = m0 + wide_row(row, i);
            uint64_t at = ((uint64_t)batch * w.m + r) * w.n + n0 + column;
            ROW_BY_ROW;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                uint32_t d = wide_column(0, j), c = n0 + column + d;
                if (r < w.m && c < w.n)
                    finish(q.c + at + d, each_time(w.k > DL__KB) ? E_ADD(w.partial[at + d], acc[i][j]) : acc[i][j], q.bias, c, q.accumulate);
            }
        }
        __syncthreads();
    }
}
// matmul_128_AB: is A, is B contiguous along k (k) or along its rows (r)?
#define WIDE_KERNEL(name, along_a, along_b) \
    extern "C" __global__ void __launch_bounds__(256, 1) name(Matmul q, Work w, int aligned) \
    { \
        __shared__ __align__(16) Wide s; \
        wide<along_a, along_b>(s, q, w, aligned); \
    }
WIDE_KERNEL(matmul_128_kk, true, true)
WIDE_KERNEL(matmul_128_kr, true, false)
WIDE_KERNEL(matmul_128_rr, false, false)
