#!/usr/bin/env bash
# The README's programs compile and run as printed.
cd "$(dirname "$0")/.." || exit 1
dir=build/readme
rm -rf $dir
mkdir -p $dir
awk -v d=$dir '/^```c$/ { f = d "/program.c"; next } /^```cpp$/ { f = d "/program.cpp"; next } /^```/ { f = ""; next } f { print > f }' README.md
run() { # NAME COMPILER...
    local name=$1
    shift
    if ! "$@" -I. -o "$dir/$name" -lm -pthread > "$dir/$name.log" 2>&1 || [ -s "$dir/$name.log" ]; then
        echo "not ok readme: $name builds without a warning: $(head -3 "$dir/$name.log" | tr '\n' ' ')"
        return
    fi
    mkdir -p "$dir/$name.run"
    ln -sfn "$PWD/examples" "$dir/$name.run/examples"
    if (cd "$dir/$name.run" && "../$name" > out.txt 2>&1) && [ -s "$dir/$name.run/digits.safetensors" ]; then
        loss=$(tr '\r' '\n' < "$dir/$name.run/out.txt" | tail -1)
        echo "$loss" | awk '{ exit !($1 == "loss" && $2 < 0.5) }' && echo "ok readme: $name runs and learns ($loss)" || echo "not ok readme: $name ends with '$loss'"
    else echo "not ok readme: $name fails: $(tr '\r' '\n' < "$dir/$name.run/out.txt" | tail -2 | tr '\n' ' ')"; fi
}
run program-c "${CC:-cc}" -O2 -Wall -Wextra $dir/program.c
if command -v g++ > /dev/null; then run program-cpp g++ -std=c++11 -O1 -Wall $dir/program.cpp; else echo "skip readme: g++ is not installed"; fi
cmp -s $dir/program-c.run/digits.safetensors $dir/program-cpp.run/digits.safetensors && echo "ok readme: both write the same bytes" || { command -v g++ > /dev/null && echo "not ok readme: the C and C++ programs write different checkpoints"; }
exit 0
