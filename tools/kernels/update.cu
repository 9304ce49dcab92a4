// Optimizers, in the arithmetic of >>optimizers: blockIdx.y is a parameter of the list.
struct Update { float *p, *g, *s[3]; uint64_t n; float h[10]; };
#define EACH(i) for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < u.n; i += (uint64_t)gridDim.x * blockDim.x)

extern "C" __global__ void update_sgd(const Update *list)
{
    Update u = list[blockIdx.y];
    float lr = u.h[0], momentum = u.h[1], keep = u.h[2], decay = u.h[3], first = u.h[5];
    bool nesterov = u.h[4] != 0;
    EACH(i) {
        float x = u.p[i], d = u.g[i];
        if (decay != 0) d = E_ADD(d, E_MUL(decay, x));
        if (u.s[0]) {
            float buffer = first != 0 && nesterov ? d
                : first != 0                      ? E_ADD(E_MUL(0.0f, u.s[0][i]), E_MUL(1.0f, d))
                                                  : E_ADD(E_MUL(momentum, u.s[0][i]), E_MUL(keep, d));
            u.s[0][i] = buffer;
            d = nesterov ? E_ADD(d, E_MUL(momentum, buffer)) : buffer;
        }
        u.p[i] = E_SUB(x, E_MUL(lr, d));
    }
}

extern "C" __global__ void update_adam(const Update *list)
{
    Update u = list[blockIdx.y];
    float rate = u.h[0], b1 = u.h[1], c1 = u.h[2], b2 = u.h[3], c2 = u.h[4], root = u.h[5], eps = u.h[6], decay = u.h[7], shrink = u.h[8];
    EACH(i) {
        float x = u.p[i], d = u.g[i];
        if (shrink != 1) x = E_MUL(x, shrink);
        if (decay != 0) d = E_ADD(d, E_MUL(decay, x));
        float m = E_ADD(E_MUL(b1, u.s[0][i]), E_MUL(c1, d)), v = E_ADD(E_MUL(b2, u.s[1][i]), E_MUL(E_MUL(c2, d), d));
        u.s[0][i] = m;
        u.s[1][i] = v;
        u.p[i] = E_SUB(x, E_DIV(E_MUL(rate, m), E_ADD(E_DIV(E_SQRT(v), root), eps)));
    }
}

extern "C" __global__ void update_rmsprop(const Update *list)
{
    Update u = list[blockIdx.y];
    float lr = u.h[0], alpha = u.h[1], eps = u.h[2], decay = u.h[3], momentum = u.h[4], rest = E_SUB(1.0f, alpha);
    EACH(i) {
        float x = u.p[i], g = E_ADD(u.g[i], E_MUL(decay, x));
        float v = E_ADD(E_MUL(alpha, u.s[0][i]), E_MUL(E_MUL(rest, g), g)), d = v;
        u.s[0][i] = v;
        if (u.s[2]) {
            float mean = E_ADD(E_MUL(alpha, u.s[2][i]), E_MUL(rest, g));
            u.s[2][i] = mean;
            d = E_SUB(v, E_MUL(mean, mean));
        }
        d = E_DIV(g, E_ADD(E_SQRT(d), eps));
        if (u.s[1]) d = u.s[1][i] = E_ADD(E_MUL(momentum, u.s[1][i]), d);
        u.p[i] = E_SUB(x, E_MUL(lr, d));
    }
}

// Gradients of replicas: x [parts][n], of which the first becomes the sum, in the order of dl__tree
extern "C" __global__ void sum_parts(float *x, int parts, uint64_t n)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)
        for (int apart = 1; apart < parts; apart *= 2)
            for (int r = 0; r + apart < parts; r += 2 * apart) x[r * n + i] = E_ADD(x[r * n + i], x[(r + apart) * n + i]);
}

extern "C" __global__ void update_scale(const Update *list)
{
    Update u = list[blockIdx.y];
    EACH(i) u.g[i] = E_MUL(u.g[i], u.h[0]);
}
extern "C" __global__ void update_clamp(const Update *list)
{
    Update u = list[blockIdx.y];
    float high = u.h[0];
    EACH(i) u.g[i] = u.g[i] > high ? high : u.g[i] < -high ? -high : u.g[i];
}
