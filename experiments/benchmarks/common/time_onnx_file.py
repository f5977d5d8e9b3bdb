"""Time an ONNX file in ONNX Runtime and print milliseconds: a program for runtime ``command``, as a user has one on a target.

    python time_onnx_file.py model.onnx

It imports ONNX Runtime and NumPy alone, so that it starts in a fraction of a second.
"""

import statistics
import sys
import time

import numpy as np
import onnxruntime

SECONDS = 0.1  # of timing
FEWEST = 5
WARMUP = 3

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
(given,) = session.get_inputs()
x = np.random.default_rng(0).standard_normal(given.shape, dtype=np.float32)
for _ in range(WARMUP):
    session.run(None, {given.name: x})
times: list[float] = []
while sum(times) < SECONDS or len(times) < FEWEST:
    began = time.perf_counter()
    session.run(None, {given.name: x})
    times.append(time.perf_counter() - began)
print(statistics.median(times) * 1e3)
