// The convolutions of taps.cu, by the tiles of tile.cu.
// blockIdx.z is class * groups + group
template <bool BACK, bool SOME> static void slide(Pieces<64> &pieces, const Conv &v, const Work &w)
{
    uint32_t m0, n0;
    uint64_t first, end;
    Slide s = slide_of(v, BACK, SOME, (int)blockIdx.z % v.q.groups, (int)blockIdx.z / v.q.groups);
    uint32_t n = (uint32_t)(v.q.n * s.plane);
    work_tile<64>(w, &m0, &n0, &first, &end);
    if (n0 >= n) return;
    SlideWeight<4> a = { s, false };
    SlidePixels<1> b = { s, false };
    SlideOut c = { s, w };
    tile<64, 4, SOME>(pieces, a, b, c, w.m, n, m0, n0, first, end, w.parts > 1);
}
extern "C" __global__ void __launch_bounds__(256, 1) conv_forward(Conv v, Work w)
{
    __shared__ __align__(16) Pieces<64> pieces;
    slide<false, false>(pieces, v, w);
}
extern "C" __global__ void __launch_bounds__(256, 1) conv_back(Conv v, Work w)
{
    __shared__ __align__(16) Pieces<64> pieces;
    slide<true, false>(pieces, v, w);
}
extern "C" __global__ void __launch_bounds__(256, 1) conv_back_strided(Conv v, Work w)
{
    __shared__ __align__(16) Pieces<64> pieces;
    slide<true, true>(pieces, v, w);
}

extern "C" __global__ void __launch_bounds__(256, 1) conv_weight(Conv v, Work w) // v.w is dy, v.y is dw
{
    __shared__ __align__(16) Pieces<64> pieces;
    uint32_t m0, n0;
    uint64_t first, end;
    int group = (int)blockIdx.z;
    TapsDy<4> a = { v, true, group, (int)w.m };
    TapsX<4> b = { v, true, group, v.q.c / v.q.groups };
    TapsOut c = { v, w, group };
    work_tile<64>(w, &m0, &n0, &first, &end);
    tile<64, 4, false>(pieces, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);
}
