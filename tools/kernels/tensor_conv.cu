// The convolutions of taps.cu on tensor cores, as conv.cu.
template <bool BACK, bool SOME> static void tensor_slide(Stages<64> &stages, const Conv &v, const Work &w)
{
    uint32_t m0, n0;
    uint64_t first, end;
    Slide s = slide_of(v, BACK, SOME, (int)blockIdx.z % v.q.groups, (int)blockIdx.z / v.q.groups);
    uint32_t n = (uint32_t)(v.q.n * s.plane);
    work_tile<64>(w, &m0, &n0, &first, &end);
    if (n0 >= n) return;
    SlideWeight<ROWS> a = { s };
    SlidePixels<ROWS> b = { s };
    SlideOut c = { s, w };
    tensor_tile<64, SOME>(stages, a, b, c, w.m, n, m0, n0, first, end, false);
}
#define TENSOR_SLIDE(name, BACK, SOME) \
    extern "C" __global__ void __launch_bounds__(128, 1) name(Conv v, Work w) \
    { \
        __shared__ __align__(16) Stages<64> stages; \
        tensor_slide<BACK, SOME>(stages, v, w); \
    }
TENSOR_SLIDE(tensor_forward, false, false)
TENSOR_SLIDE(tensor_back, true, false)
TENSOR_SLIDE(tensor_back_strided, true, true)

extern "C" __global__ void __launch_bounds__(128, 1) tensor_weight(Conv v, Work w) // v.w is dy, v.y is dw
{
    __shared__ __align__(16) Stages<64> stages;
    uint32_t m0, n0;
    uint64_t first, end;
    int group = (int)blockIdx.z;
    TapsDy<ROWS> a = { v, true, group, (int)w.m };
    TapsX<ROWS> b = { v, true, group, v.q.c / v.q.groups };
    TapsOut c = { v, w, group };
    work_tile<64>(w, &m0, &n0, &first, &end);
    tensor_tile<64, false>(stages, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);
}
