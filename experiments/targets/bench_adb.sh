#!/bin/sh
# Milliseconds of an ncnn file on a phone that is reached by adb: bench_adb.sh MODEL.param SHAPE THREADS
# In /data/local/tmp lies benchncnn, built for the phone. SHAPE is 1xCxHxW; of ANDROID_SERIAL adb knows which phone.
set -eu
export LC_ALL=C
size=$(echo "$2" | sed -n 's/^1x\([0-9]*\)x\([0-9]*\)x\([0-9]*\)$/[\3,\2,\1]/p')
[ -n "$size" ] || { echo "shape is $2; allowed: 1xCxHxW" >&2; exit 1; }
adb push "$1" /data/local/tmp/model.param >/dev/null
# 50 runs on the big cores (2), not on the GPU (-1), without a pause of 10 s before (0); it reads no weights.
said=$(adb shell "cd /data/local/tmp && ./benchncnn 50 $3 2 -1 0 param=model.param shape=$size 2>&1") || { echo "$said" >&2; exit 1; }
echo "$said"
echo "$said" | sed -n 's/.* min = *\([0-9.]*\) .*/\1/p' | tail -1
