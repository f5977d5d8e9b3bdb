"""What runs a network while it is timed, one file each: torch, ONNX Runtime, OpenVINO, ncnn, MNN, or a program of the user's."""
