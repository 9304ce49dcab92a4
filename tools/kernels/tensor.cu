// Products on tensor cores (mma.sync; compute capability 8.0 and later): operands are rounded to tf32 or, if BF16, to bf16;
// sums are fp32, in no canonical order but always the same. Numbers travel from global to shared memory by cp.async, as fp32,
// in pieces of 16 steps of k, several of them on their way at once; they are rounded when they are read from there. A block of
// 2 W threads computes W x W, a warp W/2 x 32. Sources as in taps.cu, targets as in tile.cu.
template <int W> struct Stages {
    enum { N = W == 128 ? 3 : 4 }; // within the 48 KB that need no asking
    float a[N][W * BK], b[N][W * BK];
};

// Where a number lies in a piece: fours of a row change places, so that neither rows of fours nor fours of rows meet in a bank.
static uint32_t placed(uint32_t row, uint32_t k) { return row * BK + (k / 4 ^ row / 2 % 4) * 4 + k % 4; }

static uint32_t shared_address(const float *p) { return (uint32_t)__cvta_generic_to_shared(p); }
static void copy_4(float *to, const float *from, bool there) // or 0
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;"
        ::"r"(shared_address(to)), "l"(from), "r"(there ? 4 : 0) : "memory");
}
static void copy_16(float *to, const float *from, uint32_t n) // n of four numbers, then zeros
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
        ::"r"(shared_address(to)), "l"(from), "r"(n * 4) : "memory");
}

// A thread's rows are 8, W/8 apart; its step of k is one of the piece.
enum { ROWS = 8 };
static uint32_t own_row() { return threadIdx.x % 8 + threadIdx.x / 128 * 8; }
static uint32_t own_k() { return threadIdx.x / 8 % BK; }

// Rows of a matrix. by_16: they are contiguous along k, and aligned.
template <int W> struct Matrix {
    const float *base;
    dl_index stride, step;
    bool by_16;
    const float *first, *here;
    void begin(int i, uint32_t r) { if (!i) first = base + r * stride; }
    void seek(uint64_t k) { here = first + k * step; }
    bool at(int i, const float **p) const { return *p = here + i * (W / ROWS) * stride, true; }
};

// Fetches the piece at k0 of rows r0.. of a source. Nothing of it: zeros.
template <int W, class S> static void fetch(float *to, S &s, uint32_t r0, uint32_t rows, uint64_t k0, uint64_t end, bool counts)
{
    uint64_t k = k0 + own_k();
    counts = counts && k < end;
    if (counts) s.seek(k);
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        uint32_t row = own_row() + i * (W / ROWS);
        const float *p = 0;
        bool there = counts && r0 + row < rows && s.at(i, &p);
        copy_4(to + placed(row, own_k()), p, there);
    }
}
template <int W> static void fetch(float *to, Matrix<W> &s, uint32_t r0, uint32_t rows, uint64_t k0, uint64_t end, bool)
{
    if (!s.by_16) return fetch<W, Matrix<W> >(to, s, r0, rows, k0, end, true);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t row = threadIdx.x / 4 + i * (W / 2), chunk = threadIdx.x % 4 * 4;
        uint64_t k = k0 + chunk;
        uint32_t n = r0 + row >= rows || k >= end ? 0 : end - k < 4 ? (uint32_t)(end - k) : 4;
        copy_16(to + placed(row, chunk), n ? s.base + (r0 + row) * s.stride + k : s.base, n);
    }
}

// Four matrices of 8 rows and 4 steps of k: a lane gets the number (row lane / 4, step lane % 4) of each.
static void read_four(uint32_t *r, const float *p)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(p)) : "memory");
}
#if BF16
// An mma takes all 16 steps. What it calls which of them does not matter to a sum: its neighbours 2t, 2t + 1 are t, t + 4 here.
enum { STEPS = 1 };
static uint32_t rounded(uint32_t low, uint32_t high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(__uint_as_float(high)), "f"(__uint_as_float(low)));
    return r;
}
static void round_a(uint32_t *x, const uint32_t *r) // r: rows 0.., 8.. of fours of k 0, 1, 2, 3
{
    for (int i = 0; i < 4; i++) x[i] = rounded(r[i / 2 * 4 + i % 2], r[i / 2 * 4 + i % 2 + 2]);
}
static void round_b(uint32_t *y, const uint32_t *r)
{
    for (int i = 0; i < 2; i++) y[i] = rounded(r[2 * i], r[2 * i + 1]);
}
#define MMA "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"
#else
enum { STEPS = 2 }; // of 8
static uint32_t rounded(uint32_t v)
{
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(__uint_as_float(v)));
    return r;
}
static void round_a(uint32_t *x, const uint32_t *r)
{
    for (int i = 0; i < 8; i++) x[i] = rounded(r[i]);
}
static void round_b(uint32_t *y, const uint32_t *r)
{
    for (int i = 0; i < 4; i++) y[i] = rounded(r[i]);
}
#define MMA "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32"
#endif
static void multiply_add(float *c, const uint32_t *x, const uint32_t *y)
{
    asm(MMA " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "r"(y[0]), "r"(y[1]));
}

// The warp's part of a piece: acc[16 rows each][8 columns each]
template <int W> static void multiply(float (*acc)[4][4], const float *a, const float *b)
{
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, x[W / 32][STEPS * 4], y[STEPS * 2], r[8];
    const float *rows = a + warp / (W / 32) * (W / 2) * BK, *columns = b + warp % (W / 32) * 32 * BK;
#pragma unroll
    for (int i = 0; i < W / 32; i++) {
        read_four(r, rows + i * 16 * BK + placed(lane % 16, lane / 16 * 4));
        read_four(r + 4, rows + i * 16 * BK + placed(lane % 16, 8 + lane / 16 * 4));
        round_a(x[i], r);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        read_four(r, columns + j * 8 * BK + placed(lane % 8, lane / 8 * 4));
        round_b(y, r);
#pragma unroll
        for (int s = 0; s < STEPS; s++)
#pragma unroll
            for (int i = 0; i < W / 32; i++) multiply_add(acc[i][j], x[i] + 4 * s, y + 2 * s);
    }
}

// The tile from (m0, n0), k from `first`, a multiple of 16, to `end`. SOME: B tells which steps of k count.
template <bool SOME, class B> static uint64_t next_piece(const B &b, uint64_t k, uint64_t end)
{
    if constexpr (SOME) {
        uint64_t next = b.next(k, end) / BK * BK;
        return next > k ? next : k;
    }
    return k;
}
template <int W, bool SOME, class A, class B, class C>
static void tensor_tile(Stages<W> &s, A &a, B &b, const C &c, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0,
    uint64_t first, uint64_t end, bool part)
{
    enum { N = Stages<W>::N };
    float acc[W / 32][4][4];
    uint64_t k = next_piece<SOME>(b, first, end);
    int fetched = 0, stage = 0, reading = 0;
    for (int i = 0; i < ROWS; i++) {
        a.begin(i, m0 + own_row() + i * (W / ROWS));
        b.begin(i, n0 + own_row() + i * (W / ROWS));
    }
#pragma unroll
    for (int i = 0; i < W / 32; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) acc[i][j][e] = 0;
    for (int i = -(N - 1); i < fetched; i++) {
        if (i >= 0) {
            asm volatile("cp.async.wait_group %0;" ::"n"(N - 2) : "memory");
            __syncthreads(); // the piece is there, and all have read the one before, whose place is free now
        }
        if (k < end) {
            fetch<W>(s.a[stage], a, m0, m, k, end, true);
            if constexpr (SOME) fetch<W>(s.b[stage], b, n0, n, k, end, b.reaches(k + own_k()));
            else fetch<W>(s.b[stage], b, n0, n, k, end, true);
            stage = stage + 1 == N ? 0 : stage + 1;
            fetched++;
            k = next_piece<SOME>(b, k + BK, end);
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        if (i >= 0) {
            multiply<W>(acc, s.a[reading], s.b[reading]);
            reading = reading + 1 == N ? 0 : reading + 1;
        }
    }
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    uint32_t row = m0 + warp / (W / 32) * (W / 2) + lane / 4, column = n0 + warp % (W / 32) * 32 + lane % 4 * 2;
#pragma unroll
    for (int i = 0; i < W / 32; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                uint32_t y = row + i * 16 + e / 2 * 8, x = column + j * 8 + e % 2;
                if (y < m && x < n) c.put(y, x, acc[i][j][e], part);
            }
    __syncthreads();
}
