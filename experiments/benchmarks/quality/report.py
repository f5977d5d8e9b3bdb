"""What is made of the cells of the grid: tables and a picture, from the recorded result alone."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common import record
from .cell import BATCH
from .compare import WORTHWHILE, best, mean_seconds
from .grids import CIFAR10, FASHION_MNIST, GROUPS, MOBILENETV2, ORIGINAL, TIMM

SEARCHED = {
    "two-path": "ProxylessNAS, two-path", "full": "ProxylessNAS, full", "reinforce": "ProxylessNAS, REINFORCE", "dsnas": "DSNAS",
    "nni-darts": "NNI DARTS", "nni-gumbel-darts": "NNI GumbelDARTS", "nni-proxyless": "NNI Proxyless",
    "nni-random": "NNI RandomOneShot", "untaught": "ProxylessNAS, two-path, without a teacher",
}  # fmt: skip
HAND_MADE = {
    "mobilenetv2": "MobileNetV2", "mobilenetv2-narrow": "MobileNetV2, narrow and deep", "mobilenetv2-wide": "MobileNetV2, wide and shallow",
    "mobilenetv3_small_100": "MobileNetV3-small", "mnasnet_small": "MNASNet-small", "efficientnet_lite0": "EfficientNet-lite0",
    "tinynet_e": "TinyNet-E", "original": "the model itself",
}  # fmt: skip
BEST = {"best-mobilenetv2": "best of three MobileNetV2", "best-timm": "best of timm's four"}
DATASETS = {FASHION_MNIST: "Fashion-MNIST", CIFAR10["dataset"]: "CIFAR-10", "synthetic": "noise"}
NAMES = SEARCHED | HAND_MADE | BEST | {"random": "best of random networks"}
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}

Networks = list[dict[str, Any]]


def mean_and_error(values: list[float]) -> str:
    error = f" ± {100 * statistics.stdev(values) / len(values) ** 0.5:.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{error}"


def networks_of(cell: dict[str, Any]) -> Networks:
    """The networks of a cell; until 2026-11-29 a cell had the figures of one, and of random networks those of the best."""
    return cell.get("networks", [cell])


def name_of(method: str, result: dict[str, Any]) -> str:
    alone = method == "random" and "networks" in result["cells"][0]
    return "random networks, each by itself" if alone else NAMES[method]


def rows_of(result: dict[str, Any], width: float) -> Iterator[tuple[str, Networks, float | None]]:
    """Name, networks and CPU seconds of one of them: of every method, then of the best of several hand-made networks for every seed."""
    at_target = [cell for cell in result["cells"] if cell["width"] == width]
    by_method = {
        method: [cell for cell in at_target if cell["method"] == method] for method in result["grid"]["methods"]
    }
    for method, cells in by_method.items():
        whole = "networks" in cells[0]
        seconds = mean_seconds(cells) if whole else statistics.mean(cell["seconds"] for cell in cells)
        yield name_of(method, result), [network for cell in cells for network in networks_of(cell)], seconds
    for group, members in GROUPS.items():
        if not set(members) <= set(by_method):
            continue
        taken = [mean_seconds(by_method[method]) for method in members]
        chosen = [
            dict(best(network for cell in cells for network in cell["networks"]))
            for cells in zip(*(by_method[method] for method in members), strict=True)
        ]
        yield NAMES[group], chosen, None if None in taken else sum(filter(None, taken))


def setter(result: dict[str, Any]) -> str:
    """What sets the target."""
    return str(result["grid"]["space"].get("model", "MobileNetV2"))


def head(result: dict[str, Any]) -> list[str]:
    """What was done."""
    grid, n_before, n_cells = result["grid"], result.get("n_before", 0), len(result["cells"])
    judged = ""
    if n_judged := grid.get("n_judged"):
        judged = (
            f" At the end of a search the supernet judges {n_judged} networks near the target, drawn uniformly, on held-out images, and selects by that."
            if grid.get("select") == "supernet"
            else f" Of a search that keeps its candidates, the most accurate with the supernet's weights of {n_judged} probable networks near the "
            "target."
        )
    if "n_random" in grid:  # until 2026-11-29 a number that was chosen beforehand
        random = (
            f"Of random networks {grid.get('n_drawn', grid['n_random'])} a seed are trained so, and what counts is the best on held-out "
            f"images of {grid['n_random']}, which is what the compute of a search and its training trains: the mean over all sets of so many; "
            "milliseconds and sizes in their row are of the best of all."
        )
    else:
        random = (
            f"Of random networks {grid['n_drawn']} a seed are trained so; a search is compared with the best on held-out images of as many as its "
            "compute, judging and final training included, trains: the mean over all sets of so many."
        )
    begins, but = "from scratch ", ""
    if grid.get("original_epochs"):
        begins, but = "", " that were searched"
        random = (
            f"A search begins with the weights of the model itself at width 1, trained for {grid['original_epochs']} epochs to "
            f"{100 * result['original']['test_accuracy']:.2f} %, which also teaches it and every final training, unless it says otherwise. Random networks "
            "begin with weights that are cut out of the model's, the model at the width of the target with fresh ones; both train for "
            f"{grid['others_epochs']} epochs, about the compute of a search and its training."
        )
    more = f" and {n:,} that did not train" if (n := grid.get("n_more_test", 0)) else ""
    runtime = "" if grid.get("runtime", "torch") == "torch" else f" in {RUNTIMES[grid['runtime']]}"
    return [
        *record.head(result), "",
        *([f"The command went on where it had been stopped: {n_before} of {n_cells} cells were done.", ""] if n_before else []),
        f"{grid['images']} training images of {DATASETS[grid.get('dataset', FASHION_MNIST)]}, judged on all 10,000 test images{more}; {len(grid['seeds'])} seed(s). A search is "
        f"{grid['search_epochs']} epochs in batches of {grid['search_batch_size']}, its network then trains for {grid['final_epochs']} {begins}in "
        f"batches of {grid['batch_size']}, as all networks do{but}.{judged} {random} Accuracy in per cent with standard errors; milliseconds of "
        f"a batch of {BATCH}{runtime} as a share of {setter(result)}'s, in turns. CPU time: search and final training(s) of a cell.",
    ]  # fmt: skip


def comparisons(result: dict[str, Any]) -> list[str]:
    """The table of what was compared."""
    rows, with_power = [], any("power" in c for c in result["compared"])
    for c in result["compared"]:
        baseline = NAMES[c["baseline"]] if c.get("n") is None else f"best of {c['n']:.1f} random networks"
        row = (
            NAMES[c["method"]], baseline, f"{100 * c['difference']:+.2f}", "" if c["p"] is None else f"{100 * c['standard_error']:.2f}",
            "" if c["p"] is None else f"{c['p']:.3g}", c["pairs"],
        )  # fmt: skip
        if with_power:
            row += (
                c["alpha"],
                *(("", "") if c["p"] is None else (f"{c['power']:.2f}", f"{100 * c['detectable']:.2f}")),
            )
        rows.append(row)
    more = ("p asked for", f"power for {100 * WORTHWHILE} points", "found in 80 %, points") if with_power else ()
    return record.table(("searched", "against", "difference, points", "standard error", "p", "pairs", *more), rows)


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    lines = head(result)
    for width in result["grid"]["widths"]:
        rows = [
            (
                name, mean_and_error([network["test_accuracy"] for network in networks]),
                f"{statistics.mean(network['by_mobilenetv2'] for network in networks):.3f}",
                f"{statistics.mean(network['macs'] for network in networks) / 1e6:.2f}",
                f"{statistics.mean(network['n_params'] for network in networks) / 1e3:.0f}", "" if seconds is None else f"{seconds / 60:.1f}",
            )
            for name, networks, seconds in rows_of(result, width)
        ]  # fmt: skip
        titles = (
            "method",
            "accuracy, %",
            f"ms by {setter(result)}'s",
            "M multiply-adds",
            "1000 parameters",
            "CPU minutes",
        )
        lines += ["", f"Target: what {setter(result)} takes at width {width}.", "", *record.table(titles, rows)]
    if alone := [
        accuracy for c in result["cells"] if c["method"] == "random" for accuracy in c.get("test_accuracies", [])
    ]:
        lines += ["", f"All {len(alone)} random networks, each by itself: {mean_and_error(alone)} %."]
    if by_compute := result.get("random_networks_by_compute"):
        words = ", ".join(f"{NAMES[method]} {n:.2f}" for method, n in by_compute.items())
        lines += ["", f"Random networks that the compute of a search trains: {words}."]
    return [*lines, "", *comparisons(result)]


def style_of(method: str, searched: list[str]) -> dict[str, Any]:
    """Colors tell searched, random and hand-made networks apart, markers the hand-made ones from each other."""
    if method == "random":
        return {"color": "0.55", "marker": "o"}
    for color, family in (("C2", tuple(MOBILENETV2)), ("C2", (ORIGINAL,)), ("C4", TIMM)):
        if method in family:
            return {"color": color, "marker": "s^vD"[family.index(method)]}
    return {"color": ("C0", "C3", "C1", "C5", "C6", "C8", "C9", "C7")[searched.index(method)], "marker": "o"}


def milliseconds(result: dict[str, Any]) -> dict[float, float]:
    """Width -> what MobileNetV2 takes of it, as the mean over all that was timed beside it."""
    return {
        width: statistics.mean(
            network["measured_ms"] / network["by_mobilenetv2"]
            for cell in result["cells"]
            if cell["width"] == width
            for network in networks_of(cell)
        )
        for width in result["grid"]["widths"]
    }


def picture(result: dict[str, Any], path: Path) -> None:
    """Accuracy over measured latency: every network, and the mean of each method with its standard error."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    reference_ms, methods = milliseconds(result), result["grid"]["methods"]
    searched = [method for method in methods if method in SEARCHED]
    runtime = RUNTIMES[result["grid"].get("runtime", "torch")]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nni-proxyless"}):
        figure = Figure(figsize=(8, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for method in methods:
            style = style_of(method, searched)
            for width in result["grid"]["widths"]:
                cells = [cell for cell in result["cells"] if (cell["method"], cell["width"]) == (method, width)]
                networks = [network for cell in cells for network in networks_of(cell)]
                ms = [network["by_mobilenetv2"] * reference_ms[width] for network in networks]
                accuracy = [100 * network["test_accuracy"] for network in networks]
                axes.scatter(ms, accuracy, s=14, alpha=0.45, linewidths=0, **style)
                error = statistics.stdev(accuracy) / len(accuracy) ** 0.5 if len(accuracy) > 1 else 0
                axes.errorbar(
                    statistics.mean(ms), statistics.mean(accuracy), error, markersize=8, capsize=4, **style,
                    label=name_of(method, result) if width == result["grid"]["widths"][0] else None,
                )  # fmt: skip
        axes.set_xlabel(f"milliseconds of a batch of {BATCH} in {runtime}, timed in turns")
        axes.set_ylabel("accuracy on the test images, %")
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(path, format="svg", metadata={"Date": None})
