/* Gradient accumulation: a batch of 256 at once, and as 8 micro-batches of 32. The same gradient, a fraction of the memory.

       cc -O2 examples/accumulate.c -o accumulate -lm -pthread && ./accumulate */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"

#include <stdlib.h>
#include <string.h>

static const char *usage =
    "usage: accumulate [options]\n"
    "  --batch N      samples of a step (256)\n"
    "  --micro N      samples of a micro-batch (32); the last may be smaller\n"
    "  --data FILES   images.idx,labels.idx (the shipped UCI digits)\n"
    "  --help\n";

/* [N,1,H,W] -> [N,10] */
static dl_tensor net(dl_tensor x)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 32, .kernel = 3, .padding = 1 }));
    x = dl_relu(dl_conv2d(x, "conv2", &(dl_conv2d_desc){ .out_channels = 32, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    return dl_linear(dl_flatten(x, 1), "fc", 10);
}

/* The gradient of the mean loss over the first `batch` samples, in a context of its own. */
static dl_context *gradient(const char *images, const char *labels, size_t batch, size_t micro)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = 1 });
    dl_loader *loader = dl_loader_create(dl_open_idx(ctx, images, labels), &(dl_loader_desc){ .batch = micro });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.1f });
    /* one micro-batch more than there are: the window stays open, so that the gradient can be looked at before the step */
    dl_accumulator *acc = dl_accumulator_create(opt, &(dl_accumulator_desc){ .steps = (int)((batch + micro - 1) / micro) + 1 });
    size_t done = 0;
    for (dl_batch b; done < batch && dl_next(loader, &b); done += b.count) dl_accumulate(acc, dl_cross_entropy(net(b.x), b.y), b.count);
    dl_scale_grad(ctx, 1.0 / (double)done); /* what closing the window does: the sum over the count */
    return ctx;
}

static double difference(dl_context *a, dl_context *b)
{
    double d = 0, norm = 0;
    dl_param_info p, q;
    for (int i = 0; i < dl_param_count(a) && dl_param_get(a, i, &p) && dl_param_find(b, p.name, &q); i++)
        for (size_t k = 0; k < p.numel; k++) {
            d += ((double)p.grad[k] - (double)q.grad[k]) * ((double)p.grad[k] - (double)q.grad[k]);
            norm += (double)p.grad[k] * (double)p.grad[k];
        }
    return sqrt(d / norm);
}

static void report(const char *what, dl_context *ctx)
{
    dl_memory m = dl_memory_used(ctx);
    printf("%-24s %8.1f KiB of values, %8.1f KiB in all\n", what, (double)m.work / 1024, (double)(m.work + m.tape + m.persistent) / 1024);
}

int main(int argc, char **argv)
{
    size_t batch = 256, micro = 32;
    char images[1024] = "examples/data/digits-train-images.idx", labels[1024] = "examples/data/digits-train-labels.idx";
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(argv[i], "--help")) return fputs(usage, stdout), 0;
        size_t *size = !strcmp(argv[i], "--batch") ? &batch : !strcmp(argv[i], "--micro") ? &micro : NULL;
        if (!value || (!size && strcmp(argv[i], "--data"))) return fprintf(stderr, "accumulate: what is '%s'?\n%s", argv[i], usage), 2;
        i++;
        if (!size) {
            if (sscanf(value, "%1023[^,],%1023s", images, labels) != 2) return fprintf(stderr, "accumulate: --data needs two files, as a.idx,b.idx\n"), 2;
            continue;
        }
        long n = strtol(value, NULL, 10);
        if (n < 1 || n > 100000) return fprintf(stderr, "accumulate: %s needs a whole number, not '%s'\n", argv[i - 1], value), 2;
        *size = (size_t)n;
    }
    char text[64];
    dl_context *whole = gradient(images, labels, batch, batch), *parts = gradient(images, labels, batch, micro);
    int failed = dl_failed(whole) || dl_failed(parts);
    if (failed) fprintf(stderr, "accumulate: %s\n", dl_failed(whole) ? dl_error(whole) : dl_error(parts));
    else {
        snprintf(text, sizeof text, "1 batch of %zu:", batch);
        report(text, whole);
        snprintf(text, sizeof text, "%zu micro-batches of %zu:", (batch + micro - 1) / micro, micro);
        report(text, parts);
        printf("relative difference of the gradients: %.1e\n", difference(whole, parts));
    }
    dl_destroy(whole);
    dl_destroy(parts);
    return failed;
}
