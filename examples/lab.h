/* What multitask.c, mil.c and backprop.c share: options, images from IDX files, means. Include it after dltrain.h. */
#ifndef LAB_H
#define LAB_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- options: --name value; a kind of 'f' takes none ---- */
typedef struct lab_option {
    const char *name;
    char kind;         /* 's' text, 'i' whole number, 'd' number, 'f' flag; the place is a const char *, int, double or bool */
    void *place;
    double low, high;  /* what a number may be */
} lab_option;

/* Fills the places; false after a sentence on stderr. --help prints `usage` and ends the program. */
static inline bool lab_parse(const char *program, const char *usage, int argc, char **argv, const lab_option *option, int options)
{
    for (int i = 1; i < argc; i++) {
        const lab_option *o = NULL;
        char *end;
        if (!strcmp(argv[i], "--help")) fputs(usage, stdout), exit(0);
        for (int k = 0; k < options; k++)
            if (!strcmp(argv[i], option[k].name)) o = &option[k];
        if (!o) return fprintf(stderr, "%s: there is no option '%s'\n%s", program, argv[i], usage), false;
        if (o->kind == 'f') {
            *(bool *)o->place = true;
            continue;
        }
        if (i + 1 == argc) return fprintf(stderr, "%s: %s needs a value\n", program, o->name), false;
        const char *text = argv[++i];
        if (o->kind == 's') {
            *(const char **)o->place = text;
            continue;
        }
        double value = strtod(text, &end);
        bool whole = o->kind == 'i';
        if (!*text || *end || !(value >= o->low && value <= o->high) || (whole && value != floor(value)))
            return fprintf(stderr, "%s: %s needs a %s from %g to %g, not '%s'\n", program, o->name, whole ? "whole number" : "number", o->low,
                       o->high, text),
                   false;
        if (whole) *(int *)o->place = (int)value;
        else *(double *)o->place = value;
    }
    return true;
}

static inline double lab_seconds(void) /* of CPU, of all threads */
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static inline FILE *lab_create(const char *program, const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f) fprintf(stderr, "%s: cannot write '%s'\n", program, path);
    return f;
}

/* ---- images with a class each, as bytes ---- */
typedef struct lab_images {
    size_t count;
    dl_index side;             /* height and width */
    uint8_t *pixel, *label;    /* [count,side,side], [count]: lab_free */
} lab_images;

static inline void lab_free(lab_images *images) { free(images->pixel), free(images->label); }

static inline bool lab_exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* Looks for DIR/mnist/NAME, DIR/NAME and their packed forms. A packed file is unpacked by gzip into a temporary one. */
static inline bool lab_locate(const char *dir, const char *name, char *out, size_t size, bool *temporary)
{
    static const char *const below[] = { "mnist/", "" };
    const char *tmp = getenv("TMPDIR");
    char packed[1024], command[8300]; /* for whatever fits into the two paths */
    *temporary = false;
    for (int i = 0; i < 2; i++) {
        snprintf(out, size, "%s/%s%s", dir, below[i], name);
        if (lab_exists(out)) return true;
        snprintf(packed, sizeof packed, "%s/%s%s.gz", dir, below[i], name);
        if (!lab_exists(packed)) continue;
        for (int k = 0; k < 10000 && !*temporary; k++) { /* "x": only a file that is not there yet */
            snprintf(out, size, "%s/dltrain-%s-%d", tmp ? tmp : "/tmp", name, k);
            FILE *f = fopen(out, "wx");
            *temporary = f != NULL;
            if (f) fclose(f);
        }
        if (!*temporary || strchr(packed, '\'') || strchr(out, '\'')) return false;
        snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", packed, out);
        return system(command) == 0;
    }
    return false;
}

static inline bool lab_read(dl_context *ctx, const char *images, const char *labels, lab_images *out)
{
    dl_dataset *data = dl_open_idx(ctx, images, labels);
    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = 500 });
    dl_shape shape = dl_dataset_x_shape(data);
    if (!dl_failed(ctx) && (shape.ndim != 3 || shape.dim[1] != shape.dim[2])) dl_fail(ctx, "'%s' has no square images", images);
    if (dl_failed(ctx)) return false;
    out->side = shape.dim[1];
    size_t per = (size_t)(out->side * out->side), done = 0;
    out->count = dl_dataset_count(data);
    out->pixel = (uint8_t *)malloc(out->count * per + 1);
    out->label = (uint8_t *)malloc(out->count + 1);
    if (!out->pixel || !out->label) return dl_fail(ctx, "no memory for %zu images", out->count);
    for (dl_batch b; dl_next(loader, &b); done += b.count) {
        const dl_real *x = (const dl_real *)dl_data(b.x);
        for (size_t i = 0; x && i < b.count * per; i++) out->pixel[done * per + i] = (uint8_t)(x[i] * 255 + (dl_real)0.5);
        const int32_t *y = (const int32_t *)dl_data(b.y);
        for (size_t i = 0; y && i < b.count; i++) out->label[done + i] = (uint8_t)y[i];
    }
    return !dl_failed(ctx);
}

/* Into images that are all zeros: MNIST, or with a word on how to get it the digits that are shipped. */
static inline bool lab_mnist(dl_context *ctx, const char *program, const char *dir, lab_images *train, lab_images *test)
{
    static const char *const name[] = { "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte" };
    static const char *const own[] = { "examples/data/digits-train-images.idx", "examples/data/digits-train-labels.idx",
        "examples/data/digits-test-images.idx", "examples/data/digits-test-labels.idx" };
    char path[4][1024];
    bool temporary[4] = { false, false, false, false }, there = dir != NULL;
    for (int i = 0; i < 4 && there; i++) there = lab_locate(dir, name[i], path[i], sizeof path[i], &temporary[i]);
    if (!there) {
        printf("%s: no MNIST %s%s: taking the 8 x 8 digits that are shipped. MNIST is four files, %s.gz and the like, from\n"
               "https://ossci-datasets.s3.amazonaws.com/mnist/. Put them into DIR or DIR/mnist and say --data DIR, or set DLTRAIN_DATA to DIR.\n",
            program, dir ? "in " : "folder is named", dir ? dir : "", name[0]);
        if (!lab_exists(own[0])) return dl_fail(ctx, "the shipped digits, '%s', are not there either: run it in the folder of dltrain.h", own[0]);
    }
    for (int i = 0; i < 4 && !there; i++) snprintf(path[i], sizeof path[i], "%s", own[i]);
    bool ok = lab_read(ctx, path[0], path[1], train) && lab_read(ctx, path[2], path[3], test);
    for (int i = 0; i < 4; i++)
        if (temporary[i]) remove(path[i]);
    return ok;
}

/* ---- numbers ---- */
static inline double lab_mean(const double *x, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    return n ? sum / n : NAN;
}

static inline double lab_deviation(const double *x, int n) /* of a sample */
{
    double sum = 0, mean = lab_mean(x, n);
    for (int i = 0; i < n; i++) sum += (x[i] - mean) * (x[i] - mean);
    return n > 1 ? sqrt(sum / (n - 1)) : 0;
}

static inline int lab_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double lab_median(const double *x, int n) /* n at most 64 */
{
    double sorted[64];
    if (n < 1 || n > 64) return NAN;
    memcpy(sorted, x, (size_t)n * sizeof *x);
    qsort(sorted, (size_t)n, sizeof *sorted, lab_compare);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

/* The area under the ROC curve: how often a positive scores higher than a negative, ties counting half. NaN without both. */
static inline double lab_auc(const float *score, const float *label, size_t n, size_t stride)
{
    double above = 0, pairs = 0;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++)
            if (label[i * stride] > 0.5f && label[k * stride] < 0.5f) {
                above += score[i * stride] > score[k * stride] ? 1 : score[i * stride] == score[k * stride] ? 0.5 : 0;
                pairs++;
            }
    return pairs > 0 ? above / pairs : NAN;
}

static inline uint32_t lab_random(uint64_t *state) /* PCG (O'Neill 2014): the bags of a seed are the same everywhere */
{
    uint64_t s = *state;
    *state = s * 6364136223846793005u + 1442695040888963407u;
    uint32_t x = (uint32_t)(((s >> 18) ^ s) >> 27), turn = (uint32_t)(s >> 59);
    return x >> turn | x << (-turn & 31);
}
static inline size_t lab_below(uint64_t *state, size_t n) { return (size_t)((uint64_t)lab_random(state) * n >> 32); }
#endif
