// Convolutions as products whose operands are never written down: x [n,c,h,w], weight [o,c/groups,kh,kw], y [n,o,oh,ow]. Output channels are
// the rows of C, pixels its columns; k goes over (ky, kx, channel). Taps outside of an image multiply +0.
// A source holds N rows of a tile, a thread's: begin(i, row) for number i, seek(k), then at(i, &p): is there a number, and where?
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
    bool back, strided;             // strided: of the gradient alone
    int group, in, out;             // channels of a group
    int high, wide, out_w, plane;   // of a source image; the class's pixels: in a row, in an image
    int sy, sx, ry, rx;             // pixels of the class are sy and sx apart, from ry and rx on
};
static Slide slide_of(const Conv &v, bool back, bool strided, int group, int klass)
{
    const Geometry &q = v.q;
    int sy = back ? q.sh : 1, sx = back ? q.sw : 1, ry = klass / sx, rx = klass % sx;
    int rows = ((back ? q.h : q.oh) - ry + sy - 1) / sy, out_w = ((back ? q.w : q.ow) - rx + sx - 1) / sx;
    Slide s = { v, back, strided, group, (back ? q.o : q.c) / q.groups, (back ? q.c : q.o) / q.groups, back ? q.oh : q.h, back ? q.ow : q.w,
        out_w, rows > 0 && out_w > 0 ? rows * out_w : 0, sy, sx, ry, rx };
    return s;
}

template <class S> static float number(S &s, int i, uint64_t k) // of a source
{
    const float *p;
    s.seek(k);
    return s.at(i, &p) ? *p : 0;
}

template <int N> struct SlideWeight { // rows: channels of the result
    const Slide &s;
    bool along;
    const float *row[N];
    dl_index step;
    void begin(int i, uint32_t r)
    {
        int taps = s.v.q.kh * s.v.q.kw;
        row[i] = s.v.w + (dl_index)s.group * s.in * s.out * taps + (dl_index)r * (s.back ? taps : s.in * taps);
    }
    void seek(uint64_t k)
    {
        int taps = s.v.q.kh * s.v.q.kw, tap = (int)k / s.in, c = (int)k % s.in;
        step = (dl_index)c * (s.back ? s.out * taps : taps) + tap;
    }
    bool at(int i, const float **p) const { return *p = row[i] + step, true; }
    float get(int i, uint64_t k) { return number(*this, i, k); }
};
template <int N> struct SlidePixels { // rows: pixels of the result; N is 1 where all of a thread's numbers are of one
    const Slide &s;
    bool along;
    int y[N], x[N], ky, kx;
    const float *image[N];
    dl_index channel;
    void begin(int i, uint32_t r)
    {
        if (i >= N) return;
        const Geometry &q = s.v.q;
        int n = (int)r / s.plane, at = (int)r % s.plane, fy = s.ry + at / s.out_w * s.sy, fx = s.rx + at % s.out_w * s.sx;
        y[i] = s.back ? fy + q.ph : fy * q.sh - q.ph, x[i] = s.back ? fx + q.pw : fx * q.sw - q.pw;
        image[i] = s.v.x + ((dl_index)n * q.groups + s.group) * s.in * s.high * s.wide;
    }
    void seek(uint64_t k)
    {
        const Geometry &q = s.v.q;
        int tap = (int)k / s.in;
        ky = tap / q.kw * q.dh, kx = tap % q.kw * q.dw;
        channel = (dl_index)((int)k % s.in) * s.high * s.wide;
    }
    bool at(int i, const float **p) const
    {
        int fy = s.back ? y[i % N] - ky : y[i % N] + ky, fx = s.back ? x[i % N] - kx : x[i % N] + kx;
        if (fy < 0 || fx < 0) return false;
        if (s.strided) fy /= s.v.q.sh, fx /= s.v.q.sw;
        return *p = image[i % N] + channel + (dl_index)fy * s.wide + fx, fy < s.high && fx < s.wide;
    }
    float get(int i, uint64_t k) { return number(*this, i, k); }
    // Is step k of the class? And the first that is, from k on
    bool reaches(uint64_t k) const
    {
        const Geometry &q = s.v.q;
        int tap = (int)k / s.in;
        return (s.ry + q.ph - tap / q.kw * q.dh) % q.sh == 0 && (s.rx + q.pw - tap % q.kw * q.dw) % q.sw == 0;
    }
    uint64_t next(uint64_t k, uint64_t end) const
    {
        while (k < end && !reaches(k)) k = (k / s.in + 1) * s.in;
        return k;
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
// ---- the gradient of the weight: rows are output channels, columns taps (c, ky, kx), k = (image, y, x) ----
template <int N> struct TapsDy {
    const Conv &v;
    bool along;
    int group, out;
    const float *row[N];
    dl_index step;
    void begin(int i, uint32_t r) { row[i] = v.w + ((dl_index)group * out + r) * v.q.oh * v.q.ow; }
    void seek(uint64_t k)
    {
        int plane = v.q.oh * v.q.ow;
        step = (dl_index)((int)k / plane) * v.q.o * plane + (int)k % plane;
    }
    bool at(int i, const float **p) const { return *p = row[i] + step, true; }
    float get(int i, uint64_t k) { return number(*this, i, k); }
};
template <int N> struct TapsX {
    const Conv &v;
    bool along;
    int group, in, y[N], x[N], oy, ox;
    const float *plane[N];
    dl_index image;
    void begin(int i, uint32_t r)
    {
        int taps = v.q.kh * v.q.kw, tap = (int)r % taps;
        y[i] = tap / v.q.kw * v.q.dh - v.q.ph, x[i] = tap % v.q.kw * v.q.dw - v.q.pw;
        plane[i] = v.x + ((dl_index)group * in + (int)r / taps) * v.q.h * v.q.w;
    }
    void seek(uint64_t k)
    {
        const Geometry &q = v.q;
        int size = q.oh * q.ow, at = (int)k % size;
        oy = at / q.ow * q.sh, ox = at % q.ow * q.sw;
        image = (dl_index)((int)k / size) * q.c * q.h * q.w;
    }
    bool at(int i, const float **p) const
    {
        int fy = oy + y[i], fx = ox + x[i];
        return *p = plane[i] + image + (dl_index)fy * v.q.w + fx, fy >= 0 && fx >= 0 && fy < v.q.h && fx < v.q.w;
    }
    float get(int i, uint64_t k) { return number(*this, i, k); }
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
