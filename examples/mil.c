/* Multiple-instance learning: a label belongs to a bag of images, and nobody says which of them earn it.

       cc -O2 examples/mil.c -o mil -lm -pthread
       ./mil --data DIR                         bags of MNIST: is there a 9 ('any'), are most of them 9s ('share')?
       ./mil --data DIR --experiment labels     ten labels a bag, each with a share of its own
       ./mil --data DIR --experiment canvas     digits on one large image, seen by a convolution; 'tiles': cut into patches
       ./mil --csv clean1.data --bag-column 1 --skip 2 --label last      cross-validation on bags from a file, such as MUSK's

   Compared: poolings of the instances' probabilities, and of their embeddings. Its results are in docs/methods.md. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

enum { POOLINGS = 11, EMBEDDING_MAX = 7, EMBEDDING_MEAN, ATTENTION, GATED, MOST_LABELS = 10, SEEDS = 16, COUNTS = 4, TARGET = 9 };
static const char *const pooling_names[POOLINGS] = { "max", "mean", "noisy-or", "isr", "gm", "lse", "noisy-and", "embedding-max", "embedding-mean",
    "attention", "gated" };

typedef struct options {
    const char *data, *out, *experiment, *rule, *poolings, *counts, *picture, *csv, *label;
    int test, seeds, first, steps, batch, threads, grid, folds, bag_column, skip;
    double lr, decay, r, a, start;
    bool chosen[POOLINGS], quick, validate;
    int count[COUNTS], n_counts;
} options;

static const char *usage =
    "usage: mil [options]\n"
    "  --data DIR        where MNIST is (default: the environment variable DLTRAIN_DATA; without: the shipped digits)\n"
    "  --experiment NAME bags, labels, canvas or tiles (bags)\n"
    "  --rule NAME       of the bags: any, share or both (both)\n"
    "  --counts LIST     bags to learn from (bags: 50,100,200, under 'share' 60; labels: 400; canvas and tiles: 1000)\n"
    "  --poolings LIST   of max,mean,noisy-or,isr,gm,lse,noisy-and,embedding-max,embedding-mean,attention,gated (all that fit)\n"
    "  --test N          bags to test on (400)\n"
    "  --seeds N         (3)\n"
    "  --first N         the first seed (1)\n"
    "  --validate        to choose settings by: the last sixth of the images to learn from makes the bags that are scored\n"
    "  --steps N         of Adam (bags: 1200; labels and CSV: 600; canvas and tiles: 2000)\n"
    "  --batch N         bags of a step (bags: 2; labels and CSV: 8; canvas and tiles: 4)\n"
    "  --lr X            (0.001; labels, canvas, tiles and the quick form: 0.002)\n"
    "  --decay X         weight decay (0.0001; CSV: 0.005)\n"
    "  --r X             of gm and lse (5)\n"
    "  --a X             of noisy-and (10)\n"
    "  --start X         the share at which the thresholds of noisy-and start (0.5)\n"
    "  --grid N          canvas: N x N digits (2)\n"
    "  --picture NAME    the pooling whose highest-weighted instances are drawn (attention; noisy-and where there is none)\n"
    "  --csv FILE        instances as lines of numbers; a line of names at the top is passed over\n"
    "  --bag-column N    the column that names the bag, from 1 (1)\n"
    "  --skip N          columns before the features (2)\n"
    "  --label N         the column of the class: above 1/2 is positive, and so is the bag then. A number, or last (last)\n"
    "  --folds N         of the cross-validation (10)\n"
    "  --threads N       0: one a CPU (1)\n"
    "  --out PREFIX      PREFIX.csv: every run; PREFIX.svg: the picture, of bags alone (mil)\n"
    "  --quick           fewer bags, steps and seeds: half a minute\n"
    "  --help\n";

/* ---- bags and their labels ---- */
typedef struct set { dl_bags bags; size_t *offset, *row; float *label; size_t labels; uint8_t *own; } set;

static bool set_create(set *s, size_t bags, size_t rows, size_t labels)
{
    memset(s, 0, sizeof *s);
    s->offset = (size_t *)calloc(bags + 1, sizeof *s->offset);
    s->row = (size_t *)calloc(rows + 1, sizeof *s->row);
    s->label = (float *)calloc(bags * labels + 1, sizeof *s->label);
    s->labels = labels;
    s->bags.count = bags, s->bags.offset = s->offset, s->bags.row = s->row;
    return s->offset && s->row && s->label;
}

static void set_destroy(set *s) { free(s->offset), free(s->row), free(s->label), free(s->own); }

static void set_images(set *s, const uint8_t *pixel, size_t count, dl_index side)
{
    s->bags.dtype = DL_U8, s->bags.shape = DL_SHAPE(1, side, side), s->bags.x = pixel, s->bags.instances = count;
}

/* A size: int(N(10, 2)), one at least (Ilse and others). */
static size_t bag_size(uint64_t *state)
{
    double u = (lab_random(state) + 1.0) / 4294967297.0, v = lab_random(state) / 4294967296.0;
    int n = (int)(10 + 2 * sqrt(-2 * log(u)) * cos(6.283185307179586 * v));
    return n < 1 ? 1 : n > 20 ? 20 : (size_t)n;
}

static size_t draw(const lab_images *im, int digit, bool that, uint64_t *state) /* an image that is the digit, or is not */
{
    for (;;) {
        size_t i = lab_below(state, im->count);
        if ((im->label[i] == digit) == that) return i;
    }
}

/* Every other bag is positive. any: at least one 9, as they fall; share: 50 to 80 % 9s, or 5 to 30 %. */
static bool bags_by_rule(set *s, const lab_images *im, bool share, size_t count, uint64_t seed)
{
    uint64_t state = seed * 2654435761u + 12345;
    if (!set_create(s, count, 20 * count, 1)) return false;
    set_images(s, im->pixel, im->count, im->side);
    for (size_t b = 0; b < count; b++) {
        size_t n = bag_size(&state), targets = 0;
        s->label[b] = b % 2 == 0;
        if (share) {
            double low = b % 2 ? 0.05 : 0.5, high = b % 2 ? 0.3 : 0.8, part = low + (high - low) * lab_random(&state) / 4294967296.0;
            targets = (size_t)(part * (double)n + 0.5);
            if (b % 2 && targets > n * 3 / 10) targets = n * 3 / 10;
            if (b % 2 == 0 && 2 * targets < n) targets++;
        } else
            while (b % 2 == 0 && !targets)
                for (size_t k = 0; k < n; k++) targets += lab_below(&state, 10) == 0;
        for (size_t k = 0; k < n; k++) s->row[s->offset[b] + k] = draw(im, TARGET, k < targets, &state);
        for (size_t k = n; k > 1; k--) { /* where they lie says nothing */
            size_t other = lab_below(&state, k), *r = s->row + s->offset[b], t = r[k - 1];
            r[k - 1] = r[other], r[other] = t;
        }
        s->offset[b + 1] = s->offset[b] + n;
    }
    return true;
}

/* The share of a digit above which its label is set. */
static double share_of(int digit) { return digit % 2 ? 0.35 : 0.1; }

/* Bags of 20 of four kinds of digits, in shares at random; a label for each digit. */
static bool bags_of_labels(set *s, const lab_images *im, size_t count, uint64_t seed)
{
    enum { SIZE = 20, KINDS = 4 };
    uint64_t state = seed * 2654435761u + 54321;
    if (!set_create(s, count, SIZE * count, 10)) return false;
    set_images(s, im->pixel, im->count, im->side);
    for (size_t b = 0; b < count; b++) {
        int kind[KINDS], have[10] = { 0 };
        uint32_t cut = 1 + (uint32_t)lab_below(&state, 8);
        for (int k = 0; k < KINDS; k++) kind[k] = (int)lab_below(&state, 10);
        for (size_t k = 0; k < SIZE; k++) {
            int digit = kind[lab_below(&state, 10) < cut ? 0 : 1 + lab_below(&state, KINDS - 1)];
            s->row[b * SIZE + k] = draw(im, digit, true, &state);
            have[digit]++;
        }
        for (int d = 0; d < 10; d++) s->label[b * 10 + (size_t)d] = have[d] > share_of(d) * SIZE;
        s->offset[b + 1] = (b + 1) * SIZE;
    }
    return true;
}

/* grid x grid digits of two or three kinds on one image; labels: which are there. As bags of one image, or of patches, half a digit apart. */
static bool canvases(set *s, const lab_images *im, dl_index grid, bool tiles, size_t count, uint64_t seed)
{
    dl_index side = im->side, wide = grid * side;
    dl_tiling tiling = { .image = DL_SHAPE(1, wide, wide), .size = side, .stride = side / 2 };
    size_t pieces = tiles ? dl_tile_count(&tiling) : 1, piece = (size_t)(tiles ? side * side : wide * wide);
    uint64_t state = seed * 2654435761u + 777;
    uint8_t *canvas = (uint8_t *)malloc((size_t)(wide * wide));
    bool ok = set_create(s, count, count * pieces, 10) && canvas && (s->own = (uint8_t *)malloc(count * pieces * piece)) != NULL;
    for (size_t b = 0; ok && b < count; b++) {
        int kind[3];
        for (int k = 0; k < 3; k++) kind[k] = (int)lab_below(&state, 10);
        for (dl_index cell = 0; cell < grid * grid; cell++) {
            size_t i = draw(im, kind[lab_below(&state, 3)], true, &state);
            s->label[b * 10 + im->label[i]] = 1;
            for (dl_index y = 0; y < side; y++)
                memcpy(canvas + (cell / grid * side + y) * wide + cell % grid * side, im->pixel + (dl_index)i * side * side + y * side, (size_t)side);
        }
        for (size_t k = 0; k < pieces; k++) {
            uint8_t *to = s->own + (b * pieces + k) * piece;
            if (tiles) dl_tile_copy(&tiling, k, canvas, to);
            else memcpy(to, canvas, piece);
            s->row[b * pieces + k] = b * pieces + k;
        }
        s->offset[b + 1] = (b + 1) * pieces;
    }
    if (ok) set_images(s, s->own, count * pieces, tiles ? side : wide);
    free(canvas);
    return ok;
}

/* ---- networks: instances to embeddings [R,D]. A convolution all through: an image of one digit gives one embedding, a larger one a map
   of them, and each place of the map is an instance of its own ---- */
static dl_tensor embed(dl_tensor x, dl_index *places)
{
    static const int last[] = { 0, 2, 3, 1 };
    *places = 1;
    if (dl_ndim(x) == 2) return dl_relu(dl_linear(dl_relu(dl_linear(x, "fc1", 64)), "fc2", 32));
    bool small = dl_dim(x, 2) % 28 != 0; /* digits of 8 x 8 */
    dl_conv2d_desc c1 = { .out_channels = 12, .kernel = small ? 3 : 5, .padding = small ? 1 : 0 }, c2 = c1, fc = { .out_channels = 96, .kernel = small ? 2 : 4 };
    c2.out_channels = 24;
    dl_pool2d_desc half = { .kernel = 2 };
    x = dl_max_pool2d(dl_relu(dl_conv2d(x, "conv1", &c1)), &half);
    x = dl_max_pool2d(dl_relu(dl_conv2d(x, "conv2", &c2)), &half);
    x = dl_relu(dl_conv2d(x, "fc1", &fc));
    *places = dl_dim(x, 2) * dl_dim(x, 3);
    return dl_reshape(dl_permute(x, last), DL_SHAPE(-1, 96));
}

/* dl_mil_threshold with another start than 1/2: thresholds are any tensor with values between 0 and 1. */
static dl_tensor threshold_from(dl_context *ctx, dl_index labels, double start)
{
    dl_param_desc d = { .shape = DL_SHAPE(labels), .init = DL_INIT_CONSTANT, .value = (dl_real)log(start / (1 - start)) };
    return dl_sigmoid(dl_parameter(ctx, "and.threshold", &d));
}

/* Logits of the bags [S,labels]; *weights [R,...]: how much each instance counts, none for poolings of embeddings but attention. */
static dl_tensor bag_logits(const options *o, dl_tensor h, dl_tensor offsets, int pooling, dl_index labels, dl_tensor *weights)
{
    *weights = (dl_tensor){ 0 };
    if (pooling < EMBEDDING_MAX) {
        dl_tensor z = dl_linear(h, "instance", labels);
        dl_mil_desc d = { .pooling = (dl_mil_pooling)pooling, .r = (float)o->r, .a = (float)o->a };
        if (d.pooling == DL_MIL_NOISY_AND) d.threshold = threshold_from(h.ctx, labels, o->start);
        *weights = dl_sigmoid(z);
        return dl_mil_pool(z, offsets, &d);
    }
    dl_tensor bag = pooling == EMBEDDING_MAX ? dl_segment_max(h, offsets) : pooling == EMBEDDING_MEAN ? dl_segment_mean(h, offsets) :
        dl_mil_attention(h, offsets, "attention", &(dl_mil_attention_desc){ .hidden = 64, .gated = pooling == GATED }, weights);
    return dl_linear(bag, "bag", labels);
}

static dl_tensor forward(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling, dl_tensor *weights)
{
    dl_tensor x, offsets;
    dl_index places;
    if (!dl_bags_input(ctx, &s->bags, index, n, &x, &offsets)) return x;
    dl_tensor h = embed(x, &places);
    if (places > 1) { /* each image is as many instances */
        int32_t *at = (int32_t *)calloc(n + 1, sizeof *at);
        for (size_t k = 0; at && k < n; k++) at[k + 1] = at[k] + (int32_t)((s->offset[index[k] + 1] - s->offset[index[k]]) * (size_t)places);
        offsets = dl_input(ctx, DL_I32, DL_SHAPE((dl_index)n + 1), at);
        free(at);
    }
    return bag_logits(o, h, offsets, pooling, (dl_index)s->labels, weights);
}

/* Bags as large as these come so many at once. */
static bool predict(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling, float *score)
{
    bool recording = dl_set_grad(ctx, false), ok = true;
    dl_tensor weights;
    for (size_t at = 0; ok && at < n; at += 20) {
        size_t count = n - at < 20 ? n - at : 20;
        ok = dl_read(forward(o, ctx, s, index + at, count, pooling, &weights), score + at * s->labels, count * s->labels);
        dl_end(ctx);
    }
    dl_set_grad(ctx, recording);
    return ok;
}

/* Trains on bags `index[0..n)`. */
static bool learn(const options *o, dl_context *ctx, const set *s, const size_t *index, size_t n, int pooling)
{
    float *label = (float *)malloc((n * s->labels + 1) * sizeof *label);
    size_t *now = (size_t *)malloc((size_t)o->batch * sizeof *now);
    for (size_t i = 0; label && i < n; i++) memcpy(label + i * s->labels, s->label + index[i] * s->labels, s->labels * sizeof *label);
    dl_dataset *data = dl_dataset_create(ctx,
        &(dl_dataset_desc){ .count = n, .x_dtype = DL_F32, .x_shape = DL_SHAPE((dl_index)s->labels), .no_y = true, .x = label });
    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = (size_t)o->batch, .shuffle = true });
    dl_optimizer *opt = dl_adam(ctx, &(dl_adam_desc){ .lr = (dl_real)o->lr, .weight_decay = (dl_real)o->decay });
    if (pooling == DL_MIL_NOISY_AND && s->labels > 1) /* thresholds have a long way to go */
        dl_optimizer_group(opt, "*.threshold", &(dl_group_desc){ .lr_scale = 10, .no_weight_decay = true });
    for (int step = 0; now && step < o->steps && !dl_failed(ctx); step++) {
        dl_batch b;
        dl_tensor weights;
        if (!dl_next(loader, &b) && !dl_next(loader, &b)) break;
        for (size_t i = 0; i < b.count; i++) now[i] = index[b.index[i]];
        dl_tensor z = forward(o, ctx, s, now, b.count, pooling, &weights);
        dl_backward(dl_bce_with_logits(z, b.x, DL_MEAN));
        dl_step(opt);
    }
    dl_end(ctx);
    free(label), free(now);
    return !dl_failed(ctx) && now;
}

static double mean_auc(const float *score, const float *label, size_t n, size_t labels)
{
    double sum = 0, counted = 0;
    for (size_t c = 0; c < labels; c++) {
        double auc = lab_auc(score + c, label + c, n, labels);
        if (auc == auc) sum += auc, counted++;
    }
    return counted > 0 ? sum / counted : NAN;
}

/* ---- the picture: bags of the test set, their instances by falling weight ---- */
/* An image as runs of equal ink, four shades. */
static void draw_image(FILE *f, const uint8_t *pixel, dl_index side, double x, double y, double scale)
{
    static const char *const shade[] = { "#bbb", "#888", "#444", "#000" };
    for (int level = 0; level < 4; level++) {
        bool open = false;
        for (dl_index r = 0; r < side; r++)
            for (dl_index c = 0; c < side;) {
                dl_index from = c;
                while (c < side && pixel[r * side + c] >= 32 && (pixel[r * side + c] - 32) / 56 == level) c++;
                if (c == from) { c++; continue; }
                if (!open) fprintf(f, "<path fill=\"%s\" d=\"", shade[level]), open = true;
                fprintf(f, "M%.4g %.4gh%.3gv%.3gh-%.3gz", x + (double)from * scale, y + (double)r * scale, (double)(c - from) * scale, scale, (double)(c - from) * scale);
            }
        if (open) fprintf(f, "\"/>\n");
    }
}

/* Weights are those of label 0. True targets have a red frame. */
static bool picture(const options *o, dl_context *ctx, const set *s, const lab_images *im, int pooling, const char *path)
{
    enum { BAGS = 8, SHOWN = 10, CELL = 64, LEFT = 150 };
    FILE *f = lab_create("mil", path);
    if (!f) return false;
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" font-family=\"sans-serif\" font-size=\"12\">\n"
        "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n<text x=\"12\" y=\"22\" font-size=\"15\">%s: the instances with the highest weights, and the "
        "weights; %ds are framed</text>\n", LEFT + SHOWN * CELL + 12, 40 + BAGS * (CELL + 16), pooling_names[pooling], TARGET);
    bool recording = dl_set_grad(ctx, false);
    for (size_t b = 0; b < BAGS && b < s->bags.count; b++) {
        float w[64], p;
        dl_tensor weights, z = forward(o, ctx, s, &b, 1, pooling, &weights);
        size_t n = s->offset[b + 1] - s->offset[b], row = 0, order[64];
        dl_keep(weights);
        if (n > 64 || !dl_read(dl_keep(z), &p, 1) || !dl_read(weights, w, n)) break;
        dl_end(ctx);
        for (size_t i = 0; i < n; i++) {
            for (row = i; row && w[order[row - 1]] < w[i]; row--) order[row] = order[row - 1];
            order[row] = i;
        }
        double y = 40 + (double)b * (CELL + 16);
        fprintf(f, "<text x=\"12\" y=\"%.0f\">bag of %zu, label %g</text><text x=\"12\" y=\"%.0f\">P = %.3f</text>\n", y + 24, n, (double)s->label[b], y + 42,
            1 / (1 + exp(-(double)p)));
        for (size_t i = 0; i < n && i < SHOWN; i++) {
            size_t image = s->row[s->offset[b] + order[i]];
            double x = LEFT + (double)i * CELL;
            draw_image(f, im->pixel + image * (size_t)(im->side * im->side), im->side, x, y, 56.0 / (double)im->side);
            fprintf(f, "<rect x=\"%.0f\" y=\"%.0f\" width=\"57\" height=\"57\" fill=\"none\" stroke=\"%s\"/><text x=\"%.0f\" y=\"%.0f\">%.2f</text>\n", x - 0.5, y - 0.5,
                im->label[image] == TARGET ? "#d1242f" : "#ddd", x + 14, y + 70, (double)w[order[i]]);
        }
    }
    dl_set_grad(ctx, recording);
    fprintf(f, "</svg>\n");
    return fclose(f) == 0 && !dl_failed(ctx);
}

/* ---- experiments on images ---- */
typedef struct column { const char *title; int count; bool share; double auc[POOLINGS][SEEDS]; } column;

static bool make_set(const options *o, set *s, const lab_images *im, const column *c, size_t count, uint64_t seed)
{
    if (!strcmp(o->experiment, "labels")) return bags_of_labels(s, im, count, seed);
    if (!strcmp(o->experiment, "bags")) return bags_by_rule(s, im, c->share, count, seed);
    return canvases(s, im, o->grid, !strcmp(o->experiment, "tiles"), count, seed);
}

/* The thresholds that noisy-AND has learnt, beside the shares by which the labels were made. */
static void print_thresholds(dl_context *ctx, bool known)
{
    dl_param_info p;
    if (!dl_param_find(ctx, "and.threshold", &p) || !p.value) return;
    printf("  thresholds learnt by noisy-and:");
    for (size_t c = 0; c < p.numel; c++) {
        printf(" %.2f", 1 / (1 + exp(-(double)p.value[c])));
        if (known) printf(" (%.2f)", share_of((int)c));
    }
    printf("\n");
}

static bool run_one(const options *o, const lab_images *im, const lab_images *held_out, column *c, int pooling, int seed, bool draw_it)
{
    set train = { 0 }, test = { 0 };
    char path[1024];
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = o->threads });
    bool ok = make_set(o, &train, im, c, (size_t)c->count, (uint64_t)seed) && make_set(o, &test, held_out, c, (size_t)o->test, o->validate ? 2000 : 1000);
    size_t most = ok ? (train.bags.count > test.bags.count ? train.bags.count : test.bags.count) : 0, *index = (size_t *)malloc((most + 1) * sizeof *index);
    float *score = (float *)malloc((most * MOST_LABELS + 1) * sizeof *score);
    if (!ok || !index || !score) ok = dl_fail(ctx, "no memory for the bags");
    for (size_t i = 0; ok && i < most; i++) index[i] = i;
    ok = ok && learn(o, ctx, &train, index, train.bags.count, pooling) && predict(o, ctx, &test, index, test.bags.count, pooling, score);
    if (ok) c->auc[pooling][seed - o->first] = mean_auc(score, test.label, test.bags.count, test.labels);
    if (ok && seed == o->first && pooling == DL_MIL_NOISY_AND && test.labels > 1) print_thresholds(ctx, !strcmp(o->experiment, "labels"));
    snprintf(path, sizeof path, "%s.svg", o->out);
    if (ok && draw_it) ok = picture(o, ctx, &test, held_out, pooling, path);
    if (dl_failed(ctx)) fprintf(stderr, "mil: %s\n", dl_error(ctx));
    set_destroy(&train), set_destroy(&test);
    free(index), free(score);
    dl_destroy(ctx);
    return ok;
}

static bool write_csv(const options *o, const column *c, int columns)
{
    char path[1024];
    snprintf(path, sizeof path, "%s.csv", o->out);
    FILE *f = lab_create("mil", path);
    if (!f) return false;
    fprintf(f, "experiment,column,bags,pooling,seed,auc\n");
    for (int k = 0; k < columns; k++)
        for (int p = 0; p < POOLINGS; p++)
            for (int s = 0; s < o->seeds && o->chosen[p]; s++)
                fprintf(f, "%s,%s,%d,%s,%d,%.5f\n", o->experiment, c[k].title, c[k].count, pooling_names[p], o->first + s, c[k].auc[p][s]);
    printf("wrote %s\n", path);
    return fclose(f) == 0;
}

static void print_table(const options *o, const column *c, int columns)
{
    printf("\n| pooling |");
    for (int k = 0; k < columns; k++) printf(" %s, %d |", c[k].title, c[k].count);
    printf("\n|---|");
    for (int k = 0; k < columns; k++) printf("---|");
    printf("\n");
    for (int p = 0; p < POOLINGS; p++) {
        if (!o->chosen[p]) continue;
        printf("| %s |", pooling_names[p]);
        for (int k = 0; k < columns; k++) {
            int failed = 0;
            for (int s = 0; s < o->seeds; s++) failed += c[k].auc[p][s] < 0.8;
            printf(" %.3f", lab_median(c[k].auc[p], o->seeds));
            if (failed) printf(" (%d/%d)", failed, o->seeds);
            printf(" |");
        }
        printf("\n");
    }
    printf("\nMedian AUC on %d %s bags over %d seeds; in brackets how many seeds stayed under 0.8.\n", o->test, o->validate ? "validation" : "test", o->seeds);
}

static bool image_experiments(options *o)
{
    static column c[COUNTS + 1];
    bool bags = !strcmp(o->experiment, "bags"), ok;
    int columns = 0, pictured = ATTENTION;
    lab_images all = { 0 }, held_out = { 0 }, im, scored;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    ok = lab_mnist(ctx, "mil", o->data, &all, &held_out);
    im = all, scored = held_out;
    if (o->validate) {
        scored = all;
        scored.count = all.count / 6;
        im.count -= scored.count;
        scored.pixel += im.count * (size_t)(im.side * im.side), scored.label += im.count;
    }
    if (!ok) fprintf(stderr, "mil: %s\n", dl_error(ctx));
    dl_destroy(ctx);
    for (int k = 0; k < o->n_counts && (!bags || strcmp(o->rule, "share")); k++)
        c[columns++] = (column){ .title = bags ? "any" : o->experiment, .count = o->count[k] };
    if (bags && strcmp(o->rule, "any")) c[columns++] = (column){ .title = "share", .count = o->quick ? 30 : 60, .share = true };
    for (int p = 0; p < POOLINGS; p++)
        if (!strcmp(o->picture, pooling_names[p])) pictured = p;
    if (!o->chosen[pictured]) pictured = DL_MIL_NOISY_AND;
    for (int p = 0; p < POOLINGS && ok; p++) {
        double began = lab_seconds();
        if (!o->chosen[p]) continue;
        for (int k = 0; k < columns && ok; k++)
            for (int s = 0; s < o->seeds && ok; s++)
                ok = run_one(o, &im, &scored, &c[k], p, o->first + s, bags && p == pictured && !s && k == (c[columns - 1].share && columns > 1 ? columns - 2 : columns - 1));
        printf("%-16s %7.1f s\n", pooling_names[p], lab_seconds() - began);
        fflush(stdout);
    }
    if (ok) print_table(o, c, columns);
    ok = ok && write_csv(o, c, columns);
    lab_free(&all), lab_free(&held_out);
    return ok;
}

/* ---- bags from a file ---- */
typedef struct table { float *x, *raw; size_t rows, columns; set s; } table;

static const char *field(const char *line, int column) /* from 1; NULL: there are fewer */
{
    for (int k = 1; line && k < column; k++) line = (line = strchr(line, ',')) ? line + 1 : NULL;
    return line;
}

static int fields_of(const char *line)
{
    int n = 1;
    for (; *line; line++) n += *line == ',';
    return n;
}

static bool is_end(const char *end) { return *end == ',' || *end == 0 || *end == '\n' || *end == '\r'; }

static bool a_number(const char *text, double *out)
{
    char *end;
    *out = text ? strtod(text, &end) : 0;
    return text && end != text && is_end(end) && fabs(*out) <= 1e30;
}

/* Reads a line of features and its class; 0, or the number of the first field that is no number. */
static int read_line(const options *o, const char *line, int fields, int label, float *x, double *class)
{
    int n = 0;
    double v;
    if (!a_number(field(line, label), class)) return label;
    for (int k = o->skip + 1; k <= fields; k++) {
        if (k == label || k == o->bag_column) continue;
        if (!a_number(field(line, k), &v)) return k;
        x[n++] = (float)v;
    }
    return 0;
}

static bool read_table(const options *o, table *t)
{
    static char line[1 << 16];
    static char (*name)[64];
    size_t room = 0, bags = 0, at = 0;
    int fields = 0, label = 0;
    size_t *bag_of = NULL;
    float *x = NULL, *positive = NULL;
    FILE *f = fopen(o->csv, "r");
    if (!f) return fprintf(stderr, "mil: cannot open '%s'\n", o->csv), false;
    memset(t, 0, sizeof *t);
    bool ok = true;
    while (ok && fgets(line, sizeof line, f)) {
        at++;
        if (!strchr(line, '\n') && !feof(f)) ok = (fprintf(stderr, "mil: '%s', line %zu: longer than %zu bytes\n", o->csv, at, sizeof line - 2), false);
        if (!ok || line[strspn(line, " \t\r\n")] == 0) continue;
        if (!fields) {
            fields = fields_of(line);
            label = strcmp(o->label, "last") ? atoi(o->label) : fields;
            t->columns = (size_t)(fields - o->skip - (label > o->skip) - (o->bag_column > o->skip));
            if (label < 1 || label > fields || o->bag_column > fields || fields - o->skip < 2 || (int)t->columns < 1) {
                fprintf(stderr, "mil: '%s' has %d columns: no room for bag column %d, %d skipped, label %s, and features\n", o->csv, fields, o->bag_column, o->skip, o->label);
                ok = false;
                break;
            }
        }
        if (t->rows == room) {
            room = room ? 2 * room : 256;
            x = (float *)realloc(x, room * t->columns * sizeof *x);
            bag_of = (size_t *)realloc(bag_of, room * sizeof *bag_of);
            positive = (float *)realloc(positive, room * sizeof *positive);
            name = (char (*)[64])realloc(name, room * sizeof *name);
            if (!x || !bag_of || !positive || !name) { ok = false; break; }
        }
        double class;
        int wrong = fields_of(line) != fields ? -1 : read_line(o, line, fields, label, x + t->rows * t->columns, &class);
        if (wrong && !t->rows && at == 1) continue; /* names of columns */
        if (wrong < 0) fprintf(stderr, "mil: '%s', line %zu: %d columns, not %d\n", o->csv, at, fields_of(line), fields);
        else if (wrong) fprintf(stderr, "mil: '%s', line %zu: column %d is not a number\n", o->csv, at, wrong);
        if (wrong) { ok = false; break; }
        const char *key = field(line, o->bag_column);
        int length = (int)strcspn(key, ",\r\n");
        char own[64];
        snprintf(own, sizeof own, "%.*s", length, key);
        size_t b = bags;
        while (b > 0 && strcmp(name[b - 1], own)) b--;
        if (!b) memcpy(name[bags], own, sizeof own), positive[bags] = 0, b = ++bags;
        bag_of[t->rows++] = b - 1;
        if (class > 0.5) positive[b - 1] = 1;
    }
    fclose(f);
    if (ok && !bags) ok = (fprintf(stderr, "mil: '%s' has no instances\n", o->csv), false);
    ok = ok && set_create(&t->s, bags, t->rows, 1) && (t->x = (float *)malloc(t->rows * t->columns * sizeof *t->x)) != NULL;
    for (size_t b = 0, k = 0; ok && b < bags; b++) { /* the rows of a bag together */
        for (size_t i = 0; i < t->rows; i++)
            if (bag_of[i] == b) t->s.row[k++] = i;
        t->s.offset[b + 1] = k;
        t->s.label[b] = positive[b];
    }
    t->raw = x;
    t->s.bags.dtype = DL_F32, t->s.bags.shape = DL_SHAPE((dl_index)t->columns), t->s.bags.x = t->x, t->s.bags.instances = t->rows;
    free(bag_of), free(positive), free(name);
    return ok;
}

/* Mean 0 and variance 1 over the instances of the bags index[0..n). */
static void standardise(table *t, const size_t *index, size_t n)
{
    for (size_t c = 0; c < t->columns; c++) {
        double sum = 0, squares = 0, count = 0;
        for (int pass = 0; pass < 2; pass++)
            for (size_t i = 0; i < n; i++)
                for (size_t r = t->s.offset[index[i]]; r < t->s.offset[index[i] + 1]; r++) {
                    double v = t->raw[t->s.row[r] * t->columns + c];
                    if (!pass) sum += v, count++;
                    else squares += (v - sum / count) * (v - sum / count);
                }
        double mean = sum / count, scale = sqrt(squares / count);
        for (size_t r = 0; r < t->rows; r++) t->x[r * t->columns + c] = (float)((t->raw[r * t->columns + c] - mean) / (scale > 1e-9 ? scale : 1));
    }
}

/* Every bag is scored by a network that has not seen it. Accuracy in percent, and the AUC of all scores together. */
static bool cross_validate(const options *o, table *t, int pooling, int seed, double *accuracy, double *auc)
{
    size_t bags = t->s.bags.count, *order = (size_t *)malloc(3 * bags * sizeof *order), *in = order + bags, *out = in + bags, dealt = 0;
    int *fold = (int *)malloc(bags * sizeof *fold);
    float *score = (float *)malloc(bags * sizeof *score), *one = (float *)malloc(bags * sizeof *one);
    bool ok = order && fold && score && one;
    if (ok) dl_randperm((uint32_t)seed, order, bags);
    for (int class = 0; ok && class < 2; class++) /* as many of each class in each fold as can be */
        for (size_t i = 0; i < bags; i++)
            if ((t->s.label[order[i]] > 0.5f) == (class == 1)) fold[order[i]] = (int)(dealt++ % (size_t)o->folds);
    for (int k = 0; ok && k < o->folds; k++) {
        size_t n_in = 0, n_out = 0;
        for (size_t b = 0; b < bags; b++) *(fold[b] == k ? &out[n_out++] : &in[n_in++]) = b;
        if (!n_out || !n_in) continue;
        standardise(t, in, n_in);
        dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)(100 * seed + k), .threads = o->threads });
        ok = learn(o, ctx, &t->s, in, n_in, pooling) && predict(o, ctx, &t->s, out, n_out, pooling, one);
        if (!ok) fprintf(stderr, "mil: %s\n", dl_error(ctx));
        dl_destroy(ctx);
        for (size_t i = 0; i < n_out; i++) score[out[i]] = one[i];
    }
    double right = 0;
    for (size_t b = 0; ok && b < bags; b++) right += (score[b] > 0) == (t->s.label[b] > 0.5f);
    *accuracy = 100 * right / (double)bags;
    *auc = ok ? lab_auc(score, t->s.label, bags, 1) : NAN;
    free(order), free(fold), free(score), free(one);
    return ok;
}

static bool csv_experiment(options *o)
{
    static double accuracy[POOLINGS][SEEDS], auc[POOLINGS][SEEDS];
    table t;
    char path[1024];
    size_t positive = 0;
    if (!read_table(o, &t)) return false;
    for (size_t b = 0; b < t.s.bags.count; b++) positive += t.s.label[b] > 0.5f;
    printf("%zu bags, %zu of them positive; %zu instances of %zu features\n", t.s.bags.count, positive, t.rows, t.columns);
    bool ok = t.s.bags.count >= (size_t)o->folds;
    if (!ok) fprintf(stderr, "mil: %zu bags cannot be %d folds\n", t.s.bags.count, o->folds);
    for (int p = 0; p < POOLINGS && ok; p++) {
        double began = lab_seconds();
        for (int s = 0; s < o->seeds && ok && o->chosen[p]; s++) ok = cross_validate(o, &t, p, o->first + s, &accuracy[p][s], &auc[p][s]);
        if (o->chosen[p]) printf("%-16s %7.1f s\n", pooling_names[p], lab_seconds() - began), fflush(stdout);
    }
    snprintf(path, sizeof path, "%s.csv", o->out);
    FILE *f = ok ? lab_create("mil", path) : NULL;
    if (f) {
        printf("\n| pooling | accuracy %% | AUC |\n|---|---|---|\n");
        fprintf(f, "experiment,pooling,seed,accuracy_percent,auc\n");
        for (int p = 0; p < POOLINGS; p++) {
            if (!o->chosen[p]) continue;
            printf("| %s | %.1f +- %.1f | %.3f +- %.3f |\n", pooling_names[p], lab_mean(accuracy[p], o->seeds), lab_deviation(accuracy[p], o->seeds),
                lab_mean(auc[p], o->seeds), lab_deviation(auc[p], o->seeds));
            for (int s = 0; s < o->seeds; s++) fprintf(f, "csv,%s,%d,%.3f,%.5f\n", pooling_names[p], o->first + s, accuracy[p][s], auc[p][s]);
        }
        printf("\n%d-fold cross-validation, each bag scored by a network that has not seen it; mean and deviation over %d seeds.\nwrote %s\n", o->folds, o->seeds, path);
        ok = fclose(f) == 0;
    }
    set_destroy(&t.s);
    free(t.x), free(t.raw);
    return ok && f;
}

/* ---- options ---- */
static bool choose(options *o)
{
    bool any = false;
    for (const char *p = o->poolings; p && *p; p += strcspn(p, ","), p += *p == ',') {
        int n = (int)strcspn(p, ","), k = 0;
        while (k < POOLINGS && (strlen(pooling_names[k]) != (size_t)n || strncmp(p, pooling_names[k], (size_t)n))) k++;
        if (k == POOLINGS) return fprintf(stderr, "mil: there is no pooling '%.*s'\n%s", n, p, usage), false;
        o->chosen[k] = any = true;
    }
    for (int k = 0; k < POOLINGS && !any; k++) o->chosen[k] = true;
    for (const char *p = o->counts; p && *p; p += strcspn(p, ","), p += *p == ',') {
        int n = atoi(p);
        if (n < 2 || n > 100000 || o->n_counts == COUNTS) return fprintf(stderr, "mil: --counts takes at most %d numbers from 2 to 100000\n", COUNTS), false;
        o->count[o->n_counts++] = n;
    }
    return true;
}

static bool one_of(const char *name, const char *value, const char *list)
{
    size_t n = strlen(value);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !strncmp(p, value, n)) return true;
    return fprintf(stderr, "mil: %s is one of %s, not '%s'\n", name, list, value), false;
}

static void defaults(options *o)
{
    bool bags = !strcmp(o->experiment, "bags"), labels = !strcmp(o->experiment, "labels");
    if (!o->seeds) o->seeds = o->quick ? 1 : 3;
    if (!o->steps) o->steps = o->quick ? 1000 : o->csv || labels ? 600 : bags ? 1200 : 2000;
    if (!o->batch) o->batch = o->csv || labels ? 8 : bags ? 2 : 4;
    if (o->lr == 0) o->lr = o->csv || (bags && !o->quick) ? 1e-3 : 2e-3;
    if (o->decay < 0) o->decay = o->csv ? 5e-3 : 1e-4;
    if (!o->test) o->test = o->quick ? 100 : 400;
    if (!o->counts) o->counts = o->quick ? "200" : bags ? "50,100,200" : labels ? "400" : "1000";
    if (!o->poolings && !bags && !o->csv) o->poolings = "max,mean,noisy-or,lse,noisy-and"; /* one attention a bag serves one label */
    if (!o->poolings && o->quick) o->poolings = "max,mean,noisy-or,noisy-and,attention";
}

int main(int argc, char **argv)
{
    options o = { .data = getenv("DLTRAIN_DATA"), .out = "mil", .experiment = "bags", .rule = "both", .picture = "attention", .label = "last", .threads = 1,
        .first = 1, .grid = 2, .folds = 10, .bag_column = 1, .skip = 2, .decay = -1, .r = 5, .a = 10, .start = 0.5 };
    const lab_option option[] = { { "--data", 's', &o.data, 0, 0 }, { "--out", 's', &o.out, 0, 0 }, { "--experiment", 's', &o.experiment, 0, 0 },
        { "--rule", 's', &o.rule, 0, 0 }, { "--counts", 's', &o.counts, 0, 0 }, { "--poolings", 's', &o.poolings, 0, 0 }, { "--picture", 's', &o.picture, 0, 0 },
        { "--csv", 's', &o.csv, 0, 0 }, { "--label", 's', &o.label, 0, 0 }, { "--test", 'i', &o.test, 2, 100000 }, { "--seeds", 'i', &o.seeds, 1, SEEDS },
        { "--first", 'i', &o.first, 0, 1e6 }, { "--steps", 'i', &o.steps, 1, 1e6 }, { "--batch", 'i', &o.batch, 1, 1000 }, { "--threads", 'i', &o.threads, 0, 1000 }, { "--grid", 'i', &o.grid, 1, 20 },
        { "--folds", 'i', &o.folds, 2, 1000 }, { "--bag-column", 'i', &o.bag_column, 1, 100000 }, { "--skip", 'i', &o.skip, 0, 100000 },
        { "--lr", 'd', &o.lr, 1e-9, 10 }, { "--decay", 'd', &o.decay, 0, 1 }, { "--r", 'd', &o.r, 1e-3, 1e3 }, { "--a", 'd', &o.a, 1e-3, 1e3 }, { "--start", 'd', &o.start, 1e-4, 0.9999 },
        { "--quick", 'f', &o.quick, 0, 0 }, { "--validate", 'f', &o.validate, 0, 0 } };
    if (!lab_parse("mil", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (!one_of("--experiment", o.experiment, "bags,labels,canvas,tiles") || !one_of("--rule", o.rule, "any,share,both")) return 2;
    defaults(&o);
    if (!choose(&o)) return 2;
    return (o.csv ? csv_experiment(&o) : image_experiments(&o)) ? 0 : 1;
}
