/* DataParallel: one program learns digits on several devices. Each batch is cut in chunks; the model, written for one device, is unchanged.

       cc -O2 examples/data_parallel.c -o data_parallel -lm -pthread && ./data_parallel --devices cpu,cpu
       ./data_parallel --devices cuda:0,cuda:1 */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef __linux__ /* cuda:0, ... */
#include "../dltrain_cuda.h"
#endif

#include <stdlib.h>
#include <string.h>

static const char *usage =
    "usage: data_parallel [options]\n"
    "  --devices LIST  each gets a chunk of every batch (cpu,cpu); cpu:2 is one with two threads, cuda:0 the first GPU\n"
    "  --output K      device of this program's context, which has parameters, outputs and loss: 0 is the first (0)\n"
    "  --loss WHERE    each: loss and gradient on every device (default); output: gather, then the loss on that device\n"
    "  --epochs N      (10)\n"
    "  --batch N       samples of a step, for all devices together (64)\n"
    "  --data DIR      folder of the digits (examples/data)\n"
    "  --help\n";

/* [N,1,8,8] -> [N,10] */
static dl_tensor net(dl_tensor x)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 16, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 64));
    return dl_linear(x, "fc2", 10);
}

static double accuracy(dl_context *ctx, dl_data_parallel *parallel, dl_loader *loader)
{
    size_t right = 0, all = 0;
    bool training = dl_train(ctx, false), recording = dl_set_grad(ctx, false);
    for (dl_batch b; dl_next(loader, &b); all += b.count) {
        dl_tensor y = dl_argmax(dl_data_parallel_forward(parallel, b.x), 1, false);
        right += (size_t)dl_item(dl_sum(dl_eq(dl_to_float(y), dl_to_float(b.y))));
    }
    dl_train(ctx, training);
    dl_set_grad(ctx, recording);
    return all ? 100.0 * (double)right / (double)all : 0;
}

static dl_dataset *digits(dl_context *ctx, const char *dir, const char *part)
{
    char images[1024], labels[1024];
    snprintf(images, sizeof images, "%s/digits-%s-images.idx", dir, part);
    snprintf(labels, sizeof labels, "%s/digits-%s-labels.idx", dir, part);
    return dl_open_idx(ctx, images, labels);
}

/* Number k of the list, for a context. */
static const char *device(const char *list, int k)
{
    static char name[32];
    for (; k && list; k--) list = strchr(list, ',') ? strchr(list, ',') + 1 : NULL;
    return list && !strncmp(list, "cuda", 4) && sscanf(list, "%31[^,]", name) ? name : "cpu";
}

int main(int argc, char **argv)
{
    const char *devices = "cpu,cpu", *where = "each", *dir = "examples/data";
    int epochs = 10, batch = 64, output = 0;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!strcmp(name, "--help")) return fputs(usage, stdout), 0;
        const char **text = !strcmp(name, "--devices") ? &devices : !strcmp(name, "--loss") ? &where : !strcmp(name, "--data") ? &dir : NULL;
        int *number = !strcmp(name, "--epochs") ? &epochs : !strcmp(name, "--batch") ? &batch : !strcmp(name, "--output") ? &output : NULL;
        if (!value || (!text && !number)) return fprintf(stderr, "data_parallel: what is '%s'?\n%s", name, usage), 2;
        i++;
        if (text) *text = value;
        else *number = atoi(value);
        if (number && *number < (number != &output)) return fprintf(stderr, "data_parallel: %s needs a whole number, not '%s'\n", name, value), 2;
    }
    bool each = !strcmp(where, "each");
    if (!each && strcmp(where, "output")) return fprintf(stderr, "data_parallel: --loss is each or output, not '%s'\n", where), 2;

    dl_context *ctx = dl_create(&(dl_config){ .seed = 1, .threads = 1, .device = device(devices, output) });
    dl_loader *train = dl_loader_create(digits(ctx, dir, "train"), &(dl_loader_desc){ .batch = (size_t)batch, .shuffle = true });
    dl_loader *test = dl_loader_create(digits(ctx, dir, "test"), &(dl_loader_desc){ .batch = 100 });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = 2e-3f });
    dl_data_parallel *parallel = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = devices, .output = output, .model = net });
    for (int epoch = 1; epoch <= epochs && !dl_failed(ctx); epoch++) {
        double loss = 0, sum = 0;
        size_t seen = 0;
        for (dl_batch b; dl_next(train, &b); seen += b.count) {
            if (each) dl_data_parallel_backward(parallel, b.x, b.y, &loss);
            else {
                dl_tensor mean = dl_cross_entropy(dl_data_parallel_forward(parallel, b.x), b.y);
                dl_backward(mean);
                loss = dl_item(mean);
            }
            dl_step(opt);
            sum += loss * (double)b.count;
        }
        if (!dl_failed(ctx)) printf("epoch %2d/%d  loss %.4f\n", epoch, epochs, sum / (double)seen);
    }
    double score = accuracy(ctx, parallel, test);
    bool failed = dl_failed(ctx);
    if (failed) fprintf(stderr, "data_parallel: %s\n", dl_error(ctx));
    else printf("test accuracy %.2f%% on %s\n", score, devices);
    dl_destroy(ctx);
    return failed;
}
