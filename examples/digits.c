/* Learn handwritten digits: a convolutional network on the UCI digits (shipped), MNIST or Fashion-MNIST.

       cc -O2 examples/digits.c -o digits -lm -pthread && ./digits

   Same options, same bytes in the checkpoint, whatever the number of threads; on several devices, whatever they are. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef __linux__ /* --device cuda:0 or cuda:0,cuda:1 */
#include "../dltrain_cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct options {
    const char *data, *save, *load, *device;
    int epochs, batch, accumulate, threads;
    float lr;
    uint64_t seed;
} options;

static const char *usage =
    "usage: digits [options]\n"
    "  --data DIR      folder of IDX files (default examples/data, the shipped UCI digits):\n"
    "                  train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte,\n"
    "                  t10k-labels-idx1-ubyte, as MNIST and Fashion-MNIST name them, gunzipped\n"
    "  --epochs N      passes over the training set (40; 5 for images of 28 x 28)\n"
    "  --batch N       samples of a micro-batch (32; 64 for images of 28 x 28)\n"
    "  --accumulate N  micro-batches of a step (1)\n"
    "  --lr X          learning rate of Adam (0.001)\n"
    "  --seed N        of initial weights and shuffling (1)\n"
    "  --threads N     0: one a CPU (0)\n"
    "  --device NAME   cpu, or cuda:0 for the first GPU, cuda:1, ... (cpu); cuda:0,cuda:1: a chunk of each batch to each\n"
    "  --save FILE     write the trained network as safetensors, its curves beside it as .svg and .csv\n"
    "  --load FILE     start from such a file\n"
    "  --help\n";

static bool parse(int argc, char **argv, options *o)
{
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        char *end = NULL;
        if (!strcmp(name, "--help")) {
            fputs(usage, stdout);
            exit(0);
        }
        if (strncmp(name, "--", 2)) return fprintf(stderr, "digits: what is '%s'?\n%s", name, usage), false;
        if (!value) return fprintf(stderr, "digits: %s needs a value\n", name), false;
        i++;
        if (!strcmp(name, "--data")) { o->data = value; continue; }
        if (!strcmp(name, "--save")) { o->save = value; continue; }
        if (!strcmp(name, "--load")) { o->load = value; continue; }
        if (!strcmp(name, "--device")) { o->device = value; continue; }
        if (!strcmp(name, "--lr")) {
            o->lr = strtof(value, &end);
            if (*end || !(o->lr > 0)) return fprintf(stderr, "digits: --lr needs a number above 0, not '%s'\n", value), false;
            continue;
        }
        if (!strcmp(name, "--seed")) {
            o->seed = strtoull(value, &end, 10);
            if (*end || *value == '-') return fprintf(stderr, "digits: --seed needs a whole number, not '%s'\n", value), false;
            continue;
        }
        int *count = !strcmp(name, "--epochs") ? &o->epochs : !strcmp(name, "--batch") ? &o->batch :
            !strcmp(name, "--accumulate") ? &o->accumulate : !strcmp(name, "--threads") ? &o->threads : NULL;
        if (!count) return fprintf(stderr, "digits: there is no option %s\n%s", name, usage), false;
        long n = strtol(value, &end, 10);
        if (*end || n < (count == &o->threads ? 0 : 1) || n > 1000000)
            return fprintf(stderr, "digits: %s needs a whole number, not '%s'\n", name, value), false;
        *count = (int)n;
    }
    return true;
}

/* [N,1,8,8] -> [N,10] */
static dl_tensor small_net(dl_tensor x)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 16, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 64));
    return dl_linear(x, "fc2", 10);
}

/* [N,1,28,28] -> [N,10] */
static dl_tensor large_net(dl_tensor x)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 32, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_conv2d(x, "conv2", &(dl_conv2d_desc){ .out_channels = 64, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 128));
    return dl_linear(x, "fc2", 10);
}

static dl_tensor net(dl_tensor x)
{
    return dl_dim(x, 2) > 8 ? large_net(x) : small_net(x);
}

static double accuracy(dl_context *ctx, dl_data_parallel *model, dl_loader *loader)
{
    size_t right = 0, all = 0;
    bool training = dl_train(ctx, false), recording = dl_set_grad(ctx, false);
    for (dl_batch b; dl_next(loader, &b); all += b.count) {
        dl_tensor hits = dl_eq(dl_to_float(dl_argmax(dl_data_parallel_forward(model, b.x), 1, false)), dl_to_float(b.y));
        right += (size_t)dl_item(dl_sum(hits));
    }
    dl_train(ctx, training);
    dl_set_grad(ctx, recording);
    return all ? 100.0 * (double)right / (double)all : 0;
}

static dl_dataset *open_part(dl_context *ctx, const char *dir, bool train)
{
    static const char *names[2][2][2] = {
        { { "digits-test-images.idx", "digits-test-labels.idx" }, { "digits-train-images.idx", "digits-train-labels.idx" } },
        { { "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte" }, { "train-images-idx3-ubyte", "train-labels-idx1-ubyte" } },
    };
    char images[1024], labels[1024];
    snprintf(images, sizeof images, "%s/%s", dir, names[0][train][0]);
    FILE *own = fopen(images, "rb");
    int set = own ? 0 : 1;
    if (own) fclose(own);
    snprintf(images, sizeof images, "%s/%s", dir, names[set][train][0]);
    snprintf(labels, sizeof labels, "%s/%s", dir, names[set][train][1]);
    return dl_open_idx(ctx, images, labels);
}

static void beside(char *out, size_t size, const char *file, const char *extension)
{
    const char *dot = strrchr(file, '.'), *slash = strrchr(file, '/');
    int stem = dot && (!slash || dot > slash) ? (int)(dot - file) : (int)strlen(file);
    snprintf(out, size, "%.*s%s", stem, file, extension);
}

static double train(dl_context *ctx, options *o)
{
    dl_dataset *data = open_part(ctx, o->data, true), *held_out = open_part(ctx, o->data, false);
    if (dl_failed(ctx)) return 0;
    bool large = dl_dataset_x_shape(data).dim[1] > 8;
    if (!o->epochs) o->epochs = large ? 5 : 40;
    if (!o->batch) o->batch = large ? 64 : 32;

    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = (size_t)o->batch, .shuffle = true });
    dl_loader *test = dl_loader_create(held_out, &(dl_loader_desc){ .batch = 100 });
    dl_data_parallel *model = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = o->device, .model = net });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = o->lr });
    dl_accumulator *acc = dl_accumulator_create(opt, &(dl_accumulator_desc){ .steps = o->accumulate });
    dl_history *curves = dl_history_create(ctx);
    if (o->load) dl_load(ctx, o->load);
    printf("%zu samples to learn from, %zu held out\n", dl_dataset_count(data), dl_dataset_count(held_out));

    dl_progress line = { 0 };
    double score = 0;
    for (int epoch = 1; epoch <= o->epochs && !dl_failed(ctx); epoch++) {
        double sum = 0;
        size_t seen = 0;
        for (dl_batch b; dl_next(loader, &b);) {
            dl_tensor loss = dl_cross_entropy(dl_data_parallel_forward(model, b.x), b.y);
            dl_accumulate(acc, loss, b.count);
            sum += dl_item(loss) * (double)b.count;
            seen += b.count;
            dl_progress_show(&line, "epoch %2d/%d  %3zu%%  loss %.4f", epoch, o->epochs, 100 * seen / dl_dataset_count(data), sum / (double)seen);
        }
        dl_accumulator_flush(acc);
        score = accuracy(ctx, model, test);
        if (dl_failed(ctx)) break;
        dl_history_add(curves, "training loss", epoch, sum / (double)seen);
        dl_history_add(curves, "test error", epoch, 1 - score / 100);
        dl_progress_done(&line, "epoch %2d/%d  loss %.4f  test accuracy %.2f%%", epoch, o->epochs, sum / (double)seen, score);
    }
    if (o->save && !dl_failed(ctx)) {
        char path[1024];
        dl_save(ctx, o->save);
        beside(path, sizeof path, o->save, ".csv");
        dl_history_csv(curves, path);
        beside(path, sizeof path, o->save, ".svg");
        dl_history_svg(curves, path, "Learning digits, over the epochs");
        if (!dl_failed(ctx)) printf("wrote %s, its curves to %s\n", o->save, path);
    }
    return score;
}

int main(int argc, char **argv)
{
    options o = { .data = "examples/data", .accumulate = 1, .lr = 1e-3f, .seed = 1 };
    if (!parse(argc, argv, &o)) return 2;
    char first[64] = ""; /* of the devices: the parameters live there */
    if (o.device) snprintf(first, sizeof first, "%.*s", (int)strcspn(o.device, ","), o.device);
    dl_context *ctx = dl_create(&(dl_config){ .seed = o.seed, .threads = o.threads, .device = o.device ? first : NULL });
    double score = train(ctx, &o);
    bool failed = dl_failed(ctx);
    if (failed) fprintf(stderr, "digits: %s\n", dl_error(ctx));
    else printf("test accuracy %.2f%%\n", score);
    dl_destroy(ctx);
    return failed;
}
