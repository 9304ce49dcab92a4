// Copies with strides, and what looks by index. An index out of range is told in *bad, as place << 32 | index of the first.
struct Strided { int ndim; uint32_t dim[8]; dl_index from[8], to[8]; };

template <typename I, typename T> static void strided(T *y, const T *x, const Strided &s, I n)
{
    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {
        dl_index from = 0, to = 0;
        I left = i;
        for (int d = s.ndim - 1; d >= 0; d--) {
            uint32_t at = (uint32_t)(d ? left % s.dim[d] : left);
            left /= s.dim[d];
            from += at * s.from[d];
            to += at * s.to[d];
        }
        y[to] = x[from];
    }
}
extern "C" __global__ void strided_4(uint32_t *y, const uint32_t *x, Strided s, uint64_t n)
{
    if (n >> 31) strided<uint64_t>(y, x, s, n);
    else strided<uint32_t>(y, x, s, (uint32_t)n); // a 64-bit division takes as long as ten
}
extern "C" __global__ void strided_1(uint8_t *y, const uint8_t *x, Strided s, uint64_t n)
{
    if (n >> 31) strided<uint64_t>(y, x, s, n);
    else strided<uint32_t>(y, x, s, (uint32_t)n);
}

extern "C" __global__ void fill_4(uint32_t *y, uint32_t v, uint64_t n)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) y[i] = v;
}
extern "C" __global__ void fill_1(uint8_t *y, uint32_t v, uint64_t n)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) y[i] = (uint8_t)v;
}

static bool in_range(int index, dl_index least, dl_index rows, uint64_t at, uint64_t *bad)
{
    if (index >= least && index < rows) return true;
    atomicMin(bad, at << 32 | (uint32_t)index);
    return false;
}

// Looks at all n of them. except: one that is allowed besides
extern "C" __global__ void check_indices(const int *index, uint64_t n, dl_index least, dl_index rows, dl_index except, uint64_t *bad)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)
        if (index[i] != except) in_range(index[i], least, rows, i, bad);
}

// y[o][k][i] = x[o][index[k]][i], or EACH: x[o][index[o][k][i]][i]; bytes `size` an element, 0 for an index of -1
template <bool EACH, typename I> static void pick(uint8_t *y, const uint8_t *x, const int *index, I n, uint64_t rows, I inner, I picks,
    uint32_t size)
{
    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {
        I c = i % inner, line = i / inner;
        uint32_t row = (uint32_t)index[EACH ? i : line % picks];
        uint64_t from = (line / picks * rows + row) * inner + c;
        if (size == 4) ((uint32_t *)y)[i] = row < rows ? ((const uint32_t *)x)[from] : 0;
        else y[i] = row < rows ? x[from] : 0;
    }
}
#define PICK(name, each) \
    extern "C" __global__ void name(uint8_t *y, const uint8_t *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner, \
        uint64_t picks, uint32_t size) \
    { \
        uint64_t n = outer * picks * inner; \
        if (n >> 31) pick<each>(y, x, index, n, rows, inner, picks, size); \
        else pick<each>(y, x, index, (uint32_t)n, rows, (uint32_t)inner, (uint32_t)picks, size); \
    }
PICK(index_select, false)
PICK(gather, true)

// y[o][row][i] = the sum of x[o][k][i] over the k whose index[k] is `row`, in their order: a warp a row and 128 of its numbers
extern "C" __global__ void index_add(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,
    uint64_t picks)
{
    uint64_t unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / 32, row = unit % rows, o = unit / rows;
    uint32_t lane = threadIdx.x % 32;
    if (o >= outer) return;
    for (uint64_t first = (uint64_t)blockIdx.y * 128 + lane; first - lane < inner; first += (uint64_t)gridDim.y * 128) {
        float sum[4] = { 0, 0, 0, 0 };
        for (uint64_t k0 = 0; k0 < picks; k0 += 32) {
            uint32_t found = __ballot_sync(0xffffffffu, k0 + lane < picks && (uint64_t)index[k0 + lane] == row);
            for (; found; found &= found - 1) {
                const float *from = x + (o * picks + k0 + __popc((found & -found) - 1)) * inner;
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (first + 32 * j < inner) sum[j] = E_ADD(sum[j], from[first + 32 * j]);
            }
        }
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (first + 32 * j < inner) y[(o * rows + row) * inner + first + 32 * j] = sum[j];
    }
}

// y[o][row][i] = the sum of x[o][k][i] over the k whose index[o][k][i] is `row`, in their order. Of few k: a thread a number; of many:
// a thread for all rows, which are 0 before
extern "C" __global__ void scatter_add(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,
    uint64_t picks)
{
    uint64_t n = outer * rows * inner;
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t row = i / inner % rows, at = i / inner / rows * picks * inner + i % inner;
        float sum = 0;
        for (uint64_t k = 0; k < picks; k++, at += inner)
            if ((uint64_t)index[at] == row) sum = E_ADD(sum, x[at]);
        y[i] = sum;
    }
}
extern "C" __global__ void scatter_add_many(float *y, const float *x, const int *index, uint64_t outer, uint64_t rows, uint64_t inner,
    uint64_t picks)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * inner) return;
    uint64_t o = i / inner, c = i % inner;
    float *to = y + o * rows * inner + c;
    for (uint64_t k = 0; k < picks; k++) {
        uint64_t from = (o * picks + k) * inner + c;
        if ((uint32_t)index[from] < rows) to[index[from] * inner] = E_ADD(to[index[from] * inner], x[from]);
    }
}

extern "C" __global__ void one_hot(float *y, const int *x, uint64_t n, uint64_t classes)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n * classes; i += (uint64_t)gridDim.x * blockDim.x)
        y[i] = (uint64_t)x[i / classes] == i % classes ? 1.0f : 0.0f;
}

extern "C" __global__ void targets(int *y, const int *x, uint64_t n, int ignored)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] == ignored ? 0 : x[i];
}
extern "C" __global__ void target_weights(float *y, const int *x, const float *weight, uint64_t n, int ignored, uint64_t classes)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] == ignored || (uint32_t)x[i] >= classes ? 0.0f : weight ? weight[x[i]] : 1.0f;
}

// Segments of rows, offset[s] .. offset[s + 1] each
// Do the offsets rise from 0 to rows? The first that does not is told as place << 32 | offset. In no bag may be nothing: place 2^31 + bag.
extern "C" __global__ void check_offsets(const int *offset, uint64_t segments, dl_index rows, int bags, uint64_t *bad)
{
    for (uint64_t s = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; s <= segments; s += (uint64_t)gridDim.x * blockDim.x)
        if ((s == 0 && offset[0] != 0) || (s && offset[s] < offset[s - 1]) || (s == segments && offset[s] != rows))
            atomicMin(bad, s << 32 | (uint32_t)offset[s]);
        else if (bags && s && offset[s] == offset[s - 1])
            atomicMin(bad, (s - 1) << 32 | 1ull << 63 | (uint32_t)offset[s]);
}
extern "C" __global__ void segment_spread(float *y, const float *x, const int *offset, uint64_t segments, uint64_t rows, uint64_t inner)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < rows * inner; i += (uint64_t)gridDim.x * blockDim.x) {
        int row = (int)(i / inner);
        uint64_t low = 0, high = segments; // the last segment that begins at or before the row, and is not empty
        while (high - low > 1) {
            uint64_t mid = (low + high) / 2;
            if (offset[mid] <= row) low = mid;
            else high = mid;
        }
        y[i] = x[low * inner + i % inner];
    }
}
extern "C" __global__ void segment_inverse(float *y, const int *offset, uint64_t segments)
{
    uint64_t s = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (s < segments) y[s] = offset[s + 1] > offset[s] ? E_DIV(1.0f, (float)(offset[s + 1] - offset[s])) : 0.0f;
}
extern "C" __global__ void segment_argmax(int *y, const float *x, const int *offset, uint64_t segments, uint64_t inner)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= segments * inner) return;
    uint64_t s = i / inner, c = i % inner;
    int best = offset[s] < offset[s + 1] ? offset[s] : -1;
    for (int k = offset[s] + 1; k < offset[s + 1]; k++) {
        float a = x[best * inner + c], b = x[k * inner + c];
        if (a == a && !(b <= a)) best = k;
    }
    y[i] = best;
}
