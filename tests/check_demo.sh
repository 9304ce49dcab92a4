#!/usr/bin/env bash
# A newcomer's first minute: a copy of the tree with nothing built, `make demo`, its last line, its files; and the options.
cd "$(dirname "$0")/.." || exit 1
dir=$PWD/build/demo
rm -rf "$dir"
mkdir -p "$dir/tree"
tar cf - --exclude=./build --exclude=./.git . | tar xf - -C "$dir/tree"
start=$(date +%s)
(cd "$dir/tree" && env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make demo) > "$dir/demo.log" 2>&1
took=$(($(date +%s) - start))
last=$(tail -1 "$dir/demo.log")
score=$(echo "$last" | sed -n 's/^test accuracy \([0-9]*\.[0-9][0-9]\)%$/\1/p')
if [ -n "$score" ] && awk "BEGIN { exit !($score >= 97) }"; then echo "ok demo: $last"; else echo "not ok demo: the last line is '$last'"; fi
if [ $took -lt 60 ]; then echo "ok demo: under a minute"; else echo "not ok demo: took $took s"; fi
if grep -q warning "$dir/demo.log"; then echo "not ok demo: warnings"; else echo "ok demo: no warnings"; fi
for f in digits.safetensors digits.svg digits.csv; do
    if [ -s "$dir/tree/build/$f" ]; then echo "ok demo: writes build/$f"; else echo "not ok demo: build/$f is missing"; fi
done
digits=$dir/tree/build/digits
cd "$dir/tree" || exit 1
"$digits" --epochs 2 --seed 5 --threads 1 --save "$dir/a.safetensors" > /dev/null && "$digits" --epochs 2 --seed 5 --threads 3 --save "$dir/b.safetensors" > /dev/null
if cmp -s "$dir/a.safetensors" "$dir/b.safetensors"; then echo "ok demo: same options, same bytes, on 1 and 3 threads"; else echo "not ok demo: 1 and 3 threads write different bytes"; fi
"$digits" --epochs 1 --load build/digits.safetensors > "$dir/load.log"
score=$(sed -n 's/^test accuracy \([0-9.]*\)%$/\1/p' "$dir/load.log")
if awk "BEGIN { exit !(${score:-0} >= 95) }"; then echo "ok demo: goes on from a checkpoint"; else echo "not ok demo: loaded, then $(tail -1 "$dir/load.log")"; fi
"$digits" --epochs 4 --batch 16 --accumulate 4 --lr 0.004 --device cpu > "$dir/acc.log" 2>&1 && echo "ok demo: accumulates" || echo "not ok demo: --accumulate: $(tail -1 "$dir/acc.log")"
# The labels of the training set permuted: nothing can be learnt.
mkdir -p "$dir/shuffled"
cp examples/data/*.idx "$dir/shuffled"
labels=$(od -An -v -to1 -w1 -j8 examples/data/digits-train-labels.idx | shuf --random-source=dltrain.h | tr -d ' ' | sed 's/^/\\/' | tr -d '\n')
{ head -c 8 examples/data/digits-train-labels.idx; printf "$labels"; } > "$dir/shuffled/digits-train-labels.idx"
score=$("$digits" --data "$dir/shuffled" --epochs 3 | sed -n 's/^test accuracy \([0-9.]*\)%$/\1/p')
if awk "BEGIN { exit !(${score:-99} > 2 && ${score:-99} < 20) }"; then echo "ok demo: permuted labels give ${score}%"; else echo "not ok demo: permuted labels give ${score}%"; fi
refuse() { # NAME WORD ARGUMENTS...
    local name=$1 word=$2 status
    shift 2
    "$digits" "$@" > "$dir/refuse.log" 2>&1
    status=$?
    if [ $status != 0 ] && [ $status -lt 100 ] && grep -q -- "$word" "$dir/refuse.log"; then echo "ok demo: refuses $name"; else echo "not ok demo: $name: status $status, $(head -1 "$dir/refuse.log")"; fi
}
refuse "an unknown option" --nonsense --nonsense 1
refuse "a number that is none" --epochs --epochs ten
refuse "a missing folder" no/such --data no/such
refuse "a device that is not there" cuda --device cuda:0
mkdir -p "$dir/packed"
gzip -c examples/data/digits-train-images.idx > "$dir/packed/train-images-idx3-ubyte.gz"
refuse "packed files, and says how to unpack" gunzip --data "$dir/packed"
if "$digits" --help | grep -q -- --accumulate; then echo "ok demo: --help"; else echo "not ok demo: --help"; fi
