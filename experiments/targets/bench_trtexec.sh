#!/bin/sh
# Milliseconds of an ONNX file in TensorRT: bench_trtexec.sh MODEL
set -eu
export LC_ALL=C
said=$(trtexec --onnx="$1" --iterations=100 2>&1) || { echo "$said" | tail -1 >&2; exit 1; }
echo "$said" | sed -n 's/.*GPU Compute Time:.* median = \([0-9.]*\) ms.*/\1/p' | tail -1
