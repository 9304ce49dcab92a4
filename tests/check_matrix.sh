#!/usr/bin/env bash
# The header under compilers, standards and configurations: no warnings, the same bits, nothing but dl_ exported.
cd "$(dirname "$0")/.." || exit 1
dir=build/matrix
rm -rf $dir
mkdir -p $dir
strict="-Wall -Wextra -pedantic -Wconversion -Wshadow -Werror"

report() { # NAME STATUS LOG
    if [ "$2" = 0 ]; then echo "ok matrix: $1"; else echo "not ok matrix: $1: $(grep -E 'error|warning|not ok|undefined' "$3" | head -2 | tr '\n' ' ' | cut -c1-300)"; fi
}
have() { command -v "$1" > /dev/null || { echo "skip matrix: $2: $1 is not installed"; return 1; }; }

# A program that trains, written so that C and C++ take it.
cat > $dir/use.c <<'END'
#include <math.h>
#include <string.h>
#define DLTRAIN_IMPLEMENTATION
#include "../../dltrain.h"
#include "../../dltrain.h"
int main(void)
{
    static const float data[8] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    dl_config config;
    dl_sgd_desc sgd;
    memset(&config, 0, sizeof config);
    memset(&sgd, 0, sizeof sgd);
    sgd.lr = 0.1f;
    dl_context *ctx = dl_create(&config);
    dl_optimizer *opt = dl_sgd(ctx, &sgd);
    for (int i = 0; i < 3; i++) {
        dl_backward(dl_mean(dl_square(dl_linear(dl_input(ctx, DL_F32, DL_SHAPE(2, 4), data), "fc", 3))));
        dl_step(opt);
    }
    int failed = dl_failed(ctx);
    dl_destroy(ctx);
    return failed;
}
END
# Only the header, without a word of its own before it.
printf '#define DLTRAIN_IMPLEMENTATION\n#include "../../dltrain.h"\n' > $dir/alone.c

compile() { # NAME COMMAND...: it must build without a warning and run
    local name=$1
    shift
    if "$@" $dir/use.c -o "$dir/$name" -lm -pthread > "$dir/$name.log" 2>&1 && "$dir/$name" >> "$dir/$name.log" 2>&1; then report "$name" 0; else report "$name" 1 "$dir/$name.log"; fi
}
for cc in gcc clang; do
    have $cc "$cc" || continue
    compile $cc-c99 $cc -std=c99 -O2 $strict
    compile $cc-c11 $cc -std=c11 -O1 $strict
done
have g++ g++ && compile g++11 g++ -x c++ -std=c++11 -O1 $strict

# Configurations build without warnings; those that can run do.
config() { # NAME FLAGS...
    local name=$1
    shift
    ${CC:-cc} -std=c99 -O1 $strict "$@" -c $dir/alone.c -o "$dir/$name.o" > "$dir/$name.log" 2>&1
    report "$name" $? "$dir/$name.log"
}
config no-threads -DDLTRAIN_NO_THREADS # the objects of some are tested below
config no-files -DDLTRAIN_NO_FILES
config no-stdio -DDLTRAIN_NO_STDIO
config no-malloc -DDLTRAIN_NO_MALLOC -DDLTRAIN_NO_STDIO -DDLTRAIN_NO_THREADS
config no-simd -O2 -DDLTRAIN_NO_SIMD
config no-exact-fma -DDLTRAIN_NO_EXACT_FMA
config double -DDLTRAIN_REAL=double
small="-DDLTRAIN_MAX_DIMS=4 -DDLTRAIN_NAME_MAX=48 -DDLTRAIN_ERROR_MAX=128 -DDLTRAIN_PLANS=1 -DDLTRAIN_TILE=64 -DDLTRAIN_ALIGN=8"
config small $small
config static -DDLTRAIN_STATIC
config native -O3 -march=native

# After every header of the C library and POSIX, whatever macros they bring.
printf '#include <%s>\n' assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdarg stdbool stddef stdint stdio stdlib string tgmath time \
    wchar wctype dirent fcntl netdb poll pthread pwd regex sched sys/mman sys/socket sys/stat sys/time sys/types sys/wait termios unistd netinet/in | sed 's/>/.h>/' > $dir/after.c
cat $dir/alone.c >> $dir/after.c
${CC:-cc} -std=gnu11 -O0 -Wall -Wextra -Werror -c $dir/after.c -o $dir/after.o > $dir/after.log 2>&1
report "after every system header" $? $dir/after.log

# -ffast-math is refused with a reason.
${CC:-cc} -std=c99 -ffast-math -c $dir/alone.c -o $dir/fast.o > $dir/fast.log 2>&1
grep -q 'ffast-math' $dir/fast.log
report fast-math-is-refused $? $dir/fast.log

# Every exported symbol begins with dl_; a static copy exports nothing.
if have nm symbols; then
    nm -g --defined-only $dir/native.o | awk '{ print $3 }' | grep -v '^dl_' > $dir/symbols.log
    report exported-symbols-begin-with-dl_ $([ -s $dir/symbols.log ]; echo $((1 - $?))) $dir/symbols.log
    nm -g --defined-only $dir/static.o > $dir/static-symbols.log
    report a-static-copy-exports-nothing $([ -s $dir/static-symbols.log ]; echo $((1 - $?))) $dir/static-symbols.log
fi

# Two libraries in one program: one with a static copy of its own.
printf '#define DLTRAIN_STATIC\n#define DLTRAIN_IMPLEMENTATION\n#include "../../dltrain.h"\nint other(void) { dl_context *c = dl_create(NULL); int failed = dl_failed(c); dl_destroy(c); return failed; }\n' > $dir/other.c
printf '#include "../../dltrain.h"\nint other(void);\nint main(void) { dl_context *c = dl_create(NULL); int failed = dl_failed(c) || other(); dl_destroy(c); return failed; }\n' > $dir/both.c
${CC:-cc} -O0 -DDLTRAIN_NO_SIMD $dir/both.c $dir/no-simd.o $dir/other.c -o $dir/both -lm -pthread > $dir/both.log 2>&1 && $dir/both
report beside-a-static-copy $? $dir/both.log

# The same bits: tests/test_hashes.c under other compilers, flags and widths.
hashes() { # NAME COMMAND...
    local name=$1
    shift
    "$@" -std=gnu11 tests/test_hashes.c -o "$dir/hash-$name" -lm -pthread > "$dir/hash-$name.log" 2>&1 && "$dir/hash-$name" >> "$dir/hash-$name.log" 2>&1
    report "same bits with $name" $? "$dir/hash-$name.log"
}
hashes native gcc $dir/native.o
hashes no-simd gcc $dir/no-simd.o
hashes no-threads gcc -DDLTRAIN_NO_THREADS $dir/no-threads.o
hashes no-files gcc -DDLTRAIN_NO_FILES $dir/no-files.o
hashes small gcc $small $dir/small.o
hashes gcc-O0 gcc -O0 $dir/alone.c
hashes gcc-Os gcc -Os $dir/alone.c
hashes gcc-no-simd-native gcc -O3 -march=native -DDLTRAIN_NO_SIMD $dir/alone.c
have clang "same bits with clang" && { hashes clang-O2 clang -O2 $dir/alone.c; hashes clang-O3-native clang -O3 -march=native $dir/alone.c; }
if echo 'int main(void) { return 0; }' | gcc -m32 -x c - -o $dir/m32 2> /dev/null; then
    hashes gcc-32-bit gcc -m32 -msse2 -mfpmath=sse -O2 $dir/alone.c
else
    echo "skip matrix: same bits with gcc-32-bit: there is no 32-bit C library"
fi
