/* Run by tests/check_cuda.sh: compiles kernels, and compares what ptxas says of registers, spills and shared memory with the table BOUNDS.
       cuda_kernels BOUNDS             every kernel that is not generated, for every architecture that NVRTC knows
       cuda_kernels BOUNDS FOLDER      the generated ones of programs that ran with DLTRAIN_CUDA_TEXTS=FOLDER, for some of these
       ... --print                     writes these lines of the table instead, to stderr
   A line of the table: module kernel registers shared-bytes, the most of any architecture; of the module 'generated' the kernel is what the
   group's first operation is called, and the numbers are the most of all such groups. */
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
static void read_log(char *log, const char *module, const char *as)
{
    kernel *k = NULL;
    int value;
    for (char *line = strtok(log, "\n"); line; line = strtok(NULL, "\n")) {
        char name[64], *at;
        if ((at = strstr(line, "entry function '")) && sscanf(at, "entry function '%63[^']'", name) == 1)
            k = entry(found, &kernels, module, as ? as : name), k->seen++;
        if (k && (at = strstr(line, "bytes stack frame, ")) && sscanf(at, "bytes stack frame, %d", &value) == 1 && value > k->spills) k->spills = value;
        if (k && (at = strstr(line, "Used ")) && sscanf(at, "Used %d registers", &value) == 1 && value > k->registers) k->registers = value;
        if (k && (at = strstr(line, " bytes smem"))) {
            while (at > line && at[-1] >= '0' && at[-1] <= '9') at--;
            if (atoi(at) > k->shared) k->shared = atoi(at);
        }
    }
}

/* as: what its one kernel is called in the table; NULL: as it is */
static void compile(dl__cuda *d, const char *module, const char *as, const dl__cuda_text *t, int arch)
{
    char target[40], name[160];
    const char *option[] = { target, "--ptxas-options=-v", "-default-device", "-fmad=false", "-ftz=false", "-prec-div=true", "-prec-sqrt=true" };
    void *program = NULL;
    size_t size = 0;
    char *log = NULL;
    snprintf(target, sizeof target, "--gpu-architecture=sm_%d", arch);
    snprintf(name, sizeof name, "%s%s%.80s compiles for sm_%d", module, as ? " " : "", as ? as : "", arch);
    test__begin(name);
    CHECK(!d->nvrtc.nvrtcCreateProgram(&program, t->at, module, 0, NULL, NULL), "no program");
    int code = d->nvrtc.nvrtcCompileProgram(program, (int)(sizeof option / sizeof *option), option);
    if (!d->nvrtc.nvrtcGetProgramLogSize(program, &size) && (log = (char *)calloc(1, size + 1))) d->nvrtc.nvrtcGetProgramLog(program, log);
    CHECK(!code, "%.300s", log ? log : "");
    CHECK(log && !strstr(log, "warning"), "%.300s", log ? strstr(log, "warning") : "");
    if (!code && log) read_log(log, module, as);
    free(log);
    d->nvrtc.nvrtcDestroyProgram(&program);
    test__end();
}

static void compile_modules(dl__cuda *d, const int *arch, int n)
{
    for (size_t m = 0; m < DL__CUDA_PARTS; m++) {
        dl__cuda_text t;
        dl__cuda_module_text(&t, m);
        for (int i = 0; i < n; i++)
            if (arch[i] >= dl__cuda_parts[m].least) compile(d, dl__cuda_parts[m].name, NULL, &t, arch[i]);
        free(t.at);
    }
}

/* Files are called OPERATION-HASH.cu. */
static void compile_generated(dl__cuda *d, const char *folder, const int *arch, int n)
{
    struct dirent **file;
    int files = scandir(folder, &file, NULL, alphasort);
    for (int k = 0; k < files; k++) {
        char path[1500], part[4096], *dash = strrchr(file[k]->d_name, '-');
        dl__cuda_text t;
        size_t size;
        memset(&t, 0, sizeof t);
        snprintf(path, sizeof path, "%s/%s", folder, file[k]->d_name);
        FILE *f = dash ? fopen(path, "rb") : NULL;
        while (f && (size = fread(part, 1, sizeof part, f)) > 0) dl__cuda_add(&t, part, size);
        if (f) fclose(f), *dash = 0;
        for (int i = 0; t.at && strstr(t.at, " void group(") && i < n; i++) /* NVRTC has one compiler up to 90, and one from 100 on */
            if (arch[i] == 80 || arch[i] == 90 || arch[i] == 120) compile(d, "generated", file[k]->d_name, &t, arch[i]);
        free(t.at);
        free(file[k]);
    }
    if (files >= 0) free(file);
}

/* Those that are generated, or the others */
static bool read_bounds(const char *path, bool generated)
{
    FILE *f = fopen(path, "r");
    char line[200], module[32], name[64];
    int registers, shared;
    if (!f) return false;
    while (fgets(line, sizeof line, f))
        if (*line != '#' && sscanf(line, "%31s %63s %d %d", module, name, &registers, &shared) == 4 && !strcmp(module, "generated") == generated) {
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
    bool print = argc > 2 && !strcmp(argv[argc - 1], "--print");
    const char *folder = argc > 2 + print ? argv[2] : NULL;
    if (argc < 2) return 2;
    d.ctx = dl_create(NULL);
    if (!dl__cuda_open_nvrtc(&d, "") || d.nvrtc.nvrtcGetNumSupportedArchs(&n) || n > 64 || d.nvrtc.nvrtcGetSupportedArchs(arch))
        return printf("skip NVRTC: %s\n", dl_error(d.ctx)), 0;
    if (folder) compile_generated(&d, folder, arch, n);
    else compile_modules(&d, arch, n);
    if (print) {
        for (int i = 0; i < kernels; i++) fprintf(stderr, "%s %s %d %d\n", found[i].module, found[i].name, found[i].registers, found[i].shared);
        return 0;
    }
    test__begin("every kernel has its bound");
    CHECK(read_bounds(argv[1], folder != NULL) && bounds == kernels, "%d kernels, %d bounds in %s", kernels, bounds, argv[1]);
    test__end();
    for (int i = 0; i < kernels; i++) {
        kernel *k = &found[i], *b = entry(bound, &bounds, k->module, k->name);
        char name[128];
        snprintf(name, sizeof name, "%s: %d registers, %d bytes shared, no spills", k->name, k->registers, k->shared);
        test__begin(name);
        int wanted = folder ? k->seen : 0; /* groups of a name are of any number */
        for (int a = 0; a < n && !folder; a++) wanted += arch[a] >= dl__cuda_parts[dl__cuda_part(k->module)].least;
        CHECK(k->seen == wanted, "compiled for %d of %d architectures", k->seen, wanted);
        CHECK(!k->spills, "%d bytes spilled", k->spills);
        CHECK(k->registers <= b->registers, "%d registers, the bound is %d", k->registers, b->registers);
        CHECK(k->shared <= b->shared, "%d bytes shared, the bound is %d", k->shared, b->shared);
        test__end();
    }
    dl_destroy(d.ctx);
    return REPORT();
}
