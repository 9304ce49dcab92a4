/* `make cost-model`: the step of one device, extrapolated to 8, 64 and 512 on named networks. docs/cost.md has the formulas and the sources. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cost.h"

static const char help[] =
    "usage: build/cost_model [OPTIONS]: what `make bench-parallel` prints, of one device\n"
    "    --forward MS --backward MS --update MS   of a step (9, 15, 0.3: W2 on a core)\n"
    "    --bytes MB       of gradients (1.69)\n"
    "    --first MB --bucket MB   of the first bucket and of the others (1.05, 25)\n"
    "    --speed X        devices X times as fast (1)\n"
    "    --overlap X      1: reductions run beside the backward pass; 0: they take its processor away (1)\n"
    "    --message US     that the processor spends on each message over MPI (2)\n";

static const cost_network networks[] = {
    { "NVLink 4", 380e9, 3.4e-6 },
    { "PCIe 4 x16", 25e9, 5.7e-6 },
    { "100 Gb Ethernet", 11.5e9, 9.6e-6 },
    { "10 Gb Ethernet", 1.15e9, 30e-6 },
};

int main(int argc, char **argv)
{
    double forward = 9, backward = 15, update = 0.3, bytes = 1.69, first = 1.048576, bucket = 25, speed = 1, overlap = 1, message = 2;
    const struct { const char *name; double *value; } options[] = { { "--forward", &forward }, { "--backward", &backward }, { "--update", &update },
        { "--bytes", &bytes }, { "--first", &first }, { "--bucket", &bucket }, { "--speed", &speed }, { "--overlap", &overlap }, { "--message", &message } };
    enum { OPTIONS = sizeof options / sizeof *options };
    for (int i = 1; i < argc; i += 2) {
        int k = 0;
        char *end = NULL;
        if (!strcmp(argv[i], "--help")) return fputs(help, stdout), 0;
        while (k < OPTIONS && strcmp(argv[i], options[k].name)) k++;
        double value = k < OPTIONS && i + 1 < argc ? strtod(argv[i + 1], &end) : -1;
        if (!end || *end || end == argv[i + 1] || !(value >= 0 && value < 1e9))
            return fprintf(stderr, "cost_model: '%s' is no option, or its value is missing or negative\n%s", argv[i], help), 2;
        *options[k].value = value;
    }
    if (bytes == 0 || first == 0 || bucket == 0 || speed == 0 || overlap > 1)
        return fprintf(stderr, "cost_model: --bytes, --first, --bucket and --speed are above 0, --overlap is 0 to 1\n"), 2;
    cost_step s = { forward * 1e-3 / speed, backward * 1e-3 / speed, update * 1e-3 / speed, bytes * 1e6, first * 1e6, bucket * 1e6, overlap };
    double alone = s.forward + s.backward + s.update, exposed;
    printf("one device: %.4g ms a step, %.4g MB of gradients\n", alone * 1e3, bytes);
    printf("%-16s %8s %12s %12s %12s %12s %12s\n", "network", "devices", "ring, ms", "exposed", "efficiency", "MPI, ms", "efficiency");
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++)
        for (int n = 8; n <= 512; n *= 8) {
            const cost_network *w = &networks[i];
            double fixed = cost_ring(w, n, 0), ring = cost_of_step(&s, fixed, cost_ring(w, n, 1) - fixed, &exposed), unused;
            double start = cost_direct(w, n, 0, message * 1e-6);
            double direct = cost_of_step(&s, start, cost_direct(w, n, 1, message * 1e-6) - start, &unused);
            printf("%-16s %8d %12.4g %12.4g %11.1f%% %12.4g %11.1f%%\n", w->name, n, ring * 1e3, exposed * 1e3, 100 * alone / ring, direct * 1e3, 100 * alone / direct);
        }
    return 0;
}
