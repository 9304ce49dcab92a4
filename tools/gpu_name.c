/* For tools/gpu_check.sh: what a device is, or why there is none. gpu_name cuda:0 */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "../dltrain_cuda.h"

int main(int argc, char **argv)
{
    dl_context *ctx = dl_create(&(dl_config){ .device = argc > 1 ? argv[1] : "cuda:0" });
    dl__cuda *d = (dl__cuda *)dl_device_of(ctx, dl_cuda_backend());
    int cuda = 0, major = 0, minor = 0, (*driver_version)(int *), (*nvrtc_version)(int *, int *);
    size_t free_bytes = 0, all = 0;
    if (dl_failed(ctx) || !d) return fprintf(stderr, "%s\n", dl_error(ctx)), 1;
    *(void **)&driver_version = dlsym(d->driver_library, "cuDriverGetVersion");
    if (driver_version) driver_version(&cuda);
    if (dl__cuda_open_nvrtc(d, "")) {
        *(void **)&nvrtc_version = dlsym(d->nvrtc_library, "nvrtcVersion");
        if (nvrtc_version) nvrtc_version(&major, &minor);
    }
    DL__CUDA_CALL(d, cuMemGetInfo_v2(&free_bytes, &all));
    printf("GPU: %s, compute capability %d.%d, %zu MB\n", d->name, d->arch / 10, d->arch % 10, all >> 20);
    printf("driver: of CUDA %d.%d; NVRTC: %d.%d\n", cuda / 1000, cuda % 1000 / 10, major, minor);
    int failed = dl_failed(ctx);
    if (failed) fprintf(stderr, "%s\n", dl_error(ctx));
    dl_destroy(ctx);
    return failed;
}
