/* What the examples of learning methods share: options, sets of images, means, and a table of scores. Include it after dltrain.h. */
#ifndef LAB_H
#define LAB_H
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- options: --name value; a kind of 'f' takes none ---- */
typedef struct lab_list { double at[8]; int n; } lab_list;
typedef struct lab_option {
    const char *name;
    char kind;         /* 's' text, 'i' whole number, 'd' number, 'l' numbers "1,2,3", 'f' flag */
    void *place;       /* a const char *, int, double, lab_list or bool */
    double low, high;  /* what a number may be */
} lab_option;

static inline bool lab_number(const char *program, const lab_option *o, const char *text, double *value)
{
    char *end;
    *value = strtod(text, &end);
    if (*text && !*end && *value >= o->low && *value <= o->high && (o->kind != 'i' || *value == floor(*value))) return true;
    return fprintf(stderr, "%s: %s needs a %s from %g to %g, not '%s'\n", program, o->name, o->kind == 'i' ? "whole number" : "number", o->low, o->high, text), false;
}

static inline bool lab_numbers(const char *program, const lab_option *o, const char *text)
{
    lab_list *list = (lab_list *)o->place;
    char one[64];
    list->n = 0;
    do {
        size_t n = strcspn(text, ",");
        snprintf(one, sizeof one, "%.*s", (int)(n < sizeof one ? n : sizeof one - 1), text);
        if (list->n == (int)(sizeof list->at / sizeof *list->at)) return fprintf(stderr, "%s: %s takes at most %d numbers\n", program, o->name, list->n), false;
        if (!lab_number(program, o, one, &list->at[list->n++])) return false;
        text += n;
    } while (*text++);
    return true;
}

/* Fills the places; false after a sentence on stderr. --help prints `usage` and ends the program. */
static inline bool lab_parse(const char *program, const char *usage, int argc, char **argv, const lab_option *option, int options)
{
    for (int i = 1; i < argc; i++) {
        const lab_option *o = NULL;
        double value;
        if (!strcmp(argv[i], "--help")) fputs(usage, stdout), exit(0);
        for (int k = 0; k < options; k++)
            if (!strcmp(argv[i], option[k].name)) o = &option[k];
        if (!o) return fprintf(stderr, "%s: there is no option '%s'\n%s", program, argv[i], usage), false;
        if (o->kind != 'f' && i + 1 == argc) return fprintf(stderr, "%s: %s needs a value\n", program, o->name), false;
        if (o->kind == 'f') *(bool *)o->place = true;
        else if (o->kind == 's') *(const char **)o->place = argv[++i];
        else if (o->kind == 'l') {
            if (!lab_numbers(program, o, argv[++i])) return false;
        } else if (!lab_number(program, o, argv[++i], &value)) return false;
        else if (o->kind == 'i') *(int *)o->place = (int)value;
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

/* ---- pictures: a white page with a title, text and boxes ---- */
static inline void lab_text(FILE *f, double x, double y, const char *style, const char *format, ...) /* style: attributes */
{
    va_list words;
    fprintf(f, "<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, style);
    va_start(words, format);
    vfprintf(f, format, words);
    va_end(words);
    fprintf(f, "</text>\n");
}

static inline void lab_box(FILE *f, double x, double y, double width, double height, const char *style, const char *colour) /* style: its last one, of a colour */
{
    fprintf(f, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" %s=\"%s\"/>\n", x, y, width, height, style, colour);
}

static inline FILE *lab_open_svg(const char *path, int width, int height, const char *title)
{
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "cannot write '%s'\n", path), (FILE *)NULL;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n", width, height);
    lab_text(f, 16, 26, " font-size=\"16\"", "%s", title);
    return f;
}

static inline bool lab_close_svg(FILE *f)
{
    fprintf(f, "</svg>\n");
    return fclose(f) == 0;
}

/* ---- sets of images: the UCI digits are shipped, the others are looked for below one folder ---- */
typedef struct lab_set {
    const char *name;
    const char *train[2], *test[2]; /* images and labels, or one file of CIFAR; or these names with .gz behind */
    int classes;
    const char *get;                /* how to; NULL: it is shipped */
} lab_set;

static const lab_set lab_sets[] = {
    { "digits", { "digits-train-images.idx", "digits-train-labels.idx" }, { "digits-test-images.idx", "digits-test-labels.idx" }, 10, NULL },
    { "mnist", { "train-images-idx3-ubyte", "train-labels-idx1-ubyte" }, { "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte" }, 10,
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz and the like: train-labels-idx1, t10k-images-idx3, t10k-labels-idx1" },
    { "fashion-mnist", { "train-images-idx3-ubyte", "train-labels-idx1-ubyte" }, { "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte" }, 10,
        "apt-get install dataset-fashion-mnist, then --data /usr/share/datasets" },
    { "cifar10", { "train.bin", NULL }, { "test.bin", NULL }, 10,
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, then cat data_batch_*.bin > DIR/cifar10/train.bin; cp test_batch.bin DIR/cifar10/test.bin" },
    { "cifar100", { "train.bin", NULL }, { "test.bin", NULL }, 100,
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz, then put train.bin and test.bin into DIR/cifar100" },
};

static inline bool lab_exists(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

/* Where a file of the set is: DIR/SET/NAME, DIR/NAME, or one of these packed. False: nowhere. */
static inline bool lab_locate(const lab_set *set, const char *dir, const char *name, char *out, size_t size)
{
    for (int i = 0; i < (set->get ? 4 : 1); i++) {
        int n = !set->get ? snprintf(out, size, "examples/data/%s", name)
                          : snprintf(out, size, "%s/%s%s%s%s", dir, i < 2 ? set->name : "", i < 2 ? "/" : "", name, i % 2 ? ".gz" : "");
        if (n > 0 && (size_t)n < size && lab_exists(out)) return true;
    }
    return false;
}

/* The set asked for; when it is not there, a word on how to get it, and the digits. NULL: there is no such set. */
static inline const lab_set *lab_find_set(const char *program, const char *name, const char *dir)
{
    char path[1024];
    const lab_set *set = NULL;
    for (size_t i = 0; i < sizeof lab_sets / sizeof *lab_sets; i++)
        if (!strcmp(lab_sets[i].name, name)) set = &lab_sets[i];
    if (!set) return fprintf(stderr, "%s: there is no set '%s'\n", program, name), (const lab_set *)NULL;
    bool there = !set->get || dir;
    for (int i = 0; i < 2 && there && set->train[i]; i++)
        there = lab_locate(set, dir, set->train[i], path, sizeof path) && lab_locate(set, dir, set->test[i], path, sizeof path);
    if (there || !set->get) return set;
    printf("%s: %s is not there: %s%s%s. To get it: %s\nThen say --data DIR, or set the environment variable DLTRAIN_DATA, with the files in DIR/%s or DIR. Going on with the digits that are shipped.\n",
        program, name, dir ? "neither in " : "no folder is named", dir ? dir : "", dir ? " nor below it" : "", set->get, name);
    return &lab_sets[0];
}

/* A path that can be opened: a packed file is unpacked by gzip into a temporary one, to be removed. */
static inline bool lab_unpacked(const lab_set *set, const char *dir, const char *name, char *path, size_t size, bool *temporary)
{
    char command[2400], packed[1024];
    const char *tmp = getenv("TMPDIR");
    *temporary = false;
    if (!lab_locate(set, dir, name, path, size)) return false;
    size_t n = strlen(path);
    if (n < 3 || strcmp(path + n - 3, ".gz")) return true;
    snprintf(packed, sizeof packed, "%s", path);
    for (int i = 0; i < 10000 && !*temporary; i++) { /* "x": only a file that is not there yet */
        snprintf(path, size, "%s/dltrain-unpacked-%d", tmp ? tmp : "/tmp", i);
        FILE *f = fopen(path, "wx");
        *temporary = f != NULL;
        if (f) fclose(f);
    }
    if (!*temporary || strchr(packed, '\'') || strchr(path, '\'')) return false;
    snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", packed, path);
    return system(command) == 0;
}

static inline dl_dataset *lab_open_set(dl_context *ctx, const lab_set *set, const char *dir, bool train)
{
    const char *const *name = train ? set->train : set->test;
    char path[2][1024];
    bool temporary[2] = { false, false }, ok = true;
    int n = name[1] ? 2 : 1;
    for (int i = 0; i < n && ok; i++) ok = lab_unpacked(set, dir, name[i], path[i], sizeof path[i], &temporary[i]);
    if (!ok) dl_fail(ctx, set->get ? "%s: its files are not there, or gzip could not unpack them" : "%s: they are not there: run it in the folder of dltrain.h", set->name);
    const char *one = path[0];
    dl_dataset *data = n == 2 ? dl_open_idx(ctx, path[0], path[1]) : dl_open_cifar(ctx, &one, 1, set->classes);
    for (int i = 0; i < n; i++)
        if (temporary[i]) remove(path[i]);
    return data;
}

/* n of the samples, chosen by seed; n 0 or more than there are: all of them. */
static inline dl_dataset *lab_chosen(dl_dataset *data, size_t n, uint32_t seed)
{
    size_t all = dl_dataset_count(data), *order = n && n < all ? (size_t *)malloc(all * sizeof *order) : NULL;
    if (!order) return data;
    dl_randperm(seed, order, all);
    data = dl_subset(data, order, n);
    free(order);
    return data;
}

/* ---- images with a class each, as bytes ---- */
typedef struct lab_images {
    size_t count;
    dl_index side;             /* height and width */
    uint8_t *pixel, *label;    /* [count,side,side], [count]: lab_free */
} lab_images;

static inline void lab_free(lab_images *images) { free(images->pixel), free(images->label); }

static inline bool lab_read(dl_context *ctx, dl_dataset *data, lab_images *out)
{
    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = 500 });
    dl_shape shape = dl_dataset_x_shape(data);
    if (!dl_failed(ctx) && (shape.ndim != 3 || shape.dim[1] != shape.dim[2])) dl_fail(ctx, "images %td x %td are not square", shape.dim[1], shape.dim[2]);
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
    const lab_set *set = lab_find_set(program, "mnist", dir);
    return lab_read(ctx, lab_open_set(ctx, set, dir, true), train) && lab_read(ctx, lab_open_set(ctx, set, dir, false), test);
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
/* ---- the table: test errors in percent, a row a method, a column a seed ---- */
enum { LAB_ROWS = 64, LAB_SEEDS = 32 };
typedef struct lab_table {
    int rows, seeds;
    double low;  /* where the bars of the picture begin, at most the smallest error */
    struct { char group[48], method[32]; int base; double error[LAB_SEEDS], seconds; } row[LAB_ROWS]; /* base: the row it is compared with, or itself */
} lab_table;

static inline void lab_print_table(const lab_table *t)
{
    printf("\n%-26s %-22s %14s  %-24s %6s %8s\n", "", "method", "error %", "gain on the first (pairs)", "wins", "CPU s");
    for (int r = 0; r < t->rows; r++) {
        double mean, deviation, gain, spread, difference[LAB_SEEDS];
        int wins = 0, base = t->row[r].base;
        mean = lab_mean(t->row[r].error, t->seeds), deviation = lab_deviation(t->row[r].error, t->seeds);
        for (int s = 0; s < t->seeds; s++) {
            difference[s] = t->row[base].error[s] - t->row[r].error[s];
            wins += difference[s] > 0;
        }
        gain = lab_mean(difference, t->seeds), spread = lab_deviation(difference, t->seeds);
        printf("%-26s %-22s %6.2f +- %4.2f  ", base == r ? t->row[r].group : "", t->row[r].method, mean, deviation);
        if (base == r) printf("%-24s %6s %8.1f\n", "", "", t->row[r].seconds);
        else printf("%+6.2f +- %-14.2f %3d/%-2d %8.1f\n", gain, spread, wins, t->seeds, t->row[r].seconds);
    }
}

static inline bool lab_write_csv(const lab_table *t, const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "cannot write '%s'\n", path), false;
    fprintf(f, "group,method,seed,error_percent\n");
    for (int r = 0; r < t->rows; r++)
        for (int s = 0; s < t->seeds; s++) fprintf(f, "%s,%s,%d,%.4f\n", t->row[r].group, t->row[r].method, s + 1, t->row[r].error[s]);
    return fclose(f) == 0;
}

/* A bar a row, with the seeds as points on it. */
static inline bool lab_write_svg(const lab_table *t, const char *path, const char *title)
{
    static const char *const colour[] = { "#9aa4af", "#1f6feb", "#1a7f37", "#9a6700", "#d1242f", "#8250df" };
    enum { WIDTH = 720, LEFT = 210, RIGHT = 100, ROW = 22, HEAD = 22, TOP = 44 };
    double most = t->low + 1e-9;
    int y = TOP, groups = 0;
    for (int r = 0; r < t->rows; r++) {
        groups += t->row[r].base == r;
        for (int s = 0; s < t->seeds; s++) most = fmax(most, t->row[r].error[s]);
    }
    FILE *f = lab_open_svg(path, WIDTH, TOP + groups * HEAD + t->rows * ROW + 16, title);
    if (!f) return false;
    lab_text(f, WIDTH - 12, 26, " text-anchor=\"end\" fill=\"#57606a\"", "bars from %g%s", t->low, t->seeds > 1 ? ": means; points: seeds" : "");
    for (int r = 0, k = 0; r < t->rows; r++, k++, y += ROW) {
        double mean, deviation, scale = (WIDTH - LEFT - RIGHT - 6) / (most - t->low); /* a point keeps off the number */
        if (t->row[r].base == r) {
            lab_text(f, 16, y + 14, " font-weight=\"bold\"", "%s", t->row[r].group);
            y += HEAD;
            k = 0;
        }
        mean = lab_mean(t->row[r].error, t->seeds), deviation = lab_deviation(t->row[r].error, t->seeds);
        lab_text(f, LEFT - 8, y + 14, " text-anchor=\"end\"", "%s", t->row[r].method);
        lab_box(f, LEFT, y + 2, (mean - t->low) * scale, ROW - 5, "opacity=\"0.75\" fill", colour[k % 6]);
        for (int s = 0; s < t->seeds; s++) fprintf(f, "<circle cx=\"%.1f\" cy=\"%d\" r=\"2\"/>", LEFT + (t->row[r].error[s] - t->low) * scale, y + ROW / 2);
        lab_text(f, WIDTH - RIGHT + 8, y + 14, "", "%.2f ± %.2f", mean, deviation);
    }
    return lab_close_svg(f);
}

/* Prints it, and writes PREFIX.csv and PREFIX.svg. */
static inline bool lab_finish_table(const lab_table *t, const char *prefix, const char *title)
{
    char path[1024], head[256];
    lab_print_table(t);
    snprintf(path, sizeof path, "%s.csv", prefix);
    bool ok = lab_write_csv(t, path);
    snprintf(path, sizeof path, "%s.svg", prefix);
    snprintf(head, sizeof head, "%s: test error, %%", title);
    ok = ok && lab_write_svg(t, path, head);
    if (ok) printf("wrote %s.csv and %s.svg\n", prefix, prefix);
    return ok;
}

/* The share of wrong answers over one epoch of the loader, in percent; model: images [N,C,H,W] to logits. */
typedef dl_tensor (*lab_model_fn)(dl_tensor x, const void *user);
static inline double lab_test_error(dl_context *ctx, dl_loader *loader, lab_model_fn model, const void *user)
{
    double right = 0, all = 0;
    bool training = dl_train(ctx, false), recording = dl_set_grad(ctx, false);
    for (dl_batch b; dl_next(loader, &b); all += (double)b.count)
        right += dl_item(dl_sum(dl_eq(dl_to_float(dl_argmax(model(b.x, user), 1, false)), dl_to_float(b.y))));
    dl_train(ctx, training);
    dl_set_grad(ctx, recording);
    return all > 0 ? 100 * (1 - right / all) : NAN;
}
#endif
