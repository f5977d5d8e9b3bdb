"""Prints the milliseconds of an ONNX file in ONNX Runtime, on a machine that has that and NumPy: bench_onnx.py MODEL [THREADS] [RUNS]"""

import sys
import time

import numpy as np
import onnxruntime

threads, runs = (int(word) for word in [*sys.argv[2:4], *("1", "50")[len(sys.argv) - 2 :]])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
draw = np.random.default_rng(0)
inputs = {given.name: draw.standard_normal(given.shape, dtype=np.float32) for given in session.get_inputs()}
times = []
for _ in range(runs + 5):
    start = time.perf_counter()
    session.run(None, inputs)
    times.append((time.perf_counter() - start) * 1e3)
print(f"onnxruntime {onnxruntime.__version__}, {threads} threads")
print(*times[5:])
