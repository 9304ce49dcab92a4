/* What the examples of distillation share: finding a set of images, options, and a table of scores that is printed, written as CSV and drawn.
   Include it after dltrain.h. */
#ifndef SETS_H
#define SETS_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- sets of images: the UCI digits are shipped, the others are looked for below one folder ---- */
typedef struct image_set {
    const char *name;
    const char *train[3], *test[3]; /* images and labels, or one file of CIFAR; the other names under which it may lie are in find_set */
    int classes;
    const char *get; /* how to */
} image_set;

static const image_set image_sets[] = {
    { "digits", { "digits-train-images.idx", "digits-train-labels.idx", 0 }, { "digits-test-images.idx", "digits-test-labels.idx", 0 }, 10, NULL },
    { "mnist", { "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 0 }, { "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 0 }, 10,
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz and the like: train-labels-idx1, t10k-images-idx3, t10k-labels-idx1" },
    { "fashion-mnist", { "train-images-idx3-ubyte", "train-labels-idx1-ubyte", 0 }, { "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 0 }, 10,
        "apt-get install dataset-fashion-mnist, then --data /usr/share/datasets" },
    { "cifar10", { "train.bin", 0, 0 }, { "test.bin", 0, 0 }, 10,
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz, then cat data_batch_*.bin > DIR/cifar10/train.bin; cp test_batch.bin DIR/cifar10/test.bin" },
    { "cifar100", { "train.bin", 0, 0 }, { "test.bin", 0, 0 }, 100,
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz, then put train.bin and test.bin into DIR/cifar100" },
};
enum { SETS = sizeof image_sets / sizeof *image_sets };

static const image_set *set_by_name(const char *name)
{
    for (int i = 0; i < SETS; i++)
        if (!strcmp(image_sets[i].name, name)) return &image_sets[i];
    return NULL;
}

static bool is_there(const char *path)
{
    FILE *f = fopen(path, "rb");
    return f ? fclose(f), true : false;
}

/* Where a file of the set is, or its packed form NAME.gz; false: neither. */
static bool set_file(const image_set *set, const char *dir, const char *name, char *out, size_t size)
{
    int n = set->get ? snprintf(out, size, "%s/%s/%s", dir, set->name, name) : snprintf(out, size, "examples/data/%s", name);
    if (n < 0 || (size_t)n + 4 > size) return false;
    if (is_there(out)) return true;
    strcat(out, ".gz");
    return is_there(out);
}

static bool set_is_there(const image_set *set, const char *dir)
{
    char path[1024];
    for (int i = 0; i < 2 && set->train[i]; i++)
        if (!set_file(set, dir, set->train[i], path, sizeof path) || !set_file(set, dir, set->test[i], path, sizeof path)) return false;
    return true;
}

/* The set asked for; when it is not there, a word on how to get it, and the digits. */
static const image_set *find_set(const char *program, const char *name, const char *dir)
{
    const image_set *set = set_by_name(name);
    if (!set) fprintf(stderr, "%s: there is no set '%s'\n", program, name);
    if (!set || !set->get || (dir && set_is_there(set, dir))) return set;
    printf("%s: no %s below %s. To get it: %s\n(--data DIR, or the environment variable DLTRAIN_DATA, with the files in DIR/%s.) Going on with the digits.\n", program,
        name, dir ? dir : "any folder, as none is given", set->get, name);
    return &image_sets[0];
}

/* A path that can be opened: packed files are unpacked into a temporary one, to be removed (*temporary). */
static bool unpacked(const image_set *set, const char *dir, const char *name, char *path, size_t size, bool *temporary)
{
    char command[2400], packed[1024];
    *temporary = false;
    if (!set_file(set, dir, name, path, size)) return false;
    size_t n = strlen(path);
    if (n < 3 || strcmp(path + n - 3, ".gz")) return true;
    snprintf(packed, sizeof packed, "%s", path);
    const char *tmp = getenv("TMPDIR");
    for (int i = 0; i < 10000; i++) { /* "x": only a file that is not there yet */
        snprintf(path, size, "%s/dltrain-unpacked-%d", tmp ? tmp : "/tmp", i);
        FILE *f = fopen(path, "wx");
        if (!f) continue;
        fclose(f);
        *temporary = true;
        break;
    }
    if (!*temporary || strchr(packed, '\'') || strchr(path, '\'')) return false;
    snprintf(command, sizeof command, "gzip -dc '%s' > '%s'", packed, path);
    return system(command) == 0;
}

static dl_dataset *open_set(dl_context *ctx, const image_set *set, const char *dir, bool train)
{
    const char *const *name = train ? set->train : set->test;
    char path[2][1024];
    bool temporary[2] = { false, false }, ok = true;
    int n = name[1] ? 2 : 1;
    for (int i = 0; i < n && ok; i++) ok = unpacked(set, dir, name[i], path[i], sizeof path[i], &temporary[i]);
    if (!ok) dl_fail(ctx, "%s: its files are not there, or gzip could not unpack them", set->name);
    const char *one = path[0];
    dl_dataset *data = n == 2 ? dl_open_idx(ctx, path[0], path[1]) : dl_open_cifar(ctx, &one, 1, set->classes);
    for (int i = 0; i < n; i++)
        if (temporary[i]) remove(path[i]);
    return data;
}

/* n of the samples, chosen by seed; n 0 or more than there are: all of them. */
static dl_dataset *chosen(dl_dataset *data, size_t n, uint32_t seed)
{
    size_t all = dl_dataset_count(data), *order = n && n < all ? (size_t *)malloc(all * sizeof *order) : NULL;
    if (!order) return data;
    dl_randperm(seed, order, all);
    data = dl_subset(data, order, n);
    free(order);
    return data;
}

/* ---- options: --name value ---- */
/* The value of option `name`, or `otherwise`; marks what was used in `used`. */
static const char *option(int argc, char **argv, bool *used, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name)) {
            used[i] = used[i + 1] = true;
            otherwise = argv[i + 1];
        }
    return otherwise;
}

static inline bool flag(int argc, char **argv, bool *used, const char *name)
{
    bool found = false;
    for (int i = 1; i < argc; i++)
        if (!strcmp(argv[i], name)) used[i] = found = true;
    return found;
}

static double number(const char *program, const char *name, const char *text, double least, double most)
{
    char *end;
    double v = strtod(text, &end);
    if (*text && !*end && v >= least && v <= most) return v;
    fprintf(stderr, "%s: %s needs a number from %g to %g, not '%s'\n", program, name, least, most, text);
    exit(2);
}

/* "a,b,c" */
static inline int numbers_of(const char *program, const char *name, const char *text, double least, double most, double *out, int room)
{
    char one[64];
    int n = 0;
    for (const char *p = text; *p || !n;) {
        size_t length = strcspn(p, ",");
        snprintf(one, sizeof one, "%.*s", (int)(length < 63 ? length : 63), p);
        if (n == room) fprintf(stderr, "%s: %s takes at most %d numbers\n", program, name, room), exit(2);
        out[n++] = number(program, name, one, least, most);
        p += length;
        if (*p == ',') p++;
    }
    return n;
}

static void reject_unused(const char *program, const char *usage, int argc, char **argv, const bool *used)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) fputs(usage, stdout), exit(0);
        if (!used[i]) fprintf(stderr, "%s: what is '%s'?\n%s", program, argv[i], usage), exit(2);
    }
}

/* ---- the table: test errors in percent, a row a method, a column a seed ---- */
enum { TABLE_ROWS = 64, TABLE_SEEDS = 32 };
typedef struct table {
    int rows, seeds;
    struct { char group[48], method[32]; int base; double error[TABLE_SEEDS], seconds; } row[TABLE_ROWS]; /* base: the row it is compared with, or itself */
} table;

static void mean_and_deviation(const double *x, int n, double *mean, double *deviation)
{
    *mean = *deviation = 0;
    for (int i = 0; i < n; i++) *mean += x[i] / n;
    for (int i = 0; i < n; i++) *deviation += (x[i] - *mean) * (x[i] - *mean) / (n > 1 ? n - 1 : 1);
    *deviation = sqrt(*deviation);
}

static void print_table(const table *t)
{
    printf("\n%-26s %-22s %14s  %-24s %6s %8s\n", "", "method", "error %", "gain on the first (pairs)", "wins", "CPU s");
    for (int r = 0; r < t->rows; r++) {
        double mean, deviation, gain, spread, difference[TABLE_SEEDS];
        int wins = 0, base = t->row[r].base;
        mean_and_deviation(t->row[r].error, t->seeds, &mean, &deviation);
        for (int s = 0; s < t->seeds; s++) {
            difference[s] = t->row[base].error[s] - t->row[r].error[s];
            wins += difference[s] > 0;
        }
        mean_and_deviation(difference, t->seeds, &gain, &spread);
        printf("%-26s %-22s %6.2f +- %4.2f  ", base == r ? t->row[r].group : "", t->row[r].method, mean, deviation);
        if (base == r) printf("%-24s %6s %8.1f\n", "", "", t->row[r].seconds);
        else printf("%+6.2f +- %-14.2f %3d/%-2d %8.1f\n", gain, spread, wins, t->seeds, t->row[r].seconds);
    }
}

static bool write_csv(const table *t, const char *path)
{
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "cannot write '%s'\n", path), false;
    fprintf(f, "group,method,seed,error_percent\n");
    for (int r = 0; r < t->rows; r++)
        for (int s = 0; s < t->seeds; s++) fprintf(f, "%s,%s,%d,%.4f\n", t->row[r].group, t->row[r].method, s + 1, t->row[r].error[s]);
    return fclose(f) == 0;
}

/* A bar a row, with the seeds as points on it. */
static bool write_svg(const table *t, const char *path, const char *title)
{
    static const char *const colour[] = { "#9aa4af", "#1f6feb", "#1a7f37", "#9a6700", "#d1242f", "#8250df" };
    enum { WIDTH = 720, LEFT = 210, RIGHT = 90, ROW = 22, HEAD = 22, TOP = 44 };
    double most = 1e-9;
    int y = TOP, groups = 0;
    FILE *f = fopen(path, "w");
    if (!f) return fprintf(stderr, "cannot write '%s'\n", path), false;
    for (int r = 0; r < t->rows; r++) {
        groups += t->row[r].base == r;
        for (int s = 0; s < t->seeds; s++) most = fmax(most, t->row[r].error[s]);
    }
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"16\" y=\"26\" font-size=\"16\">%s: test error, %%</text>\n",
        WIDTH, TOP + groups * HEAD + t->rows * ROW + 16, title);
    for (int r = 0, k = 0; r < t->rows; r++, k++, y += ROW) {
        double mean, deviation, scale = (WIDTH - LEFT - RIGHT) / most;
        if (t->row[r].base == r) {
            fprintf(f, "<text x=\"16\" y=\"%d\" font-weight=\"bold\">%s</text>\n", y + 14, t->row[r].group);
            y += HEAD;
            k = 0;
        }
        mean_and_deviation(t->row[r].error, t->seeds, &mean, &deviation);
        fprintf(f, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%s</text><rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\" opacity=\"0.75\"/>", LEFT - 8,
            y + 14, t->row[r].method, LEFT, y + 2, mean * scale, ROW - 5, colour[k % 6]);
        for (int s = 0; s < t->seeds; s++) fprintf(f, "<circle cx=\"%.1f\" cy=\"%d\" r=\"2\"/>", LEFT + t->row[r].error[s] * scale, y + ROW / 2);
        fprintf(f, "<text x=\"%d\" y=\"%d\">%.2f ± %.2f</text>\n", WIDTH - RIGHT + 8, y + 14, mean, deviation);
    }
    fprintf(f, "</svg>\n");
    return fclose(f) == 0;
}

/* Prints it, and writes PREFIX.csv and PREFIX.svg. */
static bool finish_table(const table *t, const char *prefix, const char *title)
{
    char path[1024];
    print_table(t);
    snprintf(path, sizeof path, "%s.csv", prefix);
    bool ok = write_csv(t, path);
    snprintf(path, sizeof path, "%s.svg", prefix);
    ok = ok && write_svg(t, path, title);
    if (ok) printf("wrote %s.csv and %s.svg\n", prefix, prefix);
    return ok;
}

/* The share of wrong answers over one epoch of the loader, in percent; model: images [N,C,H,W] to logits. */
typedef dl_tensor (*model_fn)(dl_tensor x, const void *user);
static inline double test_error(dl_context *ctx, dl_loader *loader, model_fn model, const void *user)
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
