/* `make bench`: the speed of tools/workloads.h, beside PyTorch where python3 can import it. docs/speed.md says how to read the output.
   Each side is a child process whose model stays warm; the driver hands them rounds in turn, and measures the arithmetic peak in between,
   so that what else happens on the machine meets all three alike. */
#define _GNU_SOURCE
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef __linux__ /* --device cuda:0 */
#include "../dltrain_cuda.h"
#endif
#include "workloads.h"
#include "measure.h"
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#endif

enum { MAINS = sizeof workloads / sizeof *workloads, VARIANTS = sizeof workload_variants / sizeof *workload_variants };
static const double torch_start = 120, torch_trial = 90; /* seconds until a worker is ready; until the next result of a trial (torch.compile) */
static const char help[] =
    "usage: build/bench [OPTIONS], from the top folder of dltrain\n"
    "    --only W2,W2a,system   these alone: W1 to W4, their variants W1a to W4c, system (memory, start, neighbours, size)\n"
    "    --threads N            this number alone; otherwise 1, then 2\n"
    "    --rounds N             of each side (5, and 3 for variants); medians are printed\n"
    "    --seconds S            of a round (0.6)\n"
    "    --device cuda:0        on a GPU, PyTorch too; batches come from the host's memory\n"
    "    --precision tf32       dl_config.matmul_precision, or bf16; PyTorch's side stays fp32\n"
    "    --no-torch             dltrain alone\n";
static struct {
    const char *self, *only, *python, *device, *precision;
    int threads, rounds;
    double seconds;
    bool no_torch;
} option = { .python = "python3", .precision = "highest", .seconds = 0.6 };

static const workload *find_workload(const char *name)
{
    for (int i = 0; i < MAINS; i++) if (!strcmp(workloads[i].name, name)) return &workloads[i];
    for (int i = 0; i < VARIANTS; i++) if (!strcmp(workload_variants[i].name, name)) return &workload_variants[i];
    return NULL;
}

/* ---- the dltrain side, in a process of its own ---- */
static double peak_resident_mb(void)
{
    char line[128];
    long kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "VmHWM: %ld", &kb);
    if (f) fclose(f);
    return (double)kb / 1024;
}

static void pin_to_one_core(void)
{
#ifdef __linux__
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++) if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    sched_setaffinity(0, sizeof one, &one);
#endif
}

/* 'ready', then for each line on stdin one round: 'SAMPLES_PER_SECOND PEAK_RESIDENT_MB'. As bench_torch.py. */
static int be_worker(const workload *w, int threads, double seconds, const char *device, const char *precision)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = 1, .threads = threads, .device = device, .matmul_precision = precision });
    dl_optimizer *opt = w->optimizer(ctx);
    void *data = wl_data(w);
    int step = 0;
    char line[16];
    while (step < 4) wl_step(ctx, w, opt, data, step++);
    if (!dl_failed(ctx)) puts("ready"), fflush(stdout);
    while (!dl_failed(ctx) && fgets(line, sizeof line, stdin)) {
        for (double until = now() + settling; now() < until;) wl_step(ctx, w, opt, data, step++);
        double start = now();
        int first = step;
        dl_tensor loss;
        do loss = wl_step(ctx, w, opt, data, step++);
        while (now() - start < seconds);
        dl_item(loss); /* a GPU is done with all steps then */
        printf("%.1f %.1f\n", (double)(step - first) * w->samples / (now() - start), peak_resident_mb());
        fflush(stdout);
    }
    if (dl_failed(ctx)) printf("%s: %s\n", w->name, dl_error(ctx));
    int failed = dl_failed(ctx);
    free(data);
    dl_destroy(ctx);
    return failed;
}

static int take_first_step(const workload *w)
{
    dl_context *ctx = dl_create(&(dl_config){ .seed = 1, .threads = 1 });
    void *data = wl_data_of(w, 1);
    double loss = dl_item(wl_step(ctx, w, w->optimizer(ctx), data, 0));
    int failed = dl_failed(ctx) || !(loss > 0);
    free(data);
    dl_destroy(ctx);
    return failed;
}

/* ---- child processes that answer line by line ---- */
static void die_with_parent(void)
{
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
}

typedef struct child {
    pid_t pid;
    int to, from;
    char line[512];
} child;

static bool child_start(child *c, const char *const *argv)
{
    int in[2], out[2];
    c->line[0] = 0;
    if (pipe(in) != 0 || pipe(out) != 0) return false;
    for (int i = 0; i < 2; i++) fcntl(in[i], F_SETFD, FD_CLOEXEC), fcntl(out[i], F_SETFD, FD_CLOEXEC);
    c->pid = fork();
    if (c->pid == 0) {
        die_with_parent();
        int log = open("build/bench.log", O_WRONLY | O_CREAT | O_APPEND, 0644);
        dup2(in[0], 0), dup2(out[1], 1);
        if (log >= 0) dup2(log, 2);
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    close(in[0]), close(out[1]);
    c->to = in[1], c->from = out[0];
    return c->pid > 0;
}

/* The next line, without its end, in c->line; NULL after the end, or when none comes within so many seconds. */
static const char *child_line(child *c, double seconds)
{
    double until = now() + seconds;
    for (size_t n = 0; n + 1 < sizeof c->line;) {
        struct pollfd p = { .fd = c->from, .events = POLLIN };
        double left = until - now();
        if (left <= 0 || poll(&p, 1, (int)(left * 1000) + 1) <= 0) return NULL;
        ssize_t got = read(c->from, c->line + n, 1);
        c->line[n + (got == 1)] = 0;
        if (got <= 0) return NULL;
        if (c->line[n] == '\n') return c->line[n] = 0, c->line;
        n++;
    }
    return c->line;
}

static void child_end(child *c)
{
    close(c->to), close(c->from);
    kill(c->pid, SIGKILL);
    waitpid(c->pid, NULL, 0);
}

static bool child_ready(child *c, double seconds)
{
    const char *line;
    while ((line = child_line(c, seconds)))
        if (!strcmp(line, "ready")) return true;
        else if (!strncmp(line, "torch ", 6)) continue;
        else return false;
    return false;
}

static bool child_round(child *c, double *rate, double *resident)
{
    return write(c->to, "go\n", 3) == 3 && child_line(c, 60 + 10 * option.seconds) && sscanf(c->line, "%lf %lf", rate, resident) == 2;
}

static bool start_dltrain(child *c, const workload *w, int threads, bool pinned)
{
    char n[16], seconds[32];
    snprintf(n, sizeof n, "%d", threads);
    snprintf(seconds, sizeof seconds, "%g", option.seconds);
    const char *argv[] = { option.self, "--worker", w->name, n, seconds, option.device ? option.device : "cpu", option.precision, pinned ? "pinned" : NULL, NULL };
    return child_start(c, argv) && child_ready(c, 60);
}

static bool start_torch(child *c, const workload *w, int threads, double seconds, const char *settings)
{
    char spec[128], n[16], s[32], *at = spec;
    at += sprintf(at, "%s:%d:", w->kind, w->samples);
    for (int i = 0; i < 3 && w->x[i]; i++) at += sprintf(at, "%s%td", i ? "," : "", w->x[i]);
    for (int i = 0; i < 4 && w->size[i]; i++) at += sprintf(at, "%c%td", i ? ',' : ':', w->size[i]);
    snprintf(n, sizeof n, "%d", threads);
    snprintf(s, sizeof s, "%g", seconds);
    const char *argv[] = { option.python, "-W", "ignore", "tools/bench_torch.py", spec, option.device ? option.device : n, s, settings, NULL };
    return child_start(c, argv);
}

/* PyTorch's best settings for this workload, found by trying; false and --no-torch from here on when there is no PyTorch. */
static bool try_torch(const workload *w, int threads, char settings[64])
{
    child c;
    double best = 0, rate;
    char name[64];
    const char *line;
    static bool told;
    bool started = start_torch(&c, w, threads, option.seconds / 2, "try");
    if (started && child_line(&c, torch_start) && !strncmp(c.line, "torch ", 6)) {
        if (!told) printf("%s\n", c.line);
        told = true;
        while ((line = child_line(&c, torch_trial)))
            if (sscanf(line, "%63s %lf", name, &rate) == 2 && rate > best) best = rate, strcpy(settings, name);
    }
    if (started) child_end(&c);
    if (best > 0) return true;
    if (!told) printf("%s cannot import torch: dltrain alone\n", option.python), option.no_torch = true;
    else printf("%s %dT: PyTorch gave no result; see build/bench.log\n", w->name, threads);
    return false;
}

/* ---- the comparison: one line ---- */
static struct { double sum; int n; } peaks[65]; /* by the number of threads */

static bool compare(const workload *w, int threads, int rounds, const char *settings)
{
    child ours, torch;
    double rate[MOST_ROUNDS], torch_rate[MOST_ROUNDS], peak[MOST_ROUNDS], resident = 0, torch_resident = 0;
    char where[32];
    if (option.device) snprintf(where, sizeof where, "%s", option.device);
    else snprintf(where, sizeof where, "%dT", threads);
    bool with_torch = settings && start_torch(&torch, w, threads, option.seconds, settings) && child_ready(&torch, torch_start);
    bool good = start_dltrain(&ours, w, threads, false);
    for (int i = 0; good && i < rounds; i++) {
        if (!option.device) peak[i] = peak_measure(threads, fmin(0.05, option.seconds)), peaks[threads].sum += peak[i], peaks[threads].n++;
        good = child_round(&ours, &rate[i], &resident);
        if (with_torch) with_torch = child_round(&torch, &torch_rate[i], &torch_resident);
        if (with_torch) pause_ms(20); /* its threads spin on for a while */
    }
    if (!good) printf("%s %s failed: %s\n", w->name, where, ours.line);
    else {
        double r = median(rate, rounds), t = with_torch ? median(torch_rate, rounds) : 0;
        printf("%s %s dltrain %.0f samples/s", w->name, where, r);
        if (with_torch) printf("  torch %.0f samples/s (%s)  ratio %.2f", t, settings, r / t);
        if (option.device) printf("  %.1f GFLOP/s", r * wl_flops(w) / 1e9);
        else printf("  of-peak %.0f%%", 100 * r * wl_flops(w) / (median(peak, rounds) * 1e9));
        printf("  rss %.0f MB", resident);
        if (with_torch) printf(" torch-rss %.0f MB", torch_resident);
        printf(settings && !with_torch ? "  torch failed: see build/bench.log\n" : "\n");
    }
    child_end(&ours);
    if (settings) child_end(&torch);
    return good;
}

/* ---- one line each: starting, sharing the machine, size ---- */
static double seconds_of(const char *const *argv, double *user) /* until the child has ended; < 0: it failed */
{
    struct rusage usage;
    int status = 0;
    double start = now();
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[0], (char *const *)argv);
        _exit(127);
    }
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid || status != 0) return -1;
    if (user) *user = (double)usage.ru_utime.tv_sec + 1e-6 * (double)usage.ru_utime.tv_usec;
    return now() - start;
}

static bool first_step(void)
{
    double ms[9];
    const char *argv[] = { option.self, "--first", "W1", NULL };
    for (int i = 0; i < 9; i++)
        if ((ms[i] = 1e3 * seconds_of(argv, NULL)) < 0) return printf("first-step W1 failed\n"), false;
    printf("first-step W1 1T %.1f ms, start and end of the process included\n", median(ms, 9));
    return true;
}

static pid_t start_busy(void)
{
    pid_t parent = getpid(), pid = fork();
    if (pid != 0) return pid;
    die_with_parent();
    while (getppid() == parent) peak_plain(100000);
    _exit(0);
}

/* The median of rounds of `a`, alternating with `b`; with foreign processes busy during those of b. a and b may be the same. */
static bool against(child *a, child *b, int busy, double *ra, double *rb)
{
    double x[MOST_ROUNDS], y[MOST_ROUNDS], resident;
    int rounds = option.rounds ? option.rounds : 5;
    pid_t pid[2];
    bool good = true;
    for (int i = 0; good && i < rounds; i++) {
        good = child_round(a, &x[i], &resident);
        for (int k = 0; k < busy; k++) pid[k] = start_busy();
        if (busy) pause_ms(100);
        good = good && child_round(b, &y[i], &resident);
        for (int k = 0; k < busy; k++) if (pid[k] > 0) kill(pid[k], SIGKILL), waitpid(pid[k], NULL, 0);
    }
    if (good) *ra = median(x, rounds), *rb = median(y, rounds);
    return good;
}

static bool busy_neighbours(const workload *w)
{
    child c;
    double alone, beside;
    bool good = start_dltrain(&c, w, 2, false) && against(&c, &c, 2, &alone, &beside);
    child_end(&c);
    if (!good) return printf("busy-neighbours %s failed: %s\n", w->name, c.line), false;
    printf("busy-neighbours %s 2T alone %.0f samples/s  beside two busy processes %.0f samples/s  times slower %.2f\n", w->name, alone, beside, alone / beside);
    return true;
}

static bool one_core(const workload *w)
{
    child one, many;
    double r1, r16;
    bool good = start_dltrain(&one, w, 1, true);
    good = start_dltrain(&many, w, 16, true) && good && against(&one, &many, 0, &r1, &r16);
    child_end(&one), child_end(&many);
    if (!good) return printf("one-core %s failed: %s\n", w->name, many.line), false;
    printf("one-core %s 1 thread %.0f samples/s  16 threads %.0f samples/s  times slower %.2f\n", w->name, r1, r16, r1 / r16);
    return true;
}

static bool size_and_compile_time(void)
{
    static const char build[] = "exec ${CC:-cc} -O2 -ffunction-sections -fdata-sections -Wl,--gc-sections tools/bench_w2.c -o build/bench_w2 -lm -pthread";
    const char *argv[] = { "sh", "-c", build, NULL };
    double user;
    char line[256] = "";
    long text = 0;
    if (seconds_of(argv, &user) < 0) return printf("compile failed: %s\n", build), false;
    FILE *f = popen("size build/bench_w2", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "%ld", &text);
    if (f) pclose(f);
    if (text) printf("text of a W2 program %.0f KB\n", (double)text / 1000);
    else printf("text of a W2 program unknown: there is no 'size'\n");
    printf("compile time of a W2 program %.1f s user\n", user);
    return true;
}

/* ---- options ---- */
static int refuse(const char *why, const char *what)
{
    fprintf(stderr, "bench: %s '%s'\n%s", why, what, help);
    return 2;
}

static bool wanted(const char *name)
{
    size_t n = strlen(name);
    for (const char *at = option.only; at && *at; at += strcspn(at, ","), at += *at == ',')
        if (strcspn(at, ",") == n && !strncmp(at, name, n)) return true;
    return !option.only;
}

static int parse(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = argv[i + 1];
        if (!strcmp(argv[i], "--help")) return printf("%s", help), -1;
        if (!strcmp(argv[i], "--no-torch")) { option.no_torch = true; continue; }
        bool device = !strcmp(argv[i], "--device"), only = !strcmp(argv[i], "--only"), precision = !strcmp(argv[i], "--precision");
        bool threads = !strcmp(argv[i], "--threads"), rounds = !strcmp(argv[i], "--rounds");
        if (!device && !only && !precision && !threads && !rounds && strcmp(argv[i], "--seconds")) return refuse("there is no option", argv[i]);
        if (!value) return refuse("a value is missing after", argv[i]);
        char *end = NULL;
        double number = device || only || precision ? 0 : strtod(value, &end);
        if (device) option.device = value, option.threads = 1;
        else if (only) option.only = value;
        else if (precision) option.precision = value;
        else if (threads) option.threads = (int)number;
        else if (rounds) option.rounds = (int)number;
        else option.seconds = number;
        if (end && (*end || number < (threads || rounds ? 1 : 0.001) || number > (threads ? 64 : rounds ? MOST_ROUNDS : 60)))
            return refuse(threads ? "--threads wants 1 to 64, not" : rounds ? "--rounds wants 1 to 99, not" : "--seconds wants 0.001 to 60, not", value);
        i++;
    }
    for (const char *at = option.only; at && *at; at += strcspn(at, ","), at += *at == ',') {
        char name[32];
        snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ","), at);
        if (strcmp(name, "system") && !find_workload(name)) return refuse("there is no workload", name);
    }
    return 0;
}

/* W1 to W4, then the variants of each with PyTorch at the settings that were best for their kind. */
static bool compare_all(int threads, bool variants, char settings[MAINS][64])
{
    bool good = true;
    for (int i = 0; i < (variants ? VARIANTS : MAINS); i++) {
        const workload *w = variants ? &workload_variants[i] : &workloads[i];
        char *s = settings[w->name[1] - '1'];
        if (!wanted(w->name)) continue;
        if (!*s && !option.no_torch && !try_torch(w, threads, s)) *s = 0;
        good = compare(w, threads, option.rounds ? option.rounds : variants ? 3 : 5, *s ? s : NULL) && good;
    }
    return good;
}

int main(int argc, char **argv)
{
    static char settings[65][MAINS][64];
    const workload *w = argc > 2 ? find_workload(argv[2]) : NULL;
    const char *simd;
    bool good = true;
    if (w && !strcmp(argv[1], "--first")) return take_first_step(w);
    if (w && argc > 6 && !strcmp(argv[1], "--worker")) {
        if (argc > 7) pin_to_one_core();
        return be_worker(w, atoi(argv[3]), atof(argv[4]), argv[5], argv[6]);
    }
    int status = parse(argc, argv);
    if (status) return status < 0 ? 0 : status;
    if (access("tools/bench_torch.py", R_OK) != 0) return fprintf(stderr, "bench: run it from the top folder of dltrain: build/bench\n"), 2;
    option.self = argv[0];
    if (getenv("PYTHON")) option.python = getenv("PYTHON");
    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("TORCHINDUCTOR_COMPILE_THREADS", "1", 0); /* no helpers that outlive a trial */
    setenv("TORCHINDUCTOR_CACHE_DIR", "build/torch-compile", 0);
    remove("build/bench.log");
    peak_widest(&simd);
    printf("%s, %ld CPUs, rounds of %g s\n", option.device ? option.device : simd, sysconf(_SC_NPROCESSORS_ONLN), option.seconds);

    int from = option.threads ? option.threads : 1, to = option.threads ? option.threads : 2;
    for (int t = from; t <= to; t++) good = compare_all(t, false, settings[t]) && good;
    for (int i = 0; i < VARIANTS; i++)
        if (wanted(workload_variants[i].name)) {
            const workload *v = &workload_variants[i];
            printf("%s%s: %s, batch %d, x", option.only ? "" : i ? "" : "\n", v->name, v->kind, v->samples);
            for (int k = 0; k < 3 && v->x[k]; k++) printf(" %td", v->x[k]);
            for (int k = 0; k < 4 && v->size[k]; k++) printf("%s %td", k ? "" : ", sizes", v->size[k]);
            printf("\n");
        }
    for (int t = from; t <= to; t++) good = compare_all(t, true, settings[t]) && good;
    if (wanted("system")) {
        good = first_step() && good;
        for (int i = 0; i < 2; i++) good = busy_neighbours(&workloads[i]) && good;
        for (int i = 0; i < 2; i++) good = one_core(&workloads[i]) && good;
        good = size_and_compile_time() && good;
    }
    for (int t = from; t <= to; t++)
        if (peaks[t].n) printf("peak %dT %.1f GFLOP/s\n", t, peaks[t].sum / peaks[t].n);
    return !good;
}
