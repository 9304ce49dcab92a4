// Products: rule 2 of the canonical arithmetic. C[m][n] = sum over k of A[m][k] B[n][k]: chains of fused multiply-adds over blocks of
// 256, whose totals are added in order. A thread block of 256 computes a tile of C from pieces of A and B, BK deep, in shared memory:
// while one piece is multiplied the next is on its way. Where A's and B's numbers come from is told by sources, where C's go by a target;
// so matmul and the three convolutions share the tile.
enum { BK = 16, THREADS = 256 };

// A source has: begin(i, row) for its element i, of row `row` of the tile's operand; seek(i, k) then get(i), from k on.
// Elements of a piece go to threads so that neighbours in memory go to neighbours: along k, or along the rows.
template <int W> static int piece_row(bool along, int i)
{
    int e = (int)threadIdx.x + i * THREADS;
    return along ? e / BK : e % W;
}
template <int W> static int piece_k(bool along, int i)
{
    int e = (int)threadIdx.x + i * THREADS;
    return along ? e % BK : e / W;
}

// Place of number i of thread t's side of a tile: fours, so that shared memory is read 128 bits at a time without conflicts.
template <int W, int T> static int place(int t, int i) { return i / 4 * (W / (T / 4)) + t * 4 + i % 4; }

// The pieces, of which one is multiplied while the next comes. use: which steps of k count.
template <int W> struct Pieces { float a[2][BK][W + 4], b[2][BK][W + 4]; bool use[2][BK]; };

// The totals of a tile of W x W, T x T a thread, from (m0, n0); k from `first` to `end`. SOME: steps of k may be left out, B tells which.
template <int W, int T, bool SOME, class A, class B> static void tile_totals(Pieces<W> &s, A &a, B &b, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0,
    uint64_t first, uint64_t end, float (*total)[T])
{
    enum { EACH = W * BK / THREADS };
    float acc[T][T], next_a[EACH], next_b[EACH];
    int ty = (int)threadIdx.x / (W / T), tx = (int)threadIdx.x % (W / T);
    bool reached[EACH];
    for (int i = 0; i < EACH; i++) {
        a.begin(i, m0 + piece_row<W>(a.along, i));
        b.begin(i, n0 + piece_row<W>(b.along, i));
    }
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int j = 0; j < T; j++) acc[i][j] = total[i][j] = 0;
    int buffer = 0;
    for (uint64_t k0 = first; k0 < end + BK; k0 += BK, buffer ^= 1) {
        if (k0 < end) // on its way while the piece before is multiplied
#pragma unroll
            for (int i = 0; i < EACH; i++) {
                uint64_t ka = k0 + piece_k<W>(a.along, i), kb = k0 + piece_k<W>(b.along, i);
                next_a[i] = ka < end && m0 + piece_row<W>(a.along, i) < m ? a.get(i, ka) : 0;
                next_b[i] = kb < end && n0 + piece_row<W>(b.along, i) < n ? b.get(i, kb) : 0;
                if (SOME) reached[i] = kb < end && b.reaches(kb);
            }
        if (k0 > first) {
            uint64_t left = end - (k0 - BK);
            int steps = left < BK ? (int)left : BK;
            const float(*as)[W + 4] = s.a[buffer ^ 1], (*bs)[W + 4] = s.b[buffer ^ 1];
#pragma unroll 4
            for (int k = 0; k < steps; k++) {
                float x[T], y[T];
                if (SOME && !s.use[buffer ^ 1][k]) continue;
#pragma unroll
                for (int i = 0; i < T; i += 4) {
                    *(float4 *)(x + i) = *(const float4 *)(as[k] + place<W, T>(ty, i));
                    *(float4 *)(y + i) = *(const float4 *)(bs[k] + place<W, T>(tx, i));
                }
#pragma unroll
                for (int i = 0; i < T; i++)
#pragma unroll
                    for (int j = 0; j < T; j++) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);
            }
            if (k0 % DL__KB == 0 || k0 >= end) {
                bool only = k0 - first <= DL__KB; // the first block's total is the chain itself
#pragma unroll
                for (int i = 0; i < T; i++)
#pragma unroll
                    for (int j = 0; j < T; j++) {
                        total[i][j] = only ? acc[i][j] : E_ADD(total[i][j], acc[i][j]);
                        acc[i][j] = 0;
                    }
            }
        }
        if (k0 >= end) break;
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            s.a[buffer][piece_k<W>(a.along, i)][piece_row<W>(a.along, i)] = next_a[i];
            s.b[buffer][piece_k<W>(b.along, i)][piece_row<W>(b.along, i)] = next_b[i];
            if (SOME && piece_row<W>(b.along, i) == 0) s.use[buffer][piece_k<W>(b.along, i)] = reached[i];
        }
        __syncthreads();
    }
}

template <int W, int T, bool SOME, class A, class B, class C>
static void tile(Pieces<W> &s, A &a, B &b, const C &c, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0, uint64_t first, uint64_t end, bool part)
{
    float total[T][T];
    int ty = (int)threadIdx.x / (W / T), tx = (int)threadIdx.x % (W / T);
    tile_totals<W, T, SOME>(s, a, b, m, n, m0, n0, first, end, total);
#pragma unroll
    for (int i = 0; i < T; i++)
#pragma unroll
        for (int j = 0; j < T; j++) {
            uint32_t row = m0 + place<W, T>(ty, i), column = n0 + place<W, T>(tx, j);
            if (row < m && column < n) c.put(row, column, total[i][j], part);
        }
}

// A condition that is the same for all of an unrolled loop, kept inside: the compiler would make a copy of the loop for each case that it
// takes out, eight of the end of a tile, which is most of the time that it needs for the kernel.
static bool each_time(int condition)
{
    asm volatile("" : "+r"(condition));
    return condition;
}

// What is done with a total: alpha is 1, plus bias, plus what is there.
static void finish(float *y, float v, const float *bias, dl_index b, bool accumulate)
{
    if (each_time(bias != 0)) v = E_ADD(v, bias[b]);
    *y = each_time(accumulate) ? E_ADD(*y, v) : v;
}

// Which part of the work a thread block does: blockIdx.x a tile, blockIdx.y a block of k where these are computed apart (then `partial`
// takes their totals [batch][block][m][n], and join.cu adds them in order), blockIdx.z a batch.
struct Work { uint32_t m, n; uint64_t k; uint32_t across, batches, parts; float *partial; };
template <int W> static void work_tile(const Work &w, uint32_t *m0, uint32_t *n0, uint64_t *first, uint64_t *end)
{
    *m0 = blockIdx.x / w.across * W;
    *n0 = blockIdx.x % w.across * W;
    *first = w.parts > 1 ? (uint64_t)blockIdx.y * DL__KB : 0;
    *end = w.parts > 1 && *first + DL__KB < w.k ? *first + DL__KB : w.k;
}
static float *work_part(const Work &w, uint32_t batch, uint32_t row, uint32_t column)
{
    return w.partial + (((uint64_t)batch * w.parts + blockIdx.y) * w.m + row) * w.n + column;
}
static float work_joined(const Work &w, uint64_t batch, uint64_t at)
{
    uint64_t size = (uint64_t)w.m * w.n;
    const float *p = w.partial + batch * w.parts * size + at;
    float total = p[0];
    for (uint32_t i = 1; i < w.parts; i++) total = E_ADD(total, p[i * size]);
    return total;
}

// ---- matmul, by the tiles above (matmul.cu), by larger ones (warp.cu) or by tensor cores (tensor.cu) ----
struct Matmul {
    const float *a, *b, *bias;
    float *c;
    dl_index a_row, a_k, b_row, b_k;
    int batch_dims, accumulate;
    uint32_t count[8];
    dl_index a_batch[8], b_batch[8];
};
static void matmul_batch(const Matmul &q, uint32_t batch, dl_index *at_a, dl_index *at_b)
{
    *at_a = *at_b = 0;
    for (int d = q.batch_dims - 1; d >= 0; d--) {
        *at_a += batch % q.count[d] * q.a_batch[d];
        *at_b += batch % q.count[d] * q.b_batch[d];
        batch /= q.count[d];
    }
}
struct MatmulOut {
    const Matmul &q;
    const Work &w;
    uint32_t batch;
    void put(uint32_t row, uint32_t column, float v, bool part) const
    {
        if (part) *work_part(w, batch, row, column) = v;
        else finish(q.c + ((uint64_t)batch * w.m + row) * w.n + column, v, q.bias, column, q.accumulate);
    }
};
