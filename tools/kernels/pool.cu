// Pooling of planes. A thread makes one number of the result, from the numbers that it is made of in the order of the rules.
struct Pool { int n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups, adaptive; };
// Place `at` of plane i / size: threads of all planes
static bool place(const Pool &q, int size, dl_index *i, dl_index *plane, int *at)
{
    dl_index n = (dl_index)q.n * q.c * size;
    *i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x;
    if (*i >= n) return false;
    *plane = n >> 31 ? *i / size : (uint32_t)*i / (uint32_t)size; // a 64-bit division takes as long as ten
    *at = (int)(*i - *plane * size);
    return true;
}
struct Window { int y0, y1, x0, x1; };

static Window window(const Pool &q, int oy, int ox) // within the image
{
    Window v;
    if (q.adaptive) {
        v.y0 = oy * q.h / q.oh, v.y1 = ((oy + 1) * q.h + q.oh - 1) / q.oh;
        v.x0 = ox * q.w / q.ow, v.x1 = ((ox + 1) * q.w + q.ow - 1) / q.ow;
        return v;
    }
    v.y0 = oy * q.sh - q.ph, v.y1 = v.y0 + q.kh < q.h ? v.y0 + q.kh : q.h, v.y0 = v.y0 > 0 ? v.y0 : 0;
    v.x0 = ox * q.sw - q.pw, v.x1 = v.x0 + q.kw < q.w ? v.x0 + q.kw : q.w, v.x0 = v.x0 > 0 ? v.x0 : 0;
    return v;
}

// Where in its plane the greatest of a window is: the first, and a NaN before all.
static int greatest(const Pool &q, const float *x, int oy, int ox)
{
    Window v = window(q, oy, ox);
    int best = v.y0 * q.w + v.x0;
    float a = x[best];
    for (int iy = v.y0; iy < v.y1; iy++)
        for (int ix = v.x0; ix < v.x1; ix++) {
            float b = x[iy * q.w + ix];
            if (a == a && !(b <= a)) best = iy * q.w + ix, a = b;
        }
    return best;
}

// y = v where x is greatest
extern "C" __global__ void pool_pick(float *y, const float *x, const float *v, Pool q)
{
    dl_index i, plane;
    int at;
    if (!place(q, q.oh * q.ow, &i, &plane, &at)) return;
    plane *= q.h * q.w;
    y[i] = v[plane + greatest(q, x + plane, at / q.ow, at % q.ow)];
}

// The windows that hold row or column i, of n: they begin at o * stride - pad and are `kernel` wide
static void holders(int i, int pad, int kernel, int stride, int n, int *first, int *end)
{
    int low = i + pad - kernel + 1;
    *first = low > 0 ? (low + stride - 1) / stride : 0;
    *end = (i + pad) / stride + 1 < n ? (i + pad) / stride + 1 : n;
}

// dx = the sum of dy over the windows whose greatest this is
extern "C" __global__ void pool_spread(float *dx, const float *x, const float *dy, Pool q)
{
    dl_index i, plane;
    int at, oy, ey, first, end;
    if (!place(q, q.h * q.w, &i, &plane, &at)) return;
    float sum = 0;
    holders(at / q.w, q.ph, q.kh, q.sh, q.oh, &oy, &ey);
    holders(at % q.w, q.pw, q.kw, q.sw, q.ow, &first, &end);
    for (; oy < ey; oy++)
        for (int ox = first; ox < end; ox++)
            if (greatest(q, x + plane * q.h * q.w, oy, ox) == at) sum = E_ADD(sum, dy[(plane * q.oh + oy) * q.ow + ox]);
    dx[i] = sum;
}
// The same for windows of 2 x 2 side by side, a thread each; where no window is there may be an odd row or column
extern "C" __global__ void pool_spread_2x2(float *dx, const float *x, const float *dy, Pool q)
{
    dl_index i, plane;
    int at, wide = (q.w + 1) / 2;
    if (!place(q, (q.h + 1) / 2 * wide, &i, &plane, &at)) return;
    int oy = at / wide, ox = at % wide;
    bool whole = oy < q.oh && ox < q.ow;
    int best = whole ? greatest(q, x + plane * q.h * q.w, oy, ox) : -1;
    float g = whole ? dy[(plane * q.oh + oy) * q.ow + ox] : 0;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int iy = 2 * oy + k / 2, ix = 2 * ox + k % 2;
        if (iy < q.h && ix < q.w) dx[(plane * q.h + iy) * q.w + ix] = iy * q.w + ix == best ? g : 0;
    }
}

// The mean of a window, but of one that is the whole plane: that is a sum by rule 5, see pool_share
extern "C" __global__ void pool_avg(float *y, const float *x, Pool q)
{
    dl_index i, plane;
    int at;
    if (!place(q, q.oh * q.ow, &i, &plane, &at)) return;
    Window v = window(q, at / q.ow, at % q.ow);
    float sum = 0;
    x += plane * q.h * q.w;
    for (int iy = v.y0; iy < v.y1; iy++)
        for (int ix = v.x0; ix < v.x1; ix++) sum = E_ADD(sum, x[iy * q.w + ix]);
    y[i] = E_DIV(sum, (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));
}
extern "C" __global__ void pool_share(float *y, uint64_t n, float count)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = E_DIV(y[i], count);
}

extern "C" __global__ void pool_avg_back(float *dx, const float *dy, Pool q)
{
    dl_index i, plane;
    int at, first = 0, end = q.oh, left = 0, right = q.ow;
    if (!place(q, q.h * q.w, &i, &plane, &at)) return;
    int y = at / q.w, x = at % q.w;
    float sum = 0;
    if (!q.adaptive) {
        holders(y, q.ph, q.kh, q.sh, q.oh, &first, &end);
        holders(x, q.pw, q.kw, q.sw, q.ow, &left, &right);
    }
    for (int oy = first; oy < end; oy++)
        for (int ox = left; ox < right; ox++) {
            Window v = window(q, oy, ox);
            if (y < v.y0 || y >= v.y1 || x < v.x0 || x >= v.x1) continue;
            float share = E_DIV(dy[(plane * q.oh + oy) * q.ow + ox], (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));
            sum = E_ADD(sum, share);
        }
    dx[i] = sum;
}
