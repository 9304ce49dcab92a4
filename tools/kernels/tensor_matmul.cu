// Matrix products on tensor cores. by_16: 1: A, 2: B, see Matrix.
template <int W> static void tensor_matmul(Stages<W> &s, const Matmul &q, const Work &w, int by_16)
{
    for (uint32_t batch = blockIdx.z; batch < w.batches; batch += gridDim.z) {
        dl_index at_a, at_b;
        uint32_t m0, n0;
        uint64_t first, end;
        matmul_batch(q, batch, &at_a, &at_b);
        Matrix<W> a = { q.a + at_a, q.a_row, q.a_k, (by_16 & 1) != 0 }, b = { q.b + at_b, q.b_row, q.b_k, (by_16 & 2) != 0 };
        MatmulOut c = { q, w, batch };
        work_tile<W>(w, &m0, &n0, &first, &end);
        tensor_tile<W, false>(s, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);
    }
}
#define TENSOR_MATMUL(W) \
    extern "C" __global__ void __launch_bounds__(2 * W, 1) tensor_##W(Matmul q, Work w, int by_16) \
    { \
        __shared__ __align__(16) Stages<W> s; \
        tensor_matmul<W>(s, q, w, by_16); \
    }
TENSOR_MATMUL(64)
TENSOR_MATMUL(128)
