#!/bin/sh
# Milliseconds of an ONNX file in OpenVINO, by the program that its wheel brings: bench_openvino.sh MODEL THREADS
set -eu
export LC_ALL=C
said=$("${BENCHMARK_APP:-benchmark_app}" -m "$1" -d CPU -hint none -nstreams 1 -nireq 1 -api sync -t 1 -nthreads "$2" 2>&1) ||
    { echo "$said" | tail -1 >&2; exit 1; }
# It says microseconds of small networks: "Median:        10.30 us".
echo "$said" | awk '/Median:/ && ($NF == "ms" || $NF == "us") { found = $(NF - 1) / ($NF == "us" ? 1000 : 1) } END { if (found) printf "%.6g\n", found }'
