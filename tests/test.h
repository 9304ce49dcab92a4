/* What every test program shares: named tests, checks, and lines that tests/run can add up.

       static void adds(void) { CHECK(1 + 1 == 2, "got %d", 1 + 1); }
       int main(void) { RUN(adds); return REPORT(); }

   Lines: 'ok NAME', 'not ok NAME: reason', 'skip NAME: reason'; last 'N passed, N failed, N skipped'. */
#ifndef TEST_H
#define TEST_H
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct { const char *name; char reason[1024]; int passed, failed, skipped; bool bad, skip; } test__;

static void test__say(bool skip, const char *file, int line, const char *format, ...)
{
    va_list args;
    int n;
    if (test__.bad || test__.skip) return; /* the first reason counts */
    if (skip) test__.skip = true;
    else test__.bad = true;
    n = skip ? 0 : snprintf(test__.reason, sizeof test__.reason, "%s:%d: ", file, line);
    va_start(args, format);
    vsnprintf(test__.reason + n, sizeof test__.reason - (size_t)n, format, args);
    va_end(args);
    for (char *p = test__.reason; *p; p++)
        if (*p == '\n') *p = ' ';
}

static void test__begin(const char *name)
{
    test__.name = name;
    test__.bad = test__.skip = false;
}

static void test__end(void)
{
    if (test__.bad) printf("not ok %s: %s\n", test__.name, test__.reason);
    else if (test__.skip) printf("skip %s: %s\n", test__.name, test__.reason);
    else printf("ok %s\n", test__.name);
    test__.failed += test__.bad;
    test__.skipped += test__.skip && !test__.bad;
    test__.passed += !test__.skip && !test__.bad;
    fflush(stdout);
}

static int test__report(void)
{
    printf("%d passed, %d failed, %d skipped\n", test__.passed, test__.failed, test__.skipped);
    return test__.failed != 0;
}

#define RUN(test) (test__begin(#test), test(), test__end())
#define CHECK(condition, ...) ((condition) ? (void)0 : test__say(false, __FILE__, __LINE__, __VA_ARGS__))
#define SKIP(...) test__say(true, __FILE__, __LINE__, __VA_ARGS__)
#define REPORT() test__report()
#endif
