// Pooling of planes. A thread makes one number of the result, from the numbers that it is made of in the order of the rules.
struct Pool { dl_index n, c, h, w, o, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, groups, adaptive; };
struct Window { dl_index y0, y1, x0, x1; };

static Window window(const Pool &q, dl_index oy, dl_index ox) // within the image
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
static dl_index greatest(const Pool &q, const float *x, dl_index oy, dl_index ox)
{
    Window v = window(q, oy, ox);
    dl_index best = v.y0 * q.w + v.x0;
    for (dl_index iy = v.y0; iy < v.y1; iy++)
        for (dl_index ix = v.x0; ix < v.x1; ix++) {
            float a = x[best], b = x[iy * q.w + ix];
            if (a == a && !(b <= a)) best = iy * q.w + ix;
        }
    return best;
}

// y = v where x is greatest
extern "C" __global__ void pool_pick(float *y, const float *x, const float *v, Pool q)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x, size = q.oh * q.ow;
    if (i >= q.n * q.c * size) return;
    dl_index plane = i / size * q.h * q.w;
    y[i] = v[plane + greatest(q, x + plane, i % size / q.ow, i % q.ow)];
}

// The windows that hold row or column i, of n: they begin at o * stride - pad and are `kernel` wide
static void holders(dl_index i, dl_index pad, dl_index kernel, dl_index stride, dl_index n, dl_index *first, dl_index *end)
{
    dl_index low = i + pad - kernel + 1;
    *first = low > 0 ? (low + stride - 1) / stride : 0;
    *end = (i + pad) / stride + 1 < n ? (i + pad) / stride + 1 : n;
}

// dx = the sum of dy over the windows whose greatest this is; windows of 2 x 2 side by side are alone
extern "C" __global__ void pool_spread(float *dx, const float *x, const float *dy, Pool q)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x, size = q.h * q.w;
    if (i >= q.n * q.c * size) return;
    dl_index plane = i / size, at = i % size, oy, ey, first, end;
    bool alone = q.kh == 2 && q.kw == 2 && q.sh == 2 && q.sw == 2 && !q.ph && !q.pw;
    float sum = 0;
    holders(at / q.w, q.ph, q.kh, q.sh, q.oh, &oy, &ey);
    holders(at % q.w, q.pw, q.kw, q.sw, q.ow, &first, &end);
    for (; oy < ey; oy++)
        for (dl_index ox = first; ox < end; ox++)
            if (greatest(q, x + plane * size, oy, ox) == at) {
                float g = dy[(plane * q.oh + oy) * q.ow + ox];
                sum = alone ? g : E_ADD(sum, g);
            }
    dx[i] = sum;
}

// The mean of a window, but of one that is the whole plane: that is a sum by rule 5, see pool_share
extern "C" __global__ void pool_avg(float *y, const float *x, Pool q)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x, size = q.oh * q.ow;
    if (i >= q.n * q.c * size) return;
    Window v = window(q, i % size / q.ow, i % q.ow);
    float sum = 0;
    x += i / size * q.h * q.w;
    for (dl_index iy = v.y0; iy < v.y1; iy++)
        for (dl_index ix = v.x0; ix < v.x1; ix++) sum = E_ADD(sum, x[iy * q.w + ix]);
    y[i] = E_DIV(sum, (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));
}
extern "C" __global__ void pool_share(float *y, uint64_t n, float count)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = E_DIV(y[i], count);
}

extern "C" __global__ void pool_avg_back(float *dx, const float *dy, Pool q)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x, size = q.h * q.w;
    if (i >= q.n * q.c * size) return;
    dl_index plane = i / size, y = i % size / q.w, x = i % q.w, first = 0, end = q.oh, left = 0, right = q.ow;
    float sum = 0;
    if (!q.adaptive) {
        holders(y, q.ph, q.kh, q.sh, q.oh, &first, &end);
        holders(x, q.pw, q.kw, q.sw, q.ow, &left, &right);
    }
    for (dl_index oy = first; oy < end; oy++)
        for (dl_index ox = left; ox < right; ox++) {
            Window v = window(q, oy, ox);
            if (y < v.y0 || y >= v.y1 || x < v.x0 || x >= v.x1) continue;
            float share = E_DIV(dy[(plane * q.oh + oy) * q.ow + ox], (float)(q.adaptive ? (v.y1 - v.y0) * (v.x1 - v.x0) : q.kh * q.kw));
            sum = E_ADD(sum, share);
        }
    dx[i] = sum;
}
