// The totals of parts of k, added in order: what a product does that was cut by k.
extern "C" __global__ void join(Work w, float *y, const float *bias, int accumulate)
{
    uint64_t size = (uint64_t)w.m * w.n, i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < w.batches * size) finish(y + i, work_joined(w, i / size, i % size), bias, (dl_index)(i % w.n), accumulate);
}
