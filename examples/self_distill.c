/* Self-distillation by data distortion (Xu and Liu, AAAI 2019): two distorted views of each image through one network, which is to answer both
   alike. Five losses, one after the other, with the same first weights, images and distortions for each seed:

       one view       CE(a)
       two views      CE(a) + CE(b)                    the fair control: it sees as many images as the next ones
       + KL           and lambda (KL(pa||pb) + KL(pb||pa))
       + MMD          CE(a) + CE(b) and mu ||mean f(a) - mean f(b)||^2
       full           all five terms

       cc -O2 examples/self_distill.c -o self_distill -lm -pthread && ./self_distill --set mnist --data DIR

   Its results are in docs/methods.md. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

static const char *usage =
    "usage: self_distill [options]\n"
    "  --set NAME      digits (shipped; the default), mnist, fashion-mnist, cifar10, cifar100\n"
    "  --data DIR      where DIR/mnist and the like are (default: the environment variable DLTRAIN_DATA); packed files are fine\n"
    "  --net NAME      cnn (three convolutions), resnet20, resnet32; default cnn, for CIFAR resnet20\n"
    "  --methods LIST  of one,two,kl,mmd,full (all)\n"
    "  --sizes LIST    training images, chosen by the seed; 0: all (digits 300, mnist 500, cifar10 2000, cifar100 10000)\n"
    "  --widths LIST   of the network (1)\n"
    "  --seeds N       (5)\n"
    "  --first N       the first seed (1)\n"
    "  --epochs N      (60; cifar10 24, cifar100 4)\n"
    "  --batch N       (50; CIFAR 32)\n"
    "  --lr X          of SGD with Nesterov momentum 0.9, divided by 10 after 30, 60 and 90 % of the epochs (0.1; CIFAR 0.02)\n"
    "  --decay X       weight decay (1e-4)\n"
    "  --lambda X      weight of the divergence (1)\n"
    "  --mu X          weight of the discrepancy (5e-4)\n"
    "  --temperature X of the divergence (1)\n"
    "  --test N        images to test on; 0: all (0)\n"
    "  --threads N     0: one a CPU (0)\n"
    "  --out PREFIX    PREFIX.csv, PREFIX.svg and, of the first seed, PREFIX-METHOD.safetensors (self_distill)\n"
    "  --recipe ddgsd  as published for CIFAR-100: all images, 200 epochs, batches of 128, crops and mirrors, resnet32\n"
    "  --dry-run       print the settings, run three steps of each method\n";

static const char *const method_names[] = { "one view", "two views", "two views + KL", "two views + MMD", "full" };
static const char *const method_words[] = { "one", "two", "kl", "mmd", "full" };
enum { METHODS = 5 };

typedef struct settings {
    const lab_set *set;
    const char *data, *net, *out;
    bool methods[METHODS], dry;
    double lr, decay, lambda, mu, temperature;
    lab_list sizes, widths;
    int seeds, first, epochs, batch, test, threads;
    dl_augment_desc distort;
} settings;

/* ---- networks: images [N,C,H,W] to features [N,D] ---- */
typedef struct network { int depth, classes; double width; } network; /* depth 0: the CNN */

static dl_index channels(const network *net, int n) { return (dl_index)fmax(1, n * net->width + 0.5); }

static dl_tensor conv_bn(dl_tensor x, const char *conv, const char *bn, dl_index out, dl_index kernel, dl_index stride)
{
    x = dl_conv2d(x, conv, &(dl_conv2d_desc){ .out_channels = out, .kernel = kernel, .padding = kernel / 2, .stride = stride, .no_bias = true });
    return dl_batch_norm(x, bn, NULL);
}

static dl_tensor cnn(dl_tensor x, const network *net)
{
    x = dl_relu(conv_bn(x, "conv1", "bn1", channels(net, 16), 3, 1));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(conv_bn(x, "conv2", "bn2", channels(net, 32), 3, 1));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    return dl_relu(conv_bn(x, "conv3", "bn3", channels(net, 64), 3, 1));
}

static dl_tensor block(dl_tensor x, dl_index out, dl_index stride)
{
    dl_tensor y = dl_relu(conv_bn(x, "conv1", "bn1", out, 3, stride));
    y = conv_bn(y, "conv2", "bn2", out, 3, 1);
    if (stride != 1 || dl_dim(x, 1) != out) x = conv_bn(x, "shortcut.0", "shortcut.1", out, 1, stride);
    return dl_relu(dl_add(x, y));
}

static dl_tensor resnet(dl_tensor x, const network *net) /* He et al. 2016, for CIFAR: 6 n + 2 layers */
{
    x = dl_relu(conv_bn(x, "conv1", "bn1", channels(net, 16), 3, 1));
    for (int stage = 0; stage < 3; stage++)
        for (int i = 0; i < (net->depth - 2) / 6; i++) {
            char name[32];
            snprintf(name, sizeof name, "layer%d.%d", stage + 1, i);
            dl_scope_begin(x.ctx, name);
            x = block(x, channels(net, 16 << stage), stage && !i ? 2 : 1);
            dl_scope_end(x.ctx);
        }
    return x;
}

static dl_tensor features(dl_tensor x, const network *net)
{
    static const int places[2] = { 2, 3 };
    return dl_mean_dims(net->depth ? resnet(x, net) : cnn(x, net), places, 2, false);
}

static dl_tensor logits(dl_tensor x, const void *user)
{
    const network *net = (const network *)user;
    return dl_linear(features(x, net), "fc", net->classes);
}

/* ---- the five losses ---- */
static dl_tensor loss_of(int method, const dl_batch *b, const network *net, const settings *s)
{
    if (method == 0) return dl_cross_entropy(logits(b->x, net), b->y);
    dl_tensor views[2] = { b->x, b->x2 }; /* one batch of both: batch_norm sees them together */
    dl_index n = (dl_index)b->count;
    dl_tensor f = features(dl_concat(views, 2, 0), net);
    dl_tensor z = dl_linear(f, "fc", net->classes);
    return dl_self_distillation(dl_slice(z, 0, 0, n, 1), dl_slice(z, 0, n, 2 * n, 1), dl_slice(f, 0, 0, n, 1), dl_slice(f, 0, n, 2 * n, 1), b->y,
        &(dl_self_distillation_desc){ .kl = method == 2 || method == 4 ? (float)s->lambda : 0, .mmd = method >= 3 ? (float)s->mu : 0,
            .temperature = (float)s->temperature });
}

/* Trains once; the test error in percent, NaN after an error. */
static double run(const settings *s, int method, size_t size, double width, int seed, const char *save)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = (uint64_t)seed, .threads = s->threads });
    network net = { .depth = atoi(s->net[0] == 'r' ? s->net + 6 : "0"), .classes = s->set->classes, .width = width };
    dl_dataset *data = lab_chosen(lab_open_set(ctx, s->set, s->data, true), size, (uint32_t)seed);
    dl_dataset *held_out = lab_chosen(lab_open_set(ctx, s->set, s->data, false), (size_t)s->test, 0);
    dl_loader *train = dl_loader_create(data, &(dl_loader_desc){ .batch = (size_t)s->batch, .shuffle = true, .prefetch = true, .drop_last = true,
        .views = method ? 2 : 1, .augment = dl_augment_create(ctx, &s->distort) });
    dl_loader *test = dl_loader_create(held_out, &(dl_loader_desc){ .batch = 250 });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = (float)s->lr, .momentum = 0.9f, .nesterov = true, .weight_decay = (float)s->decay });
    int64_t steps = (int64_t)dl_loader_batches(train) * s->epochs, drops[3] = { steps * 3 / 10, steps * 6 / 10, steps * 9 / 10 }, done = 0;
    dl_set_schedule(opt, &(dl_schedule){ .kind = DL_SCHEDULE_MULTI_STEP, .lr = (float)s->lr, .milestones = drops, .n_milestones = 3 });
    for (int epoch = 0; epoch < s->epochs && !dl_failed(ctx) && (!s->dry || done < 3); epoch++)
        for (dl_batch b; (!s->dry || done < 3) && dl_next(train, &b); done++) {
            dl_tensor loss = loss_of(method, &b, &net, s);
            dl_backward(loss);
            dl_step(opt);
            if (s->dry) printf("  %-16s step %d: loss %.4f\n", method_names[method], (int)done + 1, dl_item(loss));
        }
    double error = s->dry ? NAN : lab_test_error(ctx, test, logits, &net);
    if (save && !s->dry) dl_save(ctx, save);
    if (dl_failed(ctx)) {
        fprintf(stderr, "self_distill: %s\n", dl_error(ctx));
        exit(1);
    }
    dl_destroy(ctx);
    return error;
}

/* What the set and the recipe say where the options do not. */
static settings configure(int argc, char **argv)
{
    const char *recipe = "", *set = NULL, *methods = "one,two,kl,mmd,full";
    settings s = { .data = getenv("DLTRAIN_DATA"), .out = "self_distill", .widths = { { 1 }, 1 }, .seeds = 5, .first = 1, .decay = 1e-4, .lambda = 1, .mu = 5e-4,
        .temperature = 1 };
    const lab_option option[] = { { "--set", 's', &set, 0, 0 }, { "--data", 's', &s.data, 0, 0 }, { "--net", 's', &s.net, 0, 0 }, { "--methods", 's', &methods, 0, 0 },
        { "--sizes", 'l', &s.sizes, 0, 1e9 }, { "--widths", 'l', &s.widths, 0.05, 100 }, { "--seeds", 'i', &s.seeds, 1, LAB_SEEDS }, { "--first", 'i', &s.first, 0, 1e6 },
        { "--epochs", 'i', &s.epochs, 1, 1e5 }, { "--batch", 'i', &s.batch, 2, 1e5 }, { "--lr", 'd', &s.lr, 1e-9, 100 }, { "--decay", 'd', &s.decay, 0, 1 },
        { "--lambda", 'd', &s.lambda, 0, 1e6 }, { "--mu", 'd', &s.mu, 0, 1e6 }, { "--temperature", 'd', &s.temperature, 1e-3, 1e3 }, { "--test", 'i', &s.test, 0, 1e9 },
        { "--threads", 'i', &s.threads, 0, 64 }, { "--out", 's', &s.out, 0, 0 }, { "--recipe", 's', &recipe, 0, 0 }, { "--dry-run", 'f', &s.dry, 0, 0 } };
    if (!lab_parse("self_distill", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) exit(2);
    bool ddgsd = !strcmp(recipe, "ddgsd");
    if (*recipe && !ddgsd) fprintf(stderr, "self_distill: there is one recipe, ddgsd, not '%s'\n", recipe), exit(2);
    for (const char *p = methods; *p; p += strcspn(p, ","), p += *p == ',') {
        int m = 0;
        while (m < METHODS && (strncmp(method_words[m], p, strcspn(p, ",")) || strlen(method_words[m]) != strcspn(p, ","))) m++;
        if (m == METHODS) fprintf(stderr, "self_distill: --methods '%s': of one,two,kl,mmd,full\n", methods), exit(2);
        s.methods[m] = true;
    }
    if (s.net && strcmp(s.net, "cnn") && strcmp(s.net, "resnet20") && strcmp(s.net, "resnet32")) fprintf(stderr, "self_distill: there is no network '%s'\n", s.net), exit(2);
    s.set = lab_find_set("self_distill", set ? set : ddgsd ? "cifar100" : "digits", s.data);
    if (!s.set) exit(2);
    bool cifar = !s.set->train[1], digits = !s.set->get;
    ddgsd = ddgsd && cifar;
    if (!s.net) s.net = ddgsd ? "resnet32" : cifar ? "resnet20" : "cnn";
    if (!s.sizes.n) s.sizes = (lab_list){ { ddgsd ? 0 : digits ? 300 : !cifar ? 500 : s.set->classes == 10 ? 2000 : 10000 }, 1 };
    if (!s.epochs) s.epochs = ddgsd ? 200 : !cifar ? 60 : s.set->classes == 10 ? 24 : 4;
    if (!s.batch) s.batch = ddgsd ? 128 : cifar ? 32 : 50;
    if (s.lr == 0) s.lr = cifar && !ddgsd ? 0.02 : 0.1;
    s.distort = cifar ? (dl_augment_desc){ .crop = 4, .flip = 0.5f } : digits ? (dl_augment_desc){ .crop = 1, .rotation = 10, .scale = 0.1f }
        : (dl_augment_desc){ .crop = 2, .rotation = 15, .scale = 0.1f, .shear = 10 };
    return s;
}

int main(int argc, char **argv)
{
    static lab_table t;
    settings s = configure(argc, argv);
    printf("%s, %s, %d epochs in batches of %d, SGD lr %g, Nesterov 0.9, weight decay %g, lambda %g, mu %g, temperature %g\n", s.set->name, s.net, s.epochs, s.batch, s.lr,
        s.decay, s.lambda, s.mu, s.temperature);
    printf("distortions: crop %d, flip %g, rotation %g, scale %g, shear %g; seeds %d to %d\n", (int)s.distort.crop, s.distort.flip, s.distort.rotation, s.distort.scale,
        s.distort.shear, s.first, s.first + s.seeds - 1);
    t.seeds = s.dry ? 1 : s.seeds;
    for (int w = 0; w < s.widths.n; w++)
        for (int k = 0; k < s.sizes.n; k++)
            for (int m = 0, base = t.rows; m < METHODS; m++) {
                if (!s.methods[m]) continue;
                if (t.rows == LAB_ROWS) return fprintf(stderr, "self_distill: more than %d rows\n", LAB_ROWS), 2;
                int r = t.rows++;
                double start = lab_seconds();
                t.row[r].base = base;
                snprintf(t.row[r].method, sizeof t.row[r].method, "%s", method_names[m]);
                if (s.sizes.at[k] > 0) snprintf(t.row[r].group, sizeof t.row[r].group, "%s-%g %s x%g", s.set->name, s.sizes.at[k], s.net, s.widths.at[w]);
                else snprintf(t.row[r].group, sizeof t.row[r].group, "%s %s x%g", s.set->name, s.net, s.widths.at[w]);
                for (int i = 0; i < t.seeds; i++) {
                    char save[1024];
                    snprintf(save, sizeof save, "%s-%s.safetensors", s.out, method_words[m]);
                    t.row[r].error[i] = run(&s, m, (size_t)s.sizes.at[k], s.widths.at[w], s.first + i, i || w || k ? NULL : save);
                    if (s.dry) continue;
                    printf("%s, %s, seed %d: error %.2f %%\n", t.row[r].group, method_names[m], s.first + i, t.row[r].error[i]);
                    fflush(stdout);
                }
                t.row[r].seconds = lab_seconds() - start;
            }
    return s.dry || lab_finish_table(&t, s.out, "Self-distillation") ? 0 : 1;
}
