// Convolutions as products whose operands are never written down: x [n,c,h,w], weight [o,c/groups,kh,kw], y [n,o,oh,ow]. Output channels are
// the rows of C, pixels its columns; k goes over (ky, kx, channel). Taps outside of an image multiply +0.
struct Geometry { int n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups; };
struct Conv {
    const float *x, *w, *bias;
    float *y;
    Geometry q;
    int accumulate;
};

// ---- forward: k = (ky, kx, c); back: x is dy, y is dx, k = (ky, kx, o). Of strides, pixels of dx fall into classes by the taps that reach
// them: a class is a product of its own, and taps that do not reach it are left out ----
struct Slide {
    const Conv &v;
    bool back;
    int group, in, out;             // channels of a group
    int high, wide, out_w, plane;   // of a source image; the class's pixels: in a row, in an image
    int sy, sx, ry, rx;             // pixels of the class are sy and sx apart, from ry and rx on
};
static Slide slide_of(const Conv &v, bool back, int group, int klass)
{
    const Geometry &q = v.q;
    int sy = back ? q.sh : 1, sx = back ? q.sw : 1, ry = klass / sx, rx = klass % sx;
    int rows = ((back ? q.h : q.oh) - ry + sy - 1) / sy, out_w = ((back ? q.w : q.ow) - rx + sx - 1) / sx;
    Slide s = { v, back, group, (back ? q.o : q.c) / q.groups, (back ? q.c : q.o) / q.groups, back ? q.oh : q.h, back ? q.ow : q.w,
        out_w, rows > 0 && out_w > 0 ? rows * out_w : 0, sy, sx, ry, rx };
    return s;
}

struct SlideWeight { // rows: channels of the result
    const Slide &s;
    bool along;
    const float *row[4];
    void begin(int i, uint32_t r)
    {
        int taps = s.v.q.kh * s.v.q.kw;
        row[i] = s.v.w + (dl_index)s.group * s.in * s.out * taps + (dl_index)r * (s.back ? taps : s.in * taps);
    }
    float get(int i, uint64_t k) const
    {
        int taps = s.v.q.kh * s.v.q.kw, tap = (int)k / s.in, c = (int)k % s.in;
        return row[i][(dl_index)c * (s.back ? s.out * taps : taps) + tap];
    }
};
struct SlidePixels { // rows: pixels of the result
    const Slide &s;
    bool along;
    int y, x; // all of a thread's elements are of one pixel
    const float *image;
    void begin(int i, uint32_t r)
    {
        if (i) return;
        int n = (int)r / s.plane, at = (int)r % s.plane;
        y = s.ry + at / s.out_w * s.sy, x = s.rx + at % s.out_w * s.sx;
        image = s.v.x + ((dl_index)n * s.v.q.groups + s.group) * s.in * s.high * s.wide;
    }
    float get(int, uint64_t k) const
    {
        const Geometry &q = s.v.q;
        int tap = (int)k / s.in, c = (int)k % s.in, ky = tap / q.kw * q.dh, kx = tap % q.kw * q.dw;
        int fy = y * q.sh - q.ph + ky, fx = x * q.sw - q.pw + kx;
        if (s.back) {
            fy = y + q.ph - ky, fx = x + q.pw - kx;
            if (fy < 0 || fx < 0) return 0;
            fy /= q.sh, fx /= q.sw;
        }
        return fy >= 0 && fx >= 0 && fy < s.high && fx < s.wide ? image[((dl_index)c * s.high + fy) * s.wide + fx] : 0;
    }
    bool reaches(uint64_t k) const
    {
        const Geometry &q = s.v.q;
        int tap = (int)k / s.in;
        return (s.ry + q.ph - tap / q.kw * q.dh) % q.sh == 0 && (s.rx + q.pw - tap % q.kw * q.dw) % q.sw == 0;
    }
};
static float *slide_place(const Slide &s, uint32_t row, uint32_t column)
{
    const Geometry &q = s.v.q;
    int n = (int)column / s.plane, at = (int)column % s.plane, y = s.ry + at / s.out_w * s.sy, x = s.rx + at % s.out_w * s.sx;
    int h = s.back ? q.h : q.oh, w = s.back ? q.w : q.ow;
    return s.v.y + ((((dl_index)n * q.groups + s.group) * s.out + row) * h + y) * w + x;
}
struct SlideOut {
    const Slide &s;
    const Work &w;
    void put(uint32_t row, uint32_t column, float v, bool part) const
    {
        if (part) *work_part(w, s.group, row, column) = v;
        else finish(slide_place(s, row, column), v, s.v.bias, (dl_index)s.group * s.out + row, s.v.accumulate);
    }
};
// blockIdx.z is class * groups + group
template <bool BACK, bool SOME> static void slide(Pieces<64> &pieces, const Conv &v, const Work &w)
{
    uint32_t m0, n0;
    uint64_t first, end;
    Slide s = slide_of(v, BACK, (int)blockIdx.z % v.q.groups, (int)blockIdx.z / v.q.groups);
    uint32_t n = (uint32_t)(v.q.n * s.plane);
    work_tile<64>(w, &m0, &n0, &first, &end);
    if (n0 >= n) return;
    SlideWeight a = { s, false };
    SlidePixels b = { s, false };
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

// ---- the gradient of the weight: rows are output channels, columns taps (c, ky, kx), k = (image, y, x) ----
struct TapsDy {
    const Conv &v;
    bool along;
    int group, out;
    const float *row[4];
    void begin(int i, uint32_t r) { row[i] = v.w + ((dl_index)group * out + r) * v.q.oh * v.q.ow; }
    float get(int i, uint64_t k) const
    {
        int plane = v.q.oh * v.q.ow;
        return row[i][(dl_index)((int)k / plane) * v.q.o * plane + (int)k % plane];
    }
};
struct TapsX {
    const Conv &v;
    bool along;
    int group, in, y[4], x[4];
    const float *plane[4];
    void begin(int i, uint32_t r)
    {
        int taps = v.q.kh * v.q.kw, tap = (int)r % taps;
        y[i] = tap / v.q.kw * v.q.dh - v.q.ph, x[i] = tap % v.q.kw * v.q.dw - v.q.pw;
        plane[i] = v.x + ((dl_index)group * in + (int)r / taps) * v.q.h * v.q.w;
    }
    float get(int i, uint64_t k) const
    {
        const Geometry &q = v.q;
        int size = q.oh * q.ow, at = (int)k % size, fy = at / q.ow * q.sh + y[i], fx = at % q.ow * q.sw + x[i];
        if (fy < 0 || fx < 0 || fy >= q.h || fx >= q.w) return 0;
        return plane[i][((dl_index)((int)k / size) * q.c * q.h + fy) * q.w + fx];
    }
    bool reaches(uint64_t) const { return true; }
};
struct TapsOut {
    const Conv &v;
    const Work &w;
    int group;
    void put(uint32_t row, uint32_t column, float value, bool part) const
    {
        if (part) *work_part(w, group, row, column) = value;
        else finish(v.y + ((uint64_t)group * w.m + row) * w.n + column, value, 0, 0, v.accumulate);
    }
};
extern "C" __global__ void __launch_bounds__(256, 1) conv_weight(Conv v, Work w) // v.w is dy, v.y is dw
{
    __shared__ __align__(16) Pieces<64> pieces;
    uint32_t m0, n0;
    uint64_t first, end;
    int group = (int)blockIdx.z;
    TapsDy a = { v, true, group, (int)w.m };
    TapsX b = { v, true, group, v.q.c / v.q.groups };
    TapsOut c = { v, w, group };
    work_tile<64>(w, &m0, &n0, &first, &end);
    tile<64, 4, false>(pieces, a, b, c, w.m, w.n, m0, n0, first, end, w.parts > 1);
}
extern "C" __global__ void conv_weight_join(Conv v, Work w)
{
    uint64_t size = (uint64_t)w.m * w.n, i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < w.batches * size) finish(v.y + i, work_joined(w, i / size, i % size), 0, 0, v.accumulate);
}
