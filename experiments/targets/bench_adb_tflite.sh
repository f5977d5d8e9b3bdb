#!/bin/sh
# Milliseconds of a TensorFlow Lite file on a phone that is reached by adb: bench_adb_tflite.sh MODEL.tflite THREADS
# In /data/local/tmp lies TensorFlow Lite's benchmark_model for the phone; of ANDROID_SERIAL adb knows which phone.
set -eu
export LC_ALL=C
adb push "$1" /data/local/tmp/model.tflite >/dev/null
said=$(adb shell "cd /data/local/tmp && ./benchmark_model --graph=model.tflite --num_threads=$2 2>&1") || { echo "$said" >&2; exit 1; }
echo "$said" | sed -n 's/.*Inference (avg): *\([0-9.e+]*\).*/\1/p' | awk 'END { if (NR) print $1 / 1000 }'
