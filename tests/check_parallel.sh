#!/usr/bin/env bash
# The examples of parallel training: they build without warnings, say what their pages say, and refuse with a reason.
cd "$(dirname "$0")/.." || exit 1
dir=build/parallel
rm -rf $dir
mkdir -p $dir
for name in accumulate data_parallel; do
    tests/run --example $name > $dir/$name.c
    if "${CC:-cc}" -O2 -Wall -Wextra -iquote examples $dir/$name.c "$(tests/run --library plain)" -o $dir/$name -lm -pthread > $dir/$name.log 2>&1 && [ ! -s $dir/$name.log ]; then echo "ok parallel: $name builds"; else
        echo "not ok parallel: $name: $(head -2 $dir/$name.log | tr '\n' ' ')"; fi
    if $dir/$name --help | grep -q "^usage: $name"; then echo "ok parallel: $name --help"; else echo "not ok parallel: $name --help"; fi
    $dir/$name --nonsense > $dir/refuse.log 2>&1
    if [ $? = 2 ] && grep -q -- --nonsense $dir/refuse.log; then echo "ok parallel: $name refuses an unknown option"; else echo "not ok parallel: $name: $(head -1 $dir/refuse.log)"; fi
done
# The same gradient, and no more than a fifth of the memory for values.
$dir/accumulate > $dir/accumulate.txt
off=$(sed -n 's/^relative difference of the gradients: //p' $dir/accumulate.txt)
values() { sed -n "$1"'s/.* \([0-9.]*\) KiB of values.*/\1/p' $dir/accumulate.txt; }
if awk "BEGIN { exit !(${off:-1} < 1e-6) }"; then echo "ok parallel: 1 x 256 and 8 x 32 differ by $off"; else echo "not ok parallel: accumulate: $(cat $dir/accumulate.txt | tr '\n' ' ')"; fi
if awk "BEGIN { exit !($(values 2) * 5 < $(values 1)) }"; then echo "ok parallel: $(values 2) KiB instead of $(values 1)"; else echo "not ok parallel: memory: $(cat $dir/accumulate.txt | tr '\n' ' ')"; fi
for options in "--devices cpu" "--devices cpu,cpu" "--devices cpu,cpu:2,cpu --loss output" "--devices cpu,cpu --loss output --output 1"; do
    score=$($dir/data_parallel $options | sed -n 's/^test accuracy \([0-9.]*\)% on .*/\1/p')
    if awk "BEGIN { exit !(${score:-0} >= 95) }"; then echo "ok parallel: data_parallel $options: $score%"; else echo "not ok parallel: data_parallel $options: '$score'"; fi
done
$dir/data_parallel --devices cpu,cuda:1 > $dir/refuse.log 2>&1
if [ $? = 1 ] && grep -q "replica 1 (cuda:1)" $dir/refuse.log; then echo "ok parallel: names the replica whose device is missing"; else echo "not ok parallel: $(head -1 $dir/refuse.log)"; fi
