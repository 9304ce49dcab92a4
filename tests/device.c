/* Linked into a test by -Wl,--wrap=dl_create: where it names no device, its contexts are on the GPU that TEST_DEVICE names, or it ends. */
#include "../dltrain.h"
#include "../dltrain_cuda.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

dl_context *__real_dl_create(const dl_config *config);
dl_context *__wrap_dl_create(const dl_config *config);

dl_context *__wrap_dl_create(const dl_config *config)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    if (config) c = *config;
    if (c.device) return __real_dl_create(config);
    c.device = getenv("TEST_DEVICE");
    dl_context *ctx = __real_dl_create(&c);
    if (c.device && *dl_cuda_device_name(ctx)) return ctx;
    printf("not ok device: not on '%s': %s\n", c.device ? c.device : "", dl_error(ctx));
    exit(1);
}
