/* Several tasks through one shared encoder: which digit it is, three moments of its shape, and its image again, pixel by pixel. How should
   their losses be weighed, when the moments happen to be measured in units a hundred times too small or too large?

       cc -O2 examples/multitask.c -o multitask -lm -pthread && ./multitask --data DIR

   Compared: each task alone, all with equal weights, a grid of fixed weights (the best by a validation set), and learnt uncertainties
   (Kendall, Gal and Cipolla 2018), starting at 1 or at the size of each loss. Its results are in docs/methods.md. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

enum { TASKS = 3, MOMENTS = 3, TARGETS = 10 + MOMENTS, GRID = 3, SEEDS = 32, UNITS = 3 };
static const char *const task_names[TASKS] = { "class", "moments", "image" };
static const double units[UNITS] = { 0.01, 1, 100 };
static const double grid[GRID] = { 0.01, 1, 100 };

/* One after the other: the tasks alone, equal weights, the grid (of moments and image, against 1 for the class), learnt ones. */
enum { ALONE = 0, EQUAL = ALONE + TASKS, FIXED, UNCERTAIN = FIXED + GRID * GRID, STARTED, METHODS };

typedef struct options { const char *data, *out; int train, test, seeds, epochs, batch, hidden, threads; double lr; bool quick; } options;

static const char *usage =
    "usage: multitask [options]\n"
    "  --data DIR      where MNIST is (default: the environment variable DLTRAIN_DATA; without: the shipped digits)\n"
    "  --train N       images to learn from (2000); as many as half of them choose among the fixed weights\n"
    "  --test N        images to test on (2000)\n"
    "  --seeds N       (5)\n"
    "  --epochs N      (60)\n"
    "  --batch N       (50)\n"
    "  --hidden N      width of the encoder (48)\n"
    "  --lr X          of Adam (0.001)\n"
    "  --threads N     0: one a CPU (1)\n"
    "  --out PREFIX    PREFIX.csv: every run; PREFIX.svg: the learnt weights over the epochs of seed 1 (multitask)\n"
    "  --quick         fewer images, epochs, seeds and fixed weights: half a minute\n"
    "  --help\n";

/* ---- data ---- */
typedef struct part { size_t n; dl_index pixels; float *x, *y; } part; /* x [n,pixels]; y [n,TARGETS]: one-hot class, moments */

/* Second central moments of the ink: its spread across and down, and its slant. */
static void moments_of(const uint8_t *pixel, dl_index side, float *out)
{
    double ink = 1e-9, cx = 0, cy = 0, m[MOMENTS] = { 0, 0, 0 };
    for (int pass = 0; pass < 2; pass++) {
        for (dl_index y = 0; y < side; y++)
            for (dl_index x = 0; x < side; x++) {
                double v = pixel[y * side + x], dx = (double)x - cx, dy = (double)y - cy;
                if (pass) m[0] += v * dx * dx, m[1] += v * dy * dy, m[2] += v * dx * dy;
                else ink += v, m[0] += v * dx, m[1] += v * dy;
            }
        if (!pass) cx = m[0] / ink, cy = m[1] / ink, m[0] = m[1] = 0;
    }
    for (int k = 0; k < MOMENTS; k++) out[k] = (float)(m[k] / ink);
}

static part take(const lab_images *from, const size_t *order, size_t n)
{
    part p = { .n = n, .pixels = from->side * from->side };
    size_t per = (size_t)p.pixels;
    p.x = (float *)malloc(n * per * sizeof *p.x + 1);
    p.y = (float *)calloc(n * TARGETS + 1, sizeof *p.y);
    for (size_t i = 0; p.x && p.y && i < n; i++) {
        const uint8_t *pixel = from->pixel + order[i] * per;
        for (size_t k = 0; k < per; k++) p.x[i * per + k] = (float)pixel[k] / 255;
        p.y[i * TARGETS + from->label[order[i]] % 10] = 1;
        moments_of(pixel, from->side, p.y + i * TARGETS + 10);
    }
    return p;
}

/* Mean 0 and variance 1 over the training set. */
static void standardise(part *p, const part *train)
{
    double mean[MOMENTS] = { 0 }, var[MOMENTS] = { 0 };
    for (int pass = 0; pass < 2; pass++)
        for (size_t i = 0; i < train->n; i++)
            for (int k = 0; k < MOMENTS; k++) {
                double v = train->y[i * TARGETS + 10 + (size_t)k];
                if (pass) var[k] += (v - mean[k]) * (v - mean[k]) / (double)train->n;
                else mean[k] += v / (double)train->n;
            }
    for (size_t i = 0; i < p->n; i++)
        for (int k = 0; k < MOMENTS; k++) {
            float *v = &p->y[i * TARGETS + 10 + (size_t)k];
            *v = (float)((*v - mean[k]) / sqrt(var[k] + 1e-12));
        }
}

/* ---- the network ---- */
typedef struct losses { dl_tensor each[TASKS], logits; } losses;

/* `unit`: the moments are measured in 1/unit of their deviation. Heads that nobody asks for are left out. */
static losses forward(dl_context *ctx, const part *p, const size_t *index, size_t n, dl_index hidden, double unit, const bool *wanted)
{
    static float x[1000 * 784], y[1000 * TARGETS];
    size_t per = (size_t)p->pixels;
    for (size_t i = 0; i < n; i++) {
        memcpy(x + i * per, p->x + index[i] * per, per * sizeof *x);
        memcpy(y + i * TARGETS, p->y + index[i] * TARGETS, TARGETS * sizeof *y);
    }
    dl_tensor image = dl_input(ctx, DL_F32, DL_SHAPE((dl_index)n, p->pixels), x);
    dl_tensor target = dl_input(ctx, DL_F32, DL_SHAPE((dl_index)n, TARGETS), y);
    dl_tensor h = dl_relu(dl_linear(image, "encoder", hidden));
    losses l = { 0 };
    if (wanted[0]) {
        l.logits = dl_linear(h, "class", 10);
        l.each[0] = dl_cross_entropy(l.logits, dl_slice(target, 1, 0, 10, 1));
    }
    if (wanted[1])
        l.each[1] = dl_mse(dl_linear(h, "moments", MOMENTS), dl_mul_scalar(dl_slice(target, 1, 10, TARGETS, 1), (float)unit), DL_MEAN);
    if (wanted[2]) l.each[2] = dl_mse(dl_linear(h, "image", p->pixels), image, DL_MEAN);
    return l;
}

/* Error in percent, RMSE of the moments in deviations, RMSE of a pixel. */
static void evaluate(dl_context *ctx, const part *p, dl_index hidden, double unit, const bool *wanted, double *out)
{
    double sum[TASKS] = { 0 };
    bool recording = dl_set_grad(ctx, false);
    for (size_t at = 0; at < p->n; at += 500) {
        size_t index[500], n = p->n - at < 500 ? p->n - at : 500;
        for (size_t i = 0; i < n; i++) index[i] = at + i;
        losses l = forward(ctx, p, index, n, hidden, unit, wanted);
        dl_tensor answer = wanted[0] ? dl_keep(dl_argmax(l.logits, 1, false)) : l.logits;
        for (int t = 1; t < TASKS; t++) dl_keep(l.each[t]);
        for (int t = 1; t < TASKS; t++)
            if (wanted[t]) sum[t] += dl_item(l.each[t]) * (double)n;
        int32_t best[500];
        if (wanted[0] && dl_read(answer, best, n))
            for (size_t i = 0; i < n; i++) sum[0] += p->y[(at + i) * TARGETS + (size_t)best[i]] < 0.5f;
        dl_end(ctx);
    }
    dl_set_grad(ctx, recording);
    out[0] = 100 * sum[0] / (double)p->n;
    out[1] = sqrt(sum[1] / (double)p->n) / unit;
    out[2] = sqrt(sum[2] / (double)p->n);
}

/* ---- one run ---- */
typedef struct run { double test[TASKS], validation[TASKS]; } run;

static bool is_alone(int method) { return method < EQUAL; }

static void fixed_weights(int method, double *w)
{
    w[0] = w[1] = w[2] = 1;
    if (method >= FIXED && method < UNCERTAIN) w[1] = grid[(method - FIXED) / GRID], w[2] = grid[(method - FIXED) % GRID];
}

static dl_tensor total_of(const losses *l, int method, const double *start, const bool *wanted)
{
    dl_tensor total = { 0 };
    double w[TASKS];
    if (method >= UNCERTAIN) {
        dl_task task[TASKS] = { { task_names[0], l->each[0], DL_TASK_CLASSES, 0 }, { task_names[1], l->each[1], DL_TASK_SQUARED, 0 },
            { task_names[2], l->each[2], DL_TASK_SQUARED, 0 } };
        for (int t = 0; t < TASKS && method == STARTED; t++) task[t].start = (float)start[t];
        return dl_uncertainty_loss(task, TASKS);
    }
    fixed_weights(method, w);
    for (int t = 0; t < TASKS; t++) {
        if (!wanted[t]) continue;
        dl_tensor term = w[t] == 1 ? l->each[t] : dl_mul_scalar(l->each[t], (float)w[t]);
        total = dl_ok(total) ? dl_add(total, term) : term;
    }
    return total;
}

static void note_weights(dl_context *ctx, dl_history *curves, const char *prefix, int epoch)
{
    static const double factor[TASKS] = { 1, 0.5, 0.5 };
    for (int t = 0; t < TASKS; t++) {
        char name[80];
        dl_param_info p;
        snprintf(name, sizeof name, "%s.log_variance", task_names[t]);
        if (!dl_param_find(ctx, name, &p) || !p.value) continue;
        snprintf(name, sizeof name, "unit of the moments %s/%s", prefix, task_names[t]);
        dl_history_add(curves, name, epoch, log10(factor[t] * exp(-(double)*p.value)));
    }
}

static bool train(const options *o, const part *p, int method, double unit, int seed, dl_history *curves, run *out)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = o->threads });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = (dl_real)o->lr });
    bool wanted[TASKS] = { true, true, true };
    size_t n = p[0].n, *order = (size_t *)malloc(n * sizeof *order), batch = (size_t)o->batch;
    double start[TASKS] = { 0 };
    char prefix[32];
    for (int t = 0; t < TASKS && is_alone(method); t++) wanted[t] = t == method;
    snprintf(prefix, sizeof prefix, method == STARTED ? "x%g, started" : "x%g", unit);
    for (int epoch = 0; order && epoch < o->epochs && !dl_failed(ctx); epoch++) {
        dl_randperm((uint32_t)(1000 * seed + epoch), order, n);
        for (size_t at = 0; at < n; at += batch) {
            losses l = forward(ctx, &p[0], order + at, n - at < batch ? n - at : batch, o->hidden, unit, wanted);
            if (!epoch && !at && method == STARTED)
                for (int t = 0; t < TASKS; t++) start[t] = dl_item(l.each[t]);
            dl_backward(total_of(&l, method, start, wanted));
            dl_step(opt);
        }
        if (curves && method >= UNCERTAIN) note_weights(ctx, curves, prefix, epoch + 1);
    }
    evaluate(ctx, &p[1], o->hidden, unit, wanted, out->validation);
    evaluate(ctx, &p[2], o->hidden, unit, wanted, out->test);
    bool ok = !dl_failed(ctx) && order;
    if (!ok) fprintf(stderr, "multitask: %s\n", order ? dl_error(ctx) : "no memory");
    free(order);
    dl_destroy(ctx);
    return ok;
}

/* ---- the table ---- */
static run runs[UNITS][METHODS][SEEDS];
static bool done[METHODS];

static void name_of(int method, char *out, size_t size)
{
    double w[TASKS];
    fixed_weights(method, w);
    if (is_alone(method)) snprintf(out, size, "%s alone", task_names[method]);
    else if (method == EQUAL) snprintf(out, size, "equal weights");
    else if (method < UNCERTAIN) snprintf(out, size, "fixed 1:%g:%g", w[1], w[2]);
    else snprintf(out, size, method == STARTED ? "uncertainty (started)" : "uncertainty");
}

/* The fixed weights with the smallest validation error, each task's measured by what it reaches alone. */
static int best_fixed(int unit, int seeds)
{
    int best = EQUAL;
    double least = HUGE_VAL;
    for (int m = EQUAL; m < UNCERTAIN; m++) {
        double cost = 0;
        if (!done[m]) continue;
        for (int s = 0; s < seeds; s++)
            for (int t = 0; t < TASKS; t++) cost += runs[unit][m][s].validation[t] / (runs[unit][ALONE + t][s].validation[t] + 1e-9);
        if (cost < least) least = cost, best = m;
    }
    return best;
}

static void print_row(const char *name, int unit, const int *method, int seeds)
{
    double value[TASKS][SEEDS];
    for (int t = 0; t < TASKS; t++)
        for (int s = 0; s < seeds; s++) value[t][s] = runs[unit][method[t]][s].test[t];
    printf("| x%g | %s |", units[unit], name);
    for (int t = 0; t < TASKS; t++) printf(t ? " %.3f +- %.3f |" : " %.2f +- %.2f |", lab_mean(value[t], seeds), lab_deviation(value[t], seeds));
    printf("\n");
}

static void print_table(int seeds)
{
    printf("\n| unit of the moments | method | class error %% | moments, RMSE | pixel, RMSE |\n|---|---|---|---|---|\n");
    for (int u = 0; u < UNITS; u++) {
        static const int alone[TASKS] = { ALONE, ALONE + 1, ALONE + 2 };
        print_row("each task alone", u, alone, seeds);
        int best = best_fixed(u, seeds);
        for (int m = EQUAL; m < METHODS; m++) {
            char name[64], text[96];
            int all[TASKS] = { m, m, m };
            name_of(m, name, sizeof name);
            snprintf(text, sizeof text, m == best ? "best fixed (%s)" : "%s", name);
            if (done[m] && (m == EQUAL || m == best || m >= UNCERTAIN)) print_row(text, u, all, seeds);
        }
    }
    printf("\nRMSE of the moments in deviations of each moment, of a pixel in [0,1]; mean and deviation over %d seeds.\n", seeds);
}

static bool write_csv(const char *prefix, int seeds)
{
    char path[1024], name[64];
    snprintf(path, sizeof path, "%s.csv", prefix);
    FILE *f = lab_create("multitask", path);
    if (!f) return false;
    fprintf(f, "unit,method,seed,class_error_percent,moments_rmse,pixel_rmse\n");
    for (int u = 0; u < UNITS; u++)
        for (int m = 0; m < METHODS; m++)
            for (int s = 0; s < seeds && done[m]; s++) {
                name_of(m, name, sizeof name);
                fprintf(f, "%g,\"%s\",%d", units[u], name, s + 1);
                for (int t = 0; t < TASKS; t++) fprintf(f, is_alone(m) && t != m ? "," : ",%.5f", runs[u][m][s].test[t]);
                fprintf(f, "\n");
            }
    printf("wrote %s and %s.svg\n", path, prefix);
    return fclose(f) == 0;
}

static bool all_runs(const options *o, const part *p, dl_history *curves)
{
    for (int m = 0; m < METHODS; m++) {
        char name[64];
        double began = lab_seconds();
        name_of(m, name, sizeof name);
        bool on_grid = m >= FIXED && m < UNCERTAIN;
        if (m == FIXED + GRID + 1 || (o->quick && on_grid && m % 2)) continue; /* 1:1:1 is EQUAL */
        for (int u = 0; u < UNITS; u++)
            for (int s = 0; s < o->seeds; s++) {
                bool same = is_alone(m) && m != 1 && u; /* the unit of the moments is nothing to the others */
                if (same) runs[u][m][s] = runs[0][m][s];
                else if (!train(o, p, m, units[u], s + 1, s ? NULL : curves, &runs[u][m][s])) return false;
            }
        done[m] = true;
        printf("%-24s %6.1f s\n", name, lab_seconds() - began);
        fflush(stdout);
    }
    return true;
}

int main(int argc, char **argv)
{
    options o = { .data = getenv("DLTRAIN_DATA"), .out = "multitask", .train = 2000, .test = 2000, .seeds = 5, .epochs = 60, .batch = 50,
        .hidden = 48, .threads = 1, .lr = 1e-3 };
    const lab_option option[] = { { "--data", 's', &o.data, 0, 0 }, { "--out", 's', &o.out, 0, 0 }, { "--train", 'i', &o.train, 20, 40000 },
        { "--test", 'i', &o.test, 10, 10000 }, { "--seeds", 'i', &o.seeds, 1, SEEDS }, { "--epochs", 'i', &o.epochs, 1, 10000 },
        { "--batch", 'i', &o.batch, 1, 1000 }, { "--hidden", 'i', &o.hidden, 1, 10000 }, { "--threads", 'i', &o.threads, 0, 1000 },
        { "--lr", 'd', &o.lr, 1e-9, 10 }, { "--quick", 'f', &o.quick, 0, 0 } };
    if (!lab_parse("multitask", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (o.quick) o.train = 600, o.test = 300, o.seeds = 2, o.epochs = 20;
    lab_images images = { 0 }, held_out = { 0 };
    part p[3] = { { 0 } };
    size_t *order = NULL;
    char path[1024];
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_history *curves = dl_history_create(ctx);
    bool ok = lab_mnist(ctx, "multitask", o.data, &images, &held_out);
    if (ok && images.side > 28) ok = dl_fail(ctx, "images of at most 28 x 28 are taken, not of %td", images.side);
    if (ok) {
        size_t n = (size_t)o.train, more = n / 2, test = (size_t)o.test;
        if (n + more > images.count) n = images.count * 2 / 3, more = images.count - n;
        if (test > held_out.count) test = held_out.count;
        order = (size_t *)malloc((images.count + held_out.count) * sizeof *order);
        if (order) {
            dl_randperm(1, order, images.count);
            p[0] = take(&images, order, n);
            p[1] = take(&images, order + n, more);
            for (size_t i = 0; i < test; i++) order[i] = i;
            p[2] = take(&held_out, order, test);
        }
        ok = order && p[0].x && p[0].y && p[1].x && p[1].y && p[2].x && p[2].y;
        if (!ok) dl_fail(ctx, "no memory for %zu images", n + more + test);
        for (int k = 2; ok && k >= 0; k--) standardise(&p[k], &p[0]); /* the training set last: the others need it as it was */
        if (ok) printf("%zu images to learn from, %zu to choose by, %zu to test on; %d seeds\n", n, more, test, o.seeds);
    }
    ok = ok && all_runs(&o, p, curves);
    if (ok) {
        print_table(o.seeds);
        snprintf(path, sizeof path, "%s.svg", o.out);
        ok = dl_history_svg(curves, path, "Learnt weights of the tasks over the epochs, log10") && write_csv(o.out, o.seeds);
    }
    if (dl_failed(ctx)) fprintf(stderr, "multitask: %s\n", dl_error(ctx));
    free(order);
    lab_free(&images), lab_free(&held_out);
    for (int k = 0; k < 3; k++) free(p[k].x), free(p[k].y);
    dl_destroy(ctx);
    return ok ? 0 : 1;
}
