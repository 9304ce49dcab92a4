// matmul, by the tiles of tile.cu.
struct Rows { // rows of a matrix
    const float *base, *row[8];
    dl_index stride, step;
    bool along;
    void begin(int i, uint32_t r) { row[i] = base + r * stride; }
    float get(int i, uint64_t k) const { return row[i][k * step]; }
    bool reaches(uint64_t) const { return true; }
};
template <int W, int T> static void matmul(Pieces<W> &s, const Matmul &q, const Work &w)
{
    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {
        dl_index at_a, at_b;
        uint32_t m0, n0;
        uint64_t first, end;
        matmul_batch(q, batch, &at_a, &at_b);
        Rows a, b;
        a.base = q.a + at_a, a.stride = q.a_row, a.step = q.a_k, a.along = q.a_k == 1;
        b.base = q.b + at_b, b.stride = q.b_row, b.step = q.b_k, b.along = q.b_k == 1;
        MatmulOut c = { q, w, batch };
        work_tile<W>(w, &m0, &n0, &first, &end);
        tile<W, T, false>(s, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);
        __syncthreads();
    }
}
extern "C" __global__ void __launch_bounds__(256, 1) matmul_64(Matmul q, Work w)
{
    __shared__ __align__(16) Pieces<64> s;
    matmul<64, 4>(s, q, w);
}
