/* The numbers of tools/gold_numbers.py: in [-1, 1), 16 bits each. */
#ifndef NUMBERS_H
#define NUMBERS_H
static dl_real *numbers(size_t n, int salt)
{
    static dl_real buffer[4096];
    uint32_t state = 12345u + (uint32_t)salt * 7919u;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        buffer[i] = (dl_real)(state >> 16) / 32768 - 1;
    }
    return buffer;
}
#endif
