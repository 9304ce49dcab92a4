/* Bakes kernels into a program: writes a C header with compiled kernels of dltrain_cuda.h. A program that includes it before dltrain_cuda.h,
   in the file with DLTRAIN_IMPLEMENTATION, needs no NVRTC. NVRTC is needed here, but no GPU:

       make build/bake_kernels
       DLTRAIN_CUDA_TEXTS=texts ./program                       on any GPU: writes the text of each kernel that the program runs
       build/bake_kernels --for 80,90,90+ --texts texts kernels.h

   Elementwise kernels are generated as a program runs, one for each group of operations: their texts come from such a run alone. Without
   --texts it is the kernels that every program shares. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "../dltrain_cuda.h"

static const char help[] =
    "usage: build/bake_kernels --for LIST [--texts FOLDER] HEADER\n"
    "    --for LIST      compute capabilities without the dot: 80,90 bakes machine code for 8.0 and 9.0; 90+ PTX for 9.0 and all later\n"
    "    --texts FOLDER  what a run with DLTRAIN_CUDA_TEXTS=FOLDER left there; otherwise the kernels that are not generated\n"
    "    HEADER          the file to write\n";

enum { MOST_TARGETS = 32 };
typedef struct target { int arch; bool binary; } target;
typedef struct baker {
    dl__cuda d;
    target target[MOST_TARGETS];
    int targets, images;
    size_t bytes;
    FILE *out;
    dl__cuda_text rows; /* of DLTRAIN_CUDA_BAKED */
} baker;

static int refuse(const char *why, const char *what)
{
    fprintf(stderr, "bake_kernels: %s '%s'\n%s", why, what, help);
    return 2;
}

static bool parse_targets(baker *b, const char *list)
{
    for (const char *at = list; *at;) {
        char *end;
        long arch = strtol(at, &end, 10);
        bool later = *end == '+';
        if (end == at || arch < 10 || arch > 999 || b->targets == MOST_TARGETS) return false;
        b->target[b->targets].arch = (int)arch;
        b->target[b->targets++].binary = !later;
        end += later;
        if (*end && (*end != ',' || !end[1])) return false;
        at = end + (*end == ',');
    }
    return b->targets > 0;
}

static bool known_to_nvrtc(baker *b)
{
    int n = 0, arch[64];
    char all[400] = "";
    if (b->d.nvrtc.nvrtcGetNumSupportedArchs(&n) || n < 1 || n > 64 || b->d.nvrtc.nvrtcGetSupportedArchs(arch))
        return fprintf(stderr, "bake_kernels: NVRTC does not tell what it compiles for\n"), false;
    for (int i = 0; i < n; i++) sprintf(all + strlen(all), " %d", arch[i]);
    for (int t = 0, i; t < b->targets; t++) {
        for (i = 0; i < n && arch[i] != b->target[t].arch; i++) {}
        if (i == n) return fprintf(stderr, "bake_kernels: this NVRTC does not compile for %d; it does for%s\n", b->target[t].arch, all), false;
    }
    return true;
}

/* Words of 8 bytes, in the order of all hosts that have CUDA: little-endian. Zeros fill the last one, and end PTX. */
static void write_image(baker *b, const char *image, size_t size)
{
    fprintf(b->out, "static const unsigned long long dl__baked_%d[] = {", b->images);
    for (size_t i = 0; i <= size; i += 8) {
        uint64_t word = 0;
        for (size_t k = 0; k < 8 && i + k < size; k++) word |= (uint64_t)(uint8_t)image[i + k] << 8 * k;
        fprintf(b->out, "%s0x%llxu,", i % 48 ? " " : "\n    ", (unsigned long long)word);
    }
    fprintf(b->out, "\n};\n");
}

static bool bake(baker *b, const dl__cuda_text *t, const char *name)
{
    uint64_t h[2];
    size_t part = dl__cuda_part(name);
    dl__cuda_hash_text(t, h);
    for (int i = 0; i < b->targets; i++) {
        const target *to = &b->target[i];
        size_t size = 0;
        if (part < DL__CUDA_PARTS && to->arch < dl__cuda_parts[part].least) continue; /* which has no use for it */
        char *image = dl__cuda_compile(&b->d, t, name, to->arch, to->binary, &size);
        if (!image) return fprintf(stderr, "bake_kernels: %s\n", dl_error(b->d.ctx)), false;
        write_image(b, image, size);
        free(image);
        b->bytes += size;
        dl__cuda_put(&b->rows, " \\\n    { %d, %s, { 0x%llxu, 0x%llxu }, dl__baked_%d }, /* %s */", to->arch, to->binary ? "true" : "false",
            (unsigned long long)h[0], (unsigned long long)h[1], b->images++, name);
    }
    return true;
}

static bool bake_modules(baker *b)
{
    bool good = true;
    for (size_t m = 0; good && m < DL__CUDA_PARTS; m++) {
        dl__cuda_text t;
        dl__cuda_module_text(&t, m);
        good = !t.failed && bake(b, &t, dl__cuda_parts[m].name);
        free(t.at);
    }
    return good;
}

static bool bake_file(baker *b, const char *folder, const char *name)
{
    char path[1500], part[4096];
    dl__cuda_text t;
    size_t n;
    memset(&t, 0, sizeof t);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) return fprintf(stderr, "bake_kernels: cannot read '%s': %s\n", path, strerror(errno)), false;
    while ((n = fread(part, 1, sizeof part, f)) > 0) dl__cuda_add(&t, part, n);
    fclose(f);
    snprintf(part, sizeof part, "%.*s", (int)strcspn(name, "-"), name);
    bool good = !t.failed && t.at && bake(b, &t, part);
    if (!t.at) fprintf(stderr, "bake_kernels: '%s' is empty\n", path);
    free(t.at);
    return good;
}

static bool is_text(const char *name) { return strlen(name) > 3 && !strcmp(name + strlen(name) - 3, ".cu"); }
static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* In the order of their names, so that the same texts give the same header. */
static bool bake_folder(baker *b, const char *folder)
{
    char **name = NULL;
    size_t n = 0;
    struct dirent *e;
    DIR *dir = opendir(folder);
    if (!dir) return fprintf(stderr, "bake_kernels: cannot open '%s': %s\n", folder, strerror(errno)), false;
    while ((e = readdir(dir)))
        if (is_text(e->d_name)) {
            char **more = (char **)realloc(name, (n + 1) * sizeof *name);
            if (!more || !((name = more)[n] = strdup(e->d_name))) break;
            n++;
        }
    closedir(dir);
    if (e) fprintf(stderr, "bake_kernels: out of memory\n");
    if (!n) fprintf(stderr, "bake_kernels: '%s' has no texts: run the program with DLTRAIN_CUDA_TEXTS=%s\n", folder, folder);
    if (n) qsort(name, n, sizeof *name, by_name);
    bool good = n && !e;
    for (size_t i = 0; i < n; i++) {
        good = good && bake_file(b, folder, name[i]);
        free(name[i]);
    }
    free(name);
    return good;
}

static bool write_header(baker *b, const char *texts)
{
    int major = 0, minor = 0, (*version)(int *, int *);
    *(void **)&version = dlsym(b->d.nvrtc_library, "nvrtcVersion");
    if (version) version(&major, &minor);
    fprintf(b->out, "/* Compiled kernels of dltrain_cuda.h, for compute capability");
    for (int i = 0; i < b->targets; i++)
        fprintf(b->out, "%s %d.%d%s", i ? "," : "", b->target[i].arch / 10, b->target[i].arch % 10, b->target[i].binary ? "" : " and later");
    fprintf(b->out, ".\n   Made by tools/bake_kernels.c with NVRTC %d.%d. Include it before dltrain_cuda.h, in the file with DLTRAIN_IMPLEMENTATION. */\n"
        "#if defined(DLTRAIN_IMPLEMENTATION) && !defined(DLTRAIN_CUDA_BAKED)\n", major, minor);
    if (!(texts ? bake_folder(b, texts) : bake_modules(b))) return false;
    fprintf(b->out, "#define DLTRAIN_CUDA_BAKED%s\n\n#endif\n", b->rows.at);
    return !b->rows.failed && !ferror(b->out);
}

int main(int argc, char **argv)
{
    static baker b;
    const char *texts = NULL, *path = NULL;
    for (int i = 1; i < argc; i++) {
        bool targets = !strcmp(argv[i], "--for"), folder = !strcmp(argv[i], "--texts");
        if (!strcmp(argv[i], "--help")) return fputs(help, stdout), 0;
        if (*argv[i] != '-' && !path) path = argv[i];
        else if (!targets && !folder) return refuse("what is", argv[i]);
        else if (++i == argc) return refuse("a value is missing after", argv[i - 1]);
        else if (folder) texts = argv[i];
        else if (!parse_targets(&b, argv[i])) return refuse("--for wants a list like 80,90,90+, not", argv[i]);
    }
    if (!b.targets || !path) return refuse("missing:", b.targets ? "HEADER" : "--for");
    b.d.ctx = dl_create(NULL);
    snprintf(b.d.device, sizeof b.d.device, "baking");
    if (!dl__cuda_open_nvrtc(&b.d, "")) return fprintf(stderr, "bake_kernels: %s\n", dl_error(b.d.ctx)), 1;
    if (!known_to_nvrtc(&b)) return 1;
    char own[1400];
    snprintf(own, sizeof own, "%s.new", path); /* the old header stays when this one fails */
    if (!(b.out = fopen(own, "w"))) return fprintf(stderr, "bake_kernels: cannot write '%s': %s\n", own, strerror(errno)), 1;
    bool good = write_header(&b, texts);
    good = !fclose(b.out) && good && !rename(own, path);
    if (good) printf("%s: %d images of kernels, %zu bytes of code\n", path, b.images, b.bytes);
    else remove(own);
    free(b.rows.at);
    dl_destroy(b.d.ctx);
    return !good;
}
