#!/usr/bin/env bash
# The examples of the learning methods: their quick forms on the shipped digits, and what their tables say.
cd "$(dirname "$0")/.." || exit 1
dir=build/examples
rm -rf $dir
mkdir -p $dir
unset DLTRAIN_DATA
report() { # NAME STATUS REASON
    if [ "$2" = 0 ]; then echo "ok examples: $1"; else echo "not ok examples: $1: $3"; fi
}
build() { # NAME: the example as the Makefile builds it, and its --help and a wrong option
    if ! make -s CC="${CC:-cc}" build/$1 > $dir/$1.build 2>&1 || [ -s $dir/$1.build ] || ! cp build/$1 $dir/$1; then
        report "$1 builds without warnings" 1 "$(head -3 $dir/$1.build | tr '\n' ' ')"
        return 1
    fi
    report "$1 builds without warnings" 0
    $dir/$1 --help | grep -q -- --out
    report "$1 --help" $? "it does not name --out"
    $dir/$1 --nonsense > $dir/$1.refuse 2>&1
    [ $? = 2 ] && grep -q nonsense $dir/$1.refuse
    report "$1 refuses an unknown option" $? "$(head -1 $dir/$1.refuse)"
}
refuse() { # PROGRAM WORD ARGUMENTS...
    local program=$1 word=$2 status
    shift 2
    $dir/$program "$@" > $dir/refuse.log 2>&1
    status=$?
    [ $status != 0 ] && [ $status -lt 100 ] && grep -q -- "$word" $dir/refuse.log
    report "$program refuses $*" $? "status $status, $(head -1 $dir/refuse.log)"
}
# Is a number of a CSV, picked by an awk condition, in a range?
range() { # NAME FILE CONDITION COLUMN LOW HIGH
    local value
    value=$(awk -F, "NR > 1 && ($3) { s += \$$4; n++ } END { if (n) print s / n }" "$2")
    awk "BEGIN { exit !(\"$value\" != \"\" && ${value:-0} >= $5 && ${value:-0} <= $6) }"
    report "$1: ${value:-none}" $? "not from $5 to $6"
}
# A picture, one element a line, by an awk program that exits with 1 when it is wrong: at(NAME) is an attribute, says() a text's words.
picture() { # NAME FILE PROGRAM
    awk 'function at(name) { return match($0, " " name "=\"[^\"]*") ? substr($0, RSTART + length(name) + 3, RLENGTH - length(name) - 3) : "" }
        function says() { return match($0, ">[^<>]+</text>") ? substr($0, RSTART + 1, RLENGTH - 8) : "" }
        function wrong(what) { if (!bad) print FNR ": " what; bad = 1 } '"$3" "$2" > $dir/picture.log 2>&1
    report "$1" $? "$2, $(head -1 $dir/picture.log)"
}

if build backprop; then
    $dir/backprop --out $dir/backprop > $dir/backprop.log 2>&1
    report "backprop: all checks hold" $? "$(grep 'HOLD\|hold' $dir/backprop.log | head -2 | tr '\n' ' ')"
    n=1
    for a in 0.093956 0.202848 0.012009 0.779587; do # PyTorch's, to six digits
        grep -q "| $a |$" $dir/backprop.log
        report "backprop: neuron $n ends at $a" $? "$(grep '^| .*300 |' $dir/backprop.log | sed -n ${n}p)"
        n=$((n + 1))
    done
    range "backprop: linear regression against closed form" $dir/backprop.csv '/linear regression/' 2 0 1e-5
    $dir/backprop --loss mse --w 0.6 --b 0.9 --lr 0.15 --steps 300 --out $dir/own | grep -q '0.093956'
    report "backprop: a neuron of one's own" $? "its end is not 0.093956"
    refuse backprop "mse or ce" --loss hinge
    refuse backprop "whole number" --steps 1.5
    refuse backprop "cannot" --out no/such/folder/x
fi
if build multitask; then
    $dir/multitask --quick --out $dir/multitask > $dir/multitask.log 2>&1
    report "multitask: quick" $? "$(tail -1 $dir/multitask.log)"
    grep -q 'To get it: https://' $dir/multitask.log
    report "multitask: says where MNIST is" $? "$(head -1 $dir/multitask.log)"
    range "multitask: class error alone" $dir/multitask.csv '/class alone/' 4 4 16
    range "multitask: class error, equal weights, unit x100" $dir/multitask.csv '$1 == 100 && /equal/' 4 22 100
    range "multitask: class error, uncertainty started at the losses, x100" $dir/multitask.csv '$1 == 100 && /started/' 4 4 18
    grep -q polyline $dir/multitask.svg
    report "multitask: a picture" $? "there is none"
    refuse multitask "from 1" --seeds 0
fi
if build mil; then
    $dir/mil --quick --out $dir/mil > $dir/mil.log 2>&1
    report "mil: quick" $? "$(tail -1 $dir/mil.log)"
    range "mil: noisy-AND under 'share'" $dir/mil.csv '$2 == "share" && $4 == "noisy-and"' 6 0.95 1
    range "mil: mean under 'share'" $dir/mil.csv '$2 == "share" && $4 == "mean"' 6 0.95 1
    range "mil: attention under 'any'" $dir/mil.csv '$2 == "any" && $4 == "attention"' 6 0.85 1
    range "mil: noisy-AND under 'any'" $dir/mil.csv '$2 == "any" && $4 == "noisy-and"' 6 0.4 0.8
    picture "mil: pictured are 8 bags, weights falling, no 9 in a negative one" $dir/mil.svg '
        says() ~ /^bag of/ { bags++; negative = says() ~ /label 0/; last = 1 }
        at("stroke") == "#d1242f" { nines++; if (negative) wrong("a 9 in a negative bag") }
        at("text-anchor") == "middle" { if (says() + 0 > last) wrong("a weight rises"); last = says() + 0 }
        END { if (bags != 8 || nines < 4) wrong(bags " bags, " nines " 9s"); exit bad }'
    $dir/mil --quick --experiment labels --poolings noisy-and --steps 300 --out $dir/labels > $dir/labels.log 2>&1
    report "mil: labels" $? "$(tail -1 $dir/labels.log)"
    learnt=$(grep -o 'by noisy-and:.*' $dir/labels.log | grep -o '[0-9.]* (' | tr -d '(\n')
    picture "mil: pictured are 60 labels beside the truth, and the thresholds" $dir/labels.svg '
        BEGIN { split("'"$learnt"'", learnt, " ") }
        at("fill") == "#9aa4af" && at("width") + 0 == 14 { truth = at("height") / 56 }
        at("width") + 0 == 14 && at("fill") != "#9aa4af" { p = at("height") / 56; red = at("fill") == "#d1242f"; n++
            is[n] = truth > 0.5; true += truth == 1
            if (n <= 60 && (truth > 0.5) != (p > 0.5) != red) wrong("colour of P = " p " beside " truth) }
        at("text-anchor") == "middle" && says() ~ /^[01]\.[0-9]/ {
            if (n <= 60 && (says() - p) ^ 2 > 0.0001) wrong("P = " says() " at a bar of " p)
            if (n > 60 && says() != learnt[n - 60]) wrong("threshold " n - 60 " is " learnt[n - 60] ", not " says()) }
        says() ~ /^[0-9]+ %/ { share[n] = says() + 0 }
        END { for (k = 1; k <= 60; k++) if (is[k] != (share[k] > (k % 2 ? 10 : 35))) wrong("label " is[k] " at " share[k] + 0 " %")
            if (n != 70 || true < 6) wrong(n " bars, " true " labels"); exit bad }'
    # What a place sees of 16 pixels: 14 from -3, 1 and 5 on (3 x 3, halved, 3 x 3, halved, 2 x 2, padding of 1); a patch: 8 from 0, 4 and 8 on.
    for form in canvas:0,11:1,14:5,11 tiles:0,8:4,8:8,8; do
        name=${form%%:*}
        $dir/mil --quick --experiment $name --poolings noisy-and --steps 2500 --out $dir/$name > $dir/$name.log 2>&1
        report "mil: $name" $? "$(tail -1 $dir/$name.log)"
        picture "mil: $name: pictured are 6, the predicted digits framed, nearly all where they are" $dir/$name.svg '
            at("stroke") == "#ddd" { x = at("x") + 0.5; y = at("y") + 0.5; canvases++; cells = 0; split("", p) }
            at("fill") == "#1f6feb" && says() ~ /^[0-9]$/ { digit[cells++] = says() }
            says() ~ /: P = / { label = says() + 0; there = 0; for (k = 0; k < 4; k++) there += digit[k] == label
                predicted += says() !~ /missed/; p[label] = substr(says(), 8, 4)
                if (says() !~ (!there ? "not there$" : p[label] < 0.5 ? "missed$" : p[label] > 0.5 ? "right$" : "$")) wrong(there " times " says()) }
            at("stroke-width") == 2 { frames++; w = at("width") / 10.5; h = at("height") / 10.5; left = (at("x") - x) / 10.5; top = (at("y") - y) / 10.5; hit = 0
                if (!index("'"$form"':", ":" left "," w ":") || !index("'"$form"':", ":" top "," h ":")) wrong("a frame at " left "," top " of " w " x " h)
                for (k = 0; k < 4; k++) { c = k % 2 * 8 + 4 - left; r = int(k / 2) * 8 + 4 - top; hit += digit[k] == label && c > 0 && c < w && r > 0 && r < h }
                hits += hit > 0 }
            at("fill") == "white" && says() ~ /: / { tags++; if (substr(says(), 4) != p[says() + 0]) wrong("tag " says()) }
            END { if (canvases != 6 || frames < 6 || frames != predicted || frames != tags || hits < 0.8 * frames)
                wrong(canvases " canvases, " predicted " predicted, " frames " frames, " tags " tags, " hits " on the digit"); exit bad }'
    done
    # Bags from a file in MUSK's form: a bag is positive when one instance has its first feature above 90.
    awk 'BEGIN { srand(3); for (b = 1; b <= 60; b++) for (i = 1; i <= 4; i++) { hot = b % 2 && i == 2;
        printf "MOL-%d,%d_%d,", b, b, i; printf "%d", hot ? 95 + int(rand() * 40) : int(rand() * 80); for (f = 0; f < 5; f++) printf ",%d", int(rand() * 100);
        printf ",%d.\n", b % 2 } }' > $dir/bags.data
    $dir/mil --csv $dir/bags.data --bag-column 1 --skip 2 --label last --folds 5 --seeds 1 --poolings noisy-or,embedding-max --out $dir/bags > $dir/bags.log 2>&1
    report "mil: bags from a file" $? "$(tail -1 $dir/bags.log)"
    grep -q '^60 bags, 30 of them positive; 240 instances of 6 features$' $dir/bags.log
    report "mil: counts them" $? "$(head -1 $dir/bags.log)"
    range "mil: noisy-OR on them, accuracy in cross-validation" $dir/bags.csv '$2 == "noisy-or"' 4 90 100
    picture "mil: pictured are accuracy and AUC in cross-validation" $dir/bags.svg '
        BEGIN { while ((getline line < "'$dir/bags.csv'") > 0) { split(line, v, ","); accuracy[v[2]] = v[4]; auc[v[2]] = 100 * v[5] } }
        at("font-weight") == "bold" { what = says() }
        at("text-anchor") == "end" && says() ~ /^(noisy-or|embedding-max)$/ { pooling = says() }
        at("opacity") { bars++ }
        says() ~ /±/ { n++; if ((says() - (what == "AUC" ? auc[pooling] : accuracy[pooling])) ^ 2 > 0.0001) wrong(what " of " pooling ": " says()) }
        END { if (bars != 4 || n != 4) wrong(bars " bars, " n " numbers"); exit bad }'
    { echo "name,conformation,a,b,c,d,e,f,class"; cat $dir/bags.data; } > $dir/named.data
    $dir/mil --csv $dir/named.data --folds 5 --seeds 1 --poolings noisy-or --steps 5 --out $dir/named | grep -q '^60 bags, 30 of them positive; 240 instances of 6 features$'
    report "mil: passes over a line of names" $? "other counts"
    awk -F, -v OFS=, 'NR == 7 { $4 = "x" } 1' $dir/bags.data > $dir/broken.data
    refuse mil "line 7: column 4 is not a number" --csv $dir/broken.data
    sed '9s/,[0-9]*\.$//' $dir/bags.data > $dir/short.data
    refuse mil "line 9: 8 columns, not 9" --csv $dir/short.data
    refuse mil "cannot open" --csv no/such.data
    refuse mil "no room" --csv $dir/bags.data --skip 9
    refuse mil "no pooling 'most'" --poolings most
    refuse mil "any,share,both" --rule some
    refuse mil "picture takes .* not 'embedding-max'" --picture embedding-max
    refuse mil "picture takes .* not 'attention'" --picture attention --poolings max,mean
fi
if build self_distill; then
    $dir/self_distill --seeds 1 --epochs 20 --methods one,two,full --out $dir/self_distill > $dir/self_distill.log 2>&1
    report "self_distill: quick" $? "$(tail -1 $dir/self_distill.log)"
    range "self_distill: error of one view" $dir/self_distill.csv '$2 == "one view"' 4 1 15
    range "self_distill: error of all five terms" $dir/self_distill.csv '$2 == "full"' 4 1 12
    [ -s $dir/self_distill-full.safetensors ] && grep -q circle $dir/self_distill.svg
    report "self_distill: a picture and the weights" $? "there is none"
    $dir/self_distill --set mnist --dry-run --methods one > $dir/missing.log
    grep -q 'To get it: https://' $dir/missing.log && grep -q 'Going on with the digits' $dir/missing.log
    report "self_distill: says how to get MNIST" $? "$(head -1 $dir/missing.log)"
    mkdir -p $dir/data/cifar100
    for i in 0 1 2 3 4 5 6 7; do printf "\\00$i\\07$i"; head -c 3072 /dev/zero | tr '\0' "\\12$i"; done > $dir/data/cifar100/train.bin 2> /dev/null
    cp $dir/data/cifar100/train.bin $dir/data/cifar100/test.bin
    $dir/self_distill --recipe ddgsd --dry-run --methods full --batch 4 --data $dir/data > $dir/recipe.log 2>&1
    grep -q 'cifar100, resnet32, 200 epochs' $dir/recipe.log && [ "$(grep -c 'step [123]: loss [0-9]' $dir/recipe.log)" = 3 ]
    report "self_distill: the published recipe, dry" $? "$(tail -1 $dir/recipe.log)"
    refuse self_distill "there is no network" --net resnet99
    refuse self_distill "of one,two,kl,mmd,full" --methods three
    refuse self_distill "there is no set" --set imagenet
    refuse self_distill "a number from" --sizes 10,x
fi
if build distill; then
    $dir/distill --seeds 1 --epochs 120 --out $dir/distill > $dir/distill.log 2>&1
    report "distill: quick" $? "$(tail -1 $dir/distill.log)"
    range "distill: error of the student alone" $dir/distill.csv '$2 == "student alone"' 4 4 20
    range "distill: error from logits" $dir/distill.csv '$2 == "from logits"' 4 2 18
    [ -s $dir/distill-teacher.safetensors ]
    report "distill: the teacher's weights" $? "there are none"
fi
if [ ! -f /usr/include/stb/stb_image.h ]; then
    echo "skip examples: image_folder: stb_image.h is not installed (libstb-dev)"
elif build image_folder; then
    $dir/image_folder --seeds 1 --epochs 6 --out $dir/png > $dir/png.log 2>&1
    report "image_folder: $(tail -1 $dir/png.log | grep -o 'are the same, bit for bit')" $? "$(tail -1 $dir/png.log)"
    range "image_folder: error from IDX" $dir/png.csv '/IDX/' 4 1 12
    range "image_folder: error from the folder" $dir/png.csv '/folder/' 4 1 12
    echo "no image" > $dir/png-png/train/3/zz.png
    refuse image_folder "zz.png': it is not a PNG file" --images $dir/png-png --side 8 --epochs 1 --out $dir/own
    printf '\377\330\377\340' > $dir/png-png/train/3/zz.png
    refuse image_folder "zz.png': it is a JPEG, which a stb_image.h before 2.30" --images $dir/png-png --side 8 --epochs 1 --out $dir/own
    echo "no image" > $dir/png-png/train/3/zz.png
    $dir/image_folder --images $dir/png-png --side 8 --epochs 4 --seeds 1 --skip-bad --out $dir/own > $dir/own.log 2>&1
    report "image_folder: own images, a bad one left out" $? "$(tail -1 $dir/own.log)"
    grep -q "left out: .*zz.png': it is not a PNG file" $dir/own.log
    report "image_folder: says which" $? "$(head -1 $dir/own.log)"
fi
