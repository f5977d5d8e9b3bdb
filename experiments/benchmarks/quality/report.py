"""What is made of the cells of the grid: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from ..common import record
from .cell import BATCH, CIFAR10, FASHION_MNIST

BASELINES = ("random", "mobilenetv2")
SEARCHED = {
    "two-path": "ProxylessNAS, two-path", "full": "ProxylessNAS, full", "reinforce": "ProxylessNAS, REINFORCE", "dsnas": "DSNAS",
    "nni-darts": "NNI DARTS", "nni-gumbel-darts": "NNI GumbelDARTS", "nni-proxyless": "NNI Proxyless",
    "nni-random": "NNI RandomOneShot",
}  # fmt: skip
DATASETS = {FASHION_MNIST: "Fashion-MNIST", CIFAR10["dataset"]: "CIFAR-10", "synthetic": "noise"}
NAMES = SEARCHED | {"random": "best of random networks", "mobilenetv2": "MobileNetV2"}


def mean_and_error(values: list[float]) -> str:
    error = f" ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{error}"


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    cells, grid = result["cells"], result["grid"]
    n_before = result.get("n_before", 0)
    judged = ""
    if n_judged := grid.get("n_judged"):
        judged = (
            f" Of a search that keeps its candidates, the most accurate with the supernet's weights of {n_judged} probable networks near the "
            "target."
        )
    more = f" and {n:,} that did not train" if (n := grid.get("n_more_test", 0)) else ""
    lines = [
        *record.head(result), "",
        *([f"The command went on where it had been stopped: {n_before} of {len(cells)} cells were done.", ""] if n_before else []),
        f"{grid['images']} training images of {DATASETS[grid.get('dataset', FASHION_MNIST)]}, judged on all 10,000 test images{more}; {len(grid['seeds'])} seed(s). A search is "
        f"{grid['search_epochs']} epochs in batches of {grid['search_batch_size']}, its network then trains for {grid['final_epochs']} from scratch in "
        f"batches of {grid['batch_size']}, as all networks do.{judged} Of random networks {grid.get('n_drawn', grid['n_random'])} a seed are trained so, and what counts is the best on held-out "
        f"images of {grid['n_random']}, which is what the compute of a search and its training trains: the mean over all sets of so many; milliseconds and sizes in their row are of the best of all. Accuracy in per cent with standard errors; milliseconds of "
        f"a batch of {BATCH} as a share of MobileNetV2's, in turns. CPU time: search and final training(s) of a cell.",
    ]  # fmt: skip
    for width in grid["widths"]:
        lines += ["", f"Target: what MobileNetV2 takes at width {width}.", ""]
        rows = []
        for method in grid["methods"]:
            mine = [c for c in cells if c["method"] == method and c["width"] == width]
            rows.append((
                NAMES[method], mean_and_error([c["test_accuracy"] for c in mine]),
                f"{statistics.mean(c['by_mobilenetv2'] for c in mine):.3f}",
                f"{statistics.mean(c['macs'] for c in mine) / 1e6:.2f}", f"{statistics.mean(c['n_params'] for c in mine) / 1e3:.0f}",
                f"{statistics.mean(c['seconds'] for c in mine) / 60:.1f}",
            ))  # fmt: skip
        lines += record.table(
            ("method", "accuracy, %", "ms by MobileNetV2's", "M multiply-adds", "1000 parameters", "CPU minutes"), rows
        )
    rows = [
        (
            NAMES[c["method"]], NAMES[c["baseline"]], f"{100 * c['difference']:+.2f}",
            "" if c["p"] is None else f"{100 * c['standard_error']:.2f}", "" if c["p"] is None else f"{c['p']:.3g}", c["pairs"],
        )
        for c in result["compared"]
    ]  # fmt: skip
    if alone := [accuracy for c in cells if c["method"] == "random" for accuracy in c["test_accuracies"]]:
        lines += [
            "",
            f"All {len(alone)} random networks, each by itself: {mean_and_error(alone)} %.",
        ]
    return [
        *lines,
        "",
        *record.table(("searched", "against", "difference, points", "standard error", "p", "pairs"), rows),
    ]


def picture(result: dict[str, Any], path: Path) -> None:
    """Accuracy over measured latency: every network, and the mean of each method with its standard error."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nni-proxyless"}):
        figure = Figure(figsize=(7, 4.2), layout="constrained")
        axes = figure.add_subplot()
        for i, method in enumerate(result["grid"]["methods"]):
            mine = [c for c in result["cells"] if c["method"] == method]
            ms, accuracy = [c["by_mobilenetv2"] for c in mine], [100 * c["test_accuracy"] for c in mine]
            axes.scatter(ms, accuracy, s=14, alpha=0.45, color=f"C{i}", linewidths=0)
            error = statistics.stdev(accuracy) / len(accuracy) ** 0.5 if len(accuracy) > 1 else 0
            axes.errorbar(
                statistics.mean(ms), statistics.mean(accuracy), error, marker="o", markersize=8, capsize=4, color=f"C{i}",
                label=NAMES[method],
            )  # fmt: skip
        axes.set_xlabel("milliseconds by MobileNetV2's, timed in turns")
        axes.set_ylabel("accuracy on the test images, %")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
