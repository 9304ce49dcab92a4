/* The program whose size and build time `make bench` tells: W2 as a user would train it. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "workloads.h"

int main(void)
{
    static const workload w = WL_W2;
    dl_context *ctx = dl_create(&(dl_config){ .seed = 1 });
    dl_optimizer *opt = w.optimizer(ctx);
    void *data = wl_data(&w);
    for (int i = 0; i < 100; i++) wl_step(ctx, &w, opt, data, i);
    int failed = dl_failed(ctx);
    if (failed) fprintf(stderr, "%s\n", dl_error(ctx));
    free(data);
    dl_destroy(ctx);
    return failed;
}
