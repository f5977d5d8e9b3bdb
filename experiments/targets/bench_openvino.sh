#!/bin/sh
# Milliseconds of an ONNX file in OpenVINO, by the program that its wheel brings: bench_openvino.sh MODEL THREADS
set -eu
export LC_ALL=C
said=$("${BENCHMARK_APP:-benchmark_app}" -m "$1" -d CPU -hint none -nstreams 1 -nireq 1 -api sync -t 1 -nthreads "$2" 2>&1) ||
    { echo "$said" | tail -1 >&2; exit 1; }
echo "$said" | sed -n 's/.*Median: *\([0-9.]*\) ms.*/\1/p' | tail -1
