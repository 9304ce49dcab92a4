// Attention: y [L,F] = softmax(scale q k' + mask) v, and its gradients, by tiles of 64 queries and 64 keys, 4 x 4 scores a thread. Scores are
// computed wherever they are needed and never written down: once for the greatest of a row, once for the sum of exponentials, once to be
// used. A causal row counts products with probabilities of 0 up to the end of its block of `block` queries, as on the CPU.
struct Matrix { float *base; dl_index row, column, batch[8]; }; // a number lies at base + batch + i * row + j * column
struct Attention {
    int l, s, e, f, batch_dims, causal, block, back;
    dl_index batches;
    uint32_t batch[8];
    float scale;
    Matrix q, k, v, mask, y, dq, dk, dv; // without a base: none; in the gradient y is dy
    float *top, *sum, *slope;            // of each query: the greatest score, the sum of exponentials, the sum of p dp
    float *chunk;                        // where S is more than a chunk: sums of chunks, of each query
};
enum { SIDE = 64, PAD = SIDE + 4 };
#define FULL 0xffffffffu
// One tile of rows that are read 128 bits at a time takes the place of the pieces that scores are made of
struct Tiles {
    union { Pieces<SIDE> pieces; float rows[SIDE][PAD]; };
    float p[SIDE][PAD]; // probabilities or their gradients: a column of the tile is a row here
};
#define CELLS(i, j) \
    _Pragma("unroll") for (int i = 0; i < 4; i++) \
        _Pragma("unroll") for (int j = 0; j < 4; j++)

static float *matrix_at(const Attention &t, const Matrix &m, dl_index batch)
{
    float *p = m.base;
#pragma unroll 1 // of divisions of 64 bits: unrolled, for five matrices, they take the compiler longer than all else
    for (int d = t.batch_dims - 1; d >= 0; d--) {
        p += batch % t.batch[d] * m.batch[d];
        batch /= t.batch[d];
    }
    return p;
}
static int seen(const Attention &t, int l) { return l >= t.l ? 0 : t.causal ? min(t.s, l + 1) : t.s; } // keys of a row
static int counted(const Attention &t, int l) // keys of its block of queries; four rows of a thread are of one block
{
    return seen(t, min((l / t.block + 1) * t.block, t.l) - 1);
}

struct View { const float *at; dl_index row, column; };
static View view_of(const Attention &t, const Matrix &m, dl_index batch)
{
    View v = { m.base ? matrix_at(t, m, batch) : 0, m.row, m.column };
    return v;
}
static View either(bool second, const View &a, const View &b) // member by member: a choice of addresses would put them into memory
{
    View v = { second ? b.at : a.at, second ? b.row : a.row, second ? b.column : a.column };
    return v;
}
struct Batch { View q, k, v, dy, mask; dl_index first; }; // first: the number of its first query among all
static Batch batch_of(const Attention &t, dl_index batch)
{
    Batch b = { view_of(t, t.q, batch), view_of(t, t.k, batch), view_of(t, t.v, batch), view_of(t, t.y, batch), view_of(t, t.mask, batch),
        batch * t.l };
    return b;
}
static int across() { return (int)threadIdx.x % 16 * 4; } // the first of a thread's columns of a tile, and of its rows
static int down() { return (int)threadIdx.x / 16 * 4; }

// Which keys the queries of a thread see. KEYS: rows of the tile are keys, its columns queries
template <bool KEYS> struct Seen {
    int end[4];
    Seen(const Attention &t, int l0)
    {
#pragma unroll
        for (int i = 0; i < 4; i++) end[i] = seen(t, l0 + (KEYS ? across() : down()) + i);
    }
    bool has(int j0, int i, int j) const { return j0 + (KEYS ? down() + i : across() + j) < end[KEYS ? j : i]; }
};

struct Lines { // a source for tile.cu, whose rows are contiguous as a rule
    View v;
    enum { along = true };
    const float *row[4];
    void begin(int i, uint32_t r) { row[i] = v.at + r * v.row; }
    float get(int i, uint64_t k) const { return row[i][(dl_index)k * v.column]; }
    bool reaches(uint64_t) const { return true; }
};

// x = the scores of queries, from l0 on, and keys, from j0 on; or the gradients of probabilities, which are products of dy and v
template <bool KEYS> static void products(Tiles &s, const Attention &t, const Batch &b, bool back, const Seen<KEYS> &sees,
    int l0, int j0, float (*x)[4])
{
    Lines queries = { either(back, b.q, b.dy) }, keys = { either(back, b.k, b.v) };
    tile_totals<SIDE, 4, false>(s.pieces, KEYS ? keys : queries, KEYS ? queries : keys, (uint32_t)(KEYS ? t.s : t.l),
        (uint32_t)(KEYS ? t.l : t.s), (uint32_t)(KEYS ? j0 : l0), (uint32_t)(KEYS ? l0 : j0), 0, (uint64_t)(back ? t.f : t.e), x);
    __syncthreads();
    if (back) return;
    CELLS(i, j) {
        x[i][j] = E_MUL(x[i][j], t.scale);
        if (b.mask.at && sees.has(j0, i, j)) {
            int l = l0 + (KEYS ? across() + j : down() + i), key = j0 + (KEYS ? down() + i : across() + j);
            x[i][j] = E_ADD(x[i][j], b.mask.at[l * b.mask.row + key * b.mask.column]);
        }
    }
}

// The 64 lanes of rule 5 are the columns of a tile: those of each row added pairwise, for all of it; empty again
static void add_lanes(float (*lane)[4], float *sum)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int h = 8; h; h /= 2)
#pragma unroll
            for (int j = 0; j < 4; j++) lane[i][j] = E_ADD(lane[i][j], __shfl_down_sync(FULL, lane[i][j], h, 16));
        sum[i] = __shfl_sync(FULL, E_ADD(E_ADD(lane[i][0], lane[i][2]), E_ADD(lane[i][1], lane[i][3])), 0, 16);
        lane[i][0] = lane[i][1] = lane[i][2] = lane[i][3] = 0;
    }
}
// That when a chunk of keys ends, at `end`, or all; the sums of several chunks are added likewise
static void end_tile(const Attention &t, const Batch &b, int l0, int end, int keys, float (*lane)[4], float *sum)
{
    int chunks = (t.s + DL__CHUNK - 1) / DL__CHUNK, l = l0 + down();
    float *to = t.chunk + (b.first + l) * chunks;
    if (end % DL__CHUNK && end < keys) return;
    add_lanes(lane, sum);
    if (keys <= DL__CHUNK) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (across() == 0 && l + i < t.l) to[i * chunks + (end - 1) / DL__CHUNK] = sum[i];
    if (end < keys) return;
    __syncthreads();
    CELLS(i, j)
        for (int k = across() + j; l + i < t.l && k * DL__CHUNK < keys; k += DL__LANES) lane[i][j] = E_ADD(lane[i][j], to[i * chunks + k]);
    add_lanes(lane, sum);
    __syncthreads();
}

// A thread's own numbers in s.p: registers are few while products are made
static void keep(Tiles &s, float (*x)[4])
{
#pragma unroll
    for (int j = 0; j < 4; j++) *(float4 *)&s.p[across() + j][down()] = make_float4(x[0][j], x[1][j], x[2][j], x[3][j]);
}
// s.p = x, then s.rows = 64 rows of m, from row r0 and column c0 on: for accumulate
static void put_down(Tiles &s, float (*x)[4], const View &m, int r0, int rows, int c0, int columns)
{
    keep(s, x);
#pragma unroll 4
    for (int e = (int)threadIdx.x; e < SIDE * SIDE; e += THREADS) {
        int r = e / SIDE, c = e % SIDE;
        s.rows[r][c] = r0 + r < rows && c0 + c < columns ? m.at[(r0 + r) * m.row + (c0 + c) * m.column] : 0;
    }
    __syncthreads();
}
// acc += s.p' s.rows, of steps from `first` to `last`; its chain, of n steps, may have ended at `end`
static void accumulate(const Tiles &s, int first, int last, int end, int n, float (*acc)[4], float (*total)[4])
{
#pragma unroll 4
    for (int k = max(first, 0); k < min(last, SIDE); k++) {
        float x[4], y[4];
        *(float4 *)x = *(const float4 *)&s.p[k][down()];
        *(float4 *)y = *(const float4 *)&s.rows[k][across()];
        CELLS(i, j) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);
    }
    if (end % DL__KB == 0 || end >= n)
        CELLS(i, j) {
            total[i][j] = end <= DL__KB ? acc[i][j] : E_ADD(total[i][j], acc[i][j]);
            acc[i][j] = 0;
        }
    __syncthreads();
}
static void write(const Attention &t, const Matrix &m, dl_index batch, int r0, int rows, int c0, int columns, float (*x)[4])
{
    float *to = matrix_at(t, m, batch);
    CELLS(i, j) {
        int r = r0 + down() + i, c = c0 + across() + j;
        if (r < rows && c < columns) to[r * m.row + c * m.column] = x[i][j];
    }
}
#define KERNEL(name) \
    extern "C" __global__ void __launch_bounds__(256, 1) attention_##name(Attention t) \
    { \
        __shared__ __align__(16) Tiles s; \
        for (dl_index batch = blockIdx.z; batch < t.batches; batch += gridDim.z) \
            name(s, t, batch, (int)blockIdx.x * SIDE, (int)blockIdx.y * SIDE); \
    }

// A tile of queries, c0 its first column: y = p v. Of a gradient: dq = ds k, when it is wanted, and what `keys` needs of each query
static void queries(Tiles &s, const Attention &t, dl_index batch, int l0, int c0)
{
    Batch b = batch_of(t, batch);
    Seen<false> sees(t, l0);
    int keys = counted(t, min(l0 + SIDE, t.l) - 1), mine = counted(t, min(l0 + down(), t.l - 1));
    float top[4], sum[4], slope[4], x[4][4], lane[4][4], total[4][4]; // slope: the sum of p dp
#pragma unroll
    for (int i = 0; i < 4; i++) top[i] = -HUGE_VALF, sum[i] = slope[i] = 0;
    CELLS(i, j) lane[i][j] = total[i][j] = 0;
#pragma unroll 1
    for (int pass = 0; pass < (t.back && t.dq.base ? 4 : 3); pass++) { // the greatest, the sum of exponentials, [the slope,] the product
        bool back = t.back && pass > 1, sums = pass == 1 || (back && pass == 2);
#pragma unroll 1
        for (int j0 = 0; j0 < keys; j0 += SIDE) {
            float p[4][4];
#pragma unroll 1
            for (int of = 0; of <= back; of++) {
                products<false>(s, t, b, of, sees, l0, j0, x);
                if (of < back) keep(s, x);
            }
            CELLS(i, j) p[i][j] = back ? s.p[across() + j][down() + i] : x[i][j];
            if (!pass) {
                CELLS(i, j) if (sees.has(j0, i, j) && x[i][j] > top[i]) top[i] = x[i][j];
                continue;
            }
            CELLS(i, j) p[i][j] = sees.has(j0, i, j) ? E_EXP(E_SUB(p[i][j], top[i])) : 0;
            if (pass > 1) CELLS(i, j) p[i][j] = E_DIV(p[i][j], sum[i]);
            if (sums) {
                CELLS(i, j) lane[i][j] = E_ADD(lane[i][j], back ? E_MUL(p[i][j], x[i][j]) : p[i][j]);
                end_tile(t, b, l0, j0 + SIDE, keys, lane, slope);
                continue;
            }
            if (back) CELLS(i, j) p[i][j] = sees.has(j0, i, j) ? E_MUL(E_MUL(p[i][j], E_SUB(x[i][j], slope[i])), t.scale) : 0;
            put_down(s, p, either(back, b.v, b.k), j0, t.s, c0, back ? t.e : t.f);
            accumulate(s, 0, mine - j0, j0 + SIDE, keys, lane, total);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (pass == 1) sum[i] = slope[i];
#pragma unroll
            for (int h = 8; h; h /= 2) {
                float other = __shfl_xor_sync(FULL, top[i], h, 16);
                top[i] = other > top[i] ? other : top[i];
            }
        }
    }
    if (!t.back) write(t, t.y, batch, l0, t.l, c0, t.f, total);
    else if (t.dq.base) write(t, t.dq, batch, l0, t.l, c0, t.e, total);
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (t.back && !c0 && !across() && l0 + down() + i < t.l) {
            dl_index l = b.first + l0 + down() + i;
            t.top[l] = top[i], t.sum[l] = sum[i], t.slope[l] = slope[i];
        }
}
KERNEL(queries)

// A tile of keys: dk = ds' q, dv = p' dy, those that are wanted, of the queries whose block counts a key
static void keys(Tiles &s, const Attention &t, dl_index batch, int j0, int c0)
{
    Batch b = batch_of(t, batch);
    int mine = t.causal ? (j0 + down()) / t.block * t.block : 0;
    float x[4][4], dk[4][4], dk_total[4][4], dv[4][4], dv_total[4][4];
    CELLS(i, j) dk[i][j] = dk_total[i][j] = dv[i][j] = dv_total[i][j] = 0;
    for (int l0 = t.causal ? j0 : 0; l0 < t.l; l0 += SIDE) {
        Seen<true> sees(t, l0);
        float top[4], sum[4], slope[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            dl_index l = b.first + min(l0 + across() + j, t.l - 1);
            top[j] = t.top[l], sum[j] = t.sum[l], slope[j] = t.slope[l];
        }
#pragma unroll 1
        for (int back = 0; back <= (t.dk.base != 0); back++) {
            products<true>(s, t, b, back, sees, l0, j0, x);
            CELLS(i, j) {
                bool has = sees.has(j0, i, j);
                if (back) x[i][j] = has ? E_MUL(E_MUL(s.p[across() + j][down() + i], E_SUB(x[i][j], slope[j])), t.scale) : 0;
                else x[i][j] = has ? E_DIV(E_EXP(E_SUB(x[i][j], top[j])), sum[j]) : 0;
            }
            if (!back && !t.dv.base) {
                keep(s, x);
                continue;
            }
            put_down(s, x, either(back, b.dy, b.q), l0, t.l, c0, back ? t.e : t.f);
            if (back) accumulate(s, mine - l0, t.l - l0, l0 + SIDE, t.l, dk, dk_total);
            else accumulate(s, mine - l0, t.l - l0, l0 + SIDE, t.l, dv, dv_total);
        }
    }
    if (t.dv.base) write(t, t.dv, batch, j0, t.s, c0, t.f, dv_total);
    if (t.dk.base) write(t, t.dk, batch, j0, t.s, c0, t.e, dk_total);
}
KERNEL(keys)
