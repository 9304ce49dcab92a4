/* Learning from image files: writes a set of digits as PNG files, one folder a class, and learns them three times with the same network: from the IDX
   files, from the PNG files of a list in the same order (the same bits), and from the folder (the same images in another order). Files are
   decoded by the loader's threads while the network learns.

       cc -O2 examples/image_folder.c -o image_folder -lm -pthread && ./image_folder       needs stb_image.h: apt-get install libstb-dev

   Your own images: put those to learn from into DIR/train/CLASS/, those to test on into DIR/test/CLASS/, and say --images DIR.
   JPEG, too, with -DDLTRAIN_JPEG and a stb_image.h of version 2.30 or newer. */
#define STB_IMAGE_IMPLEMENTATION
#ifndef DLTRAIN_JPEG /* Debian's stb_image 2.27 is safe for PNG alone, and dltrain gives it nothing else */
#define STBI_ONLY_PNG
#endif
#include <stb/stb_image.h>
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"
#include <sys/stat.h>

static const char *usage =
    "usage: image_folder [options]\n"
    "  --set NAME      digits (shipped; the default), mnist, fashion-mnist\n"
    "  --data DIR      where DIR/mnist and the like are (default: the environment variable DLTRAIN_DATA); packed files are fine\n"
    "  --images DIR    learn your own images from DIR/train and DIR/test instead, resized to --side\n"
    "  --side N        (32)\n"
    "  --skip-bad      leave out files that are no images, instead of stopping at the first\n"
    "  --size N        images to learn from (all; of MNIST 2000), and to test on (all; of MNIST 1000)\n"
    "  --epochs N      (20)\n"
    "  --seeds N       (3)\n"
    "  --threads N     that decode, and that compute (2)\n"
    "  --out PREFIX    PREFIX.csv, PREFIX.svg, PREFIX.safetensors, and the images below PREFIX-png (image_folder)\n";

enum { FROM_IDX, FROM_LIST, FROM_FOLDER, SOURCES };
static const char *const source_names[SOURCES] = { "IDX files", "list of PNG files", "folder of PNG files" };

typedef struct settings { const lab_set *set; const char *data, *images, *out; int side, size, epochs, seeds, threads; bool skip_bad; } settings;

static dl_tensor net(dl_tensor x, const void *user)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 16, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_conv2d(x, "conv2", &(dl_conv2d_desc){ .out_channels = 32, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    return dl_linear(dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 64)), "fc2", *(const int *)user);
}

static dl_dataset *part_of_set(dl_context *ctx, const settings *s, bool train)
{
    return lab_chosen(lab_open_set(ctx, s->set, s->data, train), s->size ? (size_t)s->size / (train ? 1 : 2) : 0, 0);
}

/* Writes the images of one part below PREFIX-png, one folder a class, and a list of them in their order. */
static bool write_images(const settings *s, bool train)
{
    char path[1200], list[1200];
    const char *part = train ? "train" : "test";
    dl_context *ctx = dl_create(NULL);
    dl_dataset *data = part_of_set(ctx, s, train);
    dl_loader *loader = dl_loader_create(data, NULL);
    dl_shape shape = dl_dataset_x_shape(data);
    snprintf(path, sizeof path, "%s-png", s->out);
    mkdir(path, 0777);
    snprintf(list, sizeof list, "%s-png/%s.txt", s->out, part);
    snprintf(path, sizeof path, "%s-png/%s", s->out, part);
    mkdir(path, 0777);
    FILE *f = fopen(list, "w");
    bool ok = f != NULL;
    uint8_t *bytes = (uint8_t *)malloc((size_t)(shape.dim[1] * shape.dim[2]) + 1);
    for (dl_batch b; ok && dl_next(loader, &b);) {
        const dl_real *x = (const dl_real *)dl_data(b.x);
        int label = (int)dl_item(b.y), h = (int)shape.dim[1], w = (int)shape.dim[2];
        for (int i = 0; i < h * w; i++) bytes[i] = (uint8_t)(x[i] * 255 + 0.5f);
        snprintf(path, sizeof path, "%s-png/%s/%d", s->out, part, label);
        mkdir(path, 0777);
        snprintf(path, sizeof path, "%s-png/%s/%d/%05zu.png", s->out, part, label, b.index[0]);
        ok = stbi_write_png(path, w, h, 1, bytes, w) && fprintf(f, "%s/%d/%05zu.png %d\n", part, label, b.index[0], label) > 0;
    }
    ok = f && !fclose(f) && ok && !dl_failed(ctx);
    if (!ok) fprintf(stderr, "image_folder: cannot write the images: %s\n", dl_failed(ctx) ? dl_error(ctx) : path);
    free(bytes);
    dl_destroy(ctx);
    return ok;
}

static dl_dataset *open_source(dl_context *ctx, const settings *s, int source, bool train)
{
    char path[1200];
    if (source == FROM_IDX) return part_of_set(ctx, s, train);
    if (s->images) snprintf(path, sizeof path, "%s/%s", s->images, train ? "train" : "test");
    else snprintf(path, sizeof path, "%s-png/%s%s", s->out, train ? "train" : "test", source == FROM_LIST ? ".txt" : "");
    return dl_open_images(ctx, &(dl_images_desc){ .path = path, .channels = s->images ? 3 : 1, .height = s->images ? s->side : 0, .width = s->images ? s->side : 0,
        .skip_bad = s->skip_bad });
}

static void say(const char *sentence, void *user)
{
    (void)user;
    if (!strncmp(sentence, "dl_open_images", 14)) fprintf(stderr, "%s\n", sentence);
}

static double run(const settings *s, int source, int seed, const char *save)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = s->threads, .log = say });
    dl_dataset *data = open_source(ctx, s, source, true), *held_out = open_source(ctx, s, source, false);
    int classes = s->images ? dl_images_classes(data) : s->set->classes;
    dl_loader *train = dl_loader_create(data, &(dl_loader_desc){ .batch = 32, .shuffle = true, .prefetch = true, .threads = s->threads });
    dl_loader *test = dl_loader_create(held_out, &(dl_loader_desc){ .batch = 100, .prefetch = true, .threads = s->threads });
    dl_optimizer *opt = dl_adam(ctx, NULL);
    for (int epoch = 0; epoch < s->epochs && !dl_failed(ctx); epoch++)
        for (dl_batch b; dl_next(train, &b);) {
            dl_backward(dl_cross_entropy(net(b.x, &classes), b.y));
            dl_step(opt);
        }
    double error = lab_test_error(ctx, test, net, &classes);
    if (save) dl_save(ctx, save);
    if (dl_failed(ctx)) {
        fprintf(stderr, "image_folder: %s\n", dl_error(ctx));
        exit(1);
    }
    dl_destroy(ctx);
    return error;
}

static bool same_files(const char *a, const char *b)
{
    FILE *f = fopen(a, "rb"), *g = fopen(b, "rb");
    int x = 0, y = 0;
    while (f && g && x == y && x != EOF) x = fgetc(f), y = fgetc(g);
    bool same = f && g && x == EOF && y == EOF;
    if (f) fclose(f);
    if (g) fclose(g);
    return same;
}

int main(int argc, char **argv)
{
    static lab_table t;
    const char *set = "digits";
    char save[SOURCES][1100];
    settings s = { .data = getenv("DLTRAIN_DATA"), .side = 32, .size = -1, .epochs = 20, .seeds = 3, .threads = 2, .out = "image_folder" };
    const lab_option option[] = { { "--data", 's', &s.data, 0, 0 }, { "--set", 's', &set, 0, 0 }, { "--images", 's', &s.images, 0, 0 }, { "--side", 'i', &s.side, 4, 1024 },
        { "--size", 'i', &s.size, 0, 1e6 }, { "--epochs", 'i', &s.epochs, 1, 1e5 }, { "--seeds", 'i', &s.seeds, 1, LAB_SEEDS }, { "--threads", 'i', &s.threads, 1, 64 },
        { "--out", 's', &s.out, 0, 0 }, { "--skip-bad", 'f', &s.skip_bad, 0, 0 } };
    if (!lab_parse("image_folder", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (s.size < 0) s.size = strcmp(set, "digits") ? 2000 : 0;
    s.set = lab_find_set("image_folder", set, s.data);
    if (!s.set) return 2;
    if (!s.set->train[1]) return fprintf(stderr, "image_folder: --set of digits, not of CIFAR\n"), 2;
    if (!s.images && (!write_images(&s, true) || !write_images(&s, false))) return 1;
    t.seeds = s.seeds;
    for (int source = s.images ? FROM_FOLDER : 0; source < SOURCES; source++) {
        int r = t.rows++;
        double start = lab_seconds();
        snprintf(t.row[r].group, sizeof t.row[r].group, "%.40s", s.images ? s.images : s.set->name);
        snprintf(t.row[r].method, sizeof t.row[r].method, "%s", source_names[source]);
        for (int i = 0; i < s.seeds; i++) {
            snprintf(save[source], sizeof save[source], "%s-%d.safetensors", s.out, source);
            t.row[r].error[i] = run(&s, source, 1 + i, i ? NULL : save[source]);
        }
        t.row[r].seconds = lab_seconds() - start;
    }
    bool ok = lab_finish_table(&t, s.out, "The same digits from IDX and from PNG");
    if (s.images) return !ok;
    bool same = same_files(save[FROM_IDX], save[FROM_LIST]);
    printf("the networks learnt from IDX and from the list of PNG files %s\n", same ? "are the same, bit for bit" : "DIFFER");
    for (int i = FROM_LIST; i < SOURCES; i++) remove(save[i]);
    snprintf(save[FROM_LIST], sizeof save[FROM_LIST], "%s.safetensors", s.out);
    return !ok || !same || rename(save[FROM_IDX], save[FROM_LIST]);
}
