/* Static bounds of W1 to W4 on a GPU (docs/cuda.md): how often a step calls the driver to launch, kernel by kernel and with what came again
   as a graph, the flops of its products, and the bytes that its launches read and write, each operand once a launch. No kernel runs: launches
   are counted instead. Needs a device, which may be the simulated one; prints the rows of the table there:
       make build/gpu_bounds && LD_LIBRARY_PATH=build/cudasim build/gpu_bounds */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "../dltrain_cuda.h"
#include "workloads.h"

static dl_context *ctx;
static long launches;
static double bytes;

static int count_launch(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
    void *stream, void **args, void **extra)
{
    (void)function, (void)gx, (void)gy, (void)gz, (void)bx, (void)by, (void)bz, (void)shared, (void)stream, (void)args, (void)extra;
    launches++;
    return 0;
}
static int count_graph(void *exec, void *stream) { return (void)exec, (void)stream, launches++, 0; }

static void add_memory(const dl_node *n)
{
    dl_index stride[DLTRAIN_MAX_DIMS];
    if (dl_device_strided(ctx, n, stride)) bytes += (double)n->numel * (n->dtype == DL_U8 ? 1 : 4);
}

static void add_launch(const dl_device_launch *l)
{
    for (int k = 0; k < l->count; k++) {
        const dl_node *y = l->node[k];
        for (int i = 0; i < y->n_in; i++) {
            bool inside = false; /* made in this launch: it comes from a register */
            for (int j = 0; j < k; j++) inside = inside || l->node[j] == y->in[i];
            if (y->in[i] && !inside) add_memory(y->in[i]);
        }
        add_memory(y);
        if (!k && l->accumulate) add_memory(y);
    }
}
static bool count_bytes(void *device, const dl_device_launch *l, size_t n)
{
    for (size_t i = 0; i < n; i++) add_launch(&l[i]);
    return dl__cuda_run(device, l, n);
}

/* Weights, gradients and the optimizer's state are read, and all but the gradients written. */
static bool count_update(void *device, const char *rule, const dl_device_update *u, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        int words = 3;
        for (int k = 0; k < 3; k++) words += u[i].s[k] ? 2 : 0;
        bytes += 4.0 * words * (double)u[i].n;
    }
    return dl__cuda_update(device, rule, u, n);
}

int main(void)
{
    dl_backend counting = *dl_cuda_backend();
    counting.run = count_bytes;
    counting.update = count_update;
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        const workload *w = &workloads[i];
        ctx = dl_create(&(dl_config){ .seed = 1, .threads = 1, .device = "cuda:0" });
        dl__cuda *d = (dl__cuda *)dl_device_of(ctx, dl_cuda_backend());
        if (!d) return fprintf(stderr, "gpu_bounds: %s\n", dl_error(ctx)), 1;
        d->driver.cuLaunchKernel = count_launch;
        d->driver.cuGraphLaunch = count_graph;
        ctx->backend = &counting;
        dl_optimizer *opt = w->optimizer(ctx);
        void *data = wl_data(w);
        enum { STEPS = 6 };
        long made[STEPS]; /* of the first steps each its own; the last is nothing new any more */
        for (int step = 0; step < STEPS; step++) {
            launches = 0;
            bytes = 0;
            wl_step(ctx, w, opt, data, step);
            made[step] = launches;
        }
        double flops = wl_flops(w) * w->samples;
        if (dl_failed(ctx)) return fprintf(stderr, "gpu_bounds: %s: %s\n", w->name, dl_error(ctx)), 1;
        printf("| %s | %ld | %ld | %.0f | %.1f | %.0f |\n", w->name, made[1], made[STEPS - 1], flops / 1e6, bytes / 1e6, flops / bytes);
        free(data);
        dl_destroy(ctx);
    }
    return 0;
}
