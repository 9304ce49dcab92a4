/* dltrain_cuda.h: dltrain's operations on NVIDIA GPUs. Include it after dltrain.h, in the file with the
   implementation, too:

       #define DLTRAIN_IMPLEMENTATION
       #include "dltrain.h"
       #include "dltrain_cuda.h"

   Then dl_config.device = "cuda:0" puts a context on the first GPU, and nothing else in the program changes: neither
   does what it computes, bit for bit. It builds without CUDA (cc -O2 program.c -lm -pthread, on old systems -ldl too)
   and looks for these when it runs:
       the driver      libcuda.so.1, or what the environment variable DLTRAIN_CUDA_DRIVER names
       NVRTC           libnvrtc.so.13, .12 or none, or DLTRAIN_NVRTC: compiles the kernels, once for each kind of GPU;
                       what it made is kept in the folder DLTRAIN_CUDA_CACHE, or else dltrain in XDG_CACHE_HOME or
                       ~/.cache ("" keeps nothing).
                       A program that includes a header of tools/bake_kernels.c before this one needs no NVRTC.
       cuBLAS          if dl_config.blas asks for it: libcublas.so.13, .12 or none, or DLTRAIN_CUBLAS
       NCCL            if dl_launch_desc.nccl does: libnccl.so.2, or DLTRAIN_NCCL
   What a step launches becomes a CUDA graph when it comes again; DLTRAIN_CUDA_GRAPHS=0 launches every kernel by itself,
   with the same bits. What is there and what is not yet: docs/cuda.md. MIT licence, as dltrain.h. */
#ifndef DLTRAIN_CUDA_H
#define DLTRAIN_CUDA_H
#ifdef __cplusplus
extern "C" {
#endif

/* What dl_create looks for; if the linker cannot tell (DLTRAIN_STATIC, no ELF) define DLTRAIN_CUDA before dltrain.h. */
DL_API const dl_backend *dl_cuda_backend(void);
/* The name of the GPU that a context is on, the context's; "" on the CPU. */
DL_API const char *dl_cuda_device_name(const dl_context *ctx);

#ifdef __cplusplus
}
#endif
#endif /* DLTRAIN_CUDA_H */

#if defined(DLTRAIN_IMPLEMENTATION) && !defined(DLTRAIN_CUDA_IMPLEMENTED)
#define DLTRAIN_CUDA_IMPLEMENTED
#if DLTRAIN_MAX_DIMS > 8
#error "dltrain_cuda.h: its kernels take tensors of at most 8 dimensions; DLTRAIN_MAX_DIMS is more"
#endif
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* ---- the kernels, as text ---- */
/* ---- embedded by tools/embed_kernels.py: edit tools/kernels and dltrain.h ---- */
/* The rows of dltrain.h: of one input, of one and two scalars, of two inputs. */
static const char *const dl__cuda_unary_rows[] = { "neg", "sign", "abs", "exp", "log", "log1p",
    "expm1", "sqrt", "rsqrt", "square", "reciprocal", "sigmoid", "tanh", "sin", "cos", "erf", "relu",
    "gelu", "gelu_slope", "gelu_u", "gelu_tanh", "silu", "silu_slope", "softplus", NULL };
static const char *const dl__cuda_scaled_rows[] = { "add_scalar", "mul_scalar", "pow_scalar",
    "leaky_relu", "elu", "clamp", NULL };
static const char *const dl__cuda_binary_rows[] = { "add", "sub", "mul", "div", "pow", "maximum",
    "minimum", "bce", "relu_back", "gelu_back", "eq", "ne", "lt", "le", "gt", "ge", NULL };
static const char *const dl__cuda_attention_cu[] = {
    "#line 1 \"tools/kernels/attention.cu\"\n",
    "// Attention: y [L,F] = softmax(scale q k' + mask) v, and its gradients, by tiles of 64 queries and 64 keys, 4 x 4 scores a thread. Scores are\n",
    "// computed wherever they are needed and never written down: once for the greatest of a row, once for the sum of exponentials, once to be\n",
    "// used. A causal row counts products with probabilities of 0 up to the end of its block of `block` queries, as on the CPU.\n",
    "struct Matrix { float *base; dl_index row, column, batch[8]; }; // a number lies at base + batch + i * row + j * column\n",
    "struct Attention {\n",
    "    int l, s, e, f, batch_dims, causal, block, back;\n",
    "    dl_index batches;\n",
    "    uint32_t batch[8];\n",
    "    float scale;\n",
    "    Matrix q, k, v, mask, y, dq, dk, dv; // without a base: none; in the gradient y is dy\n",
    "    float *top, *sum, *slope;            // of each query: the greatest score, the sum of exponentials, the sum of p dp\n",
    "    float *chunk;                        // where S is more than a chunk: sums of chunks, of each query\n",
    "};\n",
    "enum { SIDE = 64, PAD = SIDE + 4 };\n",
    "#define FULL 0xffffffffu\n",
    "// One tile of rows that are read 128 bits at a time takes the place of the pieces that scores are made of\n",
    "struct Tiles {\n",
    "    union { Pieces<SIDE> pieces; float rows[SIDE][PAD]; };\n",
    "    float p[SIDE][PAD]; // probabilities or their gradients: a column of the tile is a row here\n",
    "};\n",
    "#define CELLS(i, j) \\\n",
    "    _Pragma(\"unroll\") for (int i = 0; i < 4; i++) \\\n",
    "        _Pragma(\"unroll\") for (int j = 0; j < 4; j++)\n",
    "\n",
    "static float *matrix_at(const Attention &t, const Matrix &m, dl_index batch)\n",
    "{\n",
    "    float *p = m.base;\n",
    "#pragma unroll 1 // of divisions of 64 bits: unrolled, for five matrices, they take the compiler longer than all else\n",
    "    for (int d = t.batch_dims - 1; d >= 0; d--) {\n",
    "        p += batch % t.batch[d] * m.batch[d];\n",
    "        batch /= t.batch[d];\n",
    "    }\n",
    "    return p;\n",
    "}\n",
    "static int seen(const Attention &t, int l) { return l >= t.l ? 0 : t.causal ? min(t.s, l + 1) : t.s; } // keys of a row\n",
    "static int counted(const Attention &t, int l) // keys of its block of queries; four rows of a thread are of one block\n",
    "{\n",
    "    return seen(t, min((l / t.block + 1) * t.block, t.l) - 1);\n",
    "}\n",
    "\n",
    "struct View { const float *at; dl_index row, column; };\n",
    "static View view_of(const Attention &t, const Matrix &m, dl_index batch)\n",
    "{\n",
    "    View v = { m.base ? matrix_at(t, m, batch) : 0, m.row, m.column };\n",
    "    return v;\n",
    "}\n",
    "static View either(bool second, const View &a, const View &b) // member by member: a choice of addresses would put them into memory\n",
    "{\n",
    "    View v = { second ? b.at : a.at, second ? b.row : a.row, second ? b.column : a.column };\n",
    "    return v;\n",
    "}\n",
    "struct Batch { View q, k, v, dy, mask; dl_index first; }; // first: the number of its first query among all\n",
    "static Batch batch_of(const Attention &t, dl_index batch)\n",
    "{\n",
    "    Batch b = { view_of(t, t.q, batch), view_of(t, t.k, batch), view_of(t, t.v, batch), view_of(t, t.y, batch), view_of(t, t.mask, batch),\n",
    "        batch * t.l };\n",
    "    return b;\n",
    "}\n",
    "static int across() { return (int)threadIdx.x % 16 * 4; } // the first of a thread's columns of a tile, and of its rows\n",
    "static int down() { return (int)threadIdx.x / 16 * 4; }\n",
    "\n",
    "// Which keys the queries of a thread see. KEYS: rows of the tile are keys, its columns queries\n",
    "template <bool KEYS> struct Seen {\n",
    "    int end[4];\n",
    "    Seen(const Attention &t, int l0)\n",
    "    {\n",
    "#pragma unroll\n",
    "        for (int i = 0; i < 4; i++) end[i] = seen(t, l0 + (KEYS ? across() : down()) + i);\n",
    "    }\n",
    "    bool has(int j0, int i, int j) const { return j0 + (KEYS ? down() + i : across() + j) < end[KEYS ? j : i]; }\n",
    "};\n",
    "\n",
    "struct Lines { // a source for tile.cu, whose rows are contiguous as a rule\n",
    "    View v;\n",
    "    enum { along = true };\n",
    "    const float *row[4];\n",
    "    void begin(int i, uint32_t r) { row[i] = v.at + r * v.row; }\n",
    "    float get(int i, uint64_t k) const { return row[i][(dl_index)k * v.column]; }\n",
    "    bool reaches(uint64_t) const { return true; }\n",
    "};\n",
    "\n",
    "// x = the scores of queries, from l0 on, and keys, from j0 on; or the gradients of probabilities, which are products of dy and v\n",
    "template <bool KEYS> static void products(Tiles &s, const Attention &t, const Batch &b, bool back, const Seen<KEYS> &sees,\n",
    "    int l0, int j0, float (*x)[4])\n",
    "{\n",
    "    Lines queries = { either(back, b.q, b.dy) }, keys = { either(back, b.k, b.v) };\n",
    "    tile_totals<SIDE, 4, false>(s.pieces, KEYS ? keys : queries, KEYS ? queries : keys, (uint32_t)(KEYS ? t.s : t.l),\n",
    "        (uint32_t)(KEYS ? t.l : t.s), (uint32_t)(KEYS ? j0 : l0), (uint32_t)(KEYS ? l0 : j0), 0, (uint64_t)(back ? t.f : t.e), x);\n",
    "    __syncthreads();\n",
    "    if (back) return;\n",
    "    CELLS(i, j) {\n",
    "        x[i][j] = E_MUL(x[i][j], t.scale);\n",
    "        if (b.mask.at && sees.has(j0, i, j)) {\n",
    "            int l = l0 + (KEYS ? across() + j : down() + i), key = j0 + (KEYS ? down() + i : across() + j);\n",
    "            x[i][j] = E_ADD(x[i][j], b.mask.at[l * b.mask.row + key * b.mask.column]);\n",
    "        }\n",
    "    }\n",
    "}\n",
    "\n",
    "// The 64 lanes of rule 5 are the columns of a tile: those of each row added pairwise, for all of it; empty again\n",
    "static void add_lanes(float (*lane)[4], float *sum)\n",
    "{\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 4; i++) {\n",
    "#pragma unroll\n",
    "        for (int h = 8; h; h /= 2)\n",
    "#pragma unroll\n",
    "            for (int j = 0; j < 4; j++) lane[i][j] = E_ADD(lane[i][j], __shfl_down_sync(FULL, lane[i][j], h, 16));\n",
    "        sum[i] = __shfl_sync(FULL, E_ADD(E_ADD(lane[i][0], lane[i][2]), E_ADD(lane[i][1], lane[i][3])), 0, 16);\n",
    "        lane[i][0] = lane[i][1] = lane[i][2] = lane[i][3] = 0;\n",
    "    }\n",
    "}\n",
    "// That when a chunk of keys ends, at `end`, or all; the sums of several chunks are added likewise\n",
    "static void end_tile(const Attention &t, const Batch &b, int l0, int end, int keys, float (*lane)[4], float *sum)\n",
    "{\n",
    "    int chunks = (t.s + DL__CHUNK - 1) / DL__CHUNK, l = l0 + down();\n",
    "    float *to = t.chunk + (b.first + l) * chunks;\n",
    "    if (end % DL__CHUNK && end < keys) return;\n",
    "    add_lanes(lane, sum);\n",
    "    if (keys <= DL__CHUNK) return;\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 4; i++)\n",
    "        if (across() == 0 && l + i < t.l) to[i * chunks + (end - 1) / DL__CHUNK] = sum[i];\n",
    "    if (end < keys) return;\n",
    "    __syncthreads();\n",
    "    CELLS(i, j)\n",
    "        for (int k = across() + j; l + i < t.l && k * DL__CHUNK < keys; k += DL__LANES) lane[i][j] = E_ADD(lane[i][j], to[i * chunks + k]);\n",
    "    add_lanes(lane, sum);\n",
    "    __syncthreads();\n",
    "}\n",
    "\n",
    "// A thread's own numbers in s.p: registers are few while products are made\n",
    "static void keep(Tiles &s, float (*x)[4])\n",
    "{\n",
    "#pragma unroll\n",
    "    for (int j = 0; j < 4; j++) *(float4 *)&s.p[across() + j][down()] = make_float4(x[0][j], x[1][j], x[2][j], x[3][j]);\n",
    "}\n",
    "// s.p = x, then s.rows = 64 rows of m, from row r0 and column c0 on: for accumulate\n",
    "static void put_down(Tiles &s, float (*x)[4], const View &m, int r0, int rows, int c0, int columns)\n",
    "{\n",
    "    keep(s, x);\n",
    "#pragma unroll 4\n",
    "    for (int e = (int)threadIdx.x; e < SIDE * SIDE; e += THREADS) {\n",
    "        int r = e / SIDE, c = e % SIDE;\n",
    "        s.rows[r][c] = r0 + r < rows && c0 + c < columns ? m.at[(r0 + r) * m.row + (c0 + c) * m.column] : 0;\n",
    "    }\n",
    "    __syncthreads();\n",
    "}\n",
    "// acc += s.p' s.rows, of steps from `first` to `last`; its chain, of n steps, may have ended at `end`\n",
    "static void accumulate(const Tiles &s, int first, int last, int end, int n, float (*acc)[4], float (*total)[4])\n",
    "{\n",
    "#pragma unroll 4\n",
    "    for (int k = max(first, 0); k < min(last, SIDE); k++) {\n",
    "        float x[4], y[4];\n",
    "        *(float4 *)x = *(const float4 *)&s.p[k][down()];\n",
    "        *(float4 *)y = *(const float4 *)&s.rows[k][across()];\n",
    "        CELLS(i, j) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);\n",
    "    }\n",
    "    if (end % DL__KB == 0 || end >= n)\n",
    "        CELLS(i, j) {\n",
    "            total[i][j] = end <= DL__KB ? acc[i][j] : E_ADD(total[i][j], acc[i][j]);\n",
    "            acc[i][j] = 0;\n",
    "        }\n",
    "    __syncthreads();\n",
    "}\n",
    "static void write(const Attention &t, const Matrix &m, dl_index batch, int r0, int rows, int c0, int columns, float (*x)[4])\n",
    "{\n",
    "    float *to = matrix_at(t, m, batch);\n",
    "    CELLS(i, j) {\n",
    "        int r = r0 + down() + i, c = c0 + across() + j;\n",
    "        if (r < rows && c < columns) to[r * m.row + c * m.column] = x[i][j];\n",
    "    }\n",
    "}\n",
    "#define KERNEL(name) \\\n",
    "    extern \"C\" __global__ void __launch_bounds__(256, 1) attention_##name(Attention t) \\\n",
    "    { \\\n",
    "        __shared__ __align__(16) Tiles s; \\\n",
    "        for (dl_index batch = blockIdx.z; batch < t.batches; batch += gridDim.z) \\\n",
    "            name(s, t, batch, (int)blockIdx.x * SIDE, (int)blockIdx.y * SIDE); \\\n",
    "    }\n",
    "\n",
    "// A tile of queries, c0 its first column: y = p v. Of a gradient: dq = ds k, when it is wanted, and what `keys` needs of each query\n",
    "static void queries(Tiles &s, const Attention &t, dl_index batch, int l0, int c0)\n",
    "{\n",
    "    Batch b = batch_of(t, batch);\n",
    "    Seen<false> sees(t, l0);\n",
    "    int keys = counted(t, min(l0 + SIDE, t.l) - 1), mine = counted(t, min(l0 + down(), t.l - 1));\n",
    "    float top[4], sum[4], slope[4], x[4][4], lane[4][4], total[4][4]; // slope: the sum of p dp\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 4; i++) top[i] = -HUGE_VALF, sum[i] = slope[i] = 0;\n",
    "    CELLS(i, j) lane[i][j] = total[i][j] = 0;\n",
    "#pragma unroll 1\n",
    "    for (int pass = 0; pass < (t.back && t.dq.base ? 4 : 3); pass++) { // the greatest, the sum of exponentials, [the slope,] the product\n",
    "        bool back = t.back && pass > 1, sums = pass == 1 || (back && pass == 2);\n",
    "#pragma unroll 1\n",
    "        for (int j0 = 0; j0 < keys; j0 += SIDE) {\n",
    "            float p[4][4];\n",
    "#pragma unroll 1\n",
    "            for (int of = 0; of <= back; of++) {\n",
    "                products<false>(s, t, b, of, sees, l0, j0, x);\n",
    "                if (of < back) keep(s, x);\n",
    "            }\n",
    "            CELLS(i, j) p[i][j] = back ? s.p[across() + j][down() + i] : x[i][j];\n",
    "            if (!pass) {\n",
    "                CELLS(i, j) if (sees.has(j0, i, j) && x[i][j] > top[i]) top[i] = x[i][j];\n",
    "                continue;\n",
    "            }\n",
    "            CELLS(i, j) p[i][j] = sees.has(j0, i, j) ? E_EXP(E_SUB(p[i][j], top[i])) : 0;\n",
    "            if (pass > 1) CELLS(i, j) p[i][j] = E_DIV(p[i][j], sum[i]);\n",
    "            if (sums) {\n",
    "                CELLS(i, j) lane[i][j] = E_ADD(lane[i][j], back ? E_MUL(p[i][j], x[i][j]) : p[i][j]);\n",
    "                end_tile(t, b, l0, j0 + SIDE, keys, lane, slope);\n",
    "                continue;\n",
    "            }\n",
    "            if (back) CELLS(i, j) p[i][j] = sees.has(j0, i, j) ? E_MUL(E_MUL(p[i][j], E_SUB(x[i][j], slope[i])), t.scale) : 0;\n",
    "            put_down(s, p, either(back, b.v, b.k), j0, t.s, c0, back ? t.e : t.f);\n",
    "            accumulate(s, 0, mine - j0, j0 + SIDE, keys, lane, total);\n",
    "        }\n",
    "#pragma unroll\n",
    "        for (int i = 0; i < 4; i++) {\n",
    "            if (pass == 1) sum[i] = slope[i];\n",
    "#pragma unroll\n",
    "            for (int h = 8; h; h /= 2) {\n",
    "                float other = __shfl_xor_sync(FULL, top[i], h, 16);\n",
    "                top[i] = other > top[i] ? other : top[i];\n",
    "            }\n",
    "        }\n",
    "    }\n",
    "    if (!t.back) write(t, t.y, batch, l0, t.l, c0, t.f, total);\n",
    "    else if (t.dq.base) write(t, t.dq, batch, l0, t.l, c0, t.e, total);\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 4; i++)\n",
    "        if (t.back && !c0 && !across() && l0 + down() + i < t.l) {\n",
    "            dl_index l = b.first + l0 + down() + i;\n",
    "            t.top[l] = top[i], t.sum[l] = sum[i], t.slope[l] = slope[i];\n",
    "        }\n",
    "}\n",
    "KERNEL(queries)\n",
    "\n",
    "// A tile of keys: dk = ds' q, dv = p' dy, those that are wanted, of the queries whose block counts a key\n",
    "static void keys(Tiles &s, const Attention &t, dl_index batch, int j0, int c0)\n",
    "{\n",
    "    Batch b = batch_of(t, batch);\n",
    "    int mine = t.causal ? (j0 + down()) / t.block * t.block : 0;\n",
    "    float x[4][4], dk[4][4], dk_total[4][4], dv[4][4], dv_total[4][4];\n",
    "    CELLS(i, j) dk[i][j] = dk_total[i][j] = dv[i][j] = dv_total[i][j] = 0;\n",
    "    for (int l0 = t.causal ? j0 : 0; l0 < t.l; l0 += SIDE) {\n",
    "        Seen<true> sees(t, l0);\n",
    "        float top[4], sum[4], slope[4];\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < 4; j++) {\n",
    "            dl_index l = b.first + min(l0 + across() + j, t.l - 1);\n",
    "            top[j] = t.top[l], sum[j] = t.sum[l], slope[j] = t.slope[l];\n",
    "        }\n",
    "#pragma unroll 1\n",
    "        for (int back = 0; back <= (t.dk.base != 0); back++) {\n",
    "            products<true>(s, t, b, back, sees, l0, j0, x);\n",
    "            CELLS(i, j) {\n",
    "                bool has = sees.has(j0, i, j);\n",
    "                if (back) x[i][j] = has ? E_MUL(E_MUL(s.p[across() + j][down() + i], E_SUB(x[i][j], slope[j])), t.scale) : 0;\n",
    "                else x[i][j] = has ? E_DIV(E_EXP(E_SUB(x[i][j], top[j])), sum[j]) : 0;\n",
    "            }\n",
    "            if (!back && !t.dv.base) {\n",
    "                keep(s, x);\n",
    "                continue;\n",
    "            }\n",
    "            put_down(s, x, either(back, b.dy, b.q), l0, t.l, c0, back ? t.e : t.f);\n",
    "            if (back) accumulate(s, mine - l0, t.l - l0, l0 + SIDE, t.l, dk, dk_total);\n",
    "            else accumulate(s, mine - l0, t.l - l0, l0 + SIDE, t.l, dv, dv_total);\n",
    "        }\n",
    "    }\n",
    "    if (t.dv.base) write(t, t.dv, batch, j0, t.s, c0, t.f, dv_total);\n",
    "    if (t.dk.base) write(t, t.dk, batch, j0, t.s, c0, t.e, dk_total);\n",
    "}\n",
    "KERNEL(keys)\n",
    NULL
};
static const char *const dl__cuda_clip_cu[] = {
    "#line 1 \"tools/kernels/clip.cu\"\n",
    "// Clipping gradients by their norm. Squares are added in double by rule 5, each parameter's alone; these sums are added in order.\n",
    "struct Update { float *p, *g, *s[3]; uint64_t n; float h[10]; };\n",
    "enum { WARP = 32 };\n",
    "#define FULL 0xffffffffu\n",
    "\n",
    "static double add_lanes(double low, double high) // the 64 lanes of a warp\n",
    "{\n",
    "    double v = __dadd_rn(low, high);\n",
    "    for (int h = WARP / 2; h; h /= 2) v = __dadd_rn(v, __shfl_down_sync(FULL, v, h));\n",
    "    return __shfl_sync(FULL, v, 0);\n",
    "}\n",
    "\n",
    "static double *chunks_of(const Update *list, uint64_t k, double *chunk) { return chunk + k + (list[k].g - list[0].g) / DL__CHUNK; }\n",
    "\n",
    "// The sums of chunks: a warp each, blockIdx.y is a parameter\n",
    "extern \"C\" __global__ void clip_chunks(const Update *list, uint64_t count, double *chunk, double *, double *, double)\n",
    "{\n",
    "    uint32_t lane = threadIdx.x % WARP;\n",
    "    for (uint64_t k = blockIdx.y; k < count; k += gridDim.y) {\n",
    "        const float *g = list[k].g;\n",
    "        uint64_t unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP, first = unit * DL__CHUNK, n = list[k].n;\n",
    "        if (first >= n) continue;\n",
    "        uint32_t end = (uint32_t)(n - first < DL__CHUNK ? n - first : DL__CHUNK);\n",
    "        double low = 0, high = 0;\n",
    "#pragma unroll 8\n",
    "        for (uint32_t i = lane; i < end; i += DL__LANES) {\n",
    "            double a = g[first + i], b = i + WARP < end ? g[first + i + WARP] : 0;\n",
    "            low = __dadd_rn(low, __dmul_rn(a, a));\n",
    "            high = __dadd_rn(high, __dmul_rn(b, b));\n",
    "        }\n",
    "        low = add_lanes(low, high);\n",
    "        if (!lane) chunks_of(list, k, chunk)[unit] = low;\n",
    "    }\n",
    "}\n",
    "\n",
    "// The sum of n numbers by a warp: n to DL__CHUNK of them, or so many such sums\n",
    "static double sum_of(const double *x, uint64_t n)\n",
    "{\n",
    "    double low = 0, high = 0;\n",
    "    for (uint64_t i = threadIdx.x % WARP; i < n; i += DL__LANES) {\n",
    "        low = __dadd_rn(low, x[i]);\n",
    "        if (i + WARP < n) high = __dadd_rn(high, x[i + WARP]);\n",
    "    }\n",
    "    return add_lanes(low, high);\n",
    "}\n",
    "static double sum_of_sums(const double *x, uint64_t n)\n",
    "{\n",
    "    double low = 0, high = 0;\n",
    "    if (n <= DL__CHUNK) return sum_of(x, n);\n",
    "    for (uint64_t k = 0; k * DL__CHUNK < n; k++) {\n",
    "        double v = sum_of(x + k * DL__CHUNK, n - k * DL__CHUNK < DL__CHUNK ? n - k * DL__CHUNK : DL__CHUNK);\n",
    "        if (k % WARP != threadIdx.x % WARP) continue;\n",
    "        if (k % DL__LANES < WARP) low = __dadd_rn(low, v);\n",
    "        else high = __dadd_rn(high, v);\n",
    "    }\n",
    "    return add_lanes(low, high);\n",
    "}\n",
    "\n",
    "// One block: total, of each parameter by a warp, and norm, which the host may ask for\n",
    "extern \"C\" __global__ void clip_norm(const Update *list, uint64_t count, double *chunk, double *total, double *norm, double)\n",
    "{\n",
    "    for (uint64_t k = threadIdx.x / WARP; k < count; k += blockDim.x / WARP) {\n",
    "        uint64_t n = list[k].n;\n",
    "        double v = sum_of_sums(chunks_of(list, k, chunk), (n + DL__CHUNK - 1) / DL__CHUNK);\n",
    "        if (threadIdx.x % WARP == 0) total[k] = v;\n",
    "    }\n",
    "    __syncthreads();\n",
    "    if (threadIdx.x) return;\n",
    "    double sum = 0;\n",
    "#pragma unroll 8\n",
    "    for (uint64_t k = 0; k < count; k++) sum = __dadd_rn(sum, total[k]);\n",
    "    *norm = __dsqrt_rn(sum);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void clip_scale(const Update *list, uint64_t count, const double *norm, double most)\n",
    "{\n",
    "    double factor = __ddiv_rn(most, __dadd_rn(*norm, 1e-6));\n",
    "    float by = (float)factor;\n",
    "    if (!(factor < 1)) return;\n",
    "    for (uint64_t k = blockIdx.y; k < count; k += gridDim.y) {\n",
    "        Update u = list[k];\n",
    "        for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < u.n; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "            u.g[i] = E_MUL(u.g[i], by);\n",
    "    }\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_common_cu[] = {
    "#line 1 \"tools/kernels/common.cu\"\n",
    "// What every kernel starts with. Compiled by NVRTC with device functions as the default, no contraction, IEEE division and square root,\n",
    "// subnormals kept; behind it comes the device code of dltrain.h, whose macros E_... have one number here where the CPU has a vector.\n",
    "typedef unsigned char uint8_t;\n",
    "typedef unsigned int uint32_t;\n",
    "typedef int int32_t;\n",
    "typedef unsigned long long uint64_t;\n",
    "typedef long long int64_t, dl_index;\n",
    "typedef float dl_real;\n",
    "#define DL__REAL_IS_FLOAT 1\n",
    "#define HUGE_VAL __longlong_as_double(0x7ff0000000000000ll)\n",
    "#define HUGE_VALF __int_as_float(0x7f800000)\n",
    "#define FLT_MIN 1.17549435e-38f\n",
    "#define FLT_MAX 3.40282347e+38f\n",
    "#define DBL_MAX 1.7976931348623157e308\n",
    "#define DBL_MIN 2.2250738585072014e-308\n",
    "#define DL__K(name) dl__##name##_cuda\n",
    "#define DL__NOINLINE\n",
    "#define E_V float\n",
    "#define E_I uint32_t\n",
    "#define E_W 1\n",
    "#define E_IN static __device__ __forceinline__\n",
    "#define E_OUT static __device__ __noinline__\n",
    "#define E_K(c) ((float)(c))\n",
    "#define E_ADD(a, b) __fadd_rn(a, b)\n",
    "#define E_SUB(a, b) __fsub_rn(a, b)\n",
    "#define E_MUL(a, b) __fmul_rn(a, b)\n",
    "#define E_DIV(a, b) __fdiv_rn(a, b)\n",
    "#define E_NEG(a) (-(a))\n",
    "#define E_ABS(a) fabsf(a)\n",
    "#define E_FMA(a, b, c) __fmaf_rn(a, b, c)\n",
    "#define E_SQRT(a) __fsqrt_rn(a)\n",
    "#define E_LT(a, b) ((a) < (b))\n",
    "#define E_LE(a, b) ((a) <= (b))\n",
    "#define E_GT(a, b) ((a) > (b))\n",
    "#define E_GE(a, b) ((a) >= (b))\n",
    "#define E_EQ(a, b) ((a) == (b))\n",
    "#define E_NE(a, b) ((a) != (b))\n",
    "#define E_SEL(m, a, b) ((m) ? (a) : (b))\n",
    "#define E_ONE(m) ((m) ? 1.0f : 0.0f)\n",
    "#define E_BITS(a) __float_as_uint(a)\n",
    "#define E_FROM(i) __uint_as_float(i)\n",
    "#define E_IK(c) ((uint32_t)(c))\n",
    "#define E_IADD(a, b) ((a) + (b))\n",
    "#define E_ISUB(a, b) ((a) - (b))\n",
    "#define E_SHL(a, n) ((a) << (n))\n",
    "#define E_SAR(a, n) ((uint32_t)((int32_t)(a) >> (n)))\n",
    "#define E_TOF(i) ((float)(int32_t)(i))\n",
    "static __device__ float dl__nan() { return __int_as_float(0x7fc00000); }\n",
    "#define dl__fma(a, b, c) __fmaf_rn(a, b, c)\n",
    "#define sqrt(x) __dsqrt_rn(x)\n",
    NULL
};
static const char *const dl__cuda_device_cu[] = {
    "#line 1331 \"dltrain.h\"\n",
    "/* Elementary functions in double, for host scalars (schedules, bias corrections) and for pow, sin and cos: a few ulp of\n",
    "   double, the same bits wherever double is IEEE, which libm does not promise. */\n",
    "static double dl__ldexp_d(double x, int e) /* x 2^e, |e| < 2000 */\n",
    "{\n",
    "    uint64_t u;\n",
    "    double f;\n",
    "    for (; e > 1000; e -= 1000) x *= 1.0715086071862673e301; /* 2^1000 */\n",
    "    for (; e < -1000; e += 1000) x *= 9.332636185032189e-302;\n",
    "    u = (uint64_t)(e + 1023) << 52;\n",
    "    memcpy(&f, &u, sizeof f);\n",
    "    return x * f;\n",
    "}\n",
    "\n",
    "static double dl__exp_d(double x)\n",
    "{\n",
    "    if (x != x) return x;\n",
    "    if (x > 710) return HUGE_VAL;\n",
    "    if (x < -750) return 0;\n",
    "    int n = (int)(x * 1.4426950408889634 + (x < 0 ? -0.5 : 0.5));\n",
    "    double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10, sum = 1, term = 1;\n",
    "    for (int i = 1; i < 14; i++) sum += term *= r / i;\n",
    "    return dl__ldexp_d(sum, n);\n",
    "}\n",
    "\n",
    "static double dl__log_d(double x)\n",
    "{\n",
    "    uint64_t u;\n",
    "    int e = 0;\n",
    "    if (!(x > 0)) return x == 0 ? -HUGE_VAL : x - x;\n",
    "    if (x > DBL_MAX) return x;\n",
    "    if (x < DBL_MIN) {\n",
    "        x *= 18014398509481984.0;\n",
    "        e = -54;\n",
    "    }\n",
    "    memcpy(&u, &x, sizeof u);\n",
    "    e += (int)(u >> 52) - 1023;\n",
    "    u = (u & 0xfffffffffffffu) | (uint64_t)1023 << 52;\n",
    "    memcpy(&x, &u, sizeof x);\n",
    "    if (x > 1.4142135623730951) {\n",
    "        x /= 2;\n",
    "        e++;\n",
    "    }\n",
    "    double s = (x - 1) / (x + 1), z = s * s, sum = 0; /* log x = 2 atanh s, |s| < 0.172 */\n",
    "    for (int k = 21; k >= 3; k -= 2) sum = (sum + 1.0 / k) * z;\n",
    "    return e * 6.93147180369123816490e-01 + (2 * (s + s * sum) + e * 1.90821492927058770002e-10);\n",
    "}\n",
    "\n",
    "/* sine (quarter 0) or cosine (quarter 1) of x; |x| up to 2^30 with full accuracy. */\n",
    "static double dl__sin_d(double x, int quarter)\n",
    "{\n",
    "    if (!(x < 1073741824.0 && x > -1073741824.0)) return x - x;\n",
    "    double n = x * 0.63661977236758134308;\n",
    "    int64_t k = (int64_t)(n < 0 ? n - 0.5 : n + 0.5);\n",
    "    double m = (double)k; /* times pi/2 in four parts of 23 bits: the products are exact */\n",
    "    double r = (((x - m * 1.570796251296997) - m * 7.549789415861596e-08) - m * 5.39030083589187e-15) -\n",
    "        m * 2.0222659584103533e-21;\n",
    "    double z = r * r, sum = 0;\n",
    "    int q = (int)((uint64_t)(k + quarter) & 3);\n",
    "    for (int i = 17 - (q & 1); i > 1; i -= 2) sum = (sum + 1) * -z / (i * (i - 1));\n",
    "    sum = q & 1 ? 1 + sum : r + r * sum;\n",
    "    return q & 2 ? -sum : sum;\n",
    "}\n",
    "\n",
    "static double dl__pow_d(double x, double y)\n",
    "{\n",
    "    bool whole = y < 9e15 && y > -9e15 ? y == (double)(int64_t)y : true,\n",
    "         odd = whole && y < 9e15 && y > -9e15 && ((int64_t)y & 1);\n",
    "    if (y == 0 || x == 1) return 1;\n",
    "    if (x != x || y != y) return x + y;\n",
    "    if (x == 0) return y > 0 ? (odd ? x : 0) : (odd ? 1 / x : HUGE_VAL);\n",
    "    if (x < 0 && !whole) return (x - x) / (x - x);\n",
    "    double a = x < 0 ? -x : x;\n",
    "    if (y == 2) return a * a;\n",
    "    if (y == 0.5) return sqrt(a);\n",
    "    double r = dl__exp_d(a == 1 ? 0 : y * dl__log_d(a));\n",
    "    return x < 0 && odd ? -r : r;\n",
    "}\n",
    "\n",
    "#if DL__REAL_IS_FLOAT\n",
    "static float dl__sin(float x) { return (float)dl__sin_d(x, 0); }\n",
    "static float dl__cos(float x) { return (float)dl__sin_d(x, 1); }\n",
    "static float dl__pow(float x, float y) { return (float)dl__pow_d(x, y); }\n",
    "#else\n",
    "static dl_real dl__sin(dl_real x) { return sin(x); }\n",
    "static dl_real dl__cos(dl_real x) { return cos(x); }\n",
    "static dl_real dl__pow(dl_real x, dl_real y) { return pow(x, y); }\n",
    "#endif\n",
    "#line 2331 \"dltrain.h\"\n",
    "/* Random numbers: Philox 4x32-10 (Salmon et al. 2011), a function of key and counter */\n",
    "static void dl__philox(uint64_t key, uint64_t low, uint64_t high, uint32_t out[4])\n",
    "{\n",
    "    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), x[4];\n",
    "    x[0] = (uint32_t)low, x[1] = (uint32_t)(low >> 32), x[2] = (uint32_t)high, x[3] = (uint32_t)(high >> 32);\n",
    "    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {\n",
    "        uint64_t a = (uint64_t)0xD2511F53u * x[0], b = (uint64_t)0xCD9E8D57u * x[2];\n",
    "        x[0] = (uint32_t)(b >> 32) ^ x[1] ^ k0;\n",
    "        x[1] = (uint32_t)b;\n",
    "        x[2] = (uint32_t)(a >> 32) ^ x[3] ^ k1;\n",
    "        x[3] = (uint32_t)a;\n",
    "    }\n",
    "    memcpy(out, x, sizeof x);\n",
    "}\n",
    "\n",
    "static dl_real dl__uniform(uint32_t u) { return (dl_real)(u >> 8) * (dl_real)5.9604644775390625e-8; } /* [0, 1) */\n",
    "\n",
    "/* Number i of a stream: a standard normal, by Box and Muller. */\n",
    "static dl_real dl__normal(const uint32_t u[4], int i)\n",
    "{\n",
    "    double radius = sqrt(-2 * dl__log_d(((double)u[i & 2] + 1) * 2.3283064365386963e-10));\n",
    "    return (dl_real)(radius * dl__sin_d((double)u[(i & 2) + 1] * 1.4629180792671596e-9, i & 1));\n",
    "}\n",
    "\n",
    "#line 3263 \"dltrain.h\"\n",
    "enum { DL__THIN = 3, DL__KB = 256, DL__MC = 192, DL__CHUNK = 4096, DL__LANES = 64, DL__PACK = 16 };\n",
    "\n",
    "/* One text an operation: its forward form, then its derivative dy -> dx, in prefix macros that are read twice:\n",
    "   here as SIMD code, at >>operations as calls that record, which is why second derivatives exist. X is the input,\n",
    "   Y the output; E_A and E_B the operation's scalars; E_MULS, E_ADDS and E_LEAST (a maximum) take a number. */\n",
    "#define DL__UNARY_ROWS(ROW) \\\n",
    "    ROW(neg, E_NEG(X), E_NEG(DY)) \\\n",
    "    ROW(sign, E_SEL(E_GT(X, E_K(0)), E_K(1), E_SEL(E_LT(X, E_K(0)), E_K(-1), E_K(0))), E_NONE) \\\n",
    "    ROW(abs, E_ABS(X), E_MUL(DY, E_SIGN(X))) \\\n",
    "    ROW(exp, E_EXP(X), E_MUL(DY, Y)) \\\n",
    "    ROW(log, E_LOG(X), E_DIV(DY, X)) \\\n",
    "    ROW(log1p, E_LOG1P(X), E_DIV(DY, E_ADDS(X, 1))) \\\n",
    "    ROW(expm1, E_EXPM1(X), E_MUL(DY, E_ADDS(Y, 1))) \\\n",
    "    ROW(sqrt, E_SQRT(X), E_DIV(E_MULS(DY, 0.5), Y)) \\\n",
    "    ROW(rsqrt, E_DIV(E_K(1), E_SQRT(X)), E_MUL(E_MULS(DY, -0.5), E_DIV(Y, X))) \\\n",
    "    ROW(square, E_MUL(X, X), E_MUL(DY, E_MULS(X, 2))) \\\n",
    "    ROW(reciprocal, E_DIV(E_K(1), X), E_NEG(E_MUL(DY, E_MUL(Y, Y)))) \\\n",
    "    ROW(sigmoid, E_SIGMOID(X), E_MUL(DY, E_MUL(Y, E_SUB(E_K(1), Y)))) \\\n",
    "    ROW(tanh, E_TANH(X), E_MUL(DY, E_SUB(E_K(1), E_MUL(Y, Y)))) \\\n",
    "    ROW(sin, E_SIN(X), E_MUL(DY, E_COS(X))) \\\n",
    "    ROW(cos, E_COS(X), E_NEG(E_MUL(DY, E_SIN(X)))) \\\n",
    "    ROW(erf, E_ERF(X), E_MUL(E_MULS(DY, 1.1283791670955126), E_EXP(E_NEG(E_MUL(X, X))))) \\\n",
    "    ROW(relu, E_SEL(E_LT(X, E_K(0)), E_K(0), X), E_RELU_BACK(DY, Y)) \\\n",
    "    ROW(gelu, E_MUL(X, E_CDF(X)), E_MUL(DY, E_GELU_SLOPE(X))) \\\n",
    "    ROW(gelu_slope, E_ADD(E_CDF(X), E_MUL(E_MULS(X, 0.39894228040143268), E_EXP(E_MULS(E_MUL(X, X), -0.5)))), \\\n",
    "        E_MUL(DY, \\\n",
    "            E_MUL(E_MULS(E_EXP(E_MULS(E_MUL(X, X), -0.5)), 0.39894228040143268), E_ADDS(E_NEG(E_MUL(X, X)), 2)))) \\\n",
    "    ROW(gelu_u, E_MULS(E_MUL(X, E_ADDS(E_MULS(E_MUL(X, X), 0.044715), 1)), 0.79788456080286536), \\\n",
    "        E_MUL(DY, E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))) \\\n",
    "    ROW(gelu_tanh, E_MUL(E_MULS(X, 0.5), E_ADDS(E_TANH(E_GELU_U(X)), 1)), \\\n",
    "        E_MUL(DY, E_GELU_BACK(X, E_TANH(E_GELU_U(X))))) \\\n",
    "    ROW(silu, E_DIV(X, E_ADD(E_K(1), E_EXP(E_NEG(X)))), \\\n",
    "        E_MUL(DY, E_SILU_SLOPE(X))) \\\n",
    "    ROW(silu_slope, E_MUL(E_SIGMOID(X), E_ADDS(E_MUL(X, E_SUB(E_K(1), E_SIGMOID(X))), 1)), \\\n",
    "        E_MUL(DY, E_MUL(E_MUL(E_SIGMOID(X), E_SUB(E_K(1), E_SIGMOID(X))), \\\n",
    "            E_ADDS(E_MUL(X, E_ADDS(E_MULS(E_SIGMOID(X), -2), 1)), 2)))) \\\n",
    "    ROW(softplus, E_ADD(E_SEL(E_LT(X, E_K(0)), E_K(0), X), E_LOG1P(E_EXP(E_NEG(E_ABS(X))))), E_MUL(DY, E_SIGMOID(X)))\n",
    "#define DL__SCALED_ROWS(ROW) \\\n",
    "    ROW(add_scalar, E_ADD(X, E_A), DY) \\\n",
    "    ROW(mul_scalar, E_MUL(X, E_A), E_MULS(DY, A)) \\\n",
    "    ROW(pow_scalar, E_POW(X, E_A), E_MUL(E_MULS(DY, A), E_POWS(X, A != 0 ? A - 1 : 0))) \\\n",
    "    ROW(leaky_relu, E_SEL(E_GT(X, E_K(0)), X, E_MUL(X, E_A)), E_SEL(E_GT(X, E_K(0)), DY, E_MULS(DY, A))) \\\n",
    "    ROW(elu, E_SEL(E_GT(X, E_K(0)), X, E_MUL(E_EXPM1(X), E_A)), E_SEL(E_GT(X, E_K(0)), DY, E_MUL(DY, E_ADDS(Y, A)))) \\\n",
    "    ROW(clamp, E_SEL(E_LT(X, E_A), E_A, E_SEL(E_GT(X, E_B), E_B, X)), \\\n",
    "        E_MUL(DY, E_MUL(E_GE(X, E_KA), E_LE(X, E_KB))))\n",
    "/* Binary rows: both derivatives. Z is the second input. */\n",
    "#define DL__BINARY_ROWS(ROW) \\\n",
    "    ROW(add, E_ADD(X, Z), DY, DY) \\\n",
    "    ROW(sub, E_SUB(X, Z), DY, E_NEG(DY)) \\\n",
    "    ROW(mul, E_MUL(X, Z), E_MUL(DY, Z), E_MUL(DY, X)) \\\n",
    "    ROW(div, E_DIV(X, Z), E_DIV(DY, Z), E_NEG(E_MUL(DY, E_DIV(Y, Z)))) \\\n",
    "    ROW(pow, E_POW(X, Z), E_SEL(E_EQ(Z, E_K(0)), E_K(0), E_MUL(DY, E_MUL(Z, E_POW(X, E_ADDS(Z, -1))))), \\\n",
    "        E_SEL(E_MUL(E_EQ(X, E_K(0)), E_GE(Z, E_K(0))), E_K(0), E_MUL(DY, E_MUL(Y, E_LOG(X))))) \\\n",
    "    ROW(maximum, E_SEL(E_LT(X, Z), Z, E_SEL(E_EQ(Z, Z), X, Z)), E_MUL(DY, E_ADD(E_GT(X, Z), E_MULS(E_EQ(X, Z), 0.5))), \\\n",
    "        E_MUL(DY, E_ADD(E_GT(Z, X), E_MULS(E_EQ(X, Z), 0.5)))) \\\n",
    "    ROW(minimum, E_SEL(E_GT(X, Z), Z, E_SEL(E_EQ(Z, Z), X, Z)), E_MUL(DY, E_ADD(E_LT(X, Z), E_MULS(E_EQ(X, Z), 0.5))), \\\n",
    "        E_MUL(DY, E_ADD(E_LT(Z, X), E_MULS(E_EQ(X, Z), 0.5)))) \\\n",
    "    ROW(bce, \\\n",
    "        E_NEG(E_ADD(E_MUL(Z, E_LEAST(E_LOG(X), -100)), E_MUL(E_SUB(E_K(1), Z), E_LEAST(E_LOG1P(E_NEG(X)), -100)))), \\\n",
    "        E_MUL(DY, E_DIV(E_SUB(X, Z), E_LEAST(E_MUL(E_SUB(E_K(1), X), X), 1e-12f))), \\\n",
    "        E_MUL(DY, E_SUB(E_LEAST(E_LOG1P(E_NEG(X)), -100), E_LEAST(E_LOG(X), -100)))) \\\n",
    "    ROW(relu_back, E_SEL(E_LE(Z, E_K(0)), E_K(0), X), E_RELU_BACK(DY, Z), E_NONE) \\\n",
    "    ROW(gelu_back, \\\n",
    "        E_ADD(E_MULS(E_ADDS(Z, 1), 0.5), \\\n",
    "            E_MUL(E_MUL(E_MULS(X, 0.5), E_SUB(E_K(1), E_MUL(Z, Z))), \\\n",
    "                E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))), \\\n",
    "        E_MUL(DY, \\\n",
    "            E_MUL(E_SUB(E_K(1), E_MUL(Z, Z)), E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.402435), 1), 0.39894228040143268))), \\\n",
    "        E_MUL(DY, \\\n",
    "            E_ADDS(E_NEG(E_MUL(E_MUL(X, Z), \\\n",
    "                E_MULS(E_ADDS(E_MULS(E_MUL(X, X), 0.134145), 1), 0.79788456080286536))), 0.5)))\n",
    "#define DL__COMPARE_ROWS(ROW) \\\n",
    "    ROW(eq, E_EQ(X, Z)) ROW(ne, E_NE(X, Z)) ROW(lt, E_LT(X, Z)) \\\n",
    "    ROW(le, E_LE(X, Z)) ROW(gt, E_GT(X, Z)) ROW(ge, E_GE(X, Z))\n",
    "\n",
    "#line 3716 \"dltrain.h\"\n",
    "#define E_MULS(a, c) E_MUL(a, E_K(c))\n",
    "#define E_ADDS(a, c) E_ADD(a, E_K(c))\n",
    "#ifndef E_MAX /* b where a or b is NaN */\n",
    "#define E_MAX(a, b) E_SEL(E_GT(a, b), a, b)\n",
    "#define E_MIN(a, b) E_SEL(E_LT(a, b), a, b)\n",
    "#endif\n",
    "#define E_LEAST(a, c) E_MAX(E_K(c), a)\n",
    "\n",
    "/* ---- elementary functions ---- */\n",
    "#if DL__REAL_IS_FLOAT\n",
    "/* 1/2 + r/6 + ...: (e^r - 1 - r) / r^2 on |r| <= log(2)/2, relative error of e^r 6e-11 */\n",
    "E_IN E_V DL__K(exp_tail)(E_V r)\n",
    "{\n",
    "    E_V p = E_FMA(E_K(1.97903559e-4f), r, E_K(1.3944651e-3f));\n",
    "    p = E_FMA(p, r, E_K(8.33349675e-3f));\n",
    "    p = E_FMA(p, r, E_K(4.16662954e-2f));\n",
    "    p = E_FMA(p, r, E_K(1.66666657e-1f));\n",
    "    return E_FMA(p, r, E_K(0.5f));\n",
    "}\n",
    "\n",
    "E_IN E_V DL__K(exp)(E_V x)\n",
    "{\n",
    "    x = E_MIN(E_K(89), E_MAX(E_K(-104), x)); /* NaN stays */\n",
    "    E_V t = E_FMA(x, E_K(1.44269504f), E_K(12582912.0f)),\n",
    "        n = E_SUB(t, E_K(12582912.0f)); /* nearest whole number, in t's low bits too */\n",
    "    E_V r = E_FMA(n, E_K(-0.693359375f), x);\n",
    "    r = E_FMA(n, E_K(2.12194440e-4f), r);\n",
    "    E_V y = E_FMA(DL__K(exp_tail)(r), E_MUL(r, r), E_ADD(r, E_K(1)));\n",
    "    E_I i = E_ISUB(E_BITS(t), E_IK(0x4b400000)), half = E_SAR(i, 1); /* times 2^n in two steps, for subnormal results */\n",
    "    y = E_MUL(y, E_FROM(E_SHL(E_IADD(half, E_IK(127)), 23)));\n",
    "    return E_MUL(y, E_FROM(E_SHL(E_IADD(E_ISUB(i, half), E_IK(127)), 23)));\n",
    "}\n",
    "\n",
    "E_OUT E_V DL__K(expm1)(E_V x)\n",
    "{\n",
    "    E_V small = E_FMA(DL__K(exp_tail)(x), E_MUL(x, x), x), large = E_SUB(DL__K(exp)(x), E_K(1));\n",
    "    return E_SEL(E_LT(E_ABS(x), E_K(0.3465f)), small, large);\n",
    "}\n",
    "\n",
    "E_OUT E_V DL__K(log)(E_V x)\n",
    "{\n",
    "    E_V tiny = E_ONE(E_LT(x, E_K(FLT_MIN))), y = E_SEL(E_LT(x, E_K(FLT_MIN)), E_MUL(x, E_K(8388608.0f)), x);\n",
    "    E_I i = E_ISUB(E_BITS(y), E_IK(0x3f3504f3)),\n",
    "        e = E_SAR(i, 23); /* the exponent, that the mantissa lies in [sqrt 1/2, sqrt 2) */\n",
    "    E_V f = E_SUB(E_FROM(E_ISUB(E_BITS(y), E_SHL(e, 23))), E_K(1)), n = E_SUB(E_TOF(e), E_MUL(tiny, E_K(23))),\n",
    "        z = E_MUL(f, f);\n",
    "    E_V p = E_FMA(E_K(0.0674660131f), f, E_K(-0.116756409f)); /* log(1+f) = f - f^2/2 + f^3 p */\n",
    "    p = E_FMA(p, f, E_K(0.118881747f));\n",
    "    p = E_FMA(p, f, E_K(-0.124055915f));\n",
    "    p = E_FMA(p, f, E_K(0.142195508f));\n",
    "    p = E_FMA(p, f, E_K(-0.166679963f));\n",
    "    p = E_FMA(p, f, E_K(0.200021192f));\n",
    "    p = E_FMA(p, f, E_K(-0.250000089f));\n",
    "    p = E_FMA(p, f, E_K(0.333333135f));\n",
    "    p = E_MUL(E_MUL(p, f), z);\n",
    "    p = E_FMA(n, E_K(-2.12194440e-4f), p);\n",
    "    p = E_FMA(z, E_K(-0.5f), p);\n",
    "    p = E_FMA(n, E_K(0.693359375f), E_ADD(f, p));\n",
    "    E_V special = E_SEL(E_EQ(x, E_K(0)), E_K(-HUGE_VALF), E_SEL(E_GT(x, E_K(0)), x, E_K(dl__nan())));\n",
    "    return E_SEL(E_GT(x, E_K(0)), E_SEL(E_LE(x, E_K(FLT_MAX)), p, special), special);\n",
    "}\n",
    "\n",
    "E_OUT E_V DL__K(log1p)(E_V x) /* log(1 + x), with what 1 + x lost made good to first order */\n",
    "{\n",
    "    E_V u = E_ADD(x, E_K(1)), y = DL__K(log)(u), fixed = E_ADD(y, E_DIV(E_SUB(x, E_SUB(u, E_K(1))), u));\n",
    "    return E_SEL(E_GT(u, E_K(0)), E_SEL(E_LE(u, E_K(FLT_MAX)), fixed, y), y);\n",
    "}\n",
    "\n",
    "E_OUT E_V DL__K(tanh)(E_V x)\n",
    "{\n",
    "    E_V a = E_ABS(x), z = E_MUL(x, x);\n",
    "    E_V p = E_FMA(E_K(-5.70497848e-3f), z, E_K(2.06390787e-2f));\n",
    "    p = E_FMA(p, z, E_K(-5.37397116e-2f));\n",
    "    p = E_FMA(p, z, E_K(1.33314416e-1f));\n",
    "    p = E_FMA(p, z, E_K(-3.33332807e-1f));\n",
    "    p = E_FMA(E_MUL(p, z), x, x);\n",
    "    E_V big = E_SUB(E_K(1), E_DIV(E_K(2), E_ADD(DL__K(exp)(E_ADD(a, a)), E_K(1))));\n",
    "    big = E_SEL(E_LT(x, E_K(0)), E_NEG(big), big);\n",
    "    return E_SEL(E_LT(a, E_K(0.625f)), p, big);\n",
    "}\n",
    "\n",
    "E_OUT E_V DL__K(erf)(E_V x) /* x p(x^2) below 1; above 1 - exp(-q(|x|)) */\n",
    "{\n",
    "    E_V a = E_ABS(x), z = E_MUL(x, x);\n",
    "    E_V p = E_FMA(E_K(7.85385782e-5f), z, E_K(-8.01019254e-4f));\n",
    "    p = E_FMA(p, z, E_K(5.18832775e-3f));\n",
    "    p = E_FMA(p, z, E_K(-2.6853811e-2f));\n",
    "    p = E_FMA(p, z, E_K(1.12835854e-1f));\n",
    "    p = E_FMA(p, z, E_K(-3.7612626e-1f));\n",
    "    p = E_FMA(p, z, E_K(1.12837911f));\n",
    "    E_V c = E_SEL(E_GT(a, E_K(4)), E_K(4), a);\n",
    "    E_V q = E_FMA(E_K(-2.51326469e-7f), c, E_K(2.53148064e-5f));\n",
    "    q = E_FMA(q, c, E_K(-4.63788019e-4f));\n",
    "    q = E_FMA(q, c, E_K(4.28238278e-3f));\n",
    "    q = E_FMA(q, c, E_K(-2.53735557e-2f));\n",
    "    q = E_FMA(q, c, E_K(1.08638994e-1f));\n",
    "    q = E_FMA(q, c, E_K(6.33039594e-1f));\n",
    "    q = E_FMA(q, c, E_K(1.1296612f));\n",
    "    q = E_FMA(q, c, E_K(-2.04359865e-4f));\n",
    "    q = E_SUB(E_K(1), DL__K(exp)(E_NEG(q)));\n",
    "    q = E_SEL(E_LT(x, E_K(0)), E_NEG(q), q);\n",
    "    return E_SEL(E_LT(a, E_K(1)), E_MUL(p, x), E_SEL(E_EQ(x, x), q, x));\n",
    "}\n",
    "\n",
    "/* The normal distribution: on the left e t p(t), e = exp(-x^2/2), t = 1 / (1 + 0.305 |x|), good to 1e-7 of the value;\n",
    "   on the right 1 - that */\n",
    "E_IN E_V DL__K(cdf)(E_V x, E_V e)\n",
    "{\n",
    "    E_V t = E_DIV(E_K(1), E_FMA(E_ABS(x), E_K(0.305f), E_K(1)));\n",
    "    E_V p = E_FMA(E_K(3.66991982e-2f), t, E_K(-1.52988344e-1f));\n",
    "    p = E_FMA(p, t, E_K(1.85716972e-1f));\n",
    "    p = E_FMA(p, t, E_K(-3.79768834e-2f));\n",
    "    p = E_FMA(p, t, E_K(1.21021703e-1f));\n",
    "    p = E_FMA(p, t, E_K(1.03420861e-1f));\n",
    "    p = E_FMA(p, t, E_K(1.22466817e-1f));\n",
    "    p = E_FMA(p, t, E_K(1.21639736e-1f));\n",
    "    p = E_MUL(E_MUL(p, t), e);\n",
    "    return E_SEL(E_LT(x, E_K(0)), p, E_SUB(E_K(1), p));\n",
    "}\n",
    "#else\n",
    "static dl_real DL__K(exp)(dl_real x) { return exp(x); }\n",
    "static dl_real DL__K(expm1)(dl_real x) { return expm1(x); }\n",
    "static dl_real DL__K(log)(dl_real x) { return log(x); }\n",
    "static dl_real DL__K(log1p)(dl_real x) { return log1p(x); }\n",
    "static dl_real DL__K(tanh)(dl_real x) { return tanh(x); }\n",
    "static dl_real DL__K(erf)(dl_real x) { return erf(x); }\n",
    "static dl_real DL__K(cdf)(dl_real x, dl_real e) { return (void)e, 0.5 * erfc(-0.70710678118654752 * x); }\n",
    "#endif\n",
    "#if E_W == 1\n",
    "#define E_EACH1(f, x) f(x)\n",
    "#define E_EACH2(f, x, y) f(x, y)\n",
    "#else\n",
    "E_IN E_V DL__K(each1)(float (*f)(float), E_V x)\n",
    "{\n",
    "    float v[E_W];\n",
    "    E_STORE(v, x);\n",
    "    for (int i = 0; i < E_W; i++) v[i] = f(v[i]);\n",
    "    return E_LOAD(v);\n",
    "}\n",
    "E_IN E_V DL__K(each2)(float (*f)(float, float), E_V x, E_V y)\n",
    "{\n",
    "    float v[E_W], w[E_W];\n",
    "    E_STORE(v, x);\n",
    "    E_STORE(w, y);\n",
    "    for (int i = 0; i < E_W; i++) v[i] = f(v[i], w[i]);\n",
    "    return E_LOAD(v);\n",
    "}\n",
    "#define E_EACH1(f, x) DL__K(each1)(f, x)\n",
    "#define E_EACH2(f, x, y) DL__K(each2)(f, x, y)\n",
    "#endif\n",
    "#define E_EXP(x) DL__K(exp)(x)\n",
    "#define E_EXPM1(x) DL__K(expm1)(x)\n",
    "#define E_LOG(x) DL__K(log)(x)\n",
    "#define E_LOG1P(x) DL__K(log1p)(x)\n",
    "#define E_TANH(x) DL__K(tanh)(x)\n",
    "#define E_ERF(x) DL__K(erf)(x)\n",
    "#define E_BELL(x) E_EXP(E_MULS(E_MUL(x, x), -0.5))\n",
    "#define E_CDF(x) DL__K(cdf)(x, E_BELL(x))\n",
    "#define E_SIGMOID(x) E_DIV(E_K(1), E_ADD(E_K(1), E_EXP(E_NEG(x))))\n",
    "#define E_SIN(x) E_EACH1(dl__sin, x)\n",
    "#define E_COS(x) E_EACH1(dl__cos, x)\n",
    "#define E_POW(x, y) E_EACH2(dl__pow, x, y)\n",
    "#define E_GELU_U(x) E_MULS(E_MUL(x, E_ADDS(E_MULS(E_MUL(x, x), 0.044715), 1)), 0.79788456080286536)\n",
    "#define E_A a\n",
    "#define E_B b\n",
    "\n",
    NULL
};
static const char *const dl__cuda_conv_cu[] = {
    "#line 1 \"tools/kernels/conv.cu\"\n",
    "// The convolutions of taps.cu, by the tiles of tile.cu.\n",
    "// blockIdx.z is class * groups + group\n",
    "template <bool BACK, bool SOME> static void slide(Pieces<64> &pieces, const Conv &v, const Work &w)\n",
    "{\n",
    "    uint32_t m0, n0;\n",
    "    uint64_t first, end;\n",
    "    Slide s = slide_of(v, BACK, SOME, (int)blockIdx.z % v.q.groups, (int)blockIdx.z / v.q.groups);\n",
    "    uint32_t n = (uint32_t)(v.q.n * s.plane);\n",
    "    work_tile<64>(w, &m0, &n0, &first, &end);\n",
    "    if (n0 >= n) return;\n",
    "    SlideWeight<4> a = { s, false };\n",
    "    SlidePixels<1> b = { s, false };\n",
    "    SlideOut c = { s, w };\n",
    "    tile<64, 4, SOME>(pieces, a, b, c, w.m, n, m0, n0, first, end, w.parts > 1);\n",
    "}\n",
    "extern \"C\" __global__ void __launch_bounds__(256, 1) conv_forward(Conv v, Work w)\n",
    "{\n",
    "    __shared__ __align__(16) Pieces<64> pieces;\n",
    "    slide<false, false>(pieces, v, w);\n",
    "}\n",
    "extern \"C\" __global__ void __launch_bounds__(256, 1) conv_back(Conv v, Work w)\n",
    "{\n",
    "    __shared__ __align__(16) Pieces<64> pieces;\n",
    "    slide<true, false>(pieces, v, w);\n",
    "}\n",
    "extern \"C\" __global__ void __launch_bounds__(256, 1) conv_back_strided(Conv v, Work w)\n",
    "{\n",
    "    __shared__ __align__(16) Pieces<64> pieces;\n",
    "    slide<true, true>(pieces, v, w);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void __launch_bounds__(256, 1) conv_weight(Conv v, Work w) // v.w is dy, v.y is dw\n",
    "{\n",
    "    __shared__ __align__(16) Pieces<64> pieces;\n",
    "    uint32_t m0, n0;\n",
    "    uint64_t first, end;\n",
    "    int group = (int)blockIdx.z;\n",
    "    TapsDy<4> a = { v, true, group, (int)w.m };\n",
    "    TapsX<4> b = { v, true, group, v.q.c / v.q.groups };\n",
    "    TapsOut c = { v, w, group };\n",
    "    work_tile<64>(w, &m0, &n0, &first, &end);\n",
    "    tile<64, 4, false>(pieces, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_join_cu[] = {
    "#line 1 \"tools/kernels/join.cu\"\n",
    "// The totals of parts of k, added in order: what a product does that was cut by k.\n",
    "extern \"C\" __global__ void join(Work w, float *y, const float *bias, int accumulate)\n",
    "{\n",
    "    uint64_t size = (uint64_t)w.m * w.n, i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i < w.batches * size) finish(y + i, work_joined(w, i / size, i % size), bias, (dl_index)(i % w.n), accumulate);\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_matmul_cu[] = {
    "#line 1 \"tools/kernels/matmul.cu\"\n",
    "// matmul, by the tiles of tile.cu.\n",
    "struct Rows { // rows of a matrix\n",
    "    const float *base, *row[8];\n",
    "    dl_index stride, step;\n",
    "    bool along;\n",
    "    void begin(int i, uint32_t r) { row[i] = base + r * stride; }\n",
    "    float get(int i, uint64_t k) const { return row[i][k * step]; }\n",
    "    bool reaches(uint64_t) const { return true; }\n",
    "};\n",
    "template <int W, int T> static void matmul(Pieces<W> &s, const Matmul &q, const Work &w)\n",
    "{\n",
    "    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {\n",
    "        dl_index at_a, at_b;\n",
    "        uint32_t m0, n0;\n",
    "        uint64_t first, end;\n",
    "        matmul_batch(q, batch, &at_a, &at_b);\n",
    "        Rows a, b;\n",
    "        a.base = q.a + at_a, a.stride = q.a_row, a.step = q.a_k, a.along = q.a_k == 1;\n",
    "        b.base = q.b + at_b, b.stride = q.b_row, b.step = q.b_k, b.along = q.b_k == 1;\n",
    "        MatmulOut c = { q, w, batch };\n",
    "        work_tile<W>(w, &m0, &n0, &first, &end);\n",
    "        tile<W, T, false>(s, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);\n",
    "        __syncthreads();\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void __launch_bounds__(256, 1) matmul_64(Matmul q, Work w)\n",
    "{\n",
    "    __shared__ __align__(16) Pieces<64> s;\n",
    "    matmul<64, 4>(s, q, w);\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_move_cu[] = {
    "#line 1 \"tools/kernels/move.cu\"\n",
    "// Copies with strides, and what looks by index. An index out of range is told in *bad, as place << 32 | index of the first.\n",
    "struct Strided { int ndim; uint32_t dim[8]; dl_index from[8], to[8]; };\n",
    "\n",
    "template <typename I, typename T> static void strided(T *y, const T *x, const Strided &s, I n)\n",
    "{\n",
    "    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {\n",
    "        dl_index from = 0, to = 0;\n",
    "        I left = i;\n",
    "        for (int d = s.ndim - 1; d >= 0; d--) {\n",
    "            uint32_t at = (uint32_t)(d ? left % s.dim[d] : left);\n",
    "            left /= s.dim[d];\n",
    "            from += at * s.from[d];\n",
    "            to += at * s.to[d];\n",
    "        }\n",
    "        y[to] = x[from];\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void strided_4(uint32_t *y, const uint32_t *x, Strided s, uint64_t n)\n",
    "{\n",
    "    if (n >> 31) strided<uint64_t>(y, x, s, n);\n",
    "    else strided<uint32_t>(y, x, s, (uint32_t)n); // a 64-bit division takes as long as ten\n",
    "}\n",
    "extern \"C\" __global__ void strided_1(uint8_t *y, const uint8_t *x, Strided s, uint64_t n)\n",
    "{\n",
    "    if (n >> 31) strided<uint64_t>(y, x, s, n);\n",
    "    else strided<uint32_t>(y, x, s, (uint32_t)n);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void fill_4(uint32_t *y, uint32_t v, uint64_t n)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) y[i] = v;\n",
    "}\n",
    "extern \"C\" __global__ void fill_1(uint8_t *y, uint32_t v, uint64_t n)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) y[i] = (uint8_t)v;\n",
    "}\n",
    "\n",
    "static bool in_range(int index, dl_index least, dl_index rows, uint64_t at, uint64_t *bad)\n",
    "{\n",
    "    if (index >= least && index < rows) return true;\n",
    "    atomicMin(bad, at << 32 | (uint32_t)index);\n",
    "    return false;\n",
    "}\n",
    "\n",
    "// Looks at all n of them. except: one that is allowed besides\n",
    "extern \"C\" __global__ void check_indices(const int *index, uint64_t n, dl_index least, dl_index rows, dl_index except, uint64_t *bad)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "        if (index[i] != except) in_range(index[i], least, rows, i, bad);\n",
    "}\n",
    "\n",
    "// y[o][k][i] = x[o][index[k]][i], or EACH: x[o][index[o][k][i]][i]; bytes `size` an element, 0 for an index of -1\n",
    "template <bool EACH, typename I> static void pick(uint8_t *y, const uint8_t *x, const int *index, I n, uint64_t rows, I inner, I picks,\n",
    "    uint32_t size)\n",
    "{\n",
    "    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {\n",
    "        I c = i % inner, line = i / inner;\n",
    "        uint32_t row = (uint32_t)index[EACH ? i : line % picks];\n",
    "        uint64_t from = (line / picks * rows + row) * inner + c;\n",
    "        if (size == 4) ((uint32_t *)y)[i] = row < rows ? ((const uint32_t *)x)[from] : 0;\n",
    "        else y[i] = row < rows ? x[from] : 0;\n",
    "    }\n",
    "}\n",
    "#define PICK(name, each) \\\n",
    "    extern \"C\" __global__ void name(uint8_t *y, const uint8_t *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner, \\\n",
    "        uint64_t picks, uint32_t size) \\\n",
    "    { \\\n",
    "        uint64_t n = outer * picks * inner; \\\n",
    "        if (n >> 31) pick<each>(y, x, index, n, rows, inner, picks, size); \\\n",
    "        else pick<each>(y, x, index, (uint32_t)n, rows, (uint32_t)inner, (uint32_t)picks, size); \\\n",
    "    }\n",
    "PICK(index_select, false)\n",
    "PICK(gather, true)\n",
    "\n",
    "// y[o][row][i] = the sum of x[o][k][i] over the k whose index[k] is `row`, in their order: a warp a row and 128 of its numbers\n",
    "extern \"C\" __global__ void index_add(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,\n",
    "    uint64_t picks)\n",
    "{\n",
    "    uint64_t unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, row = unit % rows, o = unit / rows;\n",
    "    uint32_t lane = threadIdx.x % 32;\n",
    "    if (o >= outer) return;\n",
    "    for (uint64_t first = (uint64_t)blockIdx.y * 128 + lane; first - lane < inner; first += (uint64_t)gridDim.y * 128) {\n",
    "        float sum[4] = { 0, 0, 0, 0 };\n",
    "        for (uint64_t k0 = 0; k0 < picks; k0 += 32) {\n",
    "            uint32_t found = __ballot_sync(0xffffffffu, k0 + lane < picks && (uint64_t)index[k0 + lane] == row);\n",
    "            for (; found; found &= found - 1) {\n",
    "                const float *from = x + (o * picks + k0 + __popc((found & -found) - 1)) * inner;\n",
    "#pragma unroll\n",
    "                for (int j = 0; j < 4; j++)\n",
    "                    if (first + 32 * j < inner) sum[j] = E_ADD(sum[j], from[first + 32 * j]);\n",
    "            }\n",
    "        }\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < 4; j++)\n",
    "            if (first + 32 * j < inner) y[(o * rows + row) * inner + first + 32 * j] = sum[j];\n",
    "    }\n",
    "}\n",
    "\n",
    "// y[o][row][i] = the sum of x[o][k][i] over the k whose index[o][k][i] is `row`, in their order. Of few k: a thread a number; of many:\n",
    "// a thread for all rows, which are 0 before\n",
    "extern \"C\" __global__ void scatter_add(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,\n",
    "    uint64_t picks)\n",
    "{\n",
    "    uint64_t n = outer * rows * inner;\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {\n",
    "        uint64_t row = i / inner % rows, at = i / inner / rows * picks * inner + i % inner;\n",
    "        float sum = 0;\n",
    "        for (uint64_t k = 0; k < picks; k++, at += inner)\n",
    "            if ((uint64_t)index[at] == row) sum = E_ADD(sum, x[at]);\n",
    "        y[i] = sum;\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void scatter_add_many(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,\n",
    "    uint64_t picks)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i >= outer * inner) return;\n",
    "    uint64_t o = i / inner, c = i % inner;\n",
    "    float *to = y + o * rows * inner + c;\n",
    "    for (uint64_t k = 0; k < picks; k++) {\n",
    "        uint64_t from = (o * picks + k) * inner + c;\n",
    "        if ((uint32_t)index[from] < rows) to[index[from] * inner] = E_ADD(to[index[from] * inner], x[from]);\n",
    "    }\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void one_hot(float *y, const int *x, uint64_t n, uint64_t classes)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n * classes; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "        y[i] = (uint64_t)x[i / classes] == i % classes ? 1.0f : 0.0f;\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void targets(int *y, const int *x, uint64_t n, int ignored)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i < n) y[i] = x[i] == ignored ? 0 : x[i];\n",
    "}\n",
    "extern \"C\" __global__ void target_weights(float *y, const int *x, const float *weight, uint64_t n, int ignored, uint64_t classes)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i < n) y[i] = x[i] == ignored || (uint32_t)x[i] >= classes ? 0.0f : weight ? weight[x[i]] : 1.0f;\n",
    "}\n",
    "\n",
    "// Segments of rows, offset[s] .. offset[s + 1] each\n",
    "// Do the offsets rise from 0 to rows? The first that does not is told as place << 32 | offset. In no bag may be nothing: place 2^31 + bag.\n",
    "extern \"C\" __global__ void check_offsets(const int *offset, uint64_t segments, dl_index rows, int bags, uint64_t *bad)\n",
    "{\n",
    "    for (uint64_t s = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; s <= segments; s += (uint64_t)gridDim.x * blockDim.x)\n",
    "        if ((s == 0 && offset[0] != 0) || (s && offset[s] < offset[s - 1]) || (s == segments && offset[s] != rows))\n",
    "            atomicMin(bad, s << 32 | (uint32_t)offset[s]);\n",
    "        else if (bags && s && offset[s] == offset[s - 1])\n",
    "            atomicMin(bad, (s - 1) << 32 | 1ull << 63 | (uint32_t)offset[s]);\n",
    "}\n",
    "extern \"C\" __global__ void segment_spread(float *y, const float *x, const int *offset, uint64_t segments, uint64_t rows, uint64_t inner)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * inner; i += (uint64_t)gridDim.x * blockDim.x) {\n",
    "        int row = (int)(i / inner);\n",
    "        uint64_t low = 0, high = segments; // the last segment that begins at or before the row, and is not empty\n",
    "        while (high - low > 1) {\n",
    "            uint64_t mid = (low + high) / 2;\n",
    "            if (offset[mid] <= row) low = mid;\n",
    "            else high = mid;\n",
    "        }\n",
    "        y[i] = x[low * inner + i % inner];\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void segment_inverse(float *y, const int *offset, uint64_t segments)\n",
    "{\n",
    "    uint64_t s = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (s < segments) y[s] = offset[s + 1] > offset[s] ? E_DIV(1.0f, (float)(offset[s + 1] - offset[s])) : 0.0f;\n",
    "}\n",
    "extern \"C\" __global__ void segment_argmax(int *y, const float *x, const int *offset, uint64_t segments, uint64_t inner)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i >= segments * inner) return;\n",
    "    uint64_t s = i / inner, c = i % inner;\n",
    "    int best = offset[s] < offset[s + 1] ? offset[s] : -1;\n",
    "    for (int k = offset[s] + 1; k < offset[s + 1]; k++) {\n",
    "        float a = x[best * inner + c], b = x[k * inner + c];\n",
    "        if (a == a && !(b <= a)) best = k;\n",
    "    }\n",
    "    y[i] = best;\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_normalise_cu[] = {
    "#line 1 \"tools/kernels/normalise.cu\"\n",
    "// Normalisation by groups of numbers, as >>normalisation of dltrain.h: group k of x [outer][channels][inner] is channel k, or, by row,\n",
    "// row k of x [rows][inner]. saved = mean, 1 / sqrt(var + eps), and, by channel, var: a row of `groups` each. Sums by chunks are\n",
    "// [group][chunk].\n",
    "static uint64_t chunks_of(const Terms &t) { return (t.n + DL__CHUNK - 1) / DL__CHUNK; }\n",
    "static uint64_t warp() { return ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }\n",
    "static bool first_lane() { return threadIdx.x % WARP == 0; }\n",
    "\n",
    "// Sums of squares by chunks, and the mean, from the sums by chunks\n",
    "extern \"C\" __global__ void norm_squares(float *squares, const float *sums, float *saved, Terms t, float share)\n",
    "{\n",
    "    uint64_t chunks = chunks_of(t), group = warp() / chunks, chunk = warp() % chunks;\n",
    "    if (group >= t.groups) return;\n",
    "    float m = E_MUL(warp_sum(SUM, sums + group * chunks, 0, chunks, 0, 0), share);\n",
    "    float v = chunk_sum(t, group, chunk * DL__CHUNK, [&](uint64_t at) { return term(SQUARES, t.x[at], 0, m, 0); });\n",
    "    if (first_lane()) squares[warp()] = v;\n",
    "    if (first_lane() && !chunk) saved[group] = m;\n",
    "}\n",
    "// Running statistics: buffer = (1 - momentum) buffer + momentum (scale batch)\n",
    "struct Running { float *buffer; float momentum, scale; };\n",
    "static void run(const Running &r, uint64_t i, float x)\n",
    "{\n",
    "    r.buffer[i] = E_ADD(E_MUL(E_SUB(1.0f, r.momentum), r.buffer[i]), E_MUL(r.momentum, E_MUL(x, r.scale)));\n",
    "}\n",
    "extern \"C\" __global__ void running(Running r, const float *x, uint64_t n)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i < n) run(r, i, x[i]);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void norm_moments(const float *squares, float *saved, uint64_t groups, uint64_t chunks, float share, float eps,\n",
    "    int keep_var, Running mean, Running var)\n",
    "{\n",
    "    uint64_t k = warp();\n",
    "    if (k >= groups) return;\n",
    "    float v = E_MUL(warp_sum(SUM, squares + k * chunks, 0, chunks, 0, 0), share);\n",
    "    if (!first_lane()) return;\n",
    "    saved[groups + k] = E_DIV(1.0f, E_SQRT(E_ADD(v, eps)));\n",
    "    if (keep_var) saved[2 * groups + k] = v;\n",
    "    if (mean.buffer) run(mean, k, saved[k]);\n",
    "    if (var.buffer) run(var, k, v);\n",
    "}\n",
    "\n",
    "// Which group number i belongs to, and which of w and b is for it\n",
    "template <class I> static I group_of(I i, I groups, I inner, int by_row, I *j)\n",
    "{\n",
    "    I k = by_row ? i / inner : i / inner % groups;\n",
    "    *j = by_row ? i % inner : k;\n",
    "    return k;\n",
    "}\n",
    "static float normal(float x, float m, float r) { return E_MUL(E_SUB(x, m), r); }\n",
    "\n",
    "// y = (x - m) r w + b; by row w and b are [inner]\n",
    "template <class I> static void apply(float *y, const float *x, const float *saved, const float *w, const float *b, I n, I groups,\n",
    "    I inner, int by_row)\n",
    "{\n",
    "    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {\n",
    "        I j, k = group_of(i, groups, inner, by_row, &j);\n",
    "        y[i] = E_ADD(E_MUL(normal(x[i], saved[k], saved[groups + k]), w ? w[j] : 1), b ? b[j] : 0);\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void norm_apply(float *y, const float *x, const float *saved, const float *w, const float *b, uint64_t n, uint64_t groups,\n",
    "    uint64_t inner, int by_row)\n",
    "{\n",
    "    if (n >> 31) apply<uint64_t>(y, x, saved, w, b, n, groups, inner, by_row);\n",
    "    else apply<uint32_t>(y, x, saved, w, b, (uint32_t)n, (uint32_t)groups, (uint32_t)inner, by_row);\n",
    "}\n",
    "\n",
    "// Rows of no more than a chunk: all at once, a warp a row\n",
    "extern \"C\" __global__ void norm_rows(float *y, const float *x, float *saved, const float *w, const float *b, uint64_t rows,\n",
    "    uint32_t n, float share, float eps)\n",
    "{\n",
    "    uint64_t k = warp();\n",
    "    if (k >= rows) return;\n",
    "    x += k * n, y += k * n;\n",
    "    float m = E_MUL(lanes_sum(n, [&](uint32_t i) { return x[i]; }), share);\n",
    "    float v = E_MUL(lanes_sum(n, [&](uint32_t i) { return term(SQUARES, x[i], 0, m, 0); }), share), r = E_DIV(1.0f, E_SQRT(E_ADD(v, eps)));\n",
    "    if (first_lane()) saved[k] = m, saved[rows + k] = r;\n",
    "    for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP) y[i] = E_ADD(E_MUL(normal(x[i], m, r), w ? w[i] : 1), b ? b[i] : 0);\n",
    "}\n",
    "\n",
    "// dx = k ((g - a) - h b): a and b the means of g and g h, k = w r by channel, r by row, where g is dy w\n",
    "static float slope(float k, float g, float a, float h, float b) { return E_MUL(k, E_SUB(E_SUB(g, a), E_MUL(h, b))); }\n",
    "extern \"C\" __global__ void norm_rows_back(float *dx, const float *dy, const float *x, const float *saved, const float *w,\n",
    "    uint64_t rows, uint32_t n, float share)\n",
    "{\n",
    "    uint64_t k = warp();\n",
    "    if (k >= rows) return;\n",
    "    x += k * n, dx += k * n, dy += k * n;\n",
    "    float m = saved[k], r = saved[rows + k];\n",
    "    float a = E_MUL(lanes_sum(n, [&](uint32_t i) { return w ? E_MUL(dy[i], w[i]) : dy[i]; }), share);\n",
    "    float b = E_MUL(lanes_sum(n, [&](uint32_t i) { return term(PRODUCTS, x[i], w ? E_MUL(dy[i], w[i]) : dy[i], m, r); }), share);\n",
    "    for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP) dx[i] = slope(r, w ? E_MUL(dy[i], w[i]) : dy[i], a, normal(x[i], m, r), b);\n",
    "}\n",
    "\n",
    "// Sums of g and of g h by chunks: part [2][group][chunk]; and of these, sums [2][group]\n",
    "extern \"C\" __global__ void norm_back_chunks(float *part, const float *saved, Terms t)\n",
    "{\n",
    "    uint64_t chunks = chunks_of(t), group = warp() / chunks, first = warp() % chunks * DL__CHUNK;\n",
    "    if (group >= t.groups) return;\n",
    "    float m = saved[group], r = saved[t.groups + group];\n",
    "    float g = chunk_sum(t, group, first, [&](uint64_t at) { return t.z[at]; });\n",
    "    float h = chunk_sum(t, group, first, [&](uint64_t at) { return term(PRODUCTS, t.x[at], t.z[at], m, r); });\n",
    "    if (first_lane()) part[warp()] = g, part[t.groups * chunks + warp()] = h;\n",
    "}\n",
    "extern \"C\" __global__ void norm_totals(float *sums, const float *part, uint64_t n, uint64_t chunks)\n",
    "{\n",
    "    if (warp() >= n) return;\n",
    "    float v = warp_sum(SUM, part + warp() * chunks, 0, chunks, 0, 0);\n",
    "    if (first_lane()) sums[warp()] = v;\n",
    "}\n",
    "\n",
    "template <class I> static void back(float *dx, const float *g, const float *x, const float *saved, const float *sums, const float *w,\n",
    "    I n, I groups, I inner, float share, int by_row)\n",
    "{\n",
    "    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {\n",
    "        I j, k = group_of(i, groups, inner, by_row, &j);\n",
    "        float r = saved[groups + k];\n",
    "        dx[i] = slope(w && !by_row ? E_MUL(w[k], r) : r, g[i], E_MUL(sums[k], share), normal(x[i], saved[k], r),\n",
    "            E_MUL(sums[groups + k], share));\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void norm_back(float *dx, const float *g, const float *x, const float *saved, const float *sums, const float *w,\n",
    "    uint64_t n, uint64_t groups, uint64_t inner, float share, int by_row)\n",
    "{\n",
    "    if (n >> 31) back<uint64_t>(dx, g, x, saved, sums, w, n, groups, inner, share, by_row);\n",
    "    else back<uint32_t>(dx, g, x, saved, sums, w, (uint32_t)n, (uint32_t)groups, (uint32_t)inner, share, by_row);\n",
    "}\n",
    "\n",
    "// y = x z; z is repeated every `inner`\n",
    "extern \"C\" __global__ void norm_scale(float *y, const float *x, const float *z, uint64_t n, uint64_t inner)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "        y[i] = E_MUL(x[i], z[i % inner]);\n",
    "}\n",
    "\n",
    "// sums = the gradients of b and of w by row, [2][inner]: blockIdx.y is one of them\n",
    "extern \"C\" __global__ void __launch_bounds__(256) norm_weights(float *sums, float *part, const float *dy, const float *x,\n",
    "    const float *saved, uint64_t rows, uint64_t inner)\n",
    "{\n",
    "    __shared__ Columns s;\n",
    "    uint64_t which = blockIdx.y, blocks = (rows + DL__KB - 1) / DL__KB;\n",
    "    columns_sum(s, sums + which * inner, part ? part + which * blocks * inner : 0, rows, inner, 0, [&](uint64_t row, uint64_t at) {\n",
    "        float g = dy[at];\n",
    "        return which ? E_MUL(g, normal(x[at], saved[row], saved[rows + row])) : g;\n",
    "    });\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_pool_cu[] = {
    "#line 1 \"tools/kernels/pool.cu\"\n",
    "// Pooling of planes. A thread makes one number of the result, from the numbers that it is made of in the order of the rules.\n",
    "struct Pool { int n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups, adaptive; };\n",
    "// Place `at` of plane i / size: threads of all planes\n",
    "static bool place(const Pool &q, int size, dl_index *i, dl_index *plane, int *at)\n",
    "{\n",
    "    dl_index n = (dl_index)q.n * q.c * size;\n",
    "    *i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (*i >= n) return false;\n",
    "    *plane = n >> 31 ? *i / size : (uint32_t)*i / (uint32_t)size; // a 64-bit division takes as long as ten\n",
    "    *at = (int)(*i - *plane * size);\n",
    "    return true;\n",
    "}\n",
    "struct Window { int y0, y1, x0, x1; };\n",
    "\n",
    "static Window window(const Pool &q, int oy, int ox) // within the image\n",
    "{\n",
    "    Window v;\n",
    "    if (q.adaptive) {\n",
    "        v.y0 = oy * q.h / q.oh, v.y1 = ((oy + 1) * q.h + q.oh - 1) / q.oh;\n",
    "        v.x0 = ox * q.w / q.ow, v.x1 = ((ox + 1) * q.w + q.ow - 1) / q.ow;\n",
    "        return v;\n",
    "    }\n",
    "    v.y0 = oy * q.sh - q.ph, v.y1 = v.y0 + q.kh < q.h ? v.y0 + q.kh : q.h, v.y0 = v.y0 > 0 ? v.y0 : 0;\n",
    "    v.x0 = ox * q.sw - q.pw, v.x1 = v.x0 + q.kw < q.w ? v.x0 + q.kw : q.w, v.x0 = v.x0 > 0 ? v.x0 : 0;\n",
    "    return v;\n",
    "}\n",
    "\n",
    "// Where in its plane the greatest of a window is: the first, and a NaN before all.\n",
    "static int greatest(const Pool &q, const float *x, int oy, int ox)\n",
    "{\n",
    "    Window v = window(q, oy, ox);\n",
    "    int best = v.y0 * q.w + v.x0;\n",
    "    float a = x[best];\n",
    "    for (int iy = v.y0; iy < v.y1; iy++)\n",
    "        for (int ix = v.x0; ix < v.x1; ix++) {\n",
    "            float b = x[iy * q.w + ix];\n",
    "            if (a == a && !(b <= a)) best = iy * q.w + ix, a = b;\n",
    "        }\n",
    "    return best;\n",
    "}\n",
    "\n",
    "// y = v where x is greatest\n",
    "extern \"C\" __global__ void pool_pick(float *y, const float *x, const float *v, Pool q)\n",
    "{\n",
    "    dl_index i, plane;\n",
    "    int at;\n",
    "    if (!place(q, q.oh * q.ow, &i, &plane, &at)) return;\n",
    "    plane *= q.h * q.w;\n",
    "    y[i] = v[plane + greatest(q, x + plane, at / q.ow, at % q.ow)];\n",
    "}\n",
    "\n",
    "// The windows that hold row or column i, of n: they begin at o * stride - pad and are `kernel` wide\n",
    "static void holders(int i, int pad, int kernel, int stride, int n, int *first, int *end)\n",
    "{\n",
    "    int low = i + pad - kernel + 1;\n",
    "    *first = low > 0 ? (low + stride - 1) / stride : 0;\n",
    "    *end = (i + pad) / stride + 1 < n ? (i + pad) / stride + 1 : n;\n",
    "}\n",
    "\n",
    "// dx = the sum of dy over the windows whose greatest this is\n",
    "extern \"C\" __global__ void pool_spread(float *dx, const float *x, const float *dy, Pool q)\n",
    "{\n",
    "    dl_index i, plane;\n",
    "    int at, oy, ey, first, end;\n",
    "    if (!place(q, q.h * q.w, &i, &plane, &at)) return;\n",
    "    float sum = 0;\n",
    "    holders(at / q.w, q.ph, q.kh, q.sh, q.oh, &oy, &ey);\n",
    "    holders(at % q.w, q.pw, q.kw, q.sw, q.ow, &first, &end);\n",
    "    for (; oy < ey; oy++)\n",
    "        for (int ox = first; ox < end; ox++)\n",
    "            if (greatest(q, x + plane * q.h * q.w, oy, ox) == at) sum = E_ADD(sum, dy[(plane * q.oh + oy) * q.ow + ox]);\n",
    "    dx[i] = sum;\n",
    "}\n",
    "// The same for windows of 2 x 2 side by side, a thread each; where no window is there may be an odd row or column\n",
    "extern \"C\" __global__ void pool_spread_2x2(float *dx, const float *x, const float *dy, Pool q)\n",
    "{\n",
    "    dl_index i, plane;\n",
    "    int at, wide = (q.w + 1) / 2;\n",
    "    if (!place(q, (q.h + 1) / 2 * wide, &i, &plane, &at)) return;\n",
    "    int oy = at / wide, ox = at % wide;\n",
    "    bool whole = oy < q.oh && ox < q.ow;\n",
    "    int best = whole ? greatest(q, x + plane * q.h * q.w, oy, ox) : -1;\n",
    "    float g = whole ? dy[(plane * q.oh + oy) * q.ow + ox] : 0;\n",
    "#pragma unroll\n",
    "    for (int k = 0; k < 4; k++) {\n",
    "        int iy = 2 * oy + k / 2, ix = 2 * ox + k % 2;\n",
    "        if (iy < q.h && ix < q.w) dx[(plane * q.h + iy) * q.w + ix] = iy * q.w + ix == best ? g : 0;\n",
    "    }\n",
    "}\n",
    "\n",
    "// The mean of a window, but of one that is the whole plane: that is a sum by rule 5, see pool_share\n",
    "extern \"C\" __global__ void pool_avg(float *y, const float *x, Pool q)\n",
    "{\n",
    "    dl_index i, plane;\n",
    "    int at;\n",
    "    if (!place(q, q.oh * q.ow, &i, &plane, &at)) return;\n",
    "    Window v = window(q, at / q.ow, at % q.ow);\n",
    "    float sum = 0;\n",
    "    x += plane * q.h * q.w;\n",
    "    for (int iy = v.y0; iy < v.y1; iy++)\n",
    "        for (int ix = v.x0; ix < v.x1; ix++) sum = E_ADD(sum, x[iy * q.w + ix]);\n",
    "    y[i] = E_DIV(sum, (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));\n",
    "}\n",
    "extern \"C\" __global__ void pool_share(float *y, uint64_t n, float count)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i < n) y[i] = E_DIV(y[i], count);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void pool_avg_back(float *dx, const float *dy, Pool q)\n",
    "{\n",
    "    dl_index i, plane;\n",
    "    int at, first = 0, end = q.oh, left = 0, right = q.ow;\n",
    "    if (!place(q, q.h * q.w, &i, &plane, &at)) return;\n",
    "    int y = at / q.w, x = at % q.w;\n",
    "    float sum = 0;\n",
    "    if (!q.adaptive) {\n",
    "        holders(y, q.ph, q.kh, q.sh, q.oh, &first, &end);\n",
    "        holders(x, q.pw, q.kw, q.sw, q.ow, &left, &right);\n",
    "    }\n",
    "    for (int oy = first; oy < end; oy++)\n",
    "        for (int ox = left; ox < right; ox++) {\n",
    "            Window v = window(q, oy, ox);\n",
    "            if (y < v.y0 || y >= v.y1 || x < v.x0 || x >= v.x1) continue;\n",
    "            float share = E_DIV(dy[(plane * q.oh + oy) * q.ow + ox], (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));\n",
    "            sum = E_ADD(sum, share);\n",
    "        }\n",
    "    dx[i] = sum;\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_reduce_cu[] = {
    "#line 1 \"tools/kernels/reduce.cu\"\n",
    "// Sums and winners. What a warp sums is in sums.cu.\n",
    "// out[group * chunks + chunk] (+)= the sum of a chunk of a group's terms: a warp a chunk.\n",
    "extern \"C\" __global__ void sum_chunks(float *out, Terms t, int accumulate)\n",
    "{\n",
    "    uint64_t chunks = t.n ? (t.n + DL__CHUNK - 1) / DL__CHUNK : 1, unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;\n",
    "    if (unit >= t.groups * chunks) return;\n",
    "    uint64_t group = unit / chunks;\n",
    "    float m = t.m ? t.m[group] : 0, r = t.r ? t.r[group] : 0;\n",
    "    float v = chunk_sum(t, group, unit % chunks * DL__CHUNK, [&](uint64_t at) { return term(t.what, t.x[at], t.z ? t.z[at] : 0, m, r); });\n",
    "    if (threadIdx.x % WARP == 0) out[unit] = accumulate ? E_ADD(out[unit], v) : v;\n",
    "}\n",
    "\n",
    "// out[o][c] (+)= sum over rows of x[o][row][c]\n",
    "extern \"C\" __global__ void __launch_bounds__(256) sum_columns(float *out, float *part, const float *x, uint64_t outer, uint64_t rows,\n",
    "    uint64_t inner, int accumulate)\n",
    "{\n",
    "    __shared__ Columns s;\n",
    "    uint64_t blocks = (rows + DL__KB - 1) / DL__KB;\n",
    "    for (uint64_t o = blockIdx.y; o < outer; o += gridDim.y) {\n",
    "        columns_sum(s, out + o * inner, part ? part + o * blocks * inner : 0, rows, inner, accumulate,\n",
    "            [&](uint64_t, uint64_t at) { return x[o * rows * inner + at]; });\n",
    "        __syncthreads();\n",
    "    }\n",
    "}\n",
    "extern \"C\" __global__ void sum_columns_join(float *out, const float *part, uint64_t outer, uint64_t blocks, uint64_t inner, int accumulate)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i >= outer * inner) return;\n",
    "    part += i / inner * blocks * inner + i % inner;\n",
    "    float total = part[0];\n",
    "#pragma unroll 8\n",
    "    for (uint64_t b = 1; b < blocks; b++) total = E_ADD(total, part[b * inner]);\n",
    "    out[i] = accumulate ? E_ADD(out[i], total) : total;\n",
    "}\n",
    "\n",
    "// The same for rows offset[s] .. offset[s + 1] of x [rows][inner].\n",
    "extern \"C\" __global__ void segment_sum(float *out, const float *x, const int *offset, uint64_t segments, uint64_t inner)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i >= segments * inner) return;\n",
    "    uint64_t s = i / inner, c = i % inner;\n",
    "    float total = 0;\n",
    "    for (int r0 = offset[s]; r0 < offset[s + 1]; r0 += DL__KB) {\n",
    "        int end = offset[s + 1] - r0 < DL__KB ? offset[s + 1] : r0 + DL__KB;\n",
    "        float p = 0;\n",
    "        for (int r = r0; r < end; r++) p = E_ADD(p, x[r * inner + c]);\n",
    "        total = r0 > offset[s] ? E_ADD(total, p) : p;\n",
    "    }\n",
    "    out[i] = total;\n",
    "}\n",
    "\n",
    "// y[o][c] = the place among count of the winner of x[o][.][c]: the first, and a NaN before all.\n",
    "extern \"C\" __global__ void argmax(int *y, const float *x, uint64_t outer, uint64_t count, uint64_t inner, int least)\n",
    "{\n",
    "    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;\n",
    "    if (i >= outer * inner) return;\n",
    "    const float *p = x + i / inner * count * inner + i % inner;\n",
    "    uint64_t best = 0;\n",
    "    float a = p[0];\n",
    "    for (uint64_t k = 1; k < count; k++) {\n",
    "        float b = p[k * inner];\n",
    "        if (a == a && (b != b || (least ? b < a : b > a))) best = k, a = b;\n",
    "    }\n",
    "    y[i] = (int)best;\n",
    "}\n",
    "\n",
    "static float warp_max(const float *x, uint64_t n)\n",
    "{\n",
    "    uint64_t i = threadIdx.x % WARP;\n",
    "    float best = i < n ? x[i] : -HUGE_VALF;\n",
    "    for (i += WARP; i < n; i += WARP)\n",
    "        if (x[i] > best || x[i] != x[i]) best = x[i];\n",
    "    for (int h = WARP / 2; h; h /= 2) {\n",
    "        float b = __shfl_xor_sync(FULL, best, h);\n",
    "        if (b > best || b != b) best = b;\n",
    "    }\n",
    "    return best;\n",
    "}\n",
    "\n",
    "// y = softmax(x), or its logarithm, over rows of n; a warp a row. y holds the exponentials in between: each lane reads what it wrote.\n",
    "extern \"C\" __global__ void softmax(float *y, const float *x, uint64_t rows, uint64_t n, int log)\n",
    "{\n",
    "    uint64_t row = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;\n",
    "    if (row >= rows) return;\n",
    "    x += row * n, y += row * n;\n",
    "    float top = warp_max(x, n);\n",
    "    for (uint64_t i = threadIdx.x % WARP; i < n; i += WARP) y[i] = E_EXP(E_SUB(x[i], top));\n",
    "    float sum = warp_sum(SUM, y, 0, n, 0, 0);\n",
    "    if (log) sum = E_LOG(sum);\n",
    "    for (uint64_t i = threadIdx.x % WARP; i < n; i += WARP)\n",
    "        y[i] = log ? E_SUB(E_SUB(x[i], top), sum) : E_DIV(y[i], sum);\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_rows_cu[] = {
    "#line 1 \"tools/kernels/rows.cu\"\n",
    "// The rows of dltrain.h read as device functions, for generated kernels.\n",
    "#define ROW1(name, forward, derivative) E_IN float ew_##name(float X) { return forward; }\n",
    "#define ROWS(name, forward, derivative) E_IN float ew_##name(float X, float a, float b) { return forward; }\n",
    "#define ROW2(name, forward, dx, dz) E_IN float ew_##name(float X, float Z) { return forward; }\n",
    "#define ROW0(name, forward) E_IN float ew_##name(float X, float Z) { return E_ONE(forward); }\n",
    "DL__UNARY_ROWS(ROW1)\n",
    "DL__SCALED_ROWS(ROWS)\n",
    "DL__BINARY_ROWS(ROW2)\n",
    "DL__COMPARE_ROWS(ROW0)\n",
    "// What may change from step to step without a new kernel or graph: floats and the random counter of a node.\n",
    "struct Number { float a, b; uint64_t counter; };\n",
    "\n",
    "E_IN float ew_where(float C, float X, float Z) { return E_SEL(E_NE(C, E_K(0)), X, Z); }\n",
    "\n",
    "// Number i of the random stream `key`, `counter`: four to a Philox block.\n",
    "E_IN void ew_block(uint64_t key, uint64_t counter, uint64_t i, uint32_t u[4]) { dl__philox(key, i / 4, counter, u); }\n",
    "E_IN float ew_rand(uint64_t key, uint64_t counter, uint64_t i)\n",
    "{\n",
    "    uint32_t u[4];\n",
    "    ew_block(key, counter, i, u);\n",
    "    return dl__uniform(i & 2 ? i & 1 ? u[3] : u[2] : i & 1 ? u[1] : u[0]);\n",
    "}\n",
    "E_IN float ew_randn(uint64_t key, uint64_t counter, uint64_t i)\n",
    "{\n",
    "    uint32_t u[4], v[4];\n",
    "    ew_block(key, counter, i, u);\n",
    "    v[0] = v[2] = i & 2 ? u[2] : u[0]; // of constant indices: stays in registers\n",
    "    v[1] = v[3] = i & 2 ? u[3] : u[1];\n",
    "    return dl__normal(v, (int)(i & 1));\n",
    "}\n",
    "E_IN float ew_dropout(float x, float p, float scale, uint64_t key, uint64_t counter, uint64_t i)\n",
    "{\n",
    "    return ew_rand(key, counter, i) < p ? 0 : __fmul_rn(x, scale);\n",
    "}\n",
    "\n",
    "// What a thread takes at once: WIDE numbers from number i on, of one read or write where they are more.\n",
    "template <class T> struct alignas(WIDE * sizeof(T)) Lanes { T v[WIDE]; };\n",
    "template <class T> E_IN Lanes<T> get(const T *x, Index i) { return *(const Lanes<T> *)(x + i); }\n",
    "template <class T> E_IN void put(T *y, Index i, const Lanes<T> &v) { *(Lanes<T> *)(y + i) = v; }\n",
    "#define EACH(j) _Pragma(\"unroll\") for (int j = 0; j < WIDE; j++)\n",
    NULL
};
static const char *const dl__cuda_sums_cu[] = {
    "#line 1 \"tools/kernels/sums.cu\"\n",
    "// Sums by rule 5 of the canonical arithmetic, by a warp: its lane l holds lanes l and l + 32 of the rule.\n",
    "enum { WARP = 32, LEVELS = 3 };\n",
    "#define FULL 0xffffffffu\n",
    "\n",
    "// What is summed: x, (x - m)^2 or z (x - m) r, with m and r by group. Term i of group k is at k * step + i / run * stride + i % run.\n",
    "enum { SUM, SQUARES, PRODUCTS };\n",
    "struct Terms { const float *x, *z, *m, *r; uint64_t groups, n, run, stride, step; int what; };\n",
    "static float term(int what, float x, float z, float m, float r)\n",
    "{\n",
    "    if (what == SUM) return x;\n",
    "    x = E_SUB(x, m);\n",
    "    return what == SQUARES ? E_MUL(x, x) : E_MUL(z, E_MUL(x, r));\n",
    "}\n",
    "\n",
    "// The 64 lanes of a warp added pairwise, for all of it.\n",
    "static float add_lanes(float low, float high)\n",
    "{\n",
    "    float v = E_ADD(low, high);\n",
    "    for (int h = WARP / 2; h; h /= 2) v = E_ADD(v, __shfl_down_sync(FULL, v, h));\n",
    "    return __shfl_sync(FULL, v, 0);\n",
    "}\n",
    "\n",
    "// The sum of n <= DL__CHUNK terms f(i), by all of a warp\n",
    "template <class Term> static float lanes_sum(uint32_t n, Term f)\n",
    "{\n",
    "    float low = 0, high = 0;\n",
    "#pragma unroll 4\n",
    "    for (uint32_t i = threadIdx.x % WARP; i < n; i += DL__LANES) {\n",
    "        low = E_ADD(low, f(i));\n",
    "        if (i + WARP < n) high = E_ADD(high, f(i + WARP));\n",
    "    }\n",
    "    return add_lanes(low, high);\n",
    "}\n",
    "\n",
    "// The chunk of a group's terms that begins at `first`; f is given where a term is\n",
    "template <class Term> static float chunk_sum(const Terms &t, uint64_t group, uint64_t first, Term f)\n",
    "{\n",
    "    uint32_t n = (uint32_t)(t.n - first < DL__CHUNK ? t.n - first : DL__CHUNK), lane = threadIdx.x % WARP;\n",
    "    if (t.run >= t.n) return lanes_sum(n, [&](uint32_t i) { return f(group * t.step + first + i); });\n",
    "    uint64_t in = (first + lane) % t.run, at = group * t.step + (first + lane) / t.run * t.stride + in;\n",
    "    float sum[2] = { 0, 0 };\n",
    "#pragma unroll 4\n",
    "    for (uint32_t i = lane; i < n;) {\n",
    "#pragma unroll\n",
    "        for (int half = 0; half < 2; half++, i += WARP) { // lane, and lane + 32 of the rule\n",
    "            if (i < n) sum[half] = E_ADD(sum[half], f(at));\n",
    "            at += WARP, in += WARP;\n",
    "            if (in >= t.run) at += in / t.run * (t.stride - t.run), in %= t.run; // on to the next run: no division at each term\n",
    "        }\n",
    "    }\n",
    "    return add_lanes(sum[0], sum[1]);\n",
    "}\n",
    "\n",
    "// Sums down columns by rule 2, of f(row, place), place = row * inner + column, by a block of 256 threads for 8 columns: numbers come into\n",
    "// shared memory all at once, four blocks of 256 rows; then each of these is a chain. out [inner] (+)= the totals; or, where `part` is given, part [block][inner] takes\n",
    "// those of the four blocks of rows that are blockIdx.z's, to be added by sum_columns_join.\n",
    "enum { COLUMNS = 8, EACH = 256 / COLUMNS, BLOCKS = 4, DOWN = BLOCKS * DL__KB };\n",
    "struct Columns { float x[BLOCKS][DL__KB * COLUMNS + COLUMNS], sum[BLOCKS][COLUMNS]; };\n",
    "template <class Term> static void columns_sum(Columns &s, float *out, float *part, uint64_t rows, uint64_t inner, int accumulate, Term f)\n",
    "{\n",
    "    uint32_t c = threadIdx.x % COLUMNS, k = threadIdx.x / COLUMNS;\n",
    "    uint64_t column = (uint64_t)blockIdx.x * COLUMNS + c;\n",
    "    uint64_t end = part && rows > (blockIdx.z + 1ull) * DOWN ? (blockIdx.z + 1ull) * DOWN : rows;\n",
    "    float total = 0;\n",
    "    for (uint64_t r0 = part ? (uint64_t)blockIdx.z * DOWN : 0; r0 == 0 || r0 < end; r0 += DOWN) {\n",
    "        uint32_t n = column < inner ? (uint32_t)(end - r0 < DOWN ? end - r0 : DOWN) : 0;\n",
    "        uint64_t at = (r0 + k) * inner + column;\n",
    "#pragma unroll 1\n",
    "        for (uint32_t b = 0; b < BLOCKS && b * DL__KB + k < n; b++)\n",
    "#pragma unroll\n",
    "            for (uint32_t r = k; r < DL__KB; r += EACH, at += EACH * inner)\n",
    "                if (b * DL__KB + r < n) s.x[b][r * COLUMNS + c] = f(r0 + b * DL__KB + r, at);\n",
    "        __syncthreads();\n",
    "        if (k < BLOCKS && (k == 0 || k * DL__KB < n)) {\n",
    "            uint32_t rows_here = n < (k + 1) * DL__KB ? n - k * DL__KB : DL__KB;\n",
    "            float p = 0;\n",
    "#pragma unroll 8\n",
    "            for (uint32_t r = 0; r < rows_here; r++) p = E_ADD(p, s.x[k][r * COLUMNS + c]);\n",
    "            s.sum[k][c] = p;\n",
    "            if (part && column < inner) part[(r0 / DL__KB + k) * inner + column] = p;\n",
    "        }\n",
    "        __syncthreads();\n",
    "        for (uint32_t b = 0; k == 0 && b < BLOCKS && (b == 0 || b * DL__KB < n); b++)\n",
    "            total = r0 + b ? E_ADD(total, s.sum[b][c]) : s.sum[b][c];\n",
    "    }\n",
    "    if (!part && k == 0 && column < inner) out[column] = accumulate ? E_ADD(out[column], total) : total;\n",
    "}\n",
    "\n",
    "// Sums of chunks, and of these: dl__total of dltrain.h.\n",
    "struct Total { float low[LEVELS], high[LEVELS]; uint32_t n[LEVELS]; };\n",
    "static float take(Total *t, int level)\n",
    "{\n",
    "    float v = add_lanes(t->low[level], t->high[level]);\n",
    "    t->low[level] = t->high[level] = 0;\n",
    "    t->n[level] = 0;\n",
    "    return v;\n",
    "}\n",
    "static void carry(Total *t, int level, float v)\n",
    "{\n",
    "    for (; level < LEVELS; level++) {\n",
    "        uint32_t at = t->n[level]++ % DL__LANES;\n",
    "        if (at % WARP == threadIdx.x % WARP) {\n",
    "            if (at < WARP) t->low[level] = E_ADD(t->low[level], v);\n",
    "            else t->high[level] = E_ADD(t->high[level], v);\n",
    "        }\n",
    "        if (t->n[level] < DL__CHUNK) return;\n",
    "        v = take(t, level);\n",
    "    }\n",
    "}\n",
    "\n",
    "// The sum of the n terms x[i], by all of a warp.\n",
    "static float warp_sum(int what, const float *x, const float *z, uint64_t n, float m, float r)\n",
    "{\n",
    "    Total t;\n",
    "    for (int l = 0; l < LEVELS; l++) t.low[l] = t.high[l] = 0, t.n[l] = 0;\n",
    "    for (uint64_t chunk = 0; chunk < n; chunk += DL__CHUNK) {\n",
    "        uint64_t end = n - chunk < DL__CHUNK ? n : chunk + DL__CHUNK;\n",
    "        float v = lanes_sum((uint32_t)(end - chunk), [&](uint32_t i) { return term(what, x[chunk + i], z ? z[chunk + i] : 0, m, r); });\n",
    "        if (n <= DL__CHUNK) return v;\n",
    "        carry(&t, 0, v);\n",
    "    }\n",
    "    float v = 0;\n",
    "    for (int level = 0; level < LEVELS; level++) {\n",
    "        uint32_t above = 0;\n",
    "        for (int k = level + 1; k < LEVELS; k++) above += t.n[k];\n",
    "        if (!above) return t.n[level] ? take(&t, level) : 0;\n",
    "        if (t.n[level]) carry(&t, level + 1, take(&t, level));\n",
    "    }\n",
    "    return v;\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_taps_cu[] = {
    "#line 1 \"tools/kernels/taps.cu\"\n",
    "// Convolutions as products whose operands are never written down: x [n,c,h,w], weight [o,c/groups,kh,kw], y [n,o,oh,ow]. Output channels are\n",
    "// the rows of C, pixels its columns; k goes over (ky, kx, channel). Taps outside of an image multiply +0.\n",
    "// A source holds N rows of a tile, a thread's: begin(i, row) for number i, seek(k), then at(i, &p): is there a number, and where?\n",
    "struct Geometry { int n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups; };\n",
    "struct Conv {\n",
    "    const float *x, *w, *bias;\n",
    "    float *y;\n",
    "    Geometry q;\n",
    "    int accumulate;\n",
    "};\n",
    "\n",
    "// ---- forward: k = (ky, kx, c); back: x is dy, y is dx, k = (ky, kx, o). Of strides, pixels of dx fall into classes by the taps that reach\n",
    "// them: a class is a product of its own, and taps that do not reach it are left out ----\n",
    "struct Slide {\n",
    "    const Conv &v;\n",
    "    bool back, strided;             // strided: of the gradient alone\n",
    "    int group, in, out;             // channels of a group\n",
    "    int high, wide, out_w, plane;   // of a source image; the class's pixels: in a row, in an image\n",
    "    int sy, sx, ry, rx;             // pixels of the class are sy and sx apart, from ry and rx on\n",
    "};\n",
    "static Slide slide_of(const Conv &v, bool back, bool strided, int group, int klass)\n",
    "{\n",
    "    const Geometry &q = v.q;\n",
    "    int sy = back ? q.sh : 1, sx = back ? q.sw : 1, ry = klass / sx, rx = klass % sx;\n",
    "    int rows = ((back ? q.h : q.oh) - ry + sy - 1) / sy, out_w = ((back ? q.w : q.ow) - rx + sx - 1) / sx;\n",
    "    Slide s = { v, back, strided, group, (back ? q.o : q.c) / q.groups, (back ? q.c : q.o) / q.groups, back ? q.oh : q.h, back ? q.ow : q.w,\n",
    "        out_w, rows > 0 && out_w > 0 ? rows * out_w : 0, sy, sx, ry, rx };\n",
    "    return s;\n",
    "}\n",
    "\n",
    "template <class S> static float number(S &s, int i, uint64_t k) // of a source\n",
    "{\n",
    "    const float *p;\n",
    "    s.seek(k);\n",
    "    return s.at(i, &p) ? *p : 0;\n",
    "}\n",
    "\n",
    "template <int N> struct SlideWeight { // rows: channels of the result\n",
    "    const Slide &s;\n",
    "    bool along;\n",
    "    const float *row[N];\n",
    "    dl_index step;\n",
    "    void begin(int i, uint32_t r)\n",
    "    {\n",
    "        int taps = s.v.q.kh * s.v.q.kw;\n",
    "        row[i] = s.v.w + (dl_index)s.group * s.in * s.out * taps + (dl_index)r * (s.back ? taps : s.in * taps);\n",
    "    }\n",
    "    void seek(uint64_t k)\n",
    "    {\n",
    "        int taps = s.v.q.kh * s.v.q.kw, tap = (int)k / s.in, c = (int)k % s.in;\n",
    "        step = (dl_index)c * (s.back ? s.out * taps : taps) + tap;\n",
    "    }\n",
    "    bool at(int i, const float **p) const { return *p = row[i] + step, true; }\n",
    "    float get(int i, uint64_t k) { return number(*this, i, k); }\n",
    "};\n",
    "template <int N> struct SlidePixels { // rows: pixels of the result; N is 1 where all of a thread's numbers are of one\n",
    "    const Slide &s;\n",
    "    bool along;\n",
    "    int y[N], x[N], ky, kx;\n",
    "    const float *image[N];\n",
    "    dl_index channel;\n",
    "    void begin(int i, uint32_t r)\n",
    "    {\n",
    "        if (i >= N) return;\n",
    "        const Geometry &q = s.v.q;\n",
    "        int n = (int)r / s.plane, at = (int)r % s.plane, fy = s.ry + at / s.out_w * s.sy, fx = s.rx + at % s.out_w * s.sx;\n",
    "        y[i] = s.back ? fy + q.ph : fy * q.sh - q.ph, x[i] = s.back ? fx + q.pw : fx * q.sw - q.pw;\n",
    "        image[i] = s.v.x + ((dl_index)n * q.groups + s.group) * s.in * s.high * s.wide;\n",
    "    }\n",
    "    void seek(uint64_t k)\n",
    "    {\n",
    "        const Geometry &q = s.v.q;\n",
    "        int tap = (int)k / s.in;\n",
    "        ky = tap / q.kw * q.dh, kx = tap % q.kw * q.dw;\n",
    "        channel = (dl_index)((int)k % s.in) * s.high * s.wide;\n",
    "    }\n",
    "    bool at(int i, const float **p) const\n",
    "    {\n",
    "        int fy = s.back ? y[i % N] - ky : y[i % N] + ky, fx = s.back ? x[i % N] - kx : x[i % N] + kx;\n",
    "        if (fy < 0 || fx < 0) return false;\n",
    "        if (s.strided) fy /= s.v.q.sh, fx /= s.v.q.sw;\n",
    "        return *p = image[i % N] + channel + (dl_index)fy * s.wide + fx, fy < s.high && fx < s.wide;\n",
    "    }\n",
    "    float get(int i, uint64_t k) { return number(*this, i, k); }\n",
    "    // Is step k of the class? And the first that is, from k on\n",
    "    bool reaches(uint64_t k) const\n",
    "    {\n",
    "        const Geometry &q = s.v.q;\n",
    "        int tap = (int)k / s.in;\n",
    "        return (s.ry + q.ph - tap / q.kw * q.dh) % q.sh == 0 && (s.rx + q.pw - tap % q.kw * q.dw) % q.sw == 0;\n",
    "    }\n",
    "    uint64_t next(uint64_t k, uint64_t end) const\n",
    "    {\n",
    "        while (k < end && !reaches(k)) k = (k / s.in + 1) * s.in;\n",
    "        return k;\n",
    "    }\n",
    "};\n",
    "static float *slide_place(const Slide &s, uint32_t row, uint32_t column)\n",
    "{\n",
    "    const Geometry &q = s.v.q;\n",
    "    int n = (int)column / s.plane, at = (int)column % s.plane, y = s.ry + at / s.out_w * s.sy, x = s.rx + at % s.out_w * s.sx;\n",
    "    int h = s.back ? q.h : q.oh, w = s.back ? q.w : q.ow;\n",
    "    return s.v.y + ((((dl_index)n * q.groups + s.group) * s.out + row) * h + y) * w + x;\n",
    "}\n",
    "struct SlideOut {\n",
    "    const Slide &s;\n",
    "    const Work &w;\n",
    "    void put(uint32_t row, uint32_t column, float v, bool part) const\n",
    "    {\n",
    "        if (part) *work_part(w, s.group, row, column) = v;\n",
    "        else finish(slide_place(s, row, column), v, s.v.bias, (dl_index)s.group * s.out + row, s.v.accumulate);\n",
    "    }\n",
    "};\n",
    "// ---- the gradient of the weight: rows are output channels, columns taps (c, ky, kx), k = (image, y, x) ----\n",
    "template <int N> struct TapsDy {\n",
    "    const Conv &v;\n",
    "    bool along;\n",
    "    int group, out;\n",
    "    const float *row[N];\n",
    "    dl_index step;\n",
    "    void begin(int i, uint32_t r) { row[i] = v.w + ((dl_index)group * out + r) * v.q.oh * v.q.ow; }\n",
    "    void seek(uint64_t k)\n",
    "    {\n",
    "        int plane = v.q.oh * v.q.ow;\n",
    "        step = (dl_index)((int)k / plane) * v.q.o * plane + (int)k % plane;\n",
    "    }\n",
    "    bool at(int i, const float **p) const { return *p = row[i] + step, true; }\n",
    "    float get(int i, uint64_t k) { return number(*this, i, k); }\n",
    "};\n",
    "template <int N> struct TapsX {\n",
    "    const Conv &v;\n",
    "    bool along;\n",
    "    int group, in, y[N], x[N], oy, ox;\n",
    "    const float *plane[N];\n",
    "    dl_index image;\n",
    "    void begin(int i, uint32_t r)\n",
    "    {\n",
    "        int taps = v.q.kh * v.q.kw, tap = (int)r % taps;\n",
    "        y[i] = tap / v.q.kw * v.q.dh - v.q.ph, x[i] = tap % v.q.kw * v.q.dw - v.q.pw;\n",
    "        plane[i] = v.x + ((dl_index)group * in + (int)r / taps) * v.q.h * v.q.w;\n",
    "    }\n",
    "    void seek(uint64_t k)\n",
    "    {\n",
    "        const Geometry &q = v.q;\n",
    "        int size = q.oh * q.ow, at = (int)k % size;\n",
    "        oy = at / q.ow * q.sh, ox = at % q.ow * q.sw;\n",
    "        image = (dl_index)((int)k / size) * q.c * q.h * q.w;\n",
    "    }\n",
    "    bool at(int i, const float **p) const\n",
    "    {\n",
    "        int fy = oy + y[i], fx = ox + x[i];\n",
    "        return *p = plane[i] + image + (dl_index)fy * v.q.w + fx, fy >= 0 && fx >= 0 && fy < v.q.h && fx < v.q.w;\n",
    "    }\n",
    "    float get(int i, uint64_t k) { return number(*this, i, k); }\n",
    "    bool reaches(uint64_t) const { return true; }\n",
    "};\n",
    "struct TapsOut {\n",
    "    const Conv &v;\n",
    "    const Work &w;\n",
    "    int group;\n",
    "    void put(uint32_t row, uint32_t column, float value, bool part) const\n",
    "    {\n",
    "        if (part) *work_part(w, group, row, column) = value;\n",
    "        else finish(v.y + ((uint64_t)group * w.m + row) * w.n + column, value, 0, 0, v.accumulate);\n",
    "    }\n",
    "};\n",
    NULL
};
static const char *const dl__cuda_tensor_cu[] = {
    "#line 1 \"tools/kernels/tensor.cu\"\n",
    "// Products on tensor cores (mma.sync; compute capability 8.0 and later): operands are rounded to tf32 or, if BF16, to bf16;\n",
    "// sums are fp32, in no canonical order but always the same. Numbers travel from global to shared memory by cp.async, as fp32,\n",
    "// in pieces of 16 steps of k, several of them on their way at once; they are rounded when they are read from there. A block of\n",
    "// 2 W threads computes W x W, a warp W/2 x 32. Sources as in taps.cu, targets as in tile.cu.\n",
    "template <int W> struct Stages {\n",
    "    enum { N = W == 128 ? 3 : 4 }; // within the 48 KB that need no asking\n",
    "    float a[N][W * BK], b[N][W * BK];\n",
    "};\n",
    "\n",
    "// Where a number lies in a piece: fours of a row change places, so that neither rows of fours nor fours of rows meet in a bank.\n",
    "static uint32_t placed(uint32_t row, uint32_t k) { return row * BK + (k / 4 ^ row / 2 % 4) * 4 + k % 4; }\n",
    "\n",
    "static uint32_t shared_address(const float *p) { return (uint32_t)__cvta_generic_to_shared(p); }\n",
    "static void copy_4(float *to, const float *from, bool there) // or 0\n",
    "{\n",
    "    asm volatile(\"cp.async.ca.shared.global [%0], [%1], 4, %2;\"\n",
    "        ::\"r\"(shared_address(to)), \"l\"(from), \"r\"(there ? 4 : 0) : \"memory\");\n",
    "}\n",
    "static void copy_16(float *to, const float *from, uint32_t n) // n of four numbers, then zeros\n",
    "{\n",
    "    asm volatile(\"cp.async.cg.shared.global [%0], [%1], 16, %2;\"\n",
    "        ::\"r\"(shared_address(to)), \"l\"(from), \"r\"(n * 4) : \"memory\");\n",
    "}\n",
    "\n",
    "// A thread's rows are 8, W/8 apart; its step of k is one of the piece.\n",
    "enum { ROWS = 8 };\n",
    "static uint32_t own_row() { return threadIdx.x % 8 + threadIdx.x / 128 * 8; }\n",
    "static uint32_t own_k() { return threadIdx.x / 8 % BK; }\n",
    "\n",
    "// Rows of a matrix. by_16: they are contiguous along k, and aligned.\n",
    "template <int W> struct Matrix {\n",
    "    const float *base;\n",
    "    dl_index stride, step;\n",
    "    bool by_16;\n",
    "    const float *first, *here;\n",
    "    void begin(int i, uint32_t r) { if (!i) first = base + r * stride; }\n",
    "    void seek(uint64_t k) { here = first + k * step; }\n",
    "    bool at(int i, const float **p) const { return *p = here + i * (W / ROWS) * stride, true; }\n",
    "};\n",
    "\n",
    "// Fetches the piece at k0 of rows r0.. of a source. Nothing of it: zeros.\n",
    "template <int W, class S> static void fetch(float *to, S &s, uint32_t r0, uint32_t rows, uint64_t k0, uint64_t end, bool counts)\n",
    "{\n",
    "    uint64_t k = k0 + own_k();\n",
    "    counts = counts && k < end;\n",
    "    if (counts) s.seek(k);\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < ROWS; i++) {\n",
    "        uint32_t row = own_row() + i * (W / ROWS);\n",
    "        const float *p = 0;\n",
    "        bool there = counts && r0 + row < rows && s.at(i, &p);\n",
    "        copy_4(to + placed(row, own_k()), p, there);\n",
    "    }\n",
    "}\n",
    "template <int W> static void fetch(float *to, Matrix<W> &s, uint32_t r0, uint32_t rows, uint64_t k0, uint64_t end, bool)\n",
    "{\n",
    "    if (!s.by_16) return fetch<W, Matrix<W> >(to, s, r0, rows, k0, end, true);\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 2; i++) {\n",
    "        uint32_t row = threadIdx.x / 4 + i * (W / 2), chunk = threadIdx.x % 4 * 4;\n",
    "        uint64_t k = k0 + chunk;\n",
    "        uint32_t n = r0 + row >= rows || k >= end ? 0 : end - k < 4 ? (uint32_t)(end - k) : 4;\n",
    "        copy_16(to + placed(row, chunk), n ? s.base + (r0 + row) * s.stride + k : s.base, n);\n",
    "    }\n",
    "}\n",
    "\n",
    "// Four matrices of 8 rows and 4 steps of k: a lane gets the number (row lane / 4, step lane % 4) of each.\n",
    "static void read_four(uint32_t *r, const float *p)\n",
    "{\n",
    "    asm volatile(\"ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\"\n",
    "                 : \"=r\"(r[0]), \"=r\"(r[1]), \"=r\"(r[2]), \"=r\"(r[3]) : \"r\"(shared_address(p)) : \"memory\");\n",
    "}\n",
    "#if BF16\n",
    "// An mma takes all 16 steps. What it calls which of them does not matter to a sum: its neighbours 2t, 2t + 1 are t, t + 4 here.\n",
    "enum { STEPS = 1 };\n",
    "static uint32_t rounded(uint32_t low, uint32_t high)\n",
    "{\n",
    "    uint32_t r;\n",
    "    asm(\"cvt.rn.bf16x2.f32 %0, %1, %2;\" : \"=r\"(r) : \"f\"(__uint_as_float(high)), \"f\"(__uint_as_float(low)));\n",
    "    return r;\n",
    "}\n",
    "static void round_a(uint32_t *x, const uint32_t *r) // r: rows 0.., 8.. of fours of k 0, 1, 2, 3\n",
    "{\n",
    "    for (int i = 0; i < 4; i++) x[i] = rounded(r[i / 2 * 4 + i % 2], r[i / 2 * 4 + i % 2 + 2]);\n",
    "}\n",
    "static void round_b(uint32_t *y, const uint32_t *r)\n",
    "{\n",
    "    for (int i = 0; i < 2; i++) y[i] = rounded(r[2 * i], r[2 * i + 1]);\n",
    "}\n",
    "#define MMA \"mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32\"\n",
    "#else\n",
    "enum { STEPS = 2 }; // of 8\n",
    "static uint32_t rounded(uint32_t v)\n",
    "{\n",
    "    uint32_t r;\n",
    "    asm(\"cvt.rna.tf32.f32 %0, %1;\" : \"=r\"(r) : \"f\"(__uint_as_float(v)));\n",
    "    return r;\n",
    "}\n",
    "static void round_a(uint32_t *x, const uint32_t *r)\n",
    "{\n",
    "    for (int i = 0; i < 8; i++) x[i] = rounded(r[i]);\n",
    "}\n",
    "static void round_b(uint32_t *y, const uint32_t *r)\n",
    "{\n",
    "    for (int i = 0; i < 4; i++) y[i] = rounded(r[i]);\n",
    "}\n",
    "#define MMA \"mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32\"\n",
    "#endif\n",
    "static void multiply_add(float *c, const uint32_t *x, const uint32_t *y)\n",
    "{\n",
    "    asm(MMA \" {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\"\n",
    "        : \"+f\"(c[0]), \"+f\"(c[1]), \"+f\"(c[2]), \"+f\"(c[3]) : \"r\"(x[0]), \"r\"(x[1]), \"r\"(x[2]), \"r\"(x[3]), \"r\"(y[0]), \"r\"(y[1]));\n",
    "}\n",
    "\n",
    "// The warp's part of a piece: acc[16 rows each][8 columns each]\n",
    "template <int W> static void multiply(float (*acc)[4][4], const float *a, const float *b)\n",
    "{\n",
    "    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, x[W / 32][STEPS * 4], y[STEPS * 2], r[8];\n",
    "    const float *rows = a + warp / (W / 32) * (W / 2) * BK, *columns = b + warp % (W / 32) * 32 * BK;\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < W / 32; i++) {\n",
    "        read_four(r, rows + i * 16 * BK + placed(lane % 16, lane / 16 * 4));\n",
    "        read_four(r + 4, rows + i * 16 * BK + placed(lane % 16, 8 + lane / 16 * 4));\n",
    "        round_a(x[i], r);\n",
    "    }\n",
    "#pragma unroll\n",
    "    for (int j = 0; j < 4; j++) {\n",
    "        read_four(r, columns + j * 8 * BK + placed(lane % 8, lane / 8 * 4));\n",
    "        round_b(y, r);\n",
    "#pragma unroll\n",
    "        for (int s = 0; s < STEPS; s++)\n",
    "#pragma unroll\n",
    "            for (int i = 0; i < W / 32; i++) multiply_add(acc[i][j], x[i] + 4 * s, y + 2 * s);\n",
    "    }\n",
    "}\n",
    "\n",
    "// The tile from (m0, n0), k from `first`, a multiple of 16, to `end`. SOME: B tells which steps of k count.\n",
    "template <bool SOME, class B> static uint64_t next_piece(const B &b, uint64_t k, uint64_t end)\n",
    "{\n",
    "    if constexpr (SOME) {\n",
    "        uint64_t next = b.next(k, end) / BK * BK;\n",
    "        return next > k ? next : k;\n",
    "    }\n",
    "    return k;\n",
    "}\n",
    "template <int W, bool SOME, class A, class B, class C>\n",
    "static void tensor_tile(Stages<W> &s, A &a, B &b, const C &c, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0,\n",
    "    uint64_t first, uint64_t end, bool part)\n",
    "{\n",
    "    enum { N = Stages<W>::N };\n",
    "    float acc[W / 32][4][4];\n",
    "    uint64_t k = next_piece<SOME>(b, first, end);\n",
    "    int fetched = 0, stage = 0, reading = 0;\n",
    "    for (int i = 0; i < ROWS; i++) {\n",
    "        a.begin(i, m0 + own_row() + i * (W / ROWS));\n",
    "        b.begin(i, n0 + own_row() + i * (W / ROWS));\n",
    "    }\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < W / 32; i++)\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < 4; j++)\n",
    "#pragma unroll\n",
    "            for (int e = 0; e < 4; e++) acc[i][j][e] = 0;\n",
    "    for (int i = -(N - 1); i < fetched; i++) {\n",
    "        if (i >= 0) {\n",
    "            asm volatile(\"cp.async.wait_group %0;\" ::\"n\"(N - 2) : \"memory\");\n",
    "            __syncthreads(); // the piece is there, and all have read the one before, whose place is free now\n",
    "        }\n",
    "        if (k < end) {\n",
    "            fetch<W>(s.a[stage], a, m0, m, k, end, true);\n",
    "            if constexpr (SOME) fetch<W>(s.b[stage], b, n0, n, k, end, b.reaches(k + own_k()));\n",
    "            else fetch<W>(s.b[stage], b, n0, n, k, end, true);\n",
    "            stage = stage + 1 == N ? 0 : stage + 1;\n",
    "            fetched++;\n",
    "            k = next_piece<SOME>(b, k + BK, end);\n",
    "        }\n",
    "        asm volatile(\"cp.async.commit_group;\" ::: \"memory\");\n",
    "        if (i >= 0) {\n",
    "            multiply<W>(acc, s.a[reading], s.b[reading]);\n",
    "            reading = reading + 1 == N ? 0 : reading + 1;\n",
    "        }\n",
    "    }\n",
    "    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n",
    "    uint32_t row = m0 + warp / (W / 32) * (W / 2) + lane / 4, column = n0 + warp % (W / 32) * 32 + lane % 4 * 2;\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < W / 32; i++)\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < 4; j++)\n",
    "#pragma unroll\n",
    "            for (int e = 0; e < 4; e++) {\n",
    "                uint32_t y = row + i * 16 + e / 2 * 8, x = column + j * 8 + e % 2;\n",
    "                if (y < m && x < n) c.put(y, x, acc[i][j][e], part);\n",
    "            }\n",
    "    __syncthreads();\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_tensor_conv_cu[] = {
    "#line 1 \"tools/kernels/tensor_conv.cu\"\n",
    "// The convolutions of taps.cu on tensor cores, as conv.cu.\n",
    "template <bool BACK, bool SOME> static void tensor_slide(Stages<64> &stages, const Conv &v, const Work &w)\n",
    "{\n",
    "    uint32_t m0, n0;\n",
    "    uint64_t first, end;\n",
    "    Slide s = slide_of(v, BACK, SOME, (int)blockIdx.z % v.q.groups, (int)blockIdx.z / v.q.groups);\n",
    "    uint32_t n = (uint32_t)(v.q.n * s.plane);\n",
    "    work_tile<64>(w, &m0, &n0, &first, &end);\n",
    "    if (n0 >= n) return;\n",
    "    SlideWeight<ROWS> a = { s };\n",
    "    SlidePixels<ROWS> b = { s };\n",
    "    SlideOut c = { s, w };\n",
    "    tensor_tile<64, SOME>(stages, a, b, c, w.m, n, m0, n0, first, end, false);\n",
    "}\n",
    "#define TENSOR_SLIDE(name, BACK, SOME) \\\n",
    "    extern \"C\" __global__ void __launch_bounds__(128, 1) name(Conv v, Work w) \\\n",
    "    { \\\n",
    "        __shared__ __align__(16) Stages<64> stages; \\\n",
    "        tensor_slide<BACK, SOME>(stages, v, w); \\\n",
    "    }\n",
    "TENSOR_SLIDE(tensor_forward, false, false)\n",
    "TENSOR_SLIDE(tensor_back, true, false)\n",
    "TENSOR_SLIDE(tensor_back_strided, true, true)\n",
    "\n",
    "extern \"C\" __global__ void __launch_bounds__(128, 1) tensor_weight(Conv v, Work w) // v.w is dy, v.y is dw\n",
    "{\n",
    "    __shared__ __align__(16) Stages<64> stages;\n",
    "    uint32_t m0, n0;\n",
    "    uint64_t first, end;\n",
    "    int group = (int)blockIdx.z;\n",
    "    TapsDy<ROWS> a = { v, true, group, (int)w.m };\n",
    "    TapsX<ROWS> b = { v, true, group, v.q.c / v.q.groups };\n",
    "    TapsOut c = { v, w, group };\n",
    "    work_tile<64>(w, &m0, &n0, &first, &end);\n",
    "    tensor_tile<64, false>(stages, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_tensor_matmul_cu[] = {
    "#line 1 \"tools/kernels/tensor_matmul.cu\"\n",
    "// Matrix products on tensor cores. by_16: 1: A, 2: B, see Matrix.\n",
    "template <int W> static void tensor_matmul(Stages<W> &s, const Matmul &q, const Work &w, int by_16)\n",
    "{\n",
    "    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {\n",
    "        dl_index at_a, at_b;\n",
    "        uint32_t m0, n0;\n",
    "        uint64_t first, end;\n",
    "        matmul_batch(q, batch, &at_a, &at_b);\n",
    "        Matrix<W> a = { q.a + at_a, q.a_row, q.a_k, (by_16 & 1) != 0 }, b = { q.b + at_b, q.b_row, q.b_k, (by_16 & 2) != 0 };\n",
    "        MatmulOut c = { q, w, batch };\n",
    "        work_tile<W>(w, &m0, &n0, &first, &end);\n",
    "        tensor_tile<W, false>(s, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);\n",
    "    }\n",
    "}\n",
    "#define TENSOR_MATMUL(W) \\\n",
    "    extern \"C\" __global__ void __launch_bounds__(2 * W, 1) tensor_##W(Matmul q, Work w, int by_16) \\\n",
    "    { \\\n",
    "        __shared__ __align__(16) Stages<W> s; \\\n",
    "        tensor_matmul<W>(s, q, w, by_16); \\\n",
    "    }\n",
    "TENSOR_MATMUL(64)\n",
    "TENSOR_MATMUL(128)\n",
    NULL
};
static const char *const dl__cuda_tile_cu[] = {
    "#line 1 \"tools/kernels/tile.cu\"\n",
    "// Products: rule 2 of the canonical arithmetic. C[m][n] = sum over k of A[m][k] B[n][k]: chains of fused multiply-adds over blocks of\n",
    "// 256, whose totals are added in order. A thread block of 256 computes a tile of C from pieces of A and B, BK deep, in shared memory:\n",
    "// while one piece is multiplied the next is on its way. Where A's and B's numbers come from is told by sources, where C's go by a target;\n",
    "// so matmul and the three convolutions share the tile.\n",
    "enum { BK = 16, THREADS = 256 };\n",
    "\n",
    "// A source has: begin(i, row) for its element i, of row `row` of the tile's operand; seek(i, k) then get(i), from k on.\n",
    "// Elements of a piece go to threads so that neighbours in memory go to neighbours: along k, or along the rows.\n",
    "template <int W> static int piece_row(bool along, int i)\n",
    "{\n",
    "    int e = (int)threadIdx.x + i * THREADS;\n",
    "    return along ? e / BK : e % W;\n",
    "}\n",
    "template <int W> static int piece_k(bool along, int i)\n",
    "{\n",
    "    int e = (int)threadIdx.x + i * THREADS;\n",
    "    return along ? e % BK : e / W;\n",
    "}\n",
    "\n",
    "// Place of number i of thread t's side of a tile: fours, so that shared memory is read 128 bits at a time without conflicts.\n",
    "template <int W, int T> static int place(int t, int i) { return i / 4 * (W / (T / 4)) + t * 4 + i % 4; }\n",
    "\n",
    "// The pieces, of which one is multiplied while the next comes. use: which steps of k count.\n",
    "template <int W> struct Pieces { float a[2][BK][W + 4], b[2][BK][W + 4]; bool use[2][BK]; };\n",
    "\n",
    "// The totals of a tile of W x W, T x T a thread, from (m0, n0); k from `first` to `end`. SOME: steps of k may be left out, B tells which.\n",
    "template <int W, int T, bool SOME, class A, class B> static void tile_totals(Pieces<W> &s, A &a, B &b, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0,\n",
    "    uint64_t first, uint64_t end, float (*total)[T])\n",
    "{\n",
    "    enum { EACH = W * BK / THREADS };\n",
    "    float acc[T][T], next_a[EACH], next_b[EACH];\n",
    "    int ty = (int)threadIdx.x / (W / T), tx = (int)threadIdx.x % (W / T);\n",
    "    bool reached[EACH];\n",
    "    for (int i = 0; i < EACH; i++) {\n",
    "        a.begin(i, m0 + piece_row<W>(a.along, i));\n",
    "        b.begin(i, n0 + piece_row<W>(b.along, i));\n",
    "    }\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < T; i++)\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < T; j++) acc[i][j] = total[i][j] = 0;\n",
    "    int buffer = 0;\n",
    "    for (uint64_t k0 = first; k0 < end + BK; k0 += BK, buffer ^= 1) {\n",
    "        if (k0 < end) // on its way while the piece before is multiplied\n",
    "#pragma unroll\n",
    "            for (int i = 0; i < EACH; i++) {\n",
    "                uint64_t ka = k0 + piece_k<W>(a.along, i), kb = k0 + piece_k<W>(b.along, i);\n",
    "                next_a[i] = ka < end && m0 + piece_row<W>(a.along, i) < m ? a.get(i, ka) : 0;\n",
    "                next_b[i] = kb < end && n0 + piece_row<W>(b.along, i) < n ? b.get(i, kb) : 0;\n",
    "                if (SOME) reached[i] = kb < end && b.reaches(kb);\n",
    "            }\n",
    "        if (k0 > first) {\n",
    "            uint64_t left = end - (k0 - BK);\n",
    "            int steps = left < BK ? (int)left : BK;\n",
    "            const float(*as)[W + 4] = s.a[buffer ^ 1], (*bs)[W + 4] = s.b[buffer ^ 1];\n",
    "#pragma unroll 4\n",
    "            for (int k = 0; k < steps; k++) {\n",
    "                float x[T], y[T];\n",
    "                if (SOME && !s.use[buffer ^ 1][k]) continue;\n",
    "#pragma unroll\n",
    "                for (int i = 0; i < T; i += 4) {\n",
    "                    *(float4 *)(x + i) = *(const float4 *)(as[k] + place<W, T>(ty, i));\n",
    "                    *(float4 *)(y + i) = *(const float4 *)(bs[k] + place<W, T>(tx, i));\n",
    "                }\n",
    "#pragma unroll\n",
    "                for (int i = 0; i < T; i++)\n",
    "#pragma unroll\n",
    "                    for (int j = 0; j < T; j++) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);\n",
    "            }\n",
    "            if (k0 % DL__KB == 0 || k0 >= end) {\n",
    "                bool only = k0 - first <= DL__KB; // the first block's total is the chain itself\n",
    "#pragma unroll\n",
    "                for (int i = 0; i < T; i++)\n",
    "#pragma unroll\n",
    "                    for (int j = 0; j < T; j++) {\n",
    "                        total[i][j] = only ? acc[i][j] : E_ADD(total[i][j], acc[i][j]);\n",
    "                        acc[i][j] = 0;\n",
    "                    }\n",
    "            }\n",
    "        }\n",
    "        if (k0 >= end) break;\n",
    "#pragma unroll\n",
    "        for (int i = 0; i < EACH; i++) {\n",
    "            s.a[buffer][piece_k<W>(a.along, i)][piece_row<W>(a.along, i)] = next_a[i];\n",
    "            s.b[buffer][piece_k<W>(b.along, i)][piece_row<W>(b.along, i)] = next_b[i];\n",
    "            if (SOME && piece_row<W>(b.along, i) == 0) s.use[buffer][piece_k<W>(b.along, i)] = reached[i];\n",
    "        }\n",
    "        __syncthreads();\n",
    "    }\n",
    "}\n",
    "\n",
    "template <int W, int T, bool SOME, class A, class B, class C>\n",
    "static void tile(Pieces<W> &s, A &a, B &b, const C &c, uint32_t m, uint32_t n, uint32_t m0, uint32_t n0, uint64_t first, uint64_t end, bool part)\n",
    "{\n",
    "    float total[T][T];\n",
    "    int ty = (int)threadIdx.x / (W / T), tx = (int)threadIdx.x % (W / T);\n",
    "    tile_totals<W, T, SOME>(s, a, b, m, n, m0, n0, first, end, total);\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < T; i++)\n",
    "#pragma unroll\n",
    "        for (int j = 0; j < T; j++) {\n",
    "            uint32_t row = m0 + place<W, T>(ty, i), column = n0 + place<W, T>(tx, j);\n",
    "            if (row < m && column < n) c.put(row, column, total[i][j], part);\n",
    "        }\n",
    "}\n",
    "\n",
    "// A condition that is the same for all of an unrolled loop, kept inside: the compiler would make a copy of the loop for each case that it\n",
    "// takes out, eight of the end of a tile, which is most of the time that it needs for the kernel.\n",
    "static bool each_time(int condition)\n",
    "{\n",
    "    asm volatile(\"\" : \"+r\"(condition));\n",
    "    return condition;\n",
    "}\n",
    "\n",
    "// What is done with a total: alpha is 1, plus bias, plus what is there.\n",
    "static void finish(float *y, float v, const float *bias, dl_index b, bool accumulate)\n",
    "{\n",
    "    if (each_time(bias != 0)) v = E_ADD(v, bias[b]);\n",
    "    *y = each_time(accumulate) ? E_ADD(*y, v) : v;\n",
    "}\n",
    "\n",
    "// Which part of the work a thread block does: blockIdx.x a tile, blockIdx.y a block of k where these are computed apart (then `partial`\n",
    "// takes their totals [batch][block][m][n], and join.cu adds them in order), blockIdx.z a batch.\n",
    "struct Work { uint32_t m, n; uint64_t k; uint32_t across, batches, parts; float *partial; };\n",
    "template <int W> static void work_tile(const Work &w, uint32_t *m0, uint32_t *n0, uint64_t *first, uint64_t *end)\n",
    "{\n",
    "    *m0 = blockIdx.x / w.across * W;\n",
    "    *n0 = blockIdx.x % w.across * W;\n",
    "    *first = w.parts > 1 ? (uint64_t)blockIdx.y * DL__KB : 0;\n",
    "    *end = w.parts > 1 && *first + DL__KB < w.k ? *first + DL__KB : w.k;\n",
    "}\n",
    "static float *work_part(const Work &w, uint32_t batch, uint32_t row, uint32_t column)\n",
    "{\n",
    "    return w.partial + (((uint64_t)batch * w.parts + blockIdx.y) * w.m + row) * w.n + column;\n",
    "}\n",
    "static float work_joined(const Work &w, uint64_t batch, uint64_t at)\n",
    "{\n",
    "    uint64_t size = (uint64_t)w.m * w.n;\n",
    "    const float *p = w.partial + batch * w.parts * size + at;\n",
    "    float total = p[0];\n",
    "    for (uint32_t i = 1; i < w.parts; i++) total = E_ADD(total, p[i * size]);\n",
    "    return total;\n",
    "}\n",
    "\n",
    "// ---- matmul, by the tiles above (matmul.cu), by larger ones (warp.cu) or by tensor cores (tensor.cu) ----\n",
    "struct Matmul {\n",
    "    const float *a, *b, *bias;\n",
    "    float *c;\n",
    "    dl_index a_row, a_k, b_row, b_k;\n",
    "    int batch_dims, accumulate;\n",
    "    uint32_t count[8];\n",
    "    dl_index a_batch[8], b_batch[8];\n",
    "};\n",
    "static void matmul_batch(const Matmul &q, uint32_t batch, dl_index *at_a, dl_index *at_b)\n",
    "{\n",
    "    *at_a = *at_b = 0;\n",
    "    for (int d = q.batch_dims - 1; d >= 0; d--) {\n",
    "        *at_a += batch % q.count[d] * q.a_batch[d];\n",
    "        *at_b += batch % q.count[d] * q.b_batch[d];\n",
    "        batch /= q.count[d];\n",
    "    }\n",
    "}\n",
    "struct MatmulOut {\n",
    "    const Matmul &q;\n",
    "    const Work &w;\n",
    "    uint32_t batch;\n",
    "    void put(uint32_t row, uint32_t column, float v, bool part) const\n",
    "    {\n",
    "        if (part) *work_part(w, batch, row, column) = v;\n",
    "        else finish(q.c + ((uint64_t)batch * w.m + row) * w.n + column, v, q.bias, column, q.accumulate);\n",
    "    }\n",
    "};\n",
    NULL
};
static const char *const dl__cuda_update_cu[] = {
    "#line 1 \"tools/kernels/update.cu\"\n",
    "// Optimizers, in the arithmetic of >>optimizers: blockIdx.y is a parameter of the list.\n",
    "struct Update { float *p, *g, *s[3]; uint64_t n; float h[10]; };\n",
    "#define EACH(i) for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < u.n; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "\n",
    "extern \"C\" __global__ void update_sgd(const Update *list)\n",
    "{\n",
    "    Update u = list[blockIdx.y];\n",
    "    float lr = u.h[0], momentum = u.h[1], keep = u.h[2], decay = u.h[3], first = u.h[5];\n",
    "    bool nesterov = u.h[4] != 0;\n",
    "    EACH(i) {\n",
    "        float x = u.p[i], d = u.g[i];\n",
    "        if (decay != 0) d = E_ADD(d, E_MUL(decay, x));\n",
    "        if (u.s[0]) {\n",
    "            float buffer = first != 0 && nesterov ? d\n",
    "                : first != 0                      ? E_ADD(E_MUL(0.0f, u.s[0][i]), E_MUL(1.0f, d))\n",
    "                                                  : E_ADD(E_MUL(momentum, u.s[0][i]), E_MUL(keep, d));\n",
    "            u.s[0][i] = buffer;\n",
    "            d = nesterov ? E_ADD(d, E_MUL(momentum, buffer)) : buffer;\n",
    "        }\n",
    "        u.p[i] = E_SUB(x, E_MUL(lr, d));\n",
    "    }\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void update_adam(const Update *list)\n",
    "{\n",
    "    Update u = list[blockIdx.y];\n",
    "    float rate = u.h[0], b1 = u.h[1], c1 = u.h[2], b2 = u.h[3], c2 = u.h[4], root = u.h[5], eps = u.h[6], decay = u.h[7], shrink = u.h[8];\n",
    "    EACH(i) {\n",
    "        float x = u.p[i], d = u.g[i];\n",
    "        if (shrink != 1) x = E_MUL(x, shrink);\n",
    "        if (decay != 0) d = E_ADD(d, E_MUL(decay, x));\n",
    "        float m = E_ADD(E_MUL(b1, u.s[0][i]), E_MUL(c1, d)), v = E_ADD(E_MUL(b2, u.s[1][i]), E_MUL(E_MUL(c2, d), d));\n",
    "        u.s[0][i] = m;\n",
    "        u.s[1][i] = v;\n",
    "        u.p[i] = E_SUB(x, E_DIV(E_MUL(rate, m), E_ADD(E_DIV(E_SQRT(v), root), eps)));\n",
    "    }\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void update_rmsprop(const Update *list)\n",
    "{\n",
    "    Update u = list[blockIdx.y];\n",
    "    float lr = u.h[0], alpha = u.h[1], eps = u.h[2], decay = u.h[3], momentum = u.h[4], rest = E_SUB(1.0f, alpha);\n",
    "    EACH(i) {\n",
    "        float x = u.p[i], g = E_ADD(u.g[i], E_MUL(decay, x));\n",
    "        float v = E_ADD(E_MUL(alpha, u.s[0][i]), E_MUL(E_MUL(rest, g), g)), d = v;\n",
    "        u.s[0][i] = v;\n",
    "        if (u.s[2]) {\n",
    "            float mean = E_ADD(E_MUL(alpha, u.s[2][i]), E_MUL(rest, g));\n",
    "            u.s[2][i] = mean;\n",
    "            d = E_SUB(v, E_MUL(mean, mean));\n",
    "        }\n",
    "        d = E_DIV(g, E_ADD(E_SQRT(d), eps));\n",
    "        if (u.s[1]) d = u.s[1][i] = E_ADD(E_MUL(momentum, u.s[1][i]), d);\n",
    "        u.p[i] = E_SUB(x, E_MUL(lr, d));\n",
    "    }\n",
    "}\n",
    "\n",
    "// Gradients of replicas: x [parts][n], of which the first becomes the sum, in the order of dl__tree\n",
    "extern \"C\" __global__ void sum_parts(float *x, int parts, uint64_t n)\n",
    "{\n",
    "    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)\n",
    "        for (int apart = 1; apart < parts; apart *= 2)\n",
    "            for (int r = 0; r + apart < parts; r += 2 * apart) x[r * n + i] = E_ADD(x[r * n + i], x[(r + apart) * n + i]);\n",
    "}\n",
    "\n",
    "extern \"C\" __global__ void update_scale(const Update *list)\n",
    "{\n",
    "    Update u = list[blockIdx.y];\n",
    "    EACH(i) u.g[i] = E_MUL(u.g[i], u.h[0]);\n",
    "}\n",
    "extern \"C\" __global__ void update_clamp(const Update *list)\n",
    "{\n",
    "    Update u = list[blockIdx.y];\n",
    "    float high = u.h[0];\n",
    "    EACH(i) u.g[i] = u.g[i] > high ? high : u.g[i] < -high ? -high : u.g[i];\n",
    "}\n",
    NULL
};
static const char *const dl__cuda_warp_cu[] = {
    "#line 1 \"tools/kernels/warp.cu\"\n",
    "// Large matrix products, with the bits of matmul.cu: tiles of 128 x 128, 8 x 8 a thread. A warp computes 64 x 32, its threads read shared\n",
    "// memory 128 bits at a time, all in one go; the next piece of 8 steps of k is on its way from global memory, 128 bits at a time where the\n",
    "// operands are aligned, while this one is multiplied. Of more than one block of 256 steps the totals so far wait in w.partial\n",
    "// [batch][m][n]: registers for them would spill.\n",
    "enum { WIDE = 128, DEEP = 8 };\n",
    "#define ROW_BY_ROW asm volatile(\"\" ::: \"memory\") // or the compiler asks for all of a tile at once, and spills\n",
    "struct Wide { float a[2][DEEP][WIDE + 4], b[2][DEEP][WIDE + 4]; };\n",
    "\n",
    "// Which row and step of a piece a thread's four numbers begin at: of one row along k, or of four rows at one step\n",
    "template <bool ALONG> static uint32_t wide_at_row() { return ALONG ? threadIdx.x / 2 : threadIdx.x % 32 * 4; }\n",
    "template <bool ALONG> static uint32_t wide_at_k() { return ALONG ? threadIdx.x % 2 * 4 : threadIdx.x / 32; }\n",
    "\n",
    "// Those four numbers, at p; `rows` and `steps` are left from there on\n",
    "template <bool ALONG> static float4 wide_load(const float *p, int rows, int steps, bool aligned)\n",
    "{\n",
    "    float v[4] = { 0, 0, 0, 0 };\n",
    "    int n = ALONG ? steps : rows;\n",
    "    if (rows <= 0 || steps <= 0) n = 0;\n",
    "    if (n >= 4 && aligned) return *(const float4 *)p;\n",
    "#pragma unroll\n",
    "    for (int i = 0; i < 4; i++)\n",
    "        if (i < n) v[i] = p[i];\n",
    "    return make_float4(v[0], v[1], v[2], v[3]);\n",
    "}\n",
    "template <bool ALONG> static void wide_store(float (*s)[WIDE + 4], float4 v)\n",
    "{\n",
    "    if (ALONG) {\n",
    "        uint32_t row = wide_at_row<ALONG>(), k = wide_at_k<ALONG>();\n",
    "        s[k][row] = v.x, s[k + 1][row] = v.y, s[k + 2][row] = v.z, s[k + 3][row] = v.w;\n",
    "    } else *(float4 *)&s[wide_at_k<ALONG>()][wide_at_row<ALONG>()] = v;\n",
    "}\n",
    "\n",
    "// Number i of a thread's rows, j of its columns\n",
    "static uint32_t wide_row(uint32_t row, int i) { return row + i / 4 * 32 + i % 4; }\n",
    "static uint32_t wide_column(uint32_t column, int j) { return column + j / 4 * 16 + j % 4; }\n",
    "\n",
    "template <bool ALONG_A, bool ALONG_B> static void wide(Wide &s, const Matmul &q, const Work &w, bool aligned)\n",
    "{\n",
    "    uint32_t m0 = blockIdx.x / w.across * WIDE, n0 = blockIdx.x % w.across * WIDE, lane = threadIdx.x % 32, warp = threadIdx.x / 32;\n",
    "    uint32_t row = warp / 4 * 64 + lane / 4 * 4, column = warp % 4 * 32 + lane % 4 * 4; // and 32 rows, 16 columns on\n",
    "    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {\n",
    "        float acc[8][8];\n",
    "        dl_index at_a, at_b;\n",
    "        matmul_batch(q, batch, &at_a, &at_b);\n",
    "        uint32_t row_a = wide_at_row<ALONG_A>(), row_b = wide_at_row<ALONG_B>(), k_a = wide_at_k<ALONG_A>(), k_b = wide_at_k<ALONG_B>();\n",
    "        const float *a = q.a + at_a + (m0 + row_a) * q.a_row + k_a * q.a_k, *b = q.b + at_b + (n0 + row_b) * q.b_row + k_b * q.b_k;\n",
    "        int rows_a = (int)(w.m - m0 - row_a), rows_b = (int)(w.n - n0 - row_b), left = (int)w.k, k0 = 0;\n",
    "#pragma unroll\n",
    "        for (int i = 0; i < 8; i++)\n",
    "#pragma unroll\n",
    "            for (int j = 0; j < 8; j++) acc[i][j] = 0;\n",
    "        float4 next_a = wide_load<ALONG_A>(a, rows_a, left - (int)k_a, aligned);\n",
    "        float4 next_b = wide_load<ALONG_B>(b, rows_b, left - (int)k_b, aligned);\n",
    "        wide_store<ALONG_A>(s.a[0], next_a);\n",
    "        wide_store<ALONG_B>(s.b[0], next_b);\n",
    "        __syncthreads();\n",
    "        int buffer = 0;\n",
    "        for (; left > 0; left -= DEEP, k0 += DEEP) {\n",
    "            bool more = left > DEEP;\n",
    "            if (more) {\n",
    "                a += DEEP * (ALONG_A ? 1 : q.a_k), b += DEEP * (ALONG_B ? 1 : q.b_k);\n",
    "                next_a = wide_load<ALONG_A>(a, rows_a, left - DEEP - (int)k_a, aligned);\n",
    "                next_b = wide_load<ALONG_B>(b, rows_b, left - DEEP - (int)k_b, aligned);\n",
    "            }\n",
    "#pragma unroll\n",
    "            for (int k = 0; k < DEEP; k++) {\n",
    "                if (k >= left) break; // what lies behind is no product with 0: it is none\n",
    "                float x[8], y[8];\n",
    "                *(float4 *)x = *(const float4 *)&s.a[buffer][k][row], *(float4 *)(x + 4) = *(const float4 *)&s.a[buffer][k][row + 32];\n",
    "                *(float4 *)y = *(const float4 *)&s.b[buffer][k][column], *(float4 *)(y + 4) = *(const float4 *)&s.b[buffer][k][column + 16];\n",
    "#pragma unroll\n",
    "                for (int i = 0; i < 8; i++)\n",
    "#pragma unroll\n",
    "                    for (int j = 0; j < 8; j++) acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);\n",
    "            }\n",
    "            if ((k0 + DEEP) % DL__KB == 0 && more) {\n",
    "#pragma unroll\n",
    "                for (int i = 0; i < 8; i++) {\n",
    "                    uint32_t r = m0 + wide_row(row, i);\n",
    "                    float *t = w.partial + ((uint64_t)batch * w.m + r) * w.n + n0 + column;\n",
    "                    ROW_BY_ROW;\n",
    "#pragma unroll\n",
    "                    for (int j = 0; j < 8; j++) {\n",
    "                        if (r < w.m && n0 + wide_column(column, j) < w.n) t[wide_column(0, j)] = each_time(k0 < DL__KB) ? acc[i][j] : E_ADD(t[wide_column(0, j)], acc[i][j]);\n",
    "                        acc[i][j] = 0;\n",
    "                    }\n",
    "                }\n",
    "            }\n",
    "            if (more) {\n",
    "                buffer ^= 1;\n",
    "                wide_store<ALONG_A>(s.a[buffer], next_a);\n",
    "                wide_store<ALONG_B>(s.b[buffer], next_b);\n",
    "                __syncthreads();\n",
    "            }\n",
    "        }\n",
    "#pragma unroll\n",
    "        for (int i = 0; i < 8; i++) {\n",
    "            uint32_t r = m0 + wide_row(row, i);\n",
    "            uint64_t at = ((uint64_t)batch * w.m + r) * w.n + n0 + column;\n",
    "            ROW_BY_ROW;\n",
    "#pragma unroll\n",
    "            for (int j = 0; j < 8; j++) {\n",
    "                uint32_t d = wide_column(0, j), c = n0 + column + d;\n",
    "                if (r < w.m && c < w.n)\n",
    "                    finish(q.c + at + d, each_time(w.k > DL__KB) ? E_ADD(w.partial[at + d], acc[i][j]) : acc[i][j], q.bias, c, q.accumulate);\n",
    "            }\n",
    "        }\n",
    "        __syncthreads();\n",
    "    }\n",
    "}\n",
    "// matmul_128_AB: is A, is B contiguous along k (k) or along its rows (r)?\n",
    "#define WIDE_KERNEL(name, along_a, along_b) \\\n",
    "    extern \"C\" __global__ void __launch_bounds__(256, 1) name(Matmul q, Work w, int aligned) \\\n",
    "    { \\\n",
    "        __shared__ __align__(16) Wide s; \\\n",
    "        wide<along_a, along_b>(s, q, w, aligned); \\\n",
    "    }\n",
    "WIDE_KERNEL(matmul_128_kk, true, true)\n",
    "WIDE_KERNEL(matmul_128_kr, true, false)\n",
    "WIDE_KERNEL(matmul_128_rr, false, false)\n",
    NULL
};
/* ---- end of what is embedded ---- */

/* ---- the driver and NVRTC: one list each gives types, pointers and the look-up ---- */
typedef unsigned long long dl__cuda_address;
#define DL__CUDA_DRIVER(F) \
    F(cuInit, (unsigned flags)) \
    F(cuDeviceGetCount, (int *count)) \
    F(cuDeviceGet, (int *device, int ordinal)) \
    F(cuDeviceGetName, (char *name, int size, int device)) \
    F(cuDeviceGetAttribute, (int *value, int attribute, int device)) \
    F(cuDevicePrimaryCtxRetain, (void **context, int device)) \
    F(cuDevicePrimaryCtxRelease_v2, (int device)) \
    F(cuCtxSetCurrent, (void *context)) \
    F(cuMemAlloc_v2, (dl__cuda_address *p, size_t bytes)) \
    F(cuMemFree_v2, (dl__cuda_address p)) \
    F(cuMemGetInfo_v2, (size_t *free_bytes, size_t *all)) \
    F(cuMemHostAlloc, (void **p, size_t bytes, unsigned flags)) \
    F(cuMemFreeHost, (void *p)) \
    F(cuMemcpyHtoDAsync_v2, (dl__cuda_address to, const void *from, size_t bytes, void *stream)) \
    F(cuMemcpyDtoHAsync_v2, (void *to, dl__cuda_address from, size_t bytes, void *stream)) \
    F(cuMemcpyDtoDAsync_v2, (dl__cuda_address to, dl__cuda_address from, size_t bytes, void *stream)) \
    F(cuMemcpyPeerAsync, (dl__cuda_address to, void *to_context, dl__cuda_address from, void *from_context, \
        size_t bytes, void *stream)) \
    F(cuDeviceCanAccessPeer, (int *can, int device, int peer)) \
    F(cuCtxEnablePeerAccess, (void *peer, unsigned flags)) \
    F(cuMemsetD8Async, (dl__cuda_address to, unsigned char value, size_t bytes, void *stream)) \
    F(cuStreamCreate, (void **stream, unsigned flags)) \
    F(cuStreamDestroy_v2, (void *stream)) \
    F(cuStreamSynchronize, (void *stream)) \
    F(cuStreamWaitEvent, (void *stream, void *event, unsigned flags)) \
    F(cuEventCreate, (void **event, unsigned flags)) \
    F(cuEventRecord, (void *event, void *stream)) \
    F(cuEventSynchronize, (void *event)) \
    F(cuEventQuery, (void *event)) \
    F(cuEventDestroy_v2, (void *event)) \
    F(cuModuleLoadData, (void **module, const void *image)) \
    F(cuModuleUnload, (void *module)) \
    F(cuModuleGetFunction, (void **function, void *module, const char *name)) \
    F(cuLaunchKernel, (void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, \
        unsigned shared, void *stream, void **args, void **extra)) \
    F(cuStreamBeginCapture_v2, (void *stream, int mode)) \
    F(cuStreamEndCapture, (void *stream, void **graph)) \
    F(cuGraphInstantiateWithFlags, (void **exec, void *graph, unsigned long long flags)) \
    F(cuGraphLaunch, (void *exec, void *stream)) \
    F(cuGraphExecDestroy, (void *exec)) \
    F(cuGraphDestroy, (void *graph)) \
    F(cuGetErrorName, (int code, const char **name)) \
    F(cuGetErrorString, (int code, const char **text))
#define DL__CUDA_NVRTC(F) \
    F(nvrtcGetNumSupportedArchs, (int *count)) \
    F(nvrtcGetSupportedArchs, (int *archs)) \
    F(nvrtcCreateProgram, (void **program, const char *text, const char *name, int headers, const char *const *header, \
        const char *const *include)) \
    F(nvrtcCompileProgram, (void *program, int options, const char *const *option)) \
    F(nvrtcGetProgramLogSize, (void *program, size_t *size)) \
    F(nvrtcGetProgramLog, (void *program, char *log)) \
    F(nvrtcGetCUBINSize, (void *program, size_t *size)) \
    F(nvrtcGetCUBIN, (void *program, char *image)) \
    F(nvrtcGetPTXSize, (void *program, size_t *size)) \
    F(nvrtcGetPTX, (void *program, char *image)) \
    F(nvrtcDestroyProgram, (void **program))
#define DL__CUDA_CUBLAS(F) \
    F(cublasCreate_v2, (void **handle)) \
    F(cublasDestroy_v2, (void *handle)) \
    F(cublasSetStream_v2, (void *handle, void *stream)) \
    F(cublasSetWorkspace_v2, (void *handle, void *memory, size_t bytes)) \
    F(cublasGemmStridedBatchedEx, (void *handle, int op_a, int op_b, int m, int n, int k, const void *alpha, \
        const void *a, int type_a, int lda, long long stride_a, const void *b, int type_b, int ldb, \
        long long stride_b, const void *beta, void *c, int type_c, int ldc, long long stride_c, int batches, \
        int compute, int algorithm))
#define DL__CUDA_NCCL(F) \
    F(ncclCommInitAll, (void **comm, int devices, const int *device)) \
    F(ncclAllReduce, (const void *from, void *to, size_t n, int type, int operation, void *comm, void *stream)) \
    F(ncclCommGetAsyncError, (void *comm, int *error)) \
    F(ncclCommAbort, (void *comm)) \
    F(ncclCommDestroy, (void *comm))
#define DL__CUDA_POINTER(name, args) int (*name) args;
typedef struct dl__cuda_driver { DL__CUDA_DRIVER(DL__CUDA_POINTER) } dl__cuda_driver;
typedef struct dl__cuda_nvrtc { DL__CUDA_NVRTC(DL__CUDA_POINTER) } dl__cuda_nvrtc;
typedef struct dl__cuda_cublas { DL__CUDA_CUBLAS(DL__CUDA_POINTER) } dl__cuda_cublas;
typedef struct dl__cuda_nccl { DL__CUDA_NCCL(DL__CUDA_POINTER) const char *(*text)(int code); } dl__cuda_nccl;
#define DL__CUDA_NAME(name, args) #name,
static const char *const dl__cuda_driver_names[] = { DL__CUDA_DRIVER(DL__CUDA_NAME) };
static const char *const dl__cuda_nvrtc_names[] = { DL__CUDA_NVRTC(DL__CUDA_NAME) };
static const char *const dl__cuda_cublas_names[] = { DL__CUDA_CUBLAS(DL__CUDA_NAME) };
static const char *const dl__cuda_nccl_names[] = { DL__CUDA_NCCL(DL__CUDA_NAME) "ncclGetErrorString" };
#undef DL__CUDA_NAME
#undef DL__CUDA_POINTER

enum {
    DL__CUDA_CHUNKS = 128,       /* pieces of a step's memory; they become one when the step has ended */
    DL__CUDA_SLOTS = 64,         /* kinds of looks by index, which are checked together */
    DL__CUDA_GRAPHS = 32,        /* kept, of runs of launches */
    DL__CUDA_PLANS = 1024,       /* a power of two: generated kernels by launch */
    DL__CUDA_RING = 1 << 18,     /* bytes of pinned memory, at least; it grows to four slices */
    DL__CUDA_SLICE = 1 << 22,    /* bytes that are copied at a time, at most */
    DL__CUDA_COPIES = 8,         /* of which so many may be on their way: the host runs some steps ahead */
    DL__CUDA_BUCKETS = 8,        /* events for as many buckets of gradients; those that share one wait for the last */
    DL__CUDA_FILES = 2048,       /* kept in the cache folder */
    DL__CUDA_ARGS = 512, DL__CUDA_ARG_BYTES = 4096 /* of a kernel */
};
typedef struct dl__cuda_text { char *at; size_t size, room; bool failed; } dl__cuda_text;
typedef struct dl__cuda_module { struct dl__cuda_module *next; uint64_t hash[2]; void *module; } dl__cuda_module;
typedef struct dl__cuda_function {
    struct dl__cuda_function *next;
    const char *module, *name;
    void *function;
} dl__cuda_function;
typedef enum dl__cuda_precision { DL__CUDA_FP32, DL__CUDA_TF32, DL__CUDA_BF16 } dl__cuda_precision; /* of products */
typedef struct dl__cuda_number { float a, b; uint64_t counter; } dl__cuda_number; /* of a node: see rows.cu */
/* of parameters: what was sent last */
typedef struct dl__cuda_list { dl__cuda_address at; size_t size, sent; void *copy; } dl__cuda_list;
/* see dl__cuda_replay */
typedef struct dl__cuda_graph { uint64_t key, used_at; void *exec; bool ready, refused; } dl__cuda_graph;
typedef struct dl__cuda {
    dl_context *ctx;
    char device[32], name[128];
    void *driver_library, *nvrtc_library;
    dl__cuda_driver driver;
    dl__cuda_nvrtc nvrtc;
    dl__cuda_nccl nccl;
    void *comm;                  /* NCCL's, or NULL */
    double seconds;              /* a sum of NCCL's may take; 0: for ever */
    int ordinal, arch;
    dl__cuda_precision precision;
    dl__cuda_cublas cublas;
    const char *(*cublas_text)(int code);
    void *blas;                  /* cuBLAS's handle, where it is asked for */
    dl__cuda_address blas_workspace;
    void *context, *stream;
    void *copies, *taken, *ran;  /* the stream of inputs, results; events: `arrival` is free again; launches so far */
    bool running;                /* there may be launches since `ran` */
    bool tight;                  /* memory is: inputs do without `arrival` */
    void *sums, *summed, *ready[DL__CUDA_BUCKETS]; /* the stream of sums between GPUs; its end; see dl__cuda_reduce */
    uint64_t reached;            /* the first 64 GPUs: that memory was asked to be in reach, directly */
    struct { dl__cuda_address at; size_t size, used; } chunk[DL__CUDA_CHUNKS];
    int chunks, chunk_at;
    size_t step_used, step_peak; /* in this step; in any */
    size_t step_needs;           /* while memory for a step is asked for: how much it needs so far */
    dl__cuda_address scratch, arrival, room; /* of the operation at hand; an input on its way; sums between GPUs */
    size_t scratch_size, arrival_size, room_size;
    char *ring;                  /* pinned memory, which copies take in turn */
    size_t ring_size, ring_at;
    struct { size_t first, end; void *event; bool busy; } copy[DL__CUDA_COPIES];
    int copy_at;
    dl__cuda_address slots;      /* of DL__CUDA_SLOTS numbers: place << 32 | value of the first that is out of range */
    struct { const dl_op *op; dl_index i[6]; } slot[DL__CUDA_SLOTS];
    int slots_used;
    bool looked;                 /* since slots were checked */
    dl__cuda_number *numbers;    /* of a run's nodes, as they are sent */
    size_t numbers_room;
    dl__cuda_address numbers_there, number; /* number: of the launch at hand */
    const dl_device_launch *behind;         /* `left` launches behind that, of which it does `joined`, too */
    size_t left, joined;
    dl__cuda_list clipped, updated;
    dl__cuda_graph graph[DL__CUDA_GRAPHS];
    uint64_t runs;
    bool no_graphs, settled;     /* settled: this run allocated, loaded or copied nothing, which a graph cannot do */
    bool capturing, refused;
    dl__cuda_module *modules;
    dl__cuda_function *functions;
    struct { uint64_t key; void *function; } plan[DL__CUDA_PLANS];
} dl__cuda;

/* Did the call succeed? An error that names it otherwise: DL__CUDA_CALL(d, cuMemFree_v2(p)). */
static bool dl__cuda_check(dl__cuda *d, int code, const char *call)
{
    const char *name = NULL, *text = NULL;
    char function[64];
    size_t n = strcspn(call, "(");
    if (!code) return true;
    /* this cannot be captured; no error: see dl__cuda_replay */
    if (d->capturing && code >= 900 && code <= 909) return d->refused = true, false;
    if (d->driver.cuGetErrorName && d->driver.cuGetErrorName(code, &name)) name = NULL;
    if (d->driver.cuGetErrorString && d->driver.cuGetErrorString(code, &text)) text = NULL;
    snprintf(function, sizeof function, "%.*s", (int)n, call);
    return dl_fail(d->ctx, "%s: %s says %s (%d): %s", d->device, function, name ? name : "an unknown error", code,
        text ? text : "");
}
#define DL__CUDA_CALL(d, call) dl__cuda_check(d, (d)->driver.call, #call)

static bool dl__cuda_look_up(
    dl__cuda *d, void *library, void *table, const char *const *name, size_t n, const char *what)
{
    for (size_t i = 0; i < n; i++) {
        void *symbol = dlsym(library, name[i]);
        if (!symbol)
            return dl_fail(
                d->ctx, "dl_create: the device '%s': %s has no %s: it is too old", d->device, what, name[i]);
        memcpy((char *)table + i * sizeof symbol, &symbol, sizeof symbol);
    }
    return true;
}

/* ---- waiting: the host does so here alone, but for the driver before it frees memory ---- */
static bool dl__cuda_nccl_check(dl__cuda *d, int code, const char *call)
{
    return !code || dl_fail(d->ctx, "%s: %s says %s (%d)", d->device, call, d->nccl.text(code), code);
}

/* After an error: sums that others do not come to would never end. */
static void dl__cuda_give_up_sums(dl__cuda *d)
{
    if (d->comm && dl_failed(d->ctx)) d->nccl.ncclCommAbort(d->comm), d->comm = NULL;
}

/* While sums of NCCL are on their way the driver is asked again and again: they may have failed, or never end. */
static bool dl__cuda_wait(dl__cuda *d, void *event)
{
    struct timeval nap, last, now;
    double waited = 0;
    int code, error = 0;
    if (!d->comm) return DL__CUDA_CALL(d, cuEventSynchronize(event));
    gettimeofday(&last, NULL);
    while ((code = d->driver.cuEventQuery(event)) == 600 && dl_device_may_wait(d->ctx)) { /* not ready */
        if (!dl__cuda_nccl_check(d, d->nccl.ncclCommGetAsyncError(d->comm, &error), "ncclCommGetAsyncError") ||
            !dl__cuda_nccl_check(d, error, "NCCL"))
            break;
        gettimeofday(&now, NULL);
        double some = (double)(now.tv_sec - last.tv_sec) + 1e-6 * (double)(now.tv_usec - last.tv_usec);
        /* a clock that is set, or a process that was stopped, is no deadline */
        waited += some < 0 ? 0 : some > 0.05 ? 0.05 : some;
        last = now;
        if (d->seconds > 0 && waited > d->seconds) {
            dl_fail(d->ctx, "%s: a sum of NCCL has not ended in %g seconds: have all GPUs come to it?", d->device,
                d->seconds);
            break;
        }
        nap.tv_sec = 0; /* nanosleep hides from a strict -std=c99 */
        nap.tv_usec = 50;
        select(0, NULL, NULL, NULL, &nap);
    }
    bool ok = !dl_failed(d->ctx) && dl__cuda_check(d, code, "cuEventQuery");
    dl__cuda_give_up_sums(d);
    return ok;
}

/* Waits for launches and all that comes in their order. */
static bool dl__cuda_settle(dl__cuda *d)
{
    return DL__CUDA_CALL(d, cuEventRecord(d->ran, d->stream)) && dl__cuda_wait(d, d->ran);
}

/* ---- memory ---- */
/* Nearly all of what a step takes grows with the batch. How much of the batch would fit, by what was asked for so far:
   a bound from above. */
static void dl__cuda_tell_batch(const dl__cuda *d, size_t left, char *out, size_t size)
{
    size_t held = left;
    for (int i = 0; i < d->chunks; i++) held += d->chunk[i].size;
    if (d->step_needs <= held) snprintf(out, size, "a smaller batch takes less");
    else
        snprintf(out, size,
            "this step needs %zu or more, beside parameters there is room for %zu: for at most %d %% of this batch",
            d->step_needs, held, (int)(100.0 * (double)held / (double)d->step_needs));
}

static dl__cuda_address dl__cuda_allocate(dl__cuda *d, size_t bytes)
{
    dl__cuda_address p = 0;
    size_t left = 0, all = 0;
    char batch[200];
    d->settled = false;
    int code = d->driver.cuMemAlloc_v2(&p, bytes ? bytes : 1);
    if (code == 2 && d->arrival) {
        if (!dl__cuda_settle(d) || !DL__CUDA_CALL(d, cuMemFree_v2(d->arrival))) return 0;
        d->arrival = d->arrival_size = 0;
        d->tight = true;
        code = d->driver.cuMemAlloc_v2(&p, bytes ? bytes : 1);
    }
    if (code == 2) { /* out of memory */
        if (d->driver.cuMemGetInfo_v2(&left, &all)) left = all = 0;
        dl__cuda_tell_batch(d, left, batch, sizeof batch);
        dl_fail(d->ctx, "%s: out of memory: asked for %zu bytes, %zu of %zu are free; %s", d->device, bytes, left, all,
            batch);
        return 0;
    }
    return dl__cuda_check(d, code, "cuMemAlloc_v2") ? p : 0;
}

static bool dl__cuda_enter(dl__cuda *d) { return DL__CUDA_CALL(d, cuCtxSetCurrent(d->context)); } /* of this thread */

static void *dl__cuda_alloc(void *device, size_t bytes)
{
    dl__cuda *d = (dl__cuda *)device;
    return dl__cuda_enter(d) ? (void *)(uintptr_t)dl__cuda_allocate(d, bytes) : NULL;
}

static void dl__cuda_release(void *device, void *memory)
{
    dl__cuda *d = (dl__cuda *)device;
    dl__cuda_give_up_sums(d);
    if (memory && dl__cuda_enter(d)) DL__CUDA_CALL(d, cuMemFree_v2((dl__cuda_address)(uintptr_t)memory));
}

/* Kernels of the last step may still run. */
static bool dl__cuda_free_step(dl__cuda *d)
{
    bool ok = !d->chunks || dl__cuda_settle(d);
    while (ok && d->chunks) ok = DL__CUDA_CALL(d, cuMemFree_v2(d->chunk[--d->chunks].at));
    d->chunk_at = 0;
    return ok;
}

static void *dl__cuda_step_alloc(void *device, size_t bytes)
{
    dl__cuda *d = (dl__cuda *)device;
    size_t size = (bytes + 255) / 256 * 256;
    if (!dl__cuda_enter(d)) return NULL;
    while (d->chunk_at < d->chunks && d->chunk[d->chunk_at].size - d->chunk[d->chunk_at].used < size) d->chunk_at++;
    if (d->chunk_at == d->chunks) {
        if (!d->step_used && !dl__cuda_free_step(d)) return NULL; /* a larger batch */
        if (d->chunks == DL__CUDA_CHUNKS)
            return dl_fail(d->ctx, "%s: a step that grew %d times", d->device, (int)DL__CUDA_CHUNKS), (void *)NULL;
        size_t held = 0, left, all;
        for (int i = 0; i < d->chunks; i++) held += d->chunk[i].size;
        /* so that few pieces are enough */
        size_t room = size + (held / 8 > (size_t)1 << 20 ? held / 8 : (size_t)1 << 20);
        if (!d->driver.cuMemGetInfo_v2(&left, &all) && room > left) room = size;
        d->step_needs = d->step_used + size;
        d->chunk[d->chunks].at = dl__cuda_allocate(d, room);
        d->step_needs = 0;
        if (!d->chunk[d->chunks].at) return NULL;
        d->chunk[d->chunks].size = room;
        d->chunk[d->chunks++].used = 0;
    }
    dl__cuda_address p = d->chunk[d->chunk_at].at + d->chunk[d->chunk_at].used;
    d->chunk[d->chunk_at].used += size;
    d->step_used += size;
    return (void *)(uintptr_t)p;
}

/* Kernels of the last step are before all that uses the memory next. Several pieces become one, of what
   steps took at most. */
static void dl__cuda_step_reset(void *device)
{
    dl__cuda *d = (dl__cuda *)device;
    if (d->step_peak < d->step_used) d->step_peak = d->step_used;
    for (int i = 0; i < d->chunks; i++) d->chunk[i].used = 0;
    d->chunk_at = 0;
    d->step_used = 0;
    if (d->chunks < 2 || !dl__cuda_enter(d) || !dl__cuda_free_step(d)) return;
    if ((d->chunk[0].at = dl__cuda_allocate(d, d->step_peak))) d->chunk[0].size = d->step_peak, d->chunks = 1;
}

/* Memory that grows, without what was in it. The driver waits for work before it frees. */
static dl__cuda_address dl__cuda_room(dl__cuda *d, dl__cuda_address *p, size_t *size, size_t bytes)
{
    if (bytes <= *size) return *p;
    if (*p && (!dl__cuda_settle(d) || !DL__CUDA_CALL(d, cuMemFree_v2(*p)))) return 0;
    *p = *size = 0;
    if ((*p = dl__cuda_allocate(d, bytes))) *size = bytes;
    return *p;
}
/* Memory of one operation, until the next. */
static dl__cuda_address dl__cuda_scratch(dl__cuda *d, size_t bytes)
{
    return dl__cuda_room(d, &d->scratch, &d->scratch_size, bytes);
}

/* Pinned memory of `bytes`, a slice at most, that no copy uses any more. *which: the copy that will, and note
   it in its event. */
static char *dl__cuda_stage(dl__cuda *d, size_t bytes, int *which)
{
    size_t need = (bytes + 255) / 256 * 256, size = d->ring_size ? d->ring_size : (size_t)DL__CUDA_RING;
    d->settled = false;
    while (size < 4 * need) size *= 2;
    bool grows = size > d->ring_size;
    int k = *which = d->copy_at = (d->copy_at + 1) % DL__CUDA_COPIES;
    size_t first = grows || d->ring_at + need > d->ring_size ? 0 : d->ring_at;
    for (int i = 0; i < DL__CUDA_COPIES; i++) {
        bool meets = d->copy[i].first < first + need && first < d->copy[i].end;
        if (!d->copy[i].busy || !(grows || meets || i == k)) continue;
        if (!dl__cuda_wait(d, d->copy[i].event)) return NULL;
        d->copy[i].busy = false;
    }
    if (grows) {
        void *p = d->ring;
        d->ring = NULL;
        d->ring_size = 0;
        if ((p && !DL__CUDA_CALL(d, cuMemFreeHost(p))) || !DL__CUDA_CALL(d, cuMemHostAlloc(&p, size, 0))) return NULL;
        d->ring = (char *)p;
        d->ring_size = size;
    }
    d->copy[k].first = first;
    d->copy[k].end = d->ring_at = first + need;
    return d->ring + first;
}

/* By way of pinned memory; *event: when it has arrived. */
static bool dl__cuda_send(dl__cuda *d, dl__cuda_address to, const void *from, size_t bytes, void *stream, void **event)
{
    for (size_t at = 0, some; at < bytes; at += some) {
        int k;
        some = bytes - at < (size_t)DL__CUDA_SLICE ? bytes - at : (size_t)DL__CUDA_SLICE;
        char *stage = dl__cuda_stage(d, some, &k);
        if (!stage) return false;
        memcpy(stage, (const char *)from + at, some);
        if (!DL__CUDA_CALL(d, cuMemcpyHtoDAsync_v2(to + at, stage, some, stream))) return false;
        d->copy[k].busy = true;
        *event = d->copy[k].event;
        if (!DL__CUDA_CALL(d, cuEventRecord(*event, stream))) return false;
    }
    return true;
}

static bool dl__cuda_is_value(const dl__cuda *d, dl__cuda_address p)
{
    int i = 0;
    while (i < d->chunks && !(p >= d->chunk[i].at && p - d->chunk[i].at < d->chunk[i].size)) i++;
    return i < d->chunks;
}

static bool dl__cuda_upload(void *device, void *to, const void *from, size_t bytes)
{
    dl__cuda *d = (dl__cuda *)device;
    dl__cuda_address at = (dl__cuda_address)(uintptr_t)to;
    void *event;
    d->running = d->running || dl__cuda_is_value(d, at);
    return !bytes || (dl__cuda_enter(d) && dl__cuda_send(d, at, from, bytes, d->stream, &event));
}

/* It crosses while the last step still runs, to a place of its own; from there it is copied in the launches' order. */
static bool dl__cuda_input(void *device, void *to, const void *from, size_t bytes)
{
    dl__cuda *d = (dl__cuda *)device;
    void *arrived;
    size_t left, all;
    if (!dl__cuda_enter(d)) return false;
    if (bytes > d->arrival_size && !d->driver.cuMemGetInfo_v2(&left, &all) && left < bytes) d->tight = true;
    if (d->tight) return dl__cuda_upload(d, to, from, bytes);
    if (!dl__cuda_room(d, &d->arrival, &d->arrival_size, bytes)) return false;
    d->running = true;
    return DL__CUDA_CALL(d, cuStreamWaitEvent(d->copies, d->taken, 0)) &&
        dl__cuda_send(d, d->arrival, from, bytes, d->copies, &arrived) &&
        DL__CUDA_CALL(d, cuStreamWaitEvent(d->stream, arrived, 0)) &&
        DL__CUDA_CALL(d, cuMemcpyDtoDAsync_v2((dl__cuda_address)(uintptr_t)to, d->arrival, bytes, d->stream)) &&
        DL__CUDA_CALL(d, cuEventRecord(d->taken, d->stream));
}

static bool dl__cuda_note(dl__cuda *d) { return !d->running || DL__CUDA_CALL(d, cuEventRecord(d->ran, d->stream)); }
/* What begins now are no launches: values need not wait for it. */
static bool dl__cuda_end_run(dl__cuda *d)
{
    bool ok = dl__cuda_note(d);
    d->running = false;
    return ok;
}

/* Copies to pinned memory what launches have made, a slice at most, and waits. */
static const char *dl__cuda_fetch(dl__cuda *d, dl__cuda_address from, size_t bytes)
{
    int k;
    char *stage = dl__cuda_stage(d, bytes, &k);
    if (!stage || !dl__cuda_note(d) || !DL__CUDA_CALL(d, cuStreamWaitEvent(d->copies, d->ran, 0)) ||
        !DL__CUDA_CALL(d, cuMemcpyDtoHAsync_v2(stage, from, bytes, d->copies)) ||
        !DL__CUDA_CALL(d, cuEventRecord(d->copy[k].event, d->copies)) || !dl__cuda_wait(d, d->copy[k].event))
        return NULL;
    return stage;
}

/* Was an index out of range? */
static bool dl__cuda_check_slots(dl__cuda *d)
{
    int used = d->slots_used;
    if (!d->looked) return true;
    const char *p = dl__cuda_fetch(d, d->slots, (size_t)used * sizeof(uint64_t));
    if (!p) return false;
    d->looked = false;
    for (int i = 0; i < used; i++) {
        uint64_t bad;
        memcpy(&bad, p + (size_t)i * sizeof bad, sizeof bad);
        if (bad != UINT64_MAX) {
            DL__CUDA_CALL(d, cuMemsetD8Async(d->slots, 255, DL__CUDA_SLOTS * sizeof(uint64_t), d->stream));
            return dl_device_out_of_range(d->ctx, d->slot[i].op, d->slot[i].i, (size_t)(bad >> 32), (int)(uint32_t)bad);
        }
    }
    return true;
}

static bool dl__cuda_download(void *device, void *to, const void *from, size_t bytes)
{
    dl__cuda *d = (dl__cuda *)device;
    if (!bytes) return true;
    if (!dl__cuda_enter(d) || !dl__cuda_check_slots(d)) return false;
    d->running = d->running || !dl__cuda_is_value(d, (dl__cuda_address)(uintptr_t)from);
    for (size_t at = 0, some; at < bytes; at += some) {
        some = bytes - at < (size_t)DL__CUDA_SLICE ? bytes - at : (size_t)DL__CUDA_SLICE;
        const char *p = dl__cuda_fetch(d, (dl__cuda_address)(uintptr_t)from + at, some);
        if (!p) return false;
        memcpy((char *)to + at, p, some);
    }
    return true;
}

/* ---- graphs, see dl__cuda_replay ---- */
static bool dl__cuda_forget_graph(dl__cuda *d, dl__cuda_graph *g)
{
    void *exec = g->exec;
    memset(g, 0, sizeof *g);
    return !exec || DL__CUDA_CALL(d, cuGraphExecDestroy(exec));
}
static bool dl__cuda_forget_graphs(dl__cuda *d)
{
    bool ok = true;
    for (int i = 0; i < DL__CUDA_GRAPHS; i++) ok = dl__cuda_forget_graph(d, &d->graph[i]) && ok;
    return ok;
}

/* ---- between GPUs ---- */
/* Where one GPU can read the other's memory the copy is direct; elsewhere the driver takes it through the host. */
static void dl__cuda_reach(dl__cuda *d, const dl__cuda *other)
{
    int can = 0, bit = other->ordinal & 63;
    if (other->ordinal == d->ordinal || d->reached >> bit & 1) return;
    d->reached |= (uint64_t)1 << bit;
    int code = d->driver.cuDeviceCanAccessPeer(&can, d->ordinal, other->ordinal);
    if (!code && can) d->driver.cuCtxEnablePeerAccess(other->context, 0); /* if it refuses, copies go the long way */
}

static bool dl__cuda_copy_over(dl__cuda *d, const dl__cuda *target, dl__cuda_address to, const dl__cuda *source,
    dl__cuda_address from, size_t bytes)
{
    dl__cuda_reach(d, target);
    dl__cuda_reach(d, source);
    return DL__CUDA_CALL(d, cuMemcpyPeerAsync(to, target->context, from, source->context, bytes, d->sums));
}

static bool dl__cuda_ready(void *device, int bucket)
{
    dl__cuda *d = (dl__cuda *)device;
    return dl__cuda_enter(d) && DL__CUDA_CALL(d, cuEventRecord(d->ready[bucket % DL__CUDA_BUCKETS], d->stream));
}

static bool dl__cuda_summed(void *device)
{
    dl__cuda *d = (dl__cuda *)device;
    return dl__cuda_enter(d) && DL__CUDA_CALL(d, cuEventRecord(d->summed, d->sums));
}

static bool dl__cuda_after_sums(void *device, const void *other)
{
    dl__cuda *d = (dl__cuda *)device;
    if (d->comm && other != device) return true; /* NCCL writes each its own */
    return dl__cuda_enter(d) && dl__cuda_end_run(d) &&
        DL__CUDA_CALL(d, cuStreamWaitEvent(d->stream, ((const dl__cuda *)other)->summed, 0));
}

/* ---- texts ---- */
static void dl__cuda_add(dl__cuda_text *t, const char *s, size_t n)
{
    if (t->failed) return;
    if (t->size + n + 1 > t->room) {
        size_t room = 2 * (t->size + n) + 1024;
        char *p = (char *)realloc(t->at, room);
        if (!p) {
            t->failed = true;
            return;
        }
        t->at = p;
        t->room = room;
    }
    memcpy(t->at + t->size, s, n);
    t->size += n;
    t->at[t->size] = 0;
}

static void dl__cuda_put(dl__cuda_text *t, const char *format, ...)
{
    char line[512];
    va_list args;
    if (!t) return;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > 0) dl__cuda_add(t, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1);
}

static void dl__cuda_lines(dl__cuda_text *t, const char *const *line)
{
    for (; *line; line++) dl__cuda_add(t, *line, strlen(*line));
}

/* ---- the cache of compiled kernels: files named by the hash of GPU and text; 'dltrain' 1, its own hash,
   and the image ---- */
enum { DL__CUDA_HEAD = 24 };
static void dl__cuda_hash(const char *p, size_t n, uint64_t h[2])
{
    for (size_t i = 0; i < n; i++) {
        h[0] = (h[0] ^ (uint8_t)p[i]) * 1099511628211u;
        h[1] = (h[1] ^ (uint8_t)p[i]) * 0x9E3779B97F4A7C15u;
        h[1] ^= h[1] >> 29;
    }
}

/* The folder, made if need be; false: nothing is kept. */
static bool dl__cuda_folder(char *path, size_t size)
{
    const char *own = getenv("DLTRAIN_CUDA_CACHE"), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = own ? snprintf(path, size, "%s", own)
        : cache && *cache ? snprintf(path, size, "%s/dltrain", cache)
        : home && *home   ? snprintf(path, size, "%s/.cache/dltrain", home)
                          : 0;
    if (n <= 0 || (size_t)n >= size) return false;
    for (char *p = path + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            mkdir(path, 0777);
            *p = '/';
        }
    return !mkdir(path, 0777) || errno == EEXIST;
}

static char *dl__cuda_cached(const char *path)
{
    uint64_t head[3], h[2] = { 14695981039346656037u, 1 };
    FILE *f = fopen(path, "rb");
    char *image = NULL;
    if (!f) return NULL;
    if (fread(head, sizeof head, 1, f) == 1 && !memcmp(head, "dltrain\1", 8) && head[1] < (uint64_t)1 << 31 &&
        (image = (char *)malloc((size_t)head[1] + 1))) {
        size_t n = (size_t)head[1];
        bool whole = fread(image, 1, n, f) == n && fgetc(f) == EOF;
        image[n] = 0;
        dl__cuda_hash(image, whole ? n : 0, h);
        if (!whole || h[0] != head[2]) {
            free(image);
            image = NULL;
        }
    }
    fclose(f);
    return image;
}

/* Where there are too many files, those least recently made go. */
static void dl__cuda_trim(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *e;
    struct stat s;
    char path[1500];
    time_t oldest = 0;
    int n = 0;
    if (!dir) return;
    while ((e = readdir(dir))) n += *e->d_name != '.';
    /* the half before the mean age, by a scan for the oldest and newest */
    for (int pass = 0; n > DL__CUDA_FILES && pass < 2; pass++) {
        time_t first = 0, last = 0;
        rewinddir(dir);
        while ((e = readdir(dir))) {
            snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
            if (*e->d_name == '.' || stat(path, &s)) continue;
            if (pass && s.st_mtime <= oldest) remove(path);
            if (!first || s.st_mtime < first) first = s.st_mtime;
            if (s.st_mtime > last) last = s.st_mtime;
        }
        oldest = first + (last - first) / 2;
    }
    closedir(dir);
}

/* Under a name of its own, then renamed: no reader sees half a file. Whatever fails, the kernel is compiled
   again next time. */
static void dl__cuda_keep(const char *folder, const char *path, const char *image, size_t n)
{
    uint64_t head[3], h[2] = { 14695981039346656037u, 1 };
    char own[1400];
    snprintf(own, sizeof own, "%s.%ld.%p", path, (long)getpid(), (const void *)image);
    FILE *f = fopen(own, "wb");
    if (!f) return;
    memcpy(head, "dltrain\1", 8);
    dl__cuda_hash(image, n, h);
    head[1] = n;
    head[2] = h[0];
    bool ok = fwrite(head, sizeof head, 1, f) == 1 && fwrite(image, 1, n, f) == n;
    ok = !fclose(f) && ok;
    if (!ok || rename(own, path)) remove(own);
    else dl__cuda_trim(folder);
}

/* ---- kernels baked in: compiled by tools/bake_kernels.c, in the header that it wrote, found by architecture and
   hash of the text ---- */
/* not binary: PTX */
typedef struct dl__cuda_baked { int arch; bool binary; uint64_t hash[2]; const void *image; } dl__cuda_baked;
static const dl__cuda_baked dl__cuda_all_baked[] = {
#ifdef DLTRAIN_CUDA_BAKED
    DLTRAIN_CUDA_BAKED
#endif
    { 0, false, { 0, 0 }, NULL }
};

static void dl__cuda_hash_text(const dl__cuda_text *t, uint64_t h[2])
{
    h[0] = 14695981039346656037u;
    h[1] = 1;
    dl__cuda_hash(t->at, t->size, h);
}

/* Machine code runs on later GPUs of its generation, PTX on all later ones. */
static bool dl__cuda_runs(const dl__cuda *d, const dl__cuda_baked *b)
{
    return b->arch <= d->arch && (!b->binary || b->arch / 10 == d->arch / 10);
}

static const void *dl__cuda_find_baked(const dl__cuda *d, const dl__cuda_text *t)
{
    const dl__cuda_baked *best = NULL;
    uint64_t h[2];
    if (!dl__cuda_all_baked->arch) return NULL;
    dl__cuda_hash_text(t, h);
    for (const dl__cuda_baked *b = dl__cuda_all_baked; b->arch; b++)
        if (b->hash[0] == h[0] && b->hash[1] == h[1] && dl__cuda_runs(d, b) &&
            (!best || (b->binary != best->binary ? b->binary : b->arch > best->arch))) best = b;
    return best ? best->image : NULL;
}

/* For an error: what is baked in, and why that does not serve; "" where nothing is. */
static const char *dl__cuda_tell_baked(const dl__cuda *d, const char *what, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "; baked in are kernels for compute capability");
    bool runs = false;
    if (!dl__cuda_all_baked->arch) return "";
    for (const dl__cuda_baked *b = dl__cuda_all_baked, *a; b->arch; b++) {
        for (a = dl__cuda_all_baked; a->arch != b->arch || a->binary != b->binary; a++) {}
        runs = runs || dl__cuda_runs(d, b);
        if (a == b && n < size)
            n += (size_t)snprintf(out + n, size - n, "%s %d.%d%s", b > dl__cuda_all_baked ? "," : "", b->arch / 10,
                b->arch % 10, b->binary ? "" : " and later");
    }
    if (n < size && runs)
        snprintf(out + n, size - n, ": '%s' of this program is not among them, or the driver refused it", what);
    else if (n < size) snprintf(out + n, size - n, "; %s is of %d.%d", d->name, d->arch / 10, d->arch % 10);
    return out;
}

/* The texts of all that a program runs, for tools/bake_kernels.c, go to the folder DLTRAIN_CUDA_TEXTS if it is set. */
static bool dl__cuda_write_text(dl__cuda *d, const dl__cuda_text *t, const char *what)
{
    const char *folder = getenv("DLTRAIN_CUDA_TEXTS");
    char path[1300];
    uint64_t h[2];
    if (!folder || !*folder) return true;
    dl__cuda_hash_text(t, h);
    mkdir(folder, 0777);
    snprintf(path, sizeof path, "%s/%s-%016llx%016llx.cu", folder, what, (unsigned long long)h[0],
        (unsigned long long)h[1]);
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(t->at, 1, t->size, f) == t->size;
    if (f) ok = !fclose(f) && ok;
    return ok ||
        dl_fail(d->ctx, "%s: DLTRAIN_CUDA_TEXTS: '%s' cannot be written: %s", d->device, path, strerror(errno));
}

/* The library that the environment variable names, or else the first of n that is there. */
static void *dl__cuda_open_library(const char *variable, const char *const *usual, int n)
{
    const char *own = getenv(variable);
    void *library = NULL;
    if (own && *own) return dlopen(own, RTLD_NOW | RTLD_LOCAL);
    for (int i = 0; i < n && !library; i++) library = dlopen(usual[i], RTLD_NOW | RTLD_LOCAL);
    return library;
}

/* ---- compiling ---- */
static bool dl__cuda_open_nvrtc(dl__cuda *d, const char *what)
{
    char baked[700];
    static const char *const usual[] = { "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so" };
    if (d->nvrtc_library) return true;
    if (!(d->nvrtc_library = dl__cuda_open_library("DLTRAIN_NVRTC", usual, 3))) {
        const char *why = dlerror();
        return dl_fail(d->ctx, "%s: kernels are compiled by NVRTC, which is not there: %s; DLTRAIN_NVRTC names it%s",
            d->device, why ? why : "", dl__cuda_tell_baked(d, what, baked, sizeof baked));
    }
    return dl__cuda_look_up(d, d->nvrtc_library, &d->nvrtc, dl__cuda_nvrtc_names,
        sizeof dl__cuda_nvrtc_names / sizeof *dl__cuda_nvrtc_names, "NVRTC");
}

static bool dl__cuda_check_cublas(dl__cuda *d, int code, const char *call)
{
    if (code && d->capturing) return d->refused = true, false; /* perhaps because of that */
    const char *text = code && d->cublas_text ? d->cublas_text(code) : "";
    return !code || dl_fail(d->ctx, "%s: %s says %d: %s", d->device, call, code, text ? text : "");
}
/* Opens cuBLAS and gives it a workspace, which graphs need. */
static bool dl__cuda_open_cublas(dl__cuda *d)
{
    static const char *const usual[] = { "libcublas.so.13", "libcublas.so.12", "libcublas.so" };
    size_t bytes = (size_t)(d->arch >= 90 ? 32 : 4) << 20; /* what NVIDIA advises */
    void *library = dl__cuda_open_library("DLTRAIN_CUBLAS", usual, 3);
    if (!library) {
        const char *why = dlerror();
        return dl_fail(
            d->ctx, "dl_create: the blas 'cublas' is not there: %s; DLTRAIN_CUBLAS names it", why ? why : "");
    }
    *(void **)&d->cublas_text = dlsym(library, "cublasGetStatusString");
    if (!dl__cuda_look_up(d, library, &d->cublas, dl__cuda_cublas_names,
            sizeof dl__cuda_cublas_names / sizeof *dl__cuda_cublas_names, "cuBLAS") ||
        !dl__cuda_check_cublas(d, d->cublas.cublasCreate_v2(&d->blas), "cublasCreate") ||
        !dl__cuda_check_cublas(d, d->cublas.cublasSetStream_v2(d->blas, d->stream), "cublasSetStream") ||
        !(d->blas_workspace = dl__cuda_allocate(d, bytes))) return false;
    void *workspace = (void *)(uintptr_t)d->blas_workspace;
    return dl__cuda_check_cublas(d, d->cublas.cublasSetWorkspace_v2(d->blas, workspace, bytes), "cublasSetWorkspace");
}

/* The architecture to compile for: the newest that the GPU runs of those that NVRTC knows. `binary`: one of the same
   generation, for which there is machine code; otherwise the driver translates PTX. 0 after an error. */
static int dl__cuda_target(dl__cuda *d, bool *binary)
{
    int n = 0, arch[64], best = 0, least = 0;
    if (d->nvrtc.nvrtcGetNumSupportedArchs(&n) || n < 1 || n > 64 || d->nvrtc.nvrtcGetSupportedArchs(arch))
        return dl_fail(d->ctx, "%s: NVRTC does not tell what it compiles for", d->device), 0;
    for (int i = 0; i < n; i++) {
        if (!least || arch[i] < least) least = arch[i];
        if (arch[i] <= d->arch && arch[i] > best) best = arch[i];
    }
    *binary = best / 10 == d->arch / 10;
    if (!best)
        dl_fail(d->ctx, "%s: %s is of compute capability %d.%d; this NVRTC compiles for %d.%d and later", d->device,
            d->name, d->arch / 10, d->arch % 10, least / 10, least % 10);
    return best;
}

/* The first error of a compiler's log, in one line. */
static bool dl__cuda_compile_error(dl__cuda *d, void *program, const char *what)
{
    char line[300] = "";
    size_t size = 0;
    if (!d->nvrtc.nvrtcGetProgramLogSize(program, &size) && size) {
        char *log = (char *)malloc(size + 1);
        if (log && !d->nvrtc.nvrtcGetProgramLog(program, log)) {
            log[size] = 0;
            char *at = strstr(log, "error");
            while (at && at > log && at[-1] != '\n') at--;
            snprintf(line, sizeof line, "%s", at ? at : log);
            line[strcspn(line, "\n")] = 0;
        }
        free(log);
    }
    return dl_fail(d->ctx, "%s: NVRTC cannot compile the kernels '%s': %s", d->device, what, line);
}

/* Machine code, or PTX, of a text: malloc'd; NULL after an error. */
static char *dl__cuda_compile(
    dl__cuda *d, const dl__cuda_text *t, const char *what, int arch, bool binary, size_t *size)
{
    void *program = NULL;
    char *image = NULL, target[40];
    const char *option[] = { target, "-default-device", "-fmad=false", "-ftz=false", "-prec-div=true",
        "-prec-sqrt=true" };
    snprintf(target, sizeof target, "--gpu-architecture=%s_%d", binary ? "sm" : "compute", arch);
    if (d->nvrtc.nvrtcCreateProgram(&program, t->at, what, 0, NULL, NULL))
        return dl_fail(d->ctx, "%s: NVRTC cannot begin '%s'", d->device, what), (char *)NULL;
    if (d->nvrtc.nvrtcCompileProgram(program, (int)(sizeof option / sizeof *option), option))
        dl__cuda_compile_error(d, program, what);
    else if ((binary ? d->nvrtc.nvrtcGetCUBINSize : d->nvrtc.nvrtcGetPTXSize)(program, size) ||
        !(image = (char *)malloc(*size + 1)) ||
        (binary ? d->nvrtc.nvrtcGetCUBIN : d->nvrtc.nvrtcGetPTX)(program, image)) {
        dl_fail(d->ctx, "%s: NVRTC gives nothing for '%s'", d->device, what);
        free(image);
        image = NULL;
    }
    d->nvrtc.nvrtcDestroyProgram(&program);
    return image;
}

/* The module of a text, from memory, baked in, from the cache folder, or compiled. NULL after an error. */
static void *dl__cuda_load(dl__cuda *d, const dl__cuda_text *t, const char *what)
{
    uint64_t h[2] = { 14695981039346656037u + (uint64_t)d->arch, 1 };
    char folder[1200], path[1300];
    size_t size = 0;
    if (t->failed) return dl_fail(d->ctx, "out of memory for the text of a kernel"), (void *)NULL;
    dl__cuda_hash(t->at, t->size, h);
    for (dl__cuda_module *m = d->modules; m; m = m->next)
        if (m->hash[0] == h[0] && m->hash[1] == h[1]) return m->module;
    d->settled = false;
    if (!dl__cuda_write_text(d, t, what)) return NULL;
    void *module = NULL;
    const void *baked = dl__cuda_find_baked(d, t);
    if (baked && d->driver.cuModuleLoadData(&module, baked)) baked = NULL; /* PTX later than the driver */
    bool keeps = !baked && dl__cuda_folder(folder, sizeof folder), binary = false;
    snprintf(path, sizeof path, "%s/%016llx%016llx", keeps ? folder : "", (unsigned long long)h[0],
        (unsigned long long)h[1]);
    char *image = keeps ? dl__cuda_cached(path) : NULL;
    if (image && d->driver.cuModuleLoadData(&module, image)) { /* of another driver's time */
        free(image);
        image = NULL;
    }
    if (!image && !baked) {
        int arch = dl__cuda_open_nvrtc(d, what) ? dl__cuda_target(d, &binary) : 0;
        if (!arch || !(image = dl__cuda_compile(d, t, what, arch, binary, &size))) return NULL;
        if (!DL__CUDA_CALL(d, cuModuleLoadData(&module, image))) return free(image), (void *)NULL;
        if (keeps) dl__cuda_keep(folder, path, image, size);
    }
    free(image);
    dl__cuda_module *m = (dl__cuda_module *)calloc(1, sizeof *m);
    if (!m) return dl_fail(d->ctx, "out of memory for a kernel"), (void *)NULL;
    m->hash[0] = h[0];
    m->hash[1] = h[1];
    m->module = module;
    m->next = d->modules;
    return d->modules = m, module;
}

static void dl__cuda_begin_text(dl__cuda_text *t)
{
    memset(t, 0, sizeof *t);
    dl__cuda_lines(t, dl__cuda_common_cu);
    dl__cuda_lines(t, dl__cuda_device_cu);
}

/* What the modules are made of; `least`: the compute capability that they need, if any. */
static const char *const dl__cuda_tf32[] = { "#define BF16 0\n", NULL },
                  *const dl__cuda_bf16[] = { "#define BF16 1\n", NULL };
static const struct { const char *name; const char *const *part[6]; int least; } dl__cuda_parts[] = {
    { "reduce", { dl__cuda_sums_cu, dl__cuda_reduce_cu, NULL }, 0 },
    { "attention", { dl__cuda_tile_cu, dl__cuda_attention_cu, NULL }, 0 },
    { "normalise", { dl__cuda_sums_cu, dl__cuda_normalise_cu, NULL }, 0 },
    { "move", { dl__cuda_move_cu, NULL }, 0 },
    { "pool", { dl__cuda_pool_cu, NULL }, 0 },
    { "matmul", { dl__cuda_tile_cu, dl__cuda_matmul_cu, NULL }, 0 },
    { "warp", { dl__cuda_tile_cu, dl__cuda_warp_cu, NULL }, 0 },
    { "conv", { dl__cuda_tile_cu, dl__cuda_taps_cu, dl__cuda_conv_cu, NULL }, 0 },
    { "join", { dl__cuda_tile_cu, dl__cuda_join_cu, NULL }, 0 },
    { "matmul_tf32", { dl__cuda_tf32, dl__cuda_tile_cu, dl__cuda_tensor_cu, dl__cuda_tensor_matmul_cu, NULL }, 80 },
    { "matmul_bf16", { dl__cuda_bf16, dl__cuda_tile_cu, dl__cuda_tensor_cu, dl__cuda_tensor_matmul_cu, NULL }, 80 },
    { "conv_tf32",
        { dl__cuda_tf32, dl__cuda_tile_cu, dl__cuda_taps_cu, dl__cuda_tensor_cu, dl__cuda_tensor_conv_cu, NULL }, 80 },
    { "conv_bf16",
        { dl__cuda_bf16, dl__cuda_tile_cu, dl__cuda_taps_cu, dl__cuda_tensor_cu, dl__cuda_tensor_conv_cu, NULL }, 80 },
    { "clip", { dl__cuda_clip_cu, NULL }, 0 },
    { "update", { dl__cuda_update_cu, NULL }, 0 }
};
enum { DL__CUDA_PARTS = sizeof dl__cuda_parts / sizeof *dl__cuda_parts };
/* The one of that name; DL__CUDA_PARTS: none. */
static size_t dl__cuda_part(const char *name)
{
    size_t i = 0;
    while (i < DL__CUDA_PARTS && strcmp(dl__cuda_parts[i].name, name)) i++;
    return i;
}
static void dl__cuda_module_text(dl__cuda_text *t, size_t i)
{
    dl__cuda_begin_text(t);
    for (int k = 0; dl__cuda_parts[i].part[k]; k++) dl__cuda_lines(t, dl__cuda_parts[i].part[k]);
}

/* A kernel by name; both names are string constants. */
static void *dl__cuda_kernel(dl__cuda *d, const char *module, const char *name)
{
    dl__cuda_text t;
    for (dl__cuda_function *f = d->functions; f; f = f->next)
        if (!strcmp(f->name, name) && !strcmp(f->module, module)) return f->function;
    dl__cuda_module_text(&t, dl__cuda_part(module));
    void *m = dl__cuda_load(d, &t, module), *function = NULL;
    free(t.at);
    if (!m || !DL__CUDA_CALL(d, cuModuleGetFunction(&function, m, name))) return NULL;
    dl__cuda_function *f = (dl__cuda_function *)calloc(1, sizeof *f);
    if (!f) return dl_fail(d->ctx, "out of memory for a kernel"), (void *)NULL;
    f->module = module;
    f->name = name;
    f->function = function;
    f->next = d->functions;
    d->functions = f;
    return function;
}

static bool dl__cuda_start(
    dl__cuda *d, void *function, size_t gx, size_t gy, size_t gz, unsigned bx, unsigned by, void **args)
{
    if (!gx || !gy || !gz) return true;
    if (gx > 0x7fffffff || gy > 65535 || gz > 65535)
        return dl_fail(d->ctx, "%s: a grid of %zu x %zu x %zu blocks is more than a GPU takes", d->device, gx, gy, gz);
    return DL__CUDA_CALL(
        d, cuLaunchKernel(function, (unsigned)gx, (unsigned)gy, (unsigned)gz, bx, by, 1, 0, d->stream, args, NULL));
}

typedef struct dl__cuda_grid { size_t x, y, z; unsigned bx, by; } dl__cuda_grid;
static dl__cuda_grid dl__cuda_grid_of(size_t x, size_t y, size_t z, unsigned bx, unsigned by)
{
    dl__cuda_grid g;
    g.x = x, g.y = y, g.z = z, g.bx = bx, g.by = by;
    return g;
}
/* For n things, a thread each */
static dl__cuda_grid dl__cuda_flat(size_t n) { return dl__cuda_grid_of((n + 127) / 128, 1, 1, 128, 1); }
/* and where threads take several in turn */
static dl__cuda_grid dl__cuda_strides(size_t n)
{
    size_t blocks = (n + 255) / 256;
    return dl__cuda_grid_of(blocks < 65536 ? blocks : 65536, 1, 1, 256, 1);
}
static bool dl__cuda_go(dl__cuda *d, const char *module, const char *name, dl__cuda_grid g, void **args)
{
    void *function = g.x && g.y && g.z ? dl__cuda_kernel(d, module, name) : NULL;
    return !g.x || !g.y || !g.z || (function && dl__cuda_start(d, function, g.x, g.y, g.z, g.bx, g.by, args));
}

/* ---- generated kernels: the elementwise operations of a launch. A thread takes four numbers at once where all memory
   is aligned and what is broadcast lies so, too; otherwise one. See rows.cu ---- */
/* Walks over a launch, collecting the arguments of its kernel, and, when there is a text, writing the kernel. */
typedef struct dl__cuda_group {
    dl__cuda *d;
    const dl_device_launch *l;
    dl__cuda_text *text, *params;   /* NULL: only the arguments are wanted */
    int wide;                       /* numbers of a thread */
    int args;
    size_t bytes;
    void *arg[DL__CUDA_ARGS];
    char value[DL__CUDA_ARG_BYTES];
    bool full;
} dl__cuda_group;

/* One more argument, of 4 or 8 bytes; its number. */
static int dl__cuda_argument(dl__cuda_group *g, const char *type, const void *value, size_t size)
{
    g->bytes = (g->bytes + size - 1) / size * size;
    if (g->args == DL__CUDA_ARGS || g->bytes + size > sizeof g->value) {
        g->full = true;
        return 0;
    }
    memcpy(g->value + g->bytes, value, size);
    g->arg[g->args] = g->value + g->bytes;
    g->bytes += size;
    dl__cuda_put(g->params, "%s%s a%d", g->args ? ", " : "", type, g->args);
    return g->args++;
}
static int dl__cuda_long(dl__cuda_group *g, uint64_t v) { return dl__cuda_argument(g, "uint64_t", &v, sizeof v); }
static const char *const dl__cuda_types[] = { "float", "int32_t", "uint8_t" };
static int dl__cuda_pointer(dl__cuda_group *g, const dl_node *x)
{
    static const char *const type[] = { "float *", "int32_t *", "uint8_t *" };
    void *p = dl_device_address(g->d->ctx, x);
    return dl__cuda_argument(g, type[x->dtype], &p, sizeof p);
}

/* The dimensions of y, innermost first, by what a step in each means for x, of fewer elements: neighbours
   of one kind joined. */
static int dl__cuda_levels(const dl_node *y, const dl_node *x, uint64_t *dim, uint64_t *stride)
{
    int n = 0, extra = y->ndim - x->ndim;
    uint64_t inner = 1;
    for (int k = y->ndim - 1; k >= 0; k--) {
        uint64_t wide = k >= extra ? (uint64_t)x->dim[k - extra] : 1, step = wide == 1 ? 0 : inner;
        inner *= wide;
        if (y->dim[k] == 1) continue;
        if (n && !stride[n - 1] == !step) dim[n - 1] *= (uint64_t)y->dim[k];
        else dim[n] = (uint64_t)y->dim[k], stride[n++] = step;
    }
    while (n && !stride[n - 1]) n--; /* behind the last step nothing is computed */
    return n;
}

/* Number k of the launch, whose value x is or shows; -1: it comes from memory. */
static int dl__cuda_local(const dl__cuda_group *g, const dl_node *x, int end)
{
    for (bool placed = dl_device_address(g->d->ctx, x) != NULL;; x = x->in[0]) {
        for (int k = 0; k < end; k++)
            if (g->l->node[k] == x && x->op->flags & DL_OP_ELEMENTWISE) return k;
        if (placed || !x->n_in) return -1; /* a view of a value that lives here alone is that value */
    }
}

/* Can four neighbours of the memory of x be read at once for four of y? Of what is broadcast they are neighbours, too,
   or the same number. */
static bool dl__cuda_by_four(dl__cuda *d, const dl_node *y, const dl_node *x)
{
    uint64_t dim[DLTRAIN_MAX_DIMS + 1], stride[DLTRAIN_MAX_DIMS + 1];
    bool aligned = (uintptr_t)dl_device_address(d->ctx, x) % (x->dtype == DL_U8 ? 4 : 16) == 0;
    if (x->numel == y->numel) return aligned;
    /* no step: one number for all */
    return !dl__cuda_levels(y, x, dim, stride) || (dim[0] % 4 == 0 && (aligned || !stride[0]));
}
static int dl__cuda_wide(const dl__cuda_group *g, int skip)
{
    for (int k = skip; k < g->l->count; k++) {
        const dl_node *y = g->l->node[k];
        if (y->numel % 4 || (dl_device_address(g->d->ctx, y) && !dl__cuda_by_four(g->d, y, y))) return 1;
        for (int i = 0; i < y->n_in; i++)
            if (dl__cuda_local(g, y->in[i], k) < 0 && !dl__cuda_by_four(g->d, y, y->in[i])) return 1;
    }
    return 4;
}

/* Reads what of x is for the elements of y from number i on; into `out` where that for number i + j is. */
static void dl__cuda_operand(dl__cuda_group *g, const dl_node *y, const dl_node *x, int end, char *out, size_t size)
{
    uint64_t dim[DLTRAIN_MAX_DIMS + 1], stride[DLTRAIN_MAX_DIMS + 1];
    char at[400] = "i";
    int local = dl__cuda_local(g, x, end), used = 0;
    bool same = false; /* one number for all of them */
    if (local >= 0) {
        snprintf(out, size, "v%d.v[j]", local);
        return;
    }
    int p = dl__cuda_pointer(g, x);
    if (x->numel != y->numel) {
        /* i / dim[0] / dim[1] ... % dim[k] * stride[k], summed */
        int levels = dl__cuda_levels(y, x, dim, stride), left = -1;
        snprintf(at, sizeof at, "0");
        same = !stride[0];
        for (int k = 0; k < levels; k++) {
            int wide = dl__cuda_long(g, dim[k]), step = stride[k] ? dl__cuda_long(g, stride[k]) : -1;
            char of[24];
            snprintf(of, sizeof of, left < 0 ? "i" : "l%d", left);
            if (step >= 0)
                used += snprintf(at + used, sizeof at - (size_t)used, "%s%s %% (Index)a%d * a%d", used ? " + " : "",
                    of, wide, step);
            if (k + 1 < levels) dl__cuda_put(g->text, "        const Index l%d = %s / (Index)a%d;\n", wide, of, wide);
            left = wide;
        }
    }
    if (same) dl__cuda_put(g->text, "        const %s f%d = a%d[%s];\n", dl__cuda_types[x->dtype], p, p, at);
    else dl__cuda_put(g->text, "        const Lanes<%s> f%d = get(a%d, %s);\n", dl__cuda_types[x->dtype], p, p, at);
    snprintf(out, size, same ? "f%d" : "f%d.v[j]", p);
}

static bool dl__cuda_is_row(const char *const *rows, const char *name)
{
    while (*rows && strcmp(*rows, name)) rows++;
    return *rows != NULL;
}

/* The line that computes node k. False when there is no kernel for it. */
static bool dl__cuda_element(dl__cuda_group *g, int k)
{
    const dl_node *y = g->l->node[k];
    const char *name = y->op->name;
    char in[3][24];
    dl__cuda_text *t = g->text;
    int sum = -1;
    for (int i = 0; i < y->n_in && i < 3; i++) dl__cuda_operand(g, y, y->in[i], k, in[i], sizeof in[i]);
    if (!strcmp(name, "accumulate") && y->i[1])
        sum = dl__cuda_pointer(g, y), dl__cuda_put(t, "        const Lanes<float> f%d = get(a%d, i);\n", sum, sum);
    dl__cuda_put(t, "        Lanes<%s> v%d;\n        EACH(j) v%d.v[j] = ", dl__cuda_types[y->dtype], k, k);
    if (dl__cuda_is_row(dl__cuda_unary_rows, name)) dl__cuda_put(t, "ew_%s(%s);\n", name, in[0]);
    else if (dl__cuda_is_row(dl__cuda_binary_rows, name)) dl__cuda_put(t, "ew_%s(%s, %s);\n", name, in[0], in[1]);
    else if (dl__cuda_is_row(dl__cuda_scaled_rows, name)) {
        dl__cuda_put(t, "ew_%s(%s, a1[%d].a, a1[%d].b);\n", name, in[0], k, k);
    } else if (!strcmp(name, "where")) dl__cuda_put(t, "ew_where(%s, %s, %s);\n", in[0], in[1], in[2]);
    else if (!strcmp(name, "expand")) dl__cuda_put(t, "%s;\n", in[0]);
    else if (!strcmp(name, "to_float")) dl__cuda_put(t, "(float)%s;\n", in[0]);
    else if (!strcmp(name, "full")) dl__cuda_put(t, "a1[%d].a;\n", k);
    else if (!strcmp(name, "causal")) {
        int wide = dl__cuda_long(g, (uint64_t)y->dim[y->ndim - 1]),
            high = dl__cuda_long(g, (uint64_t)y->dim[y->ndim - 2]);
        dl__cuda_put(t, "(i + j) %% a%d > (i + j) / a%d %% a%d ? a1[%d].a : %s;\n", wide, wide, high, k, in[0]);
    } else if (!strcmp(name, "accumulate")) {
        if (sum >= 0) dl__cuda_put(t, "E_ADD(f%d.v[j], %s);\n", sum, in[0]);
        else dl__cuda_put(t, "%s;\n", in[0]);
    } else if (!strcmp(name, "rand") || !strcmp(name, "randn")) {
        dl__cuda_put(
            t, "ew_%s(a%d, a1[%d].counter, i + j);\n", name, dl__cuda_long(g, dl_device_random_key(g->d->ctx)), k);
    } else if (!strcmp(name, "dropout")) {
        int key = dl__cuda_long(g, dl_device_random_key(g->d->ctx));
        dl__cuda_put(t, "ew_dropout(%s, a1[%d].a, a1[%d].b, a%d, a1[%d].counter, i + j);\n", in[0], k, k, key, k);
    } else return dl_fail(g->d->ctx, "%s: dl_%s has no CUDA kernel yet", g->d->device, name);
    if (dl_device_address(g->d->ctx, y)) dl__cuda_put(t, "        put(a%d, i, v%d);\n", dl__cuda_pointer(g, y), k);
    return true;
}

static bool dl__cuda_walk(dl__cuda_group *g)
{
    int skip = !(g->l->node[0]->op->flags & DL_OP_ELEMENTWISE);
    g->args = 0;
    g->bytes = 0;
    dl__cuda_long(g, g->l->node[skip]->numel);
    dl__cuda_argument(g, "const Number *__restrict__", &g->d->number, sizeof g->d->number);
    for (int k = skip; k < g->l->count; k++)
        if (!dl__cuda_element(g, k)) return false;
    return !g->full ||
        dl_fail(g->d->ctx, "%s: a group of operations with too many operands: set dl_config.no_fusion", g->d->device);
}

static bool dl__cuda_elementwise(dl__cuda *d, const dl_device_launch *l)
{
    dl__cuda_group g;
    dl__cuda_text body, params, all;
    size_t n = l->node[0]->numel;
    memset(&g, 0, sizeof g);
    g.d = d;
    g.l = l;
    g.wide = dl__cuda_wide(&g, !(l->node[0]->op->flags & DL_OP_ELEMENTWISE));
    if (!n) return true;
    uint64_t key = l->key + (uint64_t)g.wide;
    size_t at = (size_t)(key % DL__CUDA_PLANS);
    bool known = d->plan[at].key == key && d->plan[at].function;
    memset(&body, 0, sizeof body);
    memset(&params, 0, sizeof params);
    if (!known) g.text = &body, g.params = &params;
    bool ok = dl__cuda_walk(&g);
    if (ok && !known) {
        dl__cuda_begin_text(&all);
        dl__cuda_put(&all, "typedef %s Index;\nenum { WIDE = %d };\n", n >> 31 ? "uint64_t" : "uint32_t", g.wide);
        dl__cuda_lines(&all, dl__cuda_rows_cu);
        dl__cuda_put(&all, "#line 1 \"generated\"\nextern \"C\" __global__ void group(");
        dl__cuda_add(&all, params.at ? params.at : "", params.size);
        dl__cuda_put(&all,
            ")\n{\n    for (Index i = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * WIDE; i < a0; i += (Index)gridDim.x * blockDim.x * WIDE) {\n");
        dl__cuda_add(&all, body.at ? body.at : "", body.size);
        dl__cuda_put(&all, "    }\n}\n");
        void *module = dl__cuda_load(d, &all, l->node[0]->op->name);
        ok = module && DL__CUDA_CALL(d, cuModuleGetFunction(&d->plan[at].function, module, "group"));
        d->plan[at].key = ok ? key : 0;
        free(all.at);
    }
    free(body.at);
    free(params.at);
    dl__cuda_grid b = dl__cuda_strides(n / (size_t)g.wide);
    return ok && dl__cuda_start(d, d->plan[at].function, b.x, 1, 1, b.bx, 1, g.arg);
}

/* ---- operations: each has a launcher, which is given its node ---- */
static void *dl__cuda_in(dl__cuda *d, const dl_node *y, int k) { return dl_device_address(d->ctx, y->in[k]); }
static size_t dl__cuda_size(const dl_node *n) { return n->dtype == DL_U8 ? 1 : 4; }

/* What can be summed: see sums.cu. */
enum { DL__CUDA_SUM, DL__CUDA_SQUARES, DL__CUDA_PRODUCTS };
typedef struct dl__cuda_sums {
    const void *x, *z, *m, *r;
    uint64_t groups, n, run, stride, step;
    int what;
} dl__cuda_sums;
/* DL__CHUNK and DL__KB of dltrain.h, whose implementation may be elsewhere */
enum { DL__CUDA_CHUNK = 4096, DL__CUDA_KB = 256 };
static size_t dl__cuda_chunks(size_t n) { return n ? (n + DL__CUDA_CHUNK - 1) / DL__CUDA_CHUNK : 1; }
static size_t dl__cuda_sum_scratch(size_t groups, size_t n)
{
    return 2 * groups * dl__cuda_chunks(n) * sizeof(float) + 512;
}
static dl__cuda_grid dl__cuda_warps(size_t n) { return dl__cuda_flat(n * 32); }

/* out[k] (+)= the sum of group k, by way of scratch where it has more than one chunk. */
static bool dl__cuda_sum_to(dl__cuda *d, dl__cuda_sums s, void *out, int accumulate, dl__cuda_address scratch)
{
    const void *none = NULL;
    for (;;) {
        size_t chunks = dl__cuda_chunks(s.n);
        void *to = chunks == 1 ? out : (void *)(uintptr_t)scratch;
        int add = chunks == 1 && accumulate;
        void *args[] = { &to, &s, &add };
        if (!dl__cuda_go(d, "reduce", "sum_chunks", dl__cuda_warps(s.groups * chunks), args)) return false;
        if (chunks == 1) return true;
        scratch += (s.groups * chunks * sizeof(float) + 255) / 256 * 256; /* the next level's */
        s.x = to;
        s.what = DL__CUDA_SUM;
        s.z = s.m = s.r = none;
        s.n = s.run = s.step = chunks;
    }
}

/* Down columns, of `outer` matrices: how the kernel is cut, and memory for the totals of blocks of rows where there are
   many; see columns_sum. Once it ran, they are added. */
typedef struct dl__cuda_columns {
    void *out;
    dl__cuda_address part;
    uint64_t outer, blocks, inner;
    int accumulate;
    dl__cuda_grid grid;
} dl__cuda_columns;
static bool dl__cuda_columns_begin(
    dl__cuda *d, dl__cuda_columns *c, void *out, uint64_t outer, uint64_t rows, uint64_t inner, int accumulate)
{
    enum { AT_ONCE = 1024 };
    bool parts = rows > AT_ONCE;
    memset(c, 0, sizeof *c);
    c->out = out, c->outer = outer, c->inner = inner, c->accumulate = accumulate;
    c->blocks = (rows + DL__CUDA_KB - 1) / DL__CUDA_KB;
    c->grid = dl__cuda_grid_of((inner + 7) / 8, outer < 65535 ? outer : 65535,
        parts ? (rows + AT_ONCE - 1) / AT_ONCE : 1, 256, 1);
    return !parts || (c->part = dl__cuda_scratch(d, outer * c->blocks * inner * sizeof(float)));
}
static bool dl__cuda_columns_end(dl__cuda *d, dl__cuda_columns *c)
{
    void *args[] = { &c->out, &c->part, &c->outer, &c->blocks, &c->inner, &c->accumulate };
    return !c->part || dl__cuda_go(d, "reduce", "sum_columns_join", dl__cuda_flat(c->outer * c->inner), args);
}

/* i = outer, count, inner, by channel */
static bool dl__cuda_sum_dims(dl__cuda *d, const dl_node *y, bool accumulate)
{
    const dl_index *i = y->i;
    void *out = dl_device_address(d->ctx, y);
    const void *x = dl__cuda_in(d, y, 0);
    int add = accumulate;
    if (!i[3] && i[2] != 1) {
        uint64_t outer = (uint64_t)i[0], rows = (uint64_t)i[1], inner = (uint64_t)i[2];
        dl__cuda_columns c;
        void *args[] = { &out, &c.part, &x, &outer, &rows, &inner, &add };
        return dl__cuda_columns_begin(d, &c, out, outer, rows, inner, add) &&
            dl__cuda_go(d, "reduce", "sum_columns", c.grid, args) && dl__cuda_columns_end(d, &c);
    }
    dl__cuda_sums s;
    memset(&s, 0, sizeof s);
    s.x = x;
    s.groups = (uint64_t)(i[3] ? i[1] : i[0]);
    s.run = (uint64_t)(i[3] ? i[2] : i[1]);
    s.n = i[3] ? (uint64_t)i[0] * s.run : s.run;
    s.step = s.run;
    s.stride = (uint64_t)i[1] * s.run;
    dl__cuda_address scratch = dl__cuda_scratch(d, dl__cuda_sum_scratch(s.groups, s.n));
    return scratch && dl__cuda_sum_to(d, s, out, add, scratch);
}

static bool dl__cuda_argmax(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0);
    int least = (int)y->i[3];
    void *args[] = { &out, &x, (void *)&y->i[0], (void *)&y->i[1], (void *)&y->i[2], &least };
    (void)accumulate;
    return dl__cuda_go(d, "reduce", "argmax", dl__cuda_flat(y->numel), args);
}

static bool dl__cuda_softmax(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0);
    uint64_t n = (uint64_t)y->dim[y->ndim - 1], rows = n ? y->numel / n : 0;
    int log = (int)y->i[0];
    void *args[] = { &out, &x, &rows, &n, &log };
    (void)accumulate;
    return dl__cuda_go(d, "reduce", "softmax", dl__cuda_flat(rows * 32), args);
}

/* ---- moving ---- */
typedef struct dl__cuda_strided { int32_t ndim; uint32_t dim[8]; dl_index from[8], to[8]; } dl__cuda_strided;
static void dl__cuda_row_strides(const dl_index *dim, int ndim, dl_index *stride)
{
    dl_index n = 1;
    for (int k = ndim - 1; k >= 0; k--) stride[k] = n, n *= dim[k];
}

/* Copies a block of nd sizes dim from x; `x_at` and `y_at` are elements before its first. */
static bool dl__cuda_copy(dl__cuda *d, const dl_node *y, const void *x, int nd, const dl_index *dim,
    dl__cuda_strided *s, int64_t y_at, int64_t x_at)
{
    uint64_t n = 1;
    size_t size = dl__cuda_size(y);
    char *to = (char *)dl_device_address(d->ctx, y) + y_at * (int64_t)size;
    const char *from = (const char *)x + x_at * (int64_t)size;
    s->ndim = 0;
    for (int k = 0; k < nd; k++) { /* dimensions that follow one another in both are one */
        int last = s->ndim - 1;
        n *= (uint64_t)dim[k];
        if (dim[k] == 1) continue;
        bool joins = last >= 0 && s->from[last] == s->from[k] * dim[k] && s->to[last] == s->to[k] * dim[k] &&
            s->dim[last] * (uint64_t)dim[k] >> 31 == 0;
        if (!joins) s->dim[last = s->ndim++] = 1;
        s->dim[last] *= (uint32_t)dim[k], s->from[last] = s->from[k], s->to[last] = s->to[k];
    }
    void *args[] = { &to, &from, s, &n };
    return dl__cuda_go(d, "move", size == 4 ? "strided_4" : "strided_1", dl__cuda_strides(n), args);
}

static bool dl__cuda_permute(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_strided s;
    dl_index stride[DLTRAIN_MAX_DIMS];
    const void *x = dl_device_strided(d->ctx, y->in[0], stride);
    dl__cuda_row_strides(y->dim, y->ndim, s.to);
    for (int k = 0; k < y->ndim; k++) s.from[k] = stride[y->i[k]];
    (void)accumulate;
    return dl__cuda_copy(d, y, x, y->ndim, y->dim, &s, 0, 0);
}

/* i = offset, starts, steps */
static bool dl__cuda_slice(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_strided s;
    dl_index stride[DLTRAIN_MAX_DIMS], at = 0;
    const void *x = dl_device_strided(d->ctx, y->in[0], stride);
    dl__cuda_row_strides(y->dim, y->ndim, s.to);
    for (int k = 0; k < y->ndim; k++) at += y->i[1 + k] * stride[k], s.from[k] = y->i[1 + y->ndim + k] * stride[k];
    (void)accumulate;
    return dl__cuda_copy(d, y, x, y->ndim, y->dim, &s, 0, at);
}

static bool dl__cuda_fill(dl__cuda *d, void *to, uint32_t value, size_t count, size_t size)
{
    uint64_t n = count;
    void *args[] = { &to, &value, &n };
    return dl__cuda_go(d, "move", size == 4 ? "fill_4" : "fill_1", dl__cuda_strides(count), args);
}

static bool dl__cuda_pad(dl__cuda *d, const dl_node *y, bool accumulate)
{
    const dl_node *x = y->in[0];
    dl__cuda_strided s;
    dl_index stride[DLTRAIN_MAX_DIMS], at = 0;
    uint32_t value;
    float f = y->f[0];
    memcpy(&value, &f, sizeof value);
    if (y->dtype == DL_I32) value = (uint32_t)(int32_t)f;
    if (y->dtype == DL_U8) value = (uint8_t)f;
    dl__cuda_row_strides(x->dim, x->ndim, s.from);
    dl__cuda_row_strides(y->dim, y->ndim, stride);
    for (int k = 0; k < y->ndim; k++) at += y->i[1 + k] * stride[k], s.to[k] = y->i[1 + y->ndim + k] * stride[k];
    (void)accumulate;
    return dl__cuda_fill(d, dl_device_address(d->ctx, y), value, y->numel, dl__cuda_size(y)) &&
        dl__cuda_copy(d, y, dl__cuda_in(d, y, 0), y->ndim, x->dim, &s, at, 0);
}

/* How far apart inputs of one shape lie, when it is evenly: one copy of one more dimension, then. 0: they do not. */
static int64_t dl__cuda_apart(dl__cuda *d, const dl_node *y)
{
    int64_t apart = y->n_in > 1 && y->ndim < 8
        ? (const char *)dl__cuda_in(d, y, 1) - (const char *)dl__cuda_in(d, y, 0)
        : 0;
    for (int k = 1; k < y->n_in; k++)
        if (memcmp(y->in[k]->dim, y->in[0]->dim, sizeof *y->dim * (size_t)y->ndim) ||
            (const char *)dl__cuda_in(d, y, k) - (const char *)dl__cuda_in(d, y, k - 1) != apart)
            return 0;
    return apart / (int64_t)dl__cuda_size(y);
}
static bool dl__cuda_concat(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_strided s;
    int64_t at = 0, apart = dl__cuda_apart(d, y);
    (void)accumulate;
    if (apart) {
        const dl_node *x = y->in[0];
        int along = (int)y->i[0];
        dl_index dim[8], from[8], to[8];
        dl__cuda_row_strides(x->dim, x->ndim, from);
        dl__cuda_row_strides(y->dim, y->ndim, to);
        for (int k = 0; k <= y->ndim; k++) {
            int own = k - (k > along);
            dim[k] = k == along ? y->n_in : x->dim[own];
            s.from[k] = k == along ? apart : from[own];
            s.to[k] = k == along ? to[own] * x->dim[own] : to[own];
        }
        return dl__cuda_copy(d, y, dl__cuda_in(d, y, 0), y->ndim + 1, dim, &s, 0, 0);
    }
    for (int k = 0; k < y->n_in; k++) {
        const dl_node *x = y->in[k];
        dl__cuda_row_strides(x->dim, x->ndim, s.from);
        dl__cuda_row_strides(y->dim, y->ndim, s.to);
        int64_t wide = s.to[y->i[0]] * x->dim[y->i[0]];
        if (!dl__cuda_copy(d, y, dl__cuda_in(d, y, k), y->ndim, x->dim, &s, at, 0)) return false;
        at += wide;
    }
    return true;
}

/* ---- looks by index; what is out of range becomes an error when a value is read ---- */
/* The slot of looks as y's: always the same, until there are too many. Graphs know it. */
static bool dl__cuda_slot(dl__cuda *d, const dl_node *y, dl__cuda_address *slot)
{
    dl_index i[6];
    int at = 0;
    for (int k = 0; k < 6; k++) i[k] = k < y->n_i ? y->i[k] : 0;
    while (at < d->slots_used && (d->slot[at].op != y->op || memcmp(d->slot[at].i, i, sizeof i))) at++;
    if (at == DL__CUDA_SLOTS) {
        if (!dl__cuda_check_slots(d) || !dl__cuda_forget_graphs(d)) return false;
        at = d->slots_used = 0;
    }
    if (at == d->slots_used) {
        d->slot[at].op = y->op;
        memcpy(d->slot[at].i, i, sizeof i);
        d->slots_used++;
    }
    *slot = d->slots + (dl__cuda_address)at * sizeof(uint64_t);
    return d->looked = true;
}

static bool dl__cuda_in_range(
    dl__cuda *d, const dl_node *y, const void *index, uint64_t n, int64_t least, int64_t rows, int64_t except)
{
    dl__cuda_address slot;
    if (!dl__cuda_slot(d, y, &slot)) return false;
    void *args[] = { &index, &n, &least, &rows, &except, &slot };
    return dl__cuda_go(d, "move", "check_indices", dl__cuda_strides(n), args);
}

/* i = outer, rows, inner, picks, who, allow -1 */
static bool dl__cuda_indexed(dl__cuda *d, const dl_node *y, const char *kernel, bool each)
{
    const dl_index *i = y->i;
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0), *index = dl__cuda_in(d, y, 1);
    uint64_t n = (uint64_t)(each ? i[0] * i[3] * i[2] : i[3]);
    uint32_t size = (uint32_t)dl__cuda_size(y);
    void *args[] = { &out, &x, &index, (void *)&i[0], (void *)&i[1], (void *)&i[2], (void *)&i[3], &size };
    dl__cuda_grid g = dl__cuda_strides(y->numel);
    if (!strcmp(kernel, "index_add")) {
        g = dl__cuda_warps((size_t)(i[0] * i[1]));
        g.y = (size_t)(i[2] + 127) / 128 < 65535 ? (size_t)(i[2] + 127) / 128 : 65535;
    } else if (!strcmp(kernel, "scatter_add_many")) {
        g = dl__cuda_flat((size_t)(i[0] * i[2]));
        if (!dl__cuda_fill(d, out, 0, y->numel, sizeof(float))) return false;
    }
    return dl__cuda_in_range(d, y, index, n, i[5] ? -1 : 0, i[1], 0) && dl__cuda_go(d, "move", kernel, g, args);
}
static bool dl__cuda_index_select(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_indexed(d, y, "index_select", false);
}
static bool dl__cuda_index_add(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_indexed(d, y, "index_add", false);
}
static bool dl__cuda_gather(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_indexed(d, y, "gather", true);
}
static bool dl__cuda_scatter_add(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_indexed(d, y, y->i[3] > 64 ? "scatter_add_many" : "scatter_add", true);
}

static bool dl__cuda_one_hot(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0);
    uint64_t n = y->in[0]->numel;
    void *args[] = { &out, &x, &n, (void *)&y->i[0] };
    (void)accumulate;
    return dl__cuda_in_range(d, y, x, n, 0, y->i[0], 0) &&
        dl__cuda_go(d, "move", "one_hot", dl__cuda_strides(y->numel), args);
}

/* i = classes, ignored, who */
static bool dl__cuda_targets(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0);
    uint64_t n = y->numel;
    int ignored = (int)y->i[1];
    void *args[] = { &out, &x, &n, &ignored };
    (void)accumulate;
    return dl__cuda_in_range(d, y, x, n, 0, y->i[0], y->i[1]) &&
        dl__cuda_go(d, "move", "targets", dl__cuda_flat(n), args);
}
static bool dl__cuda_target_weights(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0),
         *weight = y->n_in > 1 ? dl__cuda_in(d, y, 1) : NULL;
    uint64_t n = y->numel;
    int ignored = (int)y->i[1];
    void *args[] = { &out, &x, &weight, &n, &ignored, (void *)&y->i[0] };
    (void)accumulate;
    return dl__cuda_in_range(d, y, x, n, 0, y->i[0], y->i[1]) &&
        dl__cuda_go(d, "move", "target_weights", dl__cuda_flat(n), args);
}

/* ---- segments: i = segments, rows, inner, who ---- */
static bool dl__cuda_offsets_fit(dl__cuda *d, const dl_node *y, const void *offset)
{
    dl__cuda_address slot;
    if (!dl__cuda_slot(d, y, &slot)) return false;
    int bags = y->i[3] >= DL_DEVICE_BAGS;
    void *args[] = { &offset, (void *)&y->i[0], (void *)&y->i[1], &bags, &slot };
    return dl__cuda_go(d, "move", "check_offsets", dl__cuda_strides((size_t)y->i[0] + 1), args) &&
        dl__cuda_check_slots(d);
}

static bool dl__cuda_segment(dl__cuda *d, const dl_node *y, const char *module, const char *kernel, bool rows)
{
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0), *offset = dl__cuda_in(d, y, 1);
    void *with[] = { &out, &x, &offset, (void *)&y->i[0], (void *)&y->i[1], (void *)&y->i[2] };
    void *without[] = { &out, &x, &offset, (void *)&y->i[0], (void *)&y->i[2] };
    dl__cuda_grid g = rows ? dl__cuda_strides(y->numel) : dl__cuda_flat(y->numel);
    return dl__cuda_offsets_fit(d, y, offset) && dl__cuda_go(d, module, kernel, g, rows ? with : without);
}
static bool dl__cuda_segment_sum(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_segment(d, y, "reduce", "segment_sum", false);
}
static bool dl__cuda_segment_spread(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_segment(d, y, "move", "segment_spread", true);
}
static bool dl__cuda_segment_argmax(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_segment(d, y, "move", "segment_argmax", false);
}
static bool dl__cuda_segment_inverse(dl__cuda *d, const dl_node *y, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y), *offset = dl__cuda_in(d, y, 0);
    void *args[] = { &out, &offset, (void *)&y->i[0] };
    (void)accumulate;
    return dl__cuda_go(d, "move", "segment_inverse", dl__cuda_flat((size_t)y->i[0]), args);
}

/* ---- products: see tile.cu ---- */
typedef struct dl__cuda_work {
    uint32_t m, n;
    uint64_t k;
    uint32_t across, batches, parts;
    float *partial;
} dl__cuda_work;
enum { DL__CUDA_TILE = 64 };

/* How a product is cut: where its tiles are few and k is long, blocks of k are computed apart and added in
   order afterwards. */
static bool dl__cuda_cut(dl__cuda *d, dl__cuda_work *w, uint64_t m, uint64_t n, uint64_t k, uint64_t batches,
    bool may_part, dl__cuda_grid *g)
{
    uint64_t down = (m + DL__CUDA_TILE - 1) / DL__CUDA_TILE, across = (n + DL__CUDA_TILE - 1) / DL__CUDA_TILE,
             blocks = (k + DL__CUDA_KB - 1) / DL__CUDA_KB;
    memset(w, 0, sizeof *w);
    if (m >> 31 || n >> 31 || k >> 31 || batches >> 31)
        return dl_fail(d->ctx, "%s: a product of sizes %zu, %zu and %zu is more than its kernels take", d->device,
            (size_t)m, (size_t)n, (size_t)k);
    w->m = (uint32_t)m, w->n = (uint32_t)n, w->k = k, w->across = (uint32_t)across, w->batches = (uint32_t)batches,
        w->parts = 1;
    bool parts = may_part && blocks >= 4 && blocks < 65536 && down * across * batches < 64 &&
        m * n * batches * blocks < (uint64_t)1 << 26;
    if (parts) w->parts = (uint32_t)blocks;
    *g = dl__cuda_grid_of(down * across, w->parts, batches < 65535 ? batches : 65535, 256, 1);
    return !parts || (w->partial = (float *)(uintptr_t)dl__cuda_scratch(d, m * n * batches * blocks * sizeof(float)));
}

/* Adds them, where k was cut; bias and what is there, too. */
static bool dl__cuda_join(dl__cuda *d, dl__cuda_work *w, const dl_node *y, const void *bias, bool accumulate)
{
    void *out = dl_device_address(d->ctx, y);
    int add = accumulate;
    void *args[] = { w, &out, &bias, &add };
    return !w->partial || dl__cuda_go(d, "join", "join", dl__cuda_flat(y->numel), args);
}

typedef struct dl__cuda_matmul_args {
    const void *a, *b, *bias;
    void *c;
    int64_t a_row, a_k, b_row, b_k;
    int32_t batch_dims, accumulate;
    uint32_t count[8];
    int64_t a_batch[8], b_batch[8];
} dl__cuda_matmul_args;

/* Are there enough tiles of 128 x 128 to fill a GPU? Then it is cut into these. */
static bool dl__cuda_cut_wide(dl__cuda_work *w, dl__cuda_grid *g)
{
    enum { WIDE = 128, ENOUGH = 64 };
    uint64_t down = (w->m + WIDE - 1) / WIDE, across = (w->n + WIDE - 1) / WIDE;
    if (w->m <= WIDE / 2 || w->n <= WIDE / 2 || down * across * w->batches < ENOUGH) return false;
    w->across = (uint32_t)across;
    w->partial = NULL;
    g->x = down * across;
    return true;
}

/* By warp.cu, which has three of the four kinds of transposition. *done: it was. */
static bool dl__cuda_matmul_wide(
    dl__cuda *d, const dl__cuda_matmul_args *q, dl__cuda_work w, dl__cuda_grid g, bool *done)
{
    bool along_a = q->a_k == 1, along_b = q->b_k == 1, even = !(w.m % 4 || w.n % 4 || w.k % 4);
    int aligned = even && !(((uintptr_t)q->a | (uintptr_t)q->b) % 16);
    if (!(*done = (along_a || !along_b) && dl__cuda_cut_wide(&w, &g))) return true;
    if (w.k > DL__CUDA_KB &&
        !(w.partial = (float *)(uintptr_t)dl__cuda_scratch(d, (size_t)w.m * w.n * w.batches * sizeof(float))))
        return false;
    void *args[] = { (void *)(uintptr_t)q, &w, &aligned };
    return dl__cuda_go(d, "warp", along_b ? "matmul_128_kk" : along_a ? "matmul_128_kr" : "matmul_128_rr", g, args);
}

/* By tensor_matmul.cu: copies of 16 bytes where operands are contiguous along k, and rows and batches aligned. */
static bool dl__cuda_by_16(const void *base, int64_t row, int64_t k, int dims, const int64_t *batch)
{
    bool aligned = k == 1 && (uintptr_t)base % 16 == 0 && row % 4 == 0;
    for (int i = 0; i < dims; i++) aligned = aligned && batch[i] % 4 == 0;
    return aligned;
}
static bool dl__cuda_matmul_tensor(dl__cuda *d, const dl__cuda_matmul_args *q, dl__cuda_work *w, dl__cuda_grid g)
{
    int by_16 = dl__cuda_by_16(q->a, q->a_row, q->a_k, q->batch_dims, q->a_batch) |
        dl__cuda_by_16(q->b, q->b_row, q->b_k, q->batch_dims, q->b_batch) << 1;
    bool wide = dl__cuda_cut_wide(w, &g);
    void *args[] = { (void *)(uintptr_t)q, w, &by_16 };
    g.bx = wide ? 256 : 128;
    return dl__cuda_go(d, d->precision == DL__CUDA_TF32 ? "matmul_tf32" : "matmul_bf16",
        wide ? "tensor_128" : "tensor_64", g, args);
}

/* By cuBLAS, whose matrices lie column by column: c' [N,M] = b' a'. */
typedef struct dl__cuda_blas_matrix { int transposed, ld; long long step; } dl__cuda_blas_matrix;
/* Of `rows` x `columns`, with a step down and one to the right. ld may not be less than what lies together,
   even where it is not used. */
static dl__cuda_blas_matrix dl__cuda_blas_matrix_of(int64_t rows, int64_t columns, int64_t down, int64_t right)
{
    dl__cuda_blas_matrix x;
    int64_t least = down == 1 ? rows : columns, ld = down == 1 ? right : down;
    x.transposed = down != 1;
    x.ld = (int)(ld > least ? ld : least);
    x.step = 0;
    return x;
}
static bool dl__cuda_matmul_cublas(dl__cuda *d, const dl__cuda_matmul_args *q, dl__cuda_work *w, const dl_node *y)
{
    static const int compute[] = { 69, 77, 75 }; /* CUBLAS_COMPUTE_32F_PEDANTIC, _FAST_TF32, _FAST_16BF */
    const float one = 1, zero = 0;
    int m = (int)w->m, n = (int)w->n, k = (int)w->k, dims = q->batch_dims;
    dl__cuda_blas_matrix a = dl__cuda_blas_matrix_of(k, m, q->a_k, q->a_row),
                         b = dl__cuda_blas_matrix_of(n, k, q->b_row, q->b_k);
    int64_t together = 1; /* batches that are evenly apart: one call */
    for (; dims > 0; dims--) {
        int64_t step_a = q->a_batch[dims - 1], step_b = q->b_batch[dims - 1];
        if (together == 1) a.step = step_a, b.step = step_b;
        else if (step_a != a.step * together || step_b != b.step * together) break;
        together *= q->count[dims - 1];
    }
    bool more = q->bias || q->accumulate; /* is done with the product, which has memory of its own */
    w->parts = 1;
    w->partial = NULL;
    if (more && !(w->partial = (float *)(uintptr_t)dl__cuda_scratch(d, y->numel * sizeof(float)))) return false;
    float *to = more ? w->partial : (float *)q->c;
    for (int64_t i = 0; i < (int64_t)w->batches / together; i++, to += together * m * n) {
        const float *from_a = (const float *)q->a, *from_b = (const float *)q->b;
        int64_t rest = i;
        for (int t = dims - 1; t >= 0; t--) {
            from_a += rest % q->count[t] * q->a_batch[t], from_b += rest % q->count[t] * q->b_batch[t];
            rest /= q->count[t];
        }
        int code = d->cublas.cublasGemmStridedBatchedEx(d->blas, b.transposed, a.transposed, n, m, k, &one, from_b, 0,
            b.ld, b.step, from_a, 0, a.ld, a.step, &zero, to, 0, n, (long long)m * n, (int)together,
            compute[d->precision], -1);
        if (!dl__cuda_check_cublas(d, code, "cublasGemmStridedBatchedEx")) return false;
    }
    return dl__cuda_join(d, w, y, q->bias, q->accumulate != 0);
}

/* in a [...,M,K], b [...,K,N], bias [N] or none; i = transposed a, b */
static bool dl__cuda_matmul(dl__cuda *d, const dl_node *y, bool accumulate)
{
    const dl_node *a = y->in[0], *b = y->in[1];
    dl__cuda_matmul_args q;
    dl__cuda_work w;
    dl__cuda_grid g;
    int nd = y->ndim;
    bool ta = y->i[0] != 0, tb = y->i[1] != 0;
    int64_t m = y->dim[nd - 2], n = y->dim[nd - 1], k = a->dim[a->ndim - (ta ? 2 : 1)], lda = a->dim[a->ndim - 1],
            ldb = b->dim[b->ndim - 1], sa = m * k, sb = k * n, batches = 1;
    if (!y->numel) return true;
    memset(&q, 0, sizeof q);
    q.a = dl__cuda_in(d, y, 0), q.b = dl__cuda_in(d, y, 1), q.bias = y->n_in > 2 ? dl__cuda_in(d, y, 2) : NULL;
    q.c = dl_device_address(d->ctx, y);
    q.a_row = ta ? 1 : lda, q.a_k = ta ? lda : 1;
    q.b_row = tb ? ldb : 1, q.b_k = tb ? 1 : ldb;
    q.batch_dims = nd - 2;
    q.accumulate = accumulate;
    for (int t = nd - 3; t >= 0; t--) { /* broadcasting: stride 0 */
        int da = t - (nd - a->ndim), db = t - (nd - b->ndim);
        int64_t na = da < 0 ? 1 : a->dim[da], nb = db < 0 ? 1 : b->dim[db];
        q.count[t] = (uint32_t)y->dim[t];
        q.a_batch[t] = na == 1 ? 0 : sa;
        q.b_batch[t] = nb == 1 ? 0 : sb;
        sa *= na, sb *= nb, batches *= y->dim[t];
    }
    bool done;
    if (!dl__cuda_cut(d, &w, (uint64_t)m, (uint64_t)n, (uint64_t)k, (uint64_t)batches, true, &g)) return false;
    if (d->blas && k) return dl__cuda_matmul_cublas(d, &q, &w, y);
    if (d->precision) return dl__cuda_matmul_tensor(d, &q, &w, g) && dl__cuda_join(d, &w, y, q.bias, accumulate);
    if (!dl__cuda_matmul_wide(d, &q, w, g, &done) || done) return done;
    void *args[] = { &q, &w };
    return dl__cuda_go(d, "matmul", "matmul_64", g, args) && dl__cuda_join(d, &w, y, q.bias, accumulate);
}

/* i = the geometry: n c h w o kh kw oh ow sh sw ph pw dh dw groups */
enum { DL__CUDA_GEOMETRY = 16, DL__CUDA_SH = 9, DL__CUDA_SW = 10, DL__CUDA_GROUPS = 15 };
typedef struct dl__cuda_conv_args {
    const void *x, *w, *bias;
    void *y;
    int32_t q[DL__CUDA_GEOMETRY];
    int32_t accumulate;
} dl__cuda_conv_args;

/* The kernel of a convolution, in the precision that is wanted. */
static bool dl__cuda_conv_go(dl__cuda *d, const char *kernel, const char *tensor, dl__cuda_grid g, void **args)
{
    if (!d->precision) return dl__cuda_go(d, "conv", kernel, g, args);
    g.bx = 128;
    return dl__cuda_go(d, d->precision == DL__CUDA_TF32 ? "conv_tf32" : "conv_bf16", tensor, g, args);
}

static bool dl__cuda_conv(dl__cuda *d, const dl_node *y, bool accumulate, char kind)
{
    dl__cuda_conv_args v;
    dl__cuda_work w;
    dl__cuda_grid g;
    const dl_index *q = y->i;
    if (!y->numel) return true;
    memset(&v, 0, sizeof v);
    for (int k = 0; k < DL__CUDA_GEOMETRY; k++) {
        if (q[k] >> 30)
            return dl_fail(
                d->ctx, "%s: dl_%s: a size of %td is more than its kernel takes", d->device, y->op->name, q[k]);
        v.q[k] = (int32_t)q[k];
    }
    v.x = dl__cuda_in(d, y, 0), v.w = dl__cuda_in(d, y, 1), v.bias = y->n_in > 2 ? dl__cuda_in(d, y, 2) : NULL;
    v.y = dl_device_address(d->ctx, y);
    v.accumulate = accumulate;
    dl_index taps = q[5] * q[6], groups = q[DL__CUDA_GROUPS],
             classes = kind == 'b' ? q[DL__CUDA_SH] * q[DL__CUDA_SW] : 1;
    dl_index in = (kind == 'b' ? q[4] : q[1]) / groups, out = (kind == 'b' ? q[1] : q[4]) / groups;
    dl_index pixels = q[0] *
        (kind == 'b' ? ((q[2] + q[DL__CUDA_SH] - 1) / q[DL__CUDA_SH]) * ((q[3] + q[DL__CUDA_SW] - 1) / q[DL__CUDA_SW])
                     : q[7] * q[8]);
    void *args[] = { &v, &w };
    if (kind == 'w')
        return dl__cuda_cut(d, &w, (uint64_t)out, (uint64_t)(in * taps), (uint64_t)(q[0] * q[7] * q[8]),
                   (uint64_t)groups, true, &g) &&
            dl__cuda_conv_go(d, "conv_weight", "tensor_weight", g, args) && dl__cuda_join(d, &w, y, NULL, accumulate);
    if (!dl__cuda_cut(
            d, &w, (uint64_t)out, (uint64_t)pixels, (uint64_t)(taps * in), (uint64_t)(groups * classes), false, &g))
        return false;
    g.z = w.batches;
    if (kind == 'f') return dl__cuda_conv_go(d, "conv_forward", "tensor_forward", g, args);
    return classes > 1 ? dl__cuda_conv_go(d, "conv_back_strided", "tensor_back_strided", g, args)
                       : dl__cuda_conv_go(d, "conv_back", "tensor_back", g, args);
}
static bool dl__cuda_conv2d(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return dl__cuda_conv(d, y, accumulate, 'f');
}
static bool dl__cuda_conv_transpose2d(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return dl__cuda_conv(d, y, accumulate, 'b');
}
static bool dl__cuda_conv2d_weight(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return dl__cuda_conv(d, y, accumulate, 'w');
}

/* ---- pooling: i = the geometry, then: adaptive ---- */
typedef struct dl__cuda_pool { int32_t q[DL__CUDA_GEOMETRY + 1]; } dl__cuda_pool;
static bool dl__cuda_pooled(dl__cuda *d, const dl_node *y, const char *kernel)
{
    dl__cuda_pool p;
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0), *v = y->n_in > 1 ? dl__cuda_in(d, y, 1) : NULL;
    for (int k = 0; k < DL__CUDA_GEOMETRY + 1; k++) {
        if (y->i[k] >> 30)
            return dl_fail(
                d->ctx, "%s: dl_%s: a size of %td is more than its kernel takes", d->device, y->op->name, y->i[k]);
        p.q[k] = (int32_t)y->i[k];
    }
    void *two[] = { &out, &x, &v, &p }, *one[] = { &out, &x, &p };
    /* of 2 x 2, a thread each */
    size_t windows = (size_t)(y->i[0] * y->i[1] * ((y->i[2] + 1) / 2) * ((y->i[3] + 1) / 2));
    return dl__cuda_go(d, "pool", kernel, dl__cuda_flat(strcmp(kernel, "pool_spread_2x2") ? y->numel : windows),
        y->n_in > 1 ? two : one);
}
static bool dl__cuda_max_pool2d(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_pooled(d, y, "pool_pick");
}
static bool dl__cuda_max_pool2d_back(dl__cuda *d, const dl_node *y, bool accumulate)
{
    const dl_index *q = y->i;
    /* windows of 2 x 2 side by side */
    bool alone = q[5] == 2 && q[6] == 2 && q[DL__CUDA_SH] == 2 && q[DL__CUDA_SW] == 2 && !q[11] && !q[12];
    return (void)accumulate, dl__cuda_pooled(d, y, alone ? "pool_spread_2x2" : "pool_spread");
}
static bool dl__cuda_avg_pool2d_back(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return (void)accumulate, dl__cuda_pooled(d, y, "pool_avg_back");
}
static bool dl__cuda_avg_pool2d(dl__cuda *d, const dl_node *y, bool accumulate)
{
    const dl_index *q = y->i;
    bool adaptive = q[DL__CUDA_GEOMETRY] != 0;
    bool global = q[7] == 1 && q[8] == 1 && (adaptive || (q[5] == q[2] && q[6] == q[3] && !q[11] && !q[12]));
    (void)accumulate;
    if (!global) return dl__cuda_pooled(d, y, "pool_avg");
    dl__cuda_sums s;
    memset(&s, 0, sizeof s);
    s.x = dl__cuda_in(d, y, 0);
    s.groups = (uint64_t)(q[0] * q[1]);
    s.n = s.run = s.step = (uint64_t)(q[2] * q[3]);
    void *out = dl_device_address(d->ctx, y);
    uint64_t n = y->numel;
    float count = (float)s.n;
    void *args[] = { &out, &n, &count };
    dl__cuda_address scratch = dl__cuda_scratch(d, dl__cuda_sum_scratch(s.groups, s.n));
    return scratch && dl__cuda_sum_to(d, s, out, 0, scratch) &&
        dl__cuda_go(d, "pool", "pool_share", dl__cuda_flat(n), args);
}

/* ---- normalisation: i = outer, channels, inner, flags as in dltrain.h ---- */
enum {
    DL__CUDA_BY_ROW = 1, DL__CUDA_SCALED = 2, DL__CUDA_SHIFTED = 4, DL__CUDA_MAKES_SUMS = 8, DL__CUDA_HAS_MOMENTS = 16
};
typedef struct dl__cuda_norm {
    uint64_t groups, inner, n, numel;
    int by_row;
    float share, eps;
    dl__cuda_sums sums;
} dl__cuda_norm;
static dl__cuda_norm dl__cuda_norm_of(const dl_node *y)
{
    dl__cuda_norm q;
    memset(&q, 0, sizeof q);
    q.by_row = (y->i[3] & DL__CUDA_BY_ROW) != 0;
    q.groups = (uint64_t)(q.by_row ? y->i[0] : y->i[1]);
    q.inner = (uint64_t)y->i[2];
    q.n = q.by_row ? q.inner : (uint64_t)y->i[0] * q.inner;
    q.numel = q.groups * q.n;
    q.share = (float)(1.0 / ((q.by_row ? 1.0 : (double)y->i[0]) * (double)q.inner));
    q.eps = y->f[0];
    q.sums.groups = q.groups;
    q.sums.n = q.n;
    q.sums.run = q.sums.step = q.inner;
    q.sums.stride = (uint64_t)(y->i[1] * y->i[2]);
    return q;
}

/* A buffer of running statistics; its node changes its first input. */
typedef struct dl__cuda_statistics { void *buffer; float momentum, scale; } dl__cuda_statistics;
static dl__cuda_statistics dl__cuda_statistics_of(dl__cuda *d, const dl_node *y)
{
    dl__cuda_statistics r;
    r.buffer = dl_device_address(d->ctx, y), r.momentum = y->f[0], r.scale = y->f[1];
    return r;
}
static bool dl__cuda_running(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_statistics r = dl__cuda_statistics_of(d, y);
    void *x = dl__cuda_in(d, y, 1);
    uint64_t n = y->numel;
    void *args[] = { &r, &x, &n };
    (void)accumulate;
    return dl__cuda_go(d, "normalise", "running", dl__cuda_flat(n), args);
}
/* The buffer that the launch behind this one adds x to: this one does it, for it reads no buffer, and who reads that
   comes later. Without a buffer: none. */
static dl__cuda_statistics dl__cuda_take_running(dl__cuda *d, const dl__cuda_norm *q, const float *x)
{
    const dl_device_launch *next = d->behind + d->joined;
    dl__cuda_statistics r;
    memset(&r, 0, sizeof r);
    if (q->by_row || d->joined == d->left || strcmp(next->node[0]->op->name, "running") || next->count > 1 ||
        dl__cuda_in(d, next->node[0], 1) != x)
        return r;
    d->joined++;
    return dl__cuda_statistics_of(d, next->node[0]);
}

static bool dl__cuda_moments_of(dl__cuda *d, dl__cuda_norm *q, float *saved)
{
    dl__cuda_statistics mean = dl__cuda_take_running(d, q, saved),
                        var = dl__cuda_take_running(d, q, saved + 2 * q->groups);
    uint64_t chunks = dl__cuda_chunks(q->n), parts = q->groups * chunks;
    dl__cuda_address sums = dl__cuda_scratch(d, 2 * parts * sizeof(float)), squares = sums + parts * sizeof(float);
    int keep = !q->by_row, add = 0;
    void *first[] = { &sums, &q->sums, &add }, *second[] = { &squares, &sums, &saved, &q->sums, &q->share },
         *last[] = { &squares, &saved, &q->groups, &chunks, &q->share, &q->eps, &keep, &mean, &var };
    return sums && dl__cuda_go(d, "reduce", "sum_chunks", dl__cuda_warps(parts), first) &&
        dl__cuda_go(d, "normalise", "norm_squares", dl__cuda_warps(parts), second) &&
        dl__cuda_go(d, "normalise", "norm_moments", dl__cuda_warps(q->groups), last);
}

static bool dl__cuda_norm_forward(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_norm q = dl__cuda_norm_of(y);
    void *out = dl_device_address(d->ctx, y), *x = dl__cuda_in(d, y, 0), *saved = dl__cuda_in(d, y, 1), *w = NULL,
         *b = NULL;
    bool has_moments = y->i[3] & DL__CUDA_HAS_MOMENTS;
    int k = 2;
    (void)accumulate;
    if (y->i[3] & DL__CUDA_SCALED) w = dl__cuda_in(d, y, k++);
    if (y->i[3] & DL__CUDA_SHIFTED) b = dl__cuda_in(d, y, k);
    q.sums.x = x;
    if (!y->numel) return true;
    if (q.by_row && q.n <= DL__CUDA_CHUNK && !has_moments) {
        uint32_t n = (uint32_t)q.n;
        void *args[] = { &out, &x, &saved, &w, &b, &q.groups, &n, &q.share, &q.eps };
        return dl__cuda_go(d, "normalise", "norm_rows", dl__cuda_warps(q.groups), args);
    }
    if (!has_moments && !dl__cuda_moments_of(d, &q, (float *)saved)) return false;
    void *args[] = { &out, &x, &saved, &w, &b, &q.numel, &q.groups, &q.inner, &q.by_row };
    return dl__cuda_go(d, "normalise", "norm_apply", dl__cuda_strides(q.numel), args);
}

/* dx, sums or both; see dl__norm_backward of dltrain.h. */
static bool dl__cuda_norm_backward(dl__cuda *d, const dl_node *y, void *dx, void *sums, const void *w)
{
    dl__cuda_norm q = dl__cuda_norm_of(y);
    void *dy = dl__cuda_in(d, y, 0), *x = dl__cuda_in(d, y, 1), *saved = dl__cuda_in(d, y, 2), *g = dy;
    if (q.by_row && sums) {
        dl__cuda_columns c;
        void *args[] = { &sums, &c.part, &dy, &x, &saved, &q.groups, &q.inner };
        if (!dl__cuda_columns_begin(d, &c, sums, 2, q.groups, q.inner, 0) ||
            !dl__cuda_go(d, "normalise", "norm_weights", c.grid, args) || !dl__cuda_columns_end(d, &c))
            return false;
    }
    if (q.by_row && !dx) return true;
    if (q.by_row && q.n <= DL__CUDA_CHUNK) {
        uint32_t n = (uint32_t)q.n;
        void *args[] = { &dx, &dy, &x, &saved, (void *)&w, &q.groups, &n, &q.share };
        return dl__cuda_go(d, "normalise", "norm_rows_back", dl__cuda_warps(q.groups), args);
    }
    if (q.by_row && w) {
        void *args[] = { &dx, &dy, &w, &q.numel, &q.inner };
        if (!dl__cuda_go(d, "normalise", "norm_scale", dl__cuda_strides(q.numel), args)) return false;
        g = dx;
    }
    uint64_t chunks = dl__cuda_chunks(q.n), parts = q.groups * chunks, both = 2 * q.groups;
    dl__cuda_address part = dl__cuda_scratch(d, (2 * parts + both) * sizeof(float)),
                     scratch = part + 2 * parts * sizeof(float);
    float *total = q.by_row || !sums ? (float *)(uintptr_t)scratch : (float *)sums;
    q.sums.x = x;
    q.sums.z = g;
    void *first[] = { &part, &saved, &q.sums }, *second[] = { &total, &part, &both, &chunks };
    if (!part || !dl__cuda_go(d, "normalise", "norm_back_chunks", dl__cuda_warps(parts), first) ||
        !dl__cuda_go(d, "normalise", "norm_totals", dl__cuda_warps(both), second))
        return false;
    void *args[] = { &dx, &g, &x, &saved, &total, &w, &q.numel, &q.groups, &q.inner, &q.share, &q.by_row };
    return !dx || dl__cuda_go(d, "normalise", "norm_back", dl__cuda_strides(q.numel), args);
}

static bool dl__cuda_norm_back(dl__cuda *d, const dl_node *y, bool accumulate)
{
    int k = 3;
    void *w = y->i[3] & DL__CUDA_SCALED ? dl__cuda_in(d, y, k++) : NULL;
    (void)accumulate;
    return !y->numel ||
        dl__cuda_norm_backward(d, y, dl_device_address(d->ctx, y),
            y->i[3] & DL__CUDA_MAKES_SUMS ? dl__cuda_in(d, y, k) : NULL, w);
}
/* What an operation on the same numbers writes later, all of it, unless there are none. */
static bool dl__cuda_zero(dl__cuda *d, const dl_node *y, bool accumulate)
{
    (void)accumulate;
    return y->in[0]->numel || dl__cuda_fill(d, dl_device_address(d->ctx, y), 0, y->numel, dl__cuda_size(y));
}
static bool dl__cuda_norm_sums(dl__cuda *d, const dl_node *y, bool accumulate)
{
    return y->i[3] & DL__CUDA_MAKES_SUMS
        ? dl__cuda_norm_backward(d, y, NULL, dl_device_address(d->ctx, y), NULL)
        : dl__cuda_zero(d, y, accumulate);
}

/* ---- attention: in q, k, v, mask or none; its gradient: q, k, v, dy, mask or none. Orders as in dltrain.h ---- */
typedef struct dl__cuda_matrix { void *base; int64_t row, column, batch[8]; } dl__cuda_matrix;
typedef struct dl__cuda_attention_args {
    int32_t l, s, e, f, batch_dims, causal, block, back;
    int64_t batches;
    uint32_t batch[8];
    float scale;
    dl__cuda_matrix q, k, v, mask, y, dq, dk, dv;
    float *top, *sum, *slope, *chunk;
} dl__cuda_attention_args;

/* The matrices of memory whose dimension order[t] is dimension t; NULL: as they come. */
static dl__cuda_matrix dl__cuda_ordered(void *base, const dl_index *stride, const dl_index *order, int ndim)
{
    dl__cuda_matrix m;
    memset(&m, 0, sizeof m);
    m.base = base;
    m.row = stride[order ? order[ndim - 2] : ndim - 2];
    m.column = stride[order ? order[ndim - 1] : ndim - 1];
    for (int t = 0; t < ndim - 2; t++) m.batch[t] = stride[order ? order[t] : t];
    return m;
}
static dl__cuda_matrix dl__cuda_matrix_of(dl__cuda *d, const dl_node *x, const dl_index *order)
{
    dl_index stride[DLTRAIN_MAX_DIMS];
    void *base = dl_device_strided(d->ctx, x, stride);
    return dl__cuda_ordered(base, stride, order, x->ndim);
}

static bool dl__cuda_attention_begin(dl__cuda *d, const dl_node *y, int mask, dl__cuda_attention_args *t)
{
    const dl_node *q = y->in[0], *k = y->in[1], *v = y->in[2];
    int nd = q->ndim;
    memset(t, 0, sizeof *t);
    if ((q->dim[nd - 2] | q->dim[nd - 1] | k->dim[nd - 2] | v->dim[nd - 1]) >> 30)
        return dl_fail(d->ctx,
            "%s: dl_scaled_dot_product_attention: a size of 2^30 or more is more than its kernels take", d->device);
    t->l = (int32_t)q->dim[nd - 2], t->e = (int32_t)q->dim[nd - 1], t->s = (int32_t)k->dim[nd - 2],
        t->f = (int32_t)v->dim[nd - 1];
    t->batch_dims = nd - 2;
    t->batches = 1;
    for (int b = 0; b < nd - 2; b++) t->batch[b] = (uint32_t)q->dim[b], t->batches *= q->dim[b];
    t->causal = y->i[0] != 0;
    t->scale = y->f[0];
    t->block = t->causal ? 32 : 64; /* dl__attention_rows of dltrain.h */
    while (t->block > 8 && (int64_t)t->block * t->s > 65536) t->block /= 2;
    t->q = dl__cuda_matrix_of(d, q, NULL);
    t->k = dl__cuda_matrix_of(d, k, NULL);
    t->v = dl__cuda_matrix_of(d, v, NULL);
    if (mask < y->n_in) { /* broadcasts: strides of 0 */
        const dl_node *x = y->in[mask];
        dl_index stride[DLTRAIN_MAX_DIMS], wide[DLTRAIN_MAX_DIMS];
        void *base = dl_device_strided(d->ctx, x, stride);
        for (int b = 0; b < nd; b++) {
            int at = b - (nd - x->ndim);
            wide[b] = at < 0 || x->dim[at] == 1 ? 0 : stride[at];
        }
        t->mask = dl__cuda_ordered(base, wide, NULL, nd);
    }
    size_t rows = (size_t)t->batches * (size_t)t->l, chunks = t->s > DL__CUDA_CHUNK ? dl__cuda_chunks((size_t)t->s) : 0;
    t->top = (float *)(uintptr_t)dl__cuda_scratch(d, (3 + chunks) * rows * sizeof(float));
    t->sum = t->top + rows;
    t->slope = t->sum + rows;
    t->chunk = t->slope + rows;
    return t->top != NULL;
}

/* Tiles of `rows` by `columns`, see attention.cu. */
static bool dl__cuda_attend(dl__cuda *d, const char *kernel, dl__cuda_attention_args *t, int64_t rows, int64_t columns)
{
    void *args[] = { t };
    size_t down = (size_t)(rows + 63) / 64, across = (size_t)(columns + 63) / 64, batches = (size_t)t->batches;
    return dl__cuda_go(
        d, "attention", kernel, dl__cuda_grid_of(down, across, batches < 65535 ? batches : 65535, 256, 1), args);
}

static bool dl__cuda_attention(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_attention_args t;
    (void)accumulate;
    if (!dl__cuda_attention_begin(d, y, 3, &t)) return false;
    t.y = dl__cuda_matrix_of(d, y, y->i + 1);
    return dl__cuda_attend(d, "attention_queries", &t, t.l, t.f);
}

/* i = causal, which are wanted, orders of the memory of dy, dq, dk, dv */
static bool dl__cuda_attention_back(dl__cuda *d, const dl_node *y, bool accumulate)
{
    dl__cuda_attention_args t;
    int nd = y->in[0]->ndim;
    const dl_index *order = y->i + 2;
    float *at = (float *)dl_device_address(d->ctx, y);
    (void)accumulate;
    if (!dl__cuda_attention_begin(d, y, 4, &t)) return false;
    dl__cuda_matrix *to[] = { &t.dq, &t.dk, &t.dv };
    t.y = dl__cuda_matrix_of(d, y->in[3], order);
    for (int k = 0; k < 3; k++)
        if (y->i[1] >> k & 1) {
            const dl_index *own = order + (k + 1) * nd;
            dl_index dim[DLTRAIN_MAX_DIMS], stride[DLTRAIN_MAX_DIMS];
            for (int b = 0; b < nd; b++) dim[own[b]] = y->in[k]->dim[b];
            dl__cuda_row_strides(dim, nd, stride);
            *to[k] = dl__cuda_ordered(at, stride, own, nd);
            at += y->in[k]->numel;
        }
    bool dq = y->i[1] & 1, dk = y->i[1] & 2, dv = y->i[1] & 4;
    t.back = 1;
    return dl__cuda_attend(d, "attention_queries", &t, t.l, dq ? t.e : 1) &&
        (!(dk || dv) || dl__cuda_attend(d, "attention_keys", &t, t.s, !dk || (dv && t.f > t.e) ? t.f : t.e));
}

/* ---- all operations that are not elementwise; those of replicas run on the host ---- */
static const struct {
    const char *name;
    bool (*launch)(dl__cuda *d, const dl_node *y, bool accumulate);
} dl__cuda_operations[] = {
    { "permute", dl__cuda_permute },
    { "slice", dl__cuda_slice },
    { "pad", dl__cuda_pad },
    { "concat", dl__cuda_concat },
    { "index_select", dl__cuda_index_select },
    { "index_add", dl__cuda_index_add },
    { "gather", dl__cuda_gather },
    { "scatter_add", dl__cuda_scatter_add },
    { "one_hot", dl__cuda_one_hot },
    { "sum_dims", dl__cuda_sum_dims },
    { "argmax", dl__cuda_argmax },
    { "matmul", dl__cuda_matmul },
    { "conv2d", dl__cuda_conv2d },
    { "conv_transpose2d", dl__cuda_conv_transpose2d },
    { "conv2d_weight", dl__cuda_conv2d_weight },
    { "max_pool2d", dl__cuda_max_pool2d },
    { "max_pool2d_back", dl__cuda_max_pool2d_back },
    { "avg_pool2d", dl__cuda_avg_pool2d },
    { "avg_pool2d_back", dl__cuda_avg_pool2d_back },
    { "softmax", dl__cuda_softmax },
    { "moments", dl__cuda_zero },
    { "batch_norm", dl__cuda_norm_forward },
    { "layer_norm", dl__cuda_norm_forward },
    { "norm_back", dl__cuda_norm_back },
    { "norm_sums", dl__cuda_norm_sums },
    { "running", dl__cuda_running },
    { "scaled_dot_product_attention", dl__cuda_attention },
    { "attention_back", dl__cuda_attention_back },
    { "segment_sum", dl__cuda_segment_sum },
    { "segment_spread", dl__cuda_segment_spread },
    { "segment_inverse", dl__cuda_segment_inverse },
    { "segment_argmax", dl__cuda_segment_argmax },
    { "targets", dl__cuda_targets },
    { "target_weights", dl__cuda_target_weights }
};

static bool dl__cuda_launch(dl__cuda *d, const dl_device_launch *l)
{
    const dl_node *y = l->node[0];
    const size_t n = sizeof dl__cuda_operations / sizeof *dl__cuda_operations;
    size_t i = 0;
    if (y->op->flags & DL_OP_ELEMENTWISE) return dl__cuda_elementwise(d, l);
    while (i < n && strcmp(dl__cuda_operations[i].name, y->op->name)) i++;
    if (i == n) return dl_fail(d->ctx, "%s: dl_%s has no CUDA kernel yet", d->device, y->op->name);
    return dl__cuda_operations[i].launch(d, y, l->accumulate) && (l->count == 1 || dl__cuda_elementwise(d, l));
}

/* ---- runs. One that comes again with the same key is captured as a graph, which does it from then on, where a graph
   can: it needed nothing but launches the first time, and the driver does not refuse ---- */
static uint64_t dl__cuda_mix(uint64_t h, uint64_t v) { return h = (h ^ v) * 0x9e3779b97f4a7c15u, h ^ h >> 32; }

/* *key: all that launchers can see, but for the numbers of elementwise operations, which kernels read from memory:
   they go there. */
static bool dl__cuda_prepare(dl__cuda *d, const dl_device_launch *l, size_t n, uint64_t *key)
{
    size_t nodes = 0;
    dl_index stride[DLTRAIN_MAX_DIMS];
    uint64_t h = dl__cuda_mix(dl_device_random_key(d->ctx), d->scratch);
    for (size_t i = 0; i < n; i++) nodes += (size_t)l[i].count;
    if (nodes > d->numbers_room) {
        dl__cuda_number *more = (dl__cuda_number *)realloc(d->numbers, nodes * sizeof *more);
        if (!more) return dl_fail(d->ctx, "out of memory for the numbers of %zu operations", nodes);
        d->numbers = more;
        d->numbers_room = nodes;
    }
    dl__cuda_number *to = d->numbers;
    for (size_t i = 0; i < n; i++) {
        h = dl__cuda_mix(h, l[i].key * 2 + l[i].accumulate);
        for (int k = 0; k < l[i].count; k++, to++) {
            const dl_node *y = l[i].node[k];
            to->a = y->f[0];
            to->b = y->f[1];
            to->counter = y->counter;
            h = dl__cuda_mix(h, (uintptr_t)dl_device_address(d->ctx, y));
            for (int j = 0; j < y->n_in; j++)
                h = dl__cuda_mix(h, y->in[j] ? (uintptr_t)dl_device_strided(d->ctx, y->in[j], stride) : 0);
            for (int j = 0; j < 4 && !(y->op->flags & DL_OP_ELEMENTWISE); j += 2) {
                uint64_t two;
                memcpy(&two, y->f + j, sizeof two);
                h = dl__cuda_mix(h, two);
            }
        }
    }
    void *there = dl__cuda_step_alloc(d, nodes * sizeof *d->numbers);
    d->numbers_there = (dl__cuda_address)(uintptr_t)there;
    *key = dl__cuda_mix(h, d->numbers_there);
    return there && dl__cuda_upload(d, there, d->numbers, nodes * sizeof *d->numbers);
}

static bool dl__cuda_launch_all(dl__cuda *d, const void *launches, size_t n)
{
    const dl_device_launch *l = (const dl_device_launch *)launches;
    d->number = d->numbers_there;
    d->joined = 0;
    for (size_t i = 0; i < n; d->number += (dl__cuda_address)l[i++].count * sizeof(dl__cuda_number)) {
        if (d->joined) {
            d->joined--;
            continue;
        }
        d->behind = l + i + 1;
        d->left = n - i - 1;
        if (!dl__cuda_launch(d, &l[i])) return false;
    }
    return true;
}

/* The graph of this key, or the place of the one that was not used for longest. NULL after an error. */
static dl__cuda_graph *dl__cuda_graph_of(dl__cuda *d, uint64_t key)
{
    dl__cuda_graph *g = d->graph;
    for (int i = 0; i < DL__CUDA_GRAPHS && g->key != key; i++)
        if (d->graph[i].key == key || d->graph[i].used_at < g->used_at) g = &d->graph[i];
    if (g->key != key && !dl__cuda_forget_graph(d, g)) return NULL;
    g->key = key;
    g->used_at = ++d->runs;
    return g;
}

/* Launches, n of them or of what they work on; what they are made of is at `what`. */
typedef bool dl__cuda_launches(dl__cuda *d, const void *what, size_t n);
static bool dl__cuda_capture(dl__cuda *d, dl__cuda_launches *launches, const void *what, size_t n, void **exec)
{
    void *graph = NULL;
    d->capturing = true;
    bool begun = DL__CUDA_CALL(d, cuStreamBeginCapture_v2(d->stream, 1)), /* 1: of this thread */
         ok = begun && launches(d, what, n);
    if (begun) ok = DL__CUDA_CALL(d, cuStreamEndCapture(d->stream, &graph)) && ok;
    d->capturing = false;
    ok = ok && DL__CUDA_CALL(d, cuGraphInstantiateWithFlags(exec, graph, 0));
    return (!graph || DL__CUDA_CALL(d, cuGraphDestroy(graph))) && ok;
}

/* Launches, or the graph that they became. */
static bool dl__cuda_replay(dl__cuda *d, uint64_t key, dl__cuda_launches *launches, const void *what, size_t n)
{
    if (d->no_graphs) return launches(d, what, n);
    dl__cuda_graph *g = dl__cuda_graph_of(d, key);
    if (!g) return false;
    if (g->ready && !g->exec && !dl__cuda_capture(d, launches, what, n, &g->exec)) {
        if (!d->refused) return false;
        d->refused = g->ready = false;
        g->refused = true;
    }
    if (g->exec) return DL__CUDA_CALL(d, cuGraphLaunch(g->exec, d->stream));
    d->settled = !g->refused;
    bool ok = launches(d, what, n);
    g->ready = d->settled;
    return ok;
}

static bool dl__cuda_run(void *device, const dl_device_launch *l, size_t n)
{
    dl__cuda *d = (dl__cuda *)device;
    uint64_t key = 0;
    if (!dl__cuda_enter(d) || !dl__cuda_prepare(d, l, n, &key)) return false;
    d->running = true;
    d->looked = d->looked || d->slots_used; /* a graph may have */
    return n == 1 ? dl__cuda_launch_all(d, l, n) : dl__cuda_replay(d, key, dl__cuda_launch_all, l, n);
}

/* Blocks for each of n parameters, of which the largest would fill `most`: no more in all than a GPU works on at a
   time, for most are small. */
static size_t dl__cuda_blocks(size_t most, size_t n)
{
    size_t each = 4096 / (n ? n : 1) + 1;
    return most < each ? most : each;
}

/* A list of parameters with their rates and corrections, in the GPU's memory: sent when it is another than before. */
static bool dl__cuda_send_list(dl__cuda *d, dl__cuda_list *t, const dl_device_update *update, size_t n)
{
    size_t bytes = n * sizeof *update;
    if (!n || (bytes == t->sent && !memcmp(t->copy, update, bytes))) return true;
    void *copy = realloc(t->copy, bytes);
    if (!copy) return dl_fail(d->ctx, "out of memory for the list of %zu parameters", n);
    memcpy(t->copy = copy, update, bytes);
    t->sent = 0;
    if (!dl__cuda_room(d, &t->at, &t->size, bytes) ||
        !dl__cuda_upload(d, (void *)(uintptr_t)t->at, update, bytes))
        return false;
    t->sent = bytes;
    return true;
}

/* most: numbers of a parameter */
typedef struct dl__cuda_updates { const char *kernel; size_t most; } dl__cuda_updates;
static bool dl__cuda_launch_update(dl__cuda *d, const void *what, size_t n)
{
    const dl__cuda_updates *u = (const dl__cuda_updates *)what;
    for (size_t at = 0, some; at < n; at += some) {
        some = n - at < 65535 ? n - at : 65535;
        dl__cuda_address list = d->updated.at + at * sizeof(dl_device_update);
        void *args[] = { &list };
        if (!dl__cuda_go(d, "update", u->kernel,
                dl__cuda_grid_of(dl__cuda_blocks((u->most + 255) / 256, some), some, 1, 256, 1), args))
            return false;
    }
    return true;
}
static bool dl__cuda_update(void *device, const char *rule, const dl_device_update *update, size_t n)
{
    static const char *const rules[][2] = { { "sgd", "update_sgd" }, { "adam", "update_adam" },
        { "rmsprop", "update_rmsprop" }, { "scale", "update_scale" }, { "clamp", "update_clamp" } };
    dl__cuda *d = (dl__cuda *)device;
    dl__cuda_updates u;
    size_t k = 0;
    while (strcmp(rules[k][0], rule)) k++;
    u.kernel = rules[k][1], u.most = 0;
    for (size_t i = 0; i < n; i++) u.most = u.most < update[i].n ? update[i].n : u.most;
    if (!dl__cuda_enter(d) || !dl__cuda_end_run(d) || !dl__cuda_send_list(d, &d->updated, update, n)) return false;
    uint64_t key = dl__cuda_mix(dl__cuda_mix(dl__cuda_mix(k, d->updated.at), u.most), n);
    return dl__cuda_replay(d, key, dl__cuda_launch_update, &u, n);
}

/* See clip.cu. The sums of a parameter's chunks begin at the number of parameters before it and of whole chunks
   before its gradient. */
/* sums of chunks; chunks of a parameter */
typedef struct dl__cuda_clips { double max_norm, *norm; size_t sums, most; } dl__cuda_clips;
static bool dl__cuda_launch_clip(dl__cuda *d, const void *what, size_t n)
{
    dl__cuda_clips c = *(const dl__cuda_clips *)what;
    dl__cuda_address list = d->clipped.at, total = dl__cuda_scratch(d, (n + c.sums + 1) * sizeof(double)),
                     chunk = total + n * sizeof(double);
    uint64_t count = n;
    void *args[] = { &list, &count, &chunk, &total, &c.norm, &c.max_norm },
         *scale[] = { &list, &count, &c.norm, &c.max_norm };
    size_t down = n < 65535 ? n : 65535, blocks = (c.most + 3) / 4;
    return total && dl__cuda_go(d, "clip", "clip_chunks", dl__cuda_grid_of(blocks, down, 1, 128, 1), args) &&
        dl__cuda_go(d, "clip", "clip_norm", dl__cuda_grid_of(1, 1, 1, 512, 1), args) &&
        dl__cuda_go(d, "clip", "clip_scale", dl__cuda_grid_of(dl__cuda_blocks(16 * c.most, n), down, 1, 256, 1), scale);
}
static bool dl__cuda_clip(void *device, double max_norm, double *norm, const dl_device_update *update, size_t n)
{
    dl__cuda *d = (dl__cuda *)device;
    dl__cuda_clips c;
    uint64_t key = n, bits;
    c.max_norm = max_norm, c.norm = norm, c.sums = n, c.most = 1;
    if (n) c.sums += ((size_t)(update[n - 1].g - update[0].g) + update[n - 1].n) / DL__CUDA_CHUNK;
    for (size_t i = 0; i < n; i++)
        c.most = c.most < dl__cuda_chunks(update[i].n) ? dl__cuda_chunks(update[i].n) : c.most;
    if (!dl__cuda_enter(d) || !dl__cuda_end_run(d) || !dl__cuda_send_list(d, &d->clipped, update, n)) return false;
    memcpy(&bits, &max_norm, sizeof bits);
    key = dl__cuda_mix(dl__cuda_mix(dl__cuda_mix(key, d->clipped.at), d->scratch), (uintptr_t)norm);
    return dl__cuda_replay(
        d, dl__cuda_mix(dl__cuda_mix(dl__cuda_mix(key, bits), c.sums), c.most), dl__cuda_launch_clip, &c, n);
}

/* This GPU's slice of a bucket: from all to here, summed, and back to all. Its stream waits for what all
   were doing when they said `ready`; an event that has been recorded again since, for a later bucket or anew,
   is later than that. */
static bool dl__cuda_reduce(void *device, const dl_device_part *part, int parts, int own, int bucket, size_t n)
{
    dl__cuda *d = (dl__cuda *)device;
    size_t per = (n + (size_t)parts * 16 - 1) / ((size_t)parts * 16) * 16, first = per * (size_t)own;
    uint64_t slice = first >= n ? 0 : n - first < per ? n - first : per;
    if (!dl__cuda_enter(d)) return false;
    if (d->comm) /* floats, a sum */
        return DL__CUDA_CALL(d, cuStreamWaitEvent(d->sums, d->ready[bucket % DL__CUDA_BUCKETS], 0)) &&
            dl__cuda_nccl_check(
                d, d->nccl.ncclAllReduce(part[own].x, part[own].x, n, 7, 0, d->comm, d->sums), "ncclAllReduce");
    for (int r = 0; r < parts; r++)
        if (!DL__CUDA_CALL(
                d, cuStreamWaitEvent(d->sums, ((dl__cuda *)part[r].device)->ready[bucket % DL__CUDA_BUCKETS], 0)))
            return false;
    if (!slice) return true;
    size_t bytes = (size_t)slice * sizeof(float);
    dl__cuda_address room = dl__cuda_room(d, &d->room, &d->room_size, (size_t)parts * bytes);
    void *sum = dl__cuda_kernel(d, "update", "sum_parts"), *args[] = { &room, &parts, &slice };
    if (!room || !sum) return false;
    for (int r = 0; r < parts; r++)
        if (!dl__cuda_copy_over(d, d, room + (size_t)r * bytes, (dl__cuda *)part[r].device,
                (dl__cuda_address)(uintptr_t)(part[r].x + first), bytes))
            return false;
    unsigned blocks = slice < 256 * 1024 ? (unsigned)((slice + 255) / 256) : 1024;
    if (!DL__CUDA_CALL(d, cuLaunchKernel(sum, blocks, 1, 1, 256, 1, 1, 0, d->sums, args, NULL))) return false;
    for (int r = 0; r < parts; r++)
        if (!dl__cuda_copy_over(
                d, (dl__cuda *)part[r].device, (dl__cuda_address)(uintptr_t)(part[r].x + first), d, room, bytes))
            return false;
    return true;
}

/* By one thread for all: a part that fails leaves no other waiting. */
static bool dl__cuda_connect(void *device, const dl_device_part *part, int parts, double seconds)
{
    dl__cuda *d = (dl__cuda *)device;
    const char *own = getenv("DLTRAIN_NCCL"), *name = own && *own ? own : "libnccl.so.2";
    void *comm[64], *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    int ordinal[64];
    if (!library) {
        const char *why = dlerror();
        return dl_fail(
            d->ctx, "dl_launch: nccl is asked for, but NCCL is not there: %s; DLTRAIN_NCCL names it", why ? why : name);
    }
    if (parts > 64) return dl_fail(d->ctx, "dl_launch: nccl takes 64 GPUs of a process, not %d", parts);
    if (!dl__cuda_look_up(d, library, &d->nccl, dl__cuda_nccl_names,
            sizeof dl__cuda_nccl_names / sizeof *dl__cuda_nccl_names, "NCCL"))
        return false;
    for (int r = 0; r < parts; r++) ordinal[r] = ((dl__cuda *)part[r].device)->ordinal;
    if (!dl__cuda_nccl_check(d, d->nccl.ncclCommInitAll(comm, parts, ordinal), "ncclCommInitAll")) return false;
    for (int r = 0; r < parts; r++) {
        dl__cuda *to = (dl__cuda *)part[r].device;
        to->nccl = d->nccl;
        to->comm = comm[r];
        to->seconds = seconds;
    }
    return dl__cuda_enter(d); /* NCCL may have left another one's context current */
}

/* ---- opening and closing ---- */
static void dl__cuda_close(void *device)
{
    dl__cuda *d = (dl__cuda *)device;
    if (d->context && !d->driver.cuCtxSetCurrent(d->context)) {
        dl__cuda_give_up_sums(d);
        void *const streams[] = { d->stream, d->copies, d->sums }, *const events[] = { d->taken, d->ran, d->summed };
        for (int k = 0; k < 3; k++)
            if (streams[k]) d->driver.cuStreamSynchronize(streams[k]);
        if (d->comm) d->nccl.ncclCommDestroy(d->comm);
        for (int i = 0; i < DL__CUDA_GRAPHS; i++)
            if (d->graph[i].exec) d->driver.cuGraphExecDestroy(d->graph[i].exec);
        for (int i = 0; i < d->chunks; i++) d->driver.cuMemFree_v2(d->chunk[i].at);
        if (d->blas) d->cublas.cublasDestroy_v2(d->blas);
        if (d->blas_workspace) d->driver.cuMemFree_v2(d->blas_workspace);
        if (d->scratch) d->driver.cuMemFree_v2(d->scratch);
        if (d->arrival) d->driver.cuMemFree_v2(d->arrival);
        if (d->room) d->driver.cuMemFree_v2(d->room);
        if (d->slots) d->driver.cuMemFree_v2(d->slots);
        if (d->clipped.at) d->driver.cuMemFree_v2(d->clipped.at);
        if (d->updated.at) d->driver.cuMemFree_v2(d->updated.at);
        if (d->ring) d->driver.cuMemFreeHost(d->ring);
        for (int k = 0; k < DL__CUDA_COPIES; k++)
            if (d->copy[k].event) d->driver.cuEventDestroy_v2(d->copy[k].event);
        for (int k = 0; k < DL__CUDA_BUCKETS; k++)
            if (d->ready[k]) d->driver.cuEventDestroy_v2(d->ready[k]);
        for (int k = 0; k < 3; k++)
            if (events[k]) d->driver.cuEventDestroy_v2(events[k]);
        for (dl__cuda_module *m = d->modules, *next; m; m = next) {
            next = m->next;
            d->driver.cuModuleUnload(m->module);
            free(m);
        }
        for (int k = 0; k < 3; k++)
            if (streams[k]) d->driver.cuStreamDestroy_v2(streams[k]);
        d->driver.cuDevicePrimaryCtxRelease_v2(d->ordinal);
    }
    for (dl__cuda_function *f = d->functions, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    free(d->numbers);
    free(d->clipped.copy);
    free(d->updated.copy);
    /* the libraries stay open: NVIDIA's keep threads */
    free(d);
}

static bool dl__cuda_open_driver(dl__cuda *d)
{
    const char *own = getenv("DLTRAIN_CUDA_DRIVER"), *library = own && *own ? own : "libcuda.so.1";
    d->driver_library = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (!d->driver_library) {
        const char *why = dlerror();
        return dl_fail(d->ctx, "dl_create: the device '%s' needs NVIDIA's driver: %s", d->device, why ? why : library);
    }
    return dl__cuda_look_up(d, d->driver_library, &d->driver, dl__cuda_driver_names,
        sizeof dl__cuda_driver_names / sizeof *dl__cuda_driver_names, library);
}

static bool dl__cuda_open_device(dl__cuda *d)
{
    int number = 0, count = 0, major = 0, minor = 0;
    const char *p = d->device + 4;
    if (*p == ':' && p[1])
        for (p++; *p >= '0' && *p <= '9' && number < 10000; p++) number = 10 * number + (*p - '0');
    if (*p)
        return dl_fail(
            d->ctx, "dl_create: there is no device '%s'; GPUs are called 'cuda:0', 'cuda:1', ...", d->device);
    if (!dl__cuda_open_driver(d)) return false;
    int code = d->driver.cuInit(0);
    if (code == 34 || code == 100 || code == 803)
        return dl_fail(d->ctx, "dl_create: the device '%s': there is no GPU here", d->device);
    if (!dl__cuda_check(d, code, "cuInit") || !DL__CUDA_CALL(d, cuDeviceGetCount(&count))) return false;
    if (number >= count)
        return dl_fail(
            d->ctx, "dl_create: there is no device '%s': the GPUs here are cuda:0 to cuda:%d", d->device, count - 1);
    if (!DL__CUDA_CALL(d, cuDeviceGet(&d->ordinal, number)) ||
        !DL__CUDA_CALL(d, cuDeviceGetName(d->name, (int)sizeof d->name, d->ordinal)) ||
        !DL__CUDA_CALL(d, cuDeviceGetAttribute(&major, 75, d->ordinal)) ||
        !DL__CUDA_CALL(d, cuDeviceGetAttribute(&minor, 76, d->ordinal)))
        return false;
    d->arch = 10 * major + minor;
    const char *precision = dl_device_matmul_precision(d->ctx);
    d->precision = !strcmp(precision, "tf32") ? DL__CUDA_TF32
        : !strcmp(precision, "bf16")          ? DL__CUDA_BF16
                                              : DL__CUDA_FP32;
    if (d->precision && d->arch < 80)
        return dl_fail(d->ctx,
            "dl_create: the matmul_precision '%s' needs a GPU of compute capability 8.0 or later; '%s' is %s, of %d.%d",
            precision, d->device, d->name, major, minor);
    if (!DL__CUDA_CALL(d, cuDevicePrimaryCtxRetain(&d->context, d->ordinal)) || !dl__cuda_enter(d)) return false;
    size_t bytes = DL__CUDA_SLOTS * sizeof(uint64_t);
    for (int k = 0; k < DL__CUDA_COPIES; k++)
        if (!DL__CUDA_CALL(d, cuEventCreate(&d->copy[k].event, 2))) return false; /* without timing */
    for (int k = 0; k < DL__CUDA_BUCKETS; k++)
        if (!DL__CUDA_CALL(d, cuEventCreate(&d->ready[k], 2))) return false;
    void **const streams[] = { &d->stream, &d->copies, &d->sums },
         **const events[] = { &d->taken, &d->ran, &d->summed };
    for (int k = 0; k < 3; k++) /* streams that wait for no other */
        if (!DL__CUDA_CALL(d, cuStreamCreate(streams[k], 1)) || !DL__CUDA_CALL(d, cuEventCreate(events[k], 2)))
            return false;
    if (!strcmp(dl_device_blas(d->ctx), "cublas") && !dl__cuda_open_cublas(d)) return false;
    return (d->slots = dl__cuda_allocate(d, bytes)) &&
        DL__CUDA_CALL(d, cuMemsetD8Async(d->slots, 255, bytes, d->stream));
}

static void *dl__cuda_open(dl_context *ctx, const char *device)
{
    dl__cuda *d = (dl__cuda *)calloc(1, sizeof *d);
    if (!d) return dl_fail(ctx, "out of memory: asked for %zu bytes", sizeof *d), (void *)NULL;
    d->ctx = ctx;
    snprintf(d->device, sizeof d->device, "%s", device);
    const char *graphs = getenv("DLTRAIN_CUDA_GRAPHS");
    d->no_graphs = graphs && !strcmp(graphs, "0");
    if (dl__cuda_open_device(d)) return d;
    dl__cuda_close(d);
    return NULL;
}

DL_API const dl_backend *dl_cuda_backend(void)
{
    static const dl_backend backend = { "cuda", dl__cuda_open, dl__cuda_close, dl__cuda_alloc, dl__cuda_release,
        dl__cuda_step_alloc, dl__cuda_step_reset, dl__cuda_upload, dl__cuda_input, dl__cuda_download, dl__cuda_run,
        dl__cuda_update, dl__cuda_clip, dl__cuda_connect, dl__cuda_ready, dl__cuda_reduce, dl__cuda_summed,
        dl__cuda_after_sums };
    return &backend;
}

DL_API const char *dl_cuda_device_name(const dl_context *ctx)
{
    const dl__cuda *d = (const dl__cuda *)dl_device_of(ctx, dl_cuda_backend());
    return d ? d->name : "";
}
#endif /* DLTRAIN_IMPLEMENTATION */
