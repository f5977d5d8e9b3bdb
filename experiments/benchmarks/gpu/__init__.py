"""What tables of torch, torch.compile and ONNX Runtime are worth on a GPU."""

PLACE = 10.9
FIRST = True
RECORDS = [("gpu.json", "Tables on a GPU")]


def short(folder):
    """On a CPU, where the script itself is tried."""
    return ["--device", "cpu"]
