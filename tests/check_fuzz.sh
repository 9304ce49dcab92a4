#!/usr/bin/env bash
# 20,000 mutations of good files, under the sanitizers where there are any. For longer: see tests/fuzz_files.c
cd "$(dirname "$0")/.." || exit 1
mkdir -p build/fuzz
variant=sanitize sanitize="-g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
echo 'int main(void) { return 0; }' | "${CC:-cc}" $sanitize -x c - -o build/fuzz/none 2> /dev/null || variant=plain sanitize=
"${CC:-cc}" -std=gnu11 -O1 $sanitize -DFUZZ_MAIN tests/fuzz_files.c "$(tests/run --library $variant)" -o build/fuzz/fuzz -lm -pthread 2> build/fuzz/log
timeout 300 build/fuzz/fuzz
