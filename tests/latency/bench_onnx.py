"""Prints the milliseconds of an ONNX file in ONNX Runtime: what a user's program on a target may look like. FILE [THREADS]"""

import sys
import time

import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int((sys.argv[2:] or ["1"])[0])
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
inputs = {given.name: np.zeros(given.shape, dtype=np.float32) for given in session.get_inputs()}
times = []
for _ in range(12):
    start = time.perf_counter()
    session.run(None, inputs)
    times.append((time.perf_counter() - start) * 1e3)
print(f"onnxruntime {onnxruntime.__version__}, {sys.argv[1]}")
print(*times[2:])
