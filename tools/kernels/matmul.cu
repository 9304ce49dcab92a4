// matmul, by the tiles of tile.cu.
template <int W, int T> static void matmul(Pieces<W> &s, const Matmul &q, const Work &w)
{
    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {
        dl_index at_a, at_b;
        uint32_t m0, n0;
        uint64_t first, end;
        matmul_batch(q, batch, &at_a, &at_b);
        Rows a, b;
        rows_of(&a, q.a + at_a, q.a_row, q.a_k);
        rows_of(&b, q.b + at_b, q.b_row, q.b_k);
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
