/* Run by tests/check_cuda.sh: compiles every kernel of dltrain_cuda.h for every architecture that NVRTC knows, and compares what ptxas says of
   registers, spills and shared memory with tests/cuda_bounds.txt. cuda_kernels BOUNDS [--print]: --print writes the table instead.
   A line of the table: module kernel registers shared-bytes, the most of any architecture. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "../dltrain_cuda.h"
#include "test.h"

enum { MOST = 128 };
typedef struct kernel { char module[32], name[64]; int registers, shared, spills, seen; } kernel;
static kernel found[MOST], bound[MOST];
static int kernels, bounds;

static kernel *entry(kernel *table, int *n, const char *module, const char *name)
{
    for (int i = 0; i < *n; i++)
        if (!strcmp(table[i].module, module) && !strcmp(table[i].name, name)) return &table[i];
    if (*n == MOST) abort();
    kernel *k = &table[(*n)++];
    memset(k, 0, sizeof *k);
    snprintf(k->module, sizeof k->module, "%s", module);
    snprintf(k->name, sizeof k->name, "%s", name);
    return k;
}

/* ptxas: "Compiling entry function 'NAME' for 'sm_80'", "N bytes stack frame, N bytes spill stores, ...", "Used N registers, ... N bytes smem" */
static void read_log(char *log, const char *module)
{
    kernel *k = NULL;
    int value;
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n")) {
        char name[64], *at;
        if ((at = strstr(line, "entry function '")) && sscanf(at, "entry function '%63[^']'", name) == 1) k = entry(found, &kernels, module, name), k->seen++;
        if (k && (at = strstr(line, "bytes stack frame, ")) && sscanf(at, "bytes stack frame, %d", &value) == 1 && value > k->spills) k->spills = value;
        if (k && (at = strstr(line, "Used ")) && sscanf(at, "Used %d registers", &value) == 1 && value > k->registers) k->registers = value;
        if (k && (at = strstr(line, " bytes smem"))) {
            while (at > line && at[-1] >= '0' && at[-1] <= '9') at--;
            if (atoi(at) > k->shared) k->shared = atoi(at);
        }
    }
}

static void compile(dl__cuda *d, const char *module, const dl__cuda_text *t, int arch)
{
    char target[40], name[80];
    const char *option[] = { target, "--ptxas-options=-v", "-default-device", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true" };
    void *program = NULL;
    size_t size = 0;
    char *log = NULL;
    snprintf(target, sizeof target, "--gpu-architecture=sm_%d", arch);
    snprintf(name, sizeof name, "%s compiles for sm_%d", module, arch);
    test__begin(name);
    CHECK(!d->nvrtc.nvrtcCreateProgram(&program, t->at, module, 0, NULL, NULL), "no program");
    int code = d->nvrtc.nvrtcCompileProgram(program, (int)(sizeof option / sizeof *option), option);
    if (!d->nvrtc.nvrtcGetProgramLogSize(program, &size) && (log = (char *)calloc(1, size + 1))) d->nvrtc.nvrtcGetProgramLog(program, log);
    CHECK(!code, "%.300s", log ? log : "");
    CHECK(log && !strstr(log, "warning"), "%.300s", log ? strstr(log, "warning") : "");
    if (!code && log) read_log(log, module);
    free(log);
    d->nvrtc.nvrtcDestroyProgram(&program);
    test__end();
}

static bool read_bounds(const char *path)
{
    FILE *f = fopen(path, "r");
    char line[200], module[32], name[64];
    int registers, shared;
    if (!f) return false;
    while (fgets(line, sizeof line, f))
        if (*line != '#' && sscanf(line, "%31s %63s %d %d", module, name, &registers, &shared) == 4) {
            kernel *k = entry(bound, &bounds, module, name);
            k->registers = registers;
            k->shared = shared;
        }
    fclose(f);
    return true;
}

int main(int argc, char **argv)
{
    static dl__cuda d;
    int n = 0, arch[64];
    bool print = argc > 2;
    if (argc < 2) return 2;
    d.ctx = dl_create(NULL);
    if (!dl__cuda_open_nvrtc(&d, "") || d.nvrtc.nvrtcGetNumSupportedArchs(&n) || n > 64 || d.nvrtc.nvrtcGetSupportedArchs(arch))
        return printf("skip NVRTC: %s\n", dl_error(d.ctx)), 0;
    for (size_t m = 0; m < DL__CUDA_PARTS; m++) {
        dl__cuda_text t;
        dl__cuda_module_text(&t, m);
        for (int i = 0; i < n; i++)
            if (arch[i] >= dl__cuda_parts[m].least) compile(&d, dl__cuda_parts[m].name, &t, arch[i]);
        free(t.at);
    }
    if (print) {
        FILE *f = fopen(argv[1], "w");
        if (!f) return 2;
        fputs("# module, kernel, registers, bytes of shared memory: the most of any architecture. Made by tests/cuda_kernels.c --print\n", f);
        for (int i = 0; i < kernels; i++) fprintf(f, "%s %s %d %d\n", found[i].module, found[i].name, found[i].registers, found[i].shared);
        return fclose(f) != 0;
    }
    test__begin("every kernel has its bound");
    CHECK(read_bounds(argv[1]) && bounds == kernels, "%d kernels, %d bounds in %s", kernels, bounds, argv[1]);
    test__end();
    for (int i = 0; i < kernels; i++) {
        kernel *k = &found[i], *b = entry(bound, &bounds, k->module, k->name);
        char name[128];
        snprintf(name, sizeof name, "%s: %d registers, %d bytes shared, no spills", k->name, k->registers, k->shared);
        test__begin(name);
        int wanted = 0;
        for (int a = 0; a < n; a++) wanted += arch[a] >= dl__cuda_parts[dl__cuda_part(k->module)].least;
        CHECK(k->seen == wanted, "compiled for %d of %d architectures", k->seen, wanted);
        CHECK(!k->spills, "%d bytes spilled", k->spills);
        CHECK(k->registers <= b->registers, "%d registers, the bound is %d", k->registers, b->registers);
        CHECK(k->shared <= b->shared, "%d bytes shared, the bound is %d", k->shared, b->shared);
        test__end();
    }
    dl_destroy(d.ctx);
    return REPORT();
}
