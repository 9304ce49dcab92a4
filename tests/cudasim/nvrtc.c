/* The NVRTC shim: every call goes to the real library; for programs compiled to a cubin it keeps their PTX where the simulated
   driver finds it by the cubin's bytes. The real library: CUDASIM_NVRTC, else the one that build.sh found.
   CUDASIM_FAIL=nvrtc:N[:CODE] makes the N-th compilation fail. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#ifndef REAL_NVRTC
#define REAL_NVRTC ""
#endif
typedef int result;
typedef void *program;

static void *library, *driver;
static void open_library(void)
{
    const char *path = getenv("CUDASIM_NVRTC");
    if (!path || !*path) path = REAL_NVRTC;
    char builtins[4096];
    snprintf(builtins, sizeof builtins, "%s", path);
    char *slash = strrchr(builtins, '/');
    static const char *names[] = { "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.so.13", "libnvrtc-builtins.so.12.9",
        "libnvrtc-builtins.so" };
    for (int i = 0; slash && i < 4; i++) { /* the real library looks for it by name only */
        snprintf(slash + 1, sizeof builtins - (size_t)(slash + 1 - builtins), "%s", names[i]);
        if (dlopen(builtins, RTLD_NOW | RTLD_GLOBAL)) break;
    }
    if (*path) library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        fprintf(stderr, "cudasim: the real NVRTC '%s' does not load: %s\n", path,
            *path ? dlerror() : "build.sh found none; set CUDASIM_NVRTC");
    driver = dlopen("libcuda.so.1", RTLD_NOW);
}
static void *real(const char *name)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, open_library);
    void *f = library ? dlsym(library, name) : NULL;
    if (library && !f) fprintf(stderr, "cudasim: the real NVRTC has no %s\n", name);
    return f;
}

/* Each function calls its namesake; 11 is NVRTC_ERROR_INTERNAL_ERROR. */
#define FORWARD(name, parameters, arguments) \
    EXPORT result name parameters { result (*f) parameters; *(void **)&f = real(#name); return f ? f arguments : 11; }
FORWARD(nvrtcVersion, (int *a, int *b), (a, b))
FORWARD(nvrtcGetNumSupportedArchs, (int *a), (a))
FORWARD(nvrtcGetSupportedArchs, (int *a), (a))
FORWARD(nvrtcCreateProgram, (program * a, const char *b, const char *c, int d, const char *const *e, const char *const *f2),
    (a, b, c, d, e, f2))
FORWARD(nvrtcDestroyProgram, (program *a), (a))
FORWARD(nvrtcGetPTXSize, (program a, size_t *b), (a, b))
FORWARD(nvrtcGetPTX, (program a, char *b), (a, b))
FORWARD(nvrtcGetCUBINSize, (program a, size_t *b), (a, b))
FORWARD(nvrtcGetProgramLogSize, (program a, size_t *b), (a, b))
FORWARD(nvrtcGetProgramLog, (program a, char *b), (a, b))
FORWARD(nvrtcAddNameExpression, (program a, const char *b), (a, b))
FORWARD(nvrtcGetLoweredName, (program a, const char *b, const char **c), (a, b, c))

EXPORT const char *nvrtcGetErrorString(result code)
{
    const char *(*f)(result);
    *(void **)&f = real("nvrtcGetErrorString");
    return f ? f(code) : "the real NVRTC is missing";
}

EXPORT result nvrtcCompileProgram(program p, int count, const char *const *options)
{
    result (*f)(program, int, const char *const *);
    int (*fault)(const char *);
    *(void **)&f = real("nvrtcCompileProgram");
    if (!f) return 11;
    *(void **)&fault = driver ? dlsym(driver, "cudasim_fault") : NULL;
    int failure = fault ? fault("nvrtc") : 0;
    return failure ? failure : f(p, count, options);
}

EXPORT result nvrtcGetCUBIN(program p, char *out)
{
    result (*f)(program, char *);
    *(void **)&f = real("nvrtcGetCUBIN");
    if (!f) return 11;
    result r = f(p, out);
    size_t size = 0, ptx_size = 0;
    if (r || nvrtcGetCUBINSize(p, &size) || nvrtcGetPTXSize(p, &ptx_size) || !driver) return r;
    void (*path_of)(const void *, size_t, char *, size_t);
    *(void **)&path_of = dlsym(driver, "cudasim_cubin_path");
    char *ptx = malloc(ptx_size), path[4300], temporary[4400];
    if (path_of && nvrtcGetPTX(p, ptx) == 0) {
        path_of(out, size, path, sizeof path);
        snprintf(temporary, sizeof temporary, "%s.%ld.%lx", path, (long)getpid(), (unsigned long)pthread_self());
        FILE *file = fopen(temporary, "wb");
        if (!file || fwrite(ptx, 1, ptx_size - 1, file) != ptx_size - 1 || fclose(file) || rename(temporary, path))
            fprintf(stderr, "cudasim: cannot write %s\n", path);
    }
    free(ptx);
    return 0;
}
