"""Is a lookup table true? Built and checked as a user does it, in separate runs.

    python -m experiments.benchmarks.latency_truth.run --runs 3 --output experiments/benchmarks/latency_truth/records/latency_truth.json

Each run is two commands in processes of their own, ``nni-proxyless latency build`` of the ImageNet space (224x224, batch 1, one
thread) and ``nni-proxyless latency check`` of that table. Recorded are the seconds of the build, and how far the table is off
for 30 random networks that were not calibrated on. The short form times everything less often and judges by fewer networks; how
long its build takes is then no bar.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common import record

BARS = {"build_seconds": 180.0, "mean_error": 0.03, "worst_error": 0.08, "spearman": 0.98}
NAMES = {
    "build_seconds": "build, seconds", "mean_error": "mean error", "worst_error": "worst error", "spearman": "Spearman",
}  # fmt: skip
SHORT = {"build": "--repeats 40 --warmup 4", "check": "--networks 15 --calibration 15 --repeats 40"}


def run(folder: Path, method: str, space: list[str], build: list[str], check: list[str]) -> dict[str, Any]:
    """One table, built and checked."""
    table = folder / "table.yaml"
    table.unlink(missing_ok=True)
    command = [str(Path(sys.executable).parent / "nni-proxyless"), "latency"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "build", *space, "--method", method, *build, "--output", str(table)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - began
    subprocess.run(
        [*command, "check", str(table), *check, "--json", str(folder / "check.json")], check=True, stdout=sys.stderr
    )
    found = json.loads((folder / "check.json").read_text(encoding="utf-8"))
    return {"method": method, "build_seconds": round(seconds, 1), **found}


def figures(r: Mapping[str, Any]) -> dict[str, float]:
    """What of a run has a bar."""
    after = r["after"]
    return {"build_seconds": r["build_seconds"], "mean_error": after["mean_error"], "worst_error": after["worst_error"],
            "spearman": after["spearman"][0]}  # fmt: skip


def noise(r: Mapping[str, Any], name: str) -> float:
    """How far a figure of one run may be off: of the rank correlation, the lower half of its 95 % interval; of the mean error,
    twice its standard error over the networks; of the worst, which is one network's, what that one's neighbor has."""
    errors = sorted(abs(n["calibrated_ms"] / n["measured_ms"] - 1) for n in r["networks"])
    if name == "spearman":
        return r["after"]["spearman"][0] - r["after"]["spearman"][1]
    if name == "mean_error":
        return 2 * statistics.stdev(errors) / len(errors) ** 0.5
    return errors[-1] - errors[-2] if name == "worst_error" else 0.0


def bars(runs: Sequence[Mapping[str, Any]], *, short: bool) -> list[dict[str, Any]]:
    """Of the worst run by the default method; seconds are a bar of the whole build only."""
    mine = [r for r in runs if r["method"] == "networks"]
    found = []
    for name, limit in BARS.items() if mine else ():
        if name == "build_seconds" and short:
            continue
        best = name == "spearman"
        worst = (min if best else max)(mine, key=lambda r: figures(r)[name])
        side = {"at_least" if best else "at_most": limit}
        found.append(record.bar(NAMES[name], figures(worst)[name], **side, noise=noise(worst, name)))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    rows = []
    for r in result["runs"]:
        before, after, c = r["before"], r["after"], r["calibration"]
        low, high = after["spearman"][1:]
        rows.append((
            r["method"] + (f", {r['commit']}" if "commit" in r else ""), f"{r['build_seconds']:.0f}",
            f"{r['measured']['drift']:.2f}, {r['measured']['unrest']:.2f}", f"{r['mean_ms']:.1f}", f"{before['bias']:+.1%}",
            f"{before['mean_error']:.1%}", f"{before['worst_error']:.1%}", f"{after['mean_error']:.2%}", f"{after['worst_error']:.2%}",
            f"{after['spearman'][0]:.4f} ({low:.3f}–{high:.3f})", f"{after['kendall'][0]:.3f}",
            f"{c['fixed_ms']:+.2f} ms + {c['slope']:.3f} t",
        ))  # fmt: skip
    head = ("method", "build, s", "drift, unrest", "mean ms", "predicted: bias", "mean", "worst", "calibrated: mean", "worst",
            "Spearman (95 %)", "Kendall", "calibration")  # fmt: skip
    lines = [*record.head(result), "", *record.table(head, rows)]
    if result["bars"]:
        lines += ["", *record.bars_table(result["bars"])]
    return [
        *lines,
        "",
        "*Drift*: what was timed first, at the end by at the beginning of the build. *Unrest*: how much slower the machine was in the "
        "slow tenth of the build than in the fast one. *Predicted*: the sum of the rows against the network as a whole; *calibrated*: "
        "with the fixed cost and slope that the other networks gave. Bars are of the worst run by the method *networks*. The bias before calibration "
        "is mostly the machine, which has changed its speed between the two commands. Operations timed one by one (*isolated*) rank "
        "networks less well than those timed inside of networks, and that method is not the default.",
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Predicted and calibrated against measured, of the last run of each method."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    last = {r["method"]: r for r in result["runs"]}
    figure = Figure(figsize=(4.4 * len(last), 4.4), layout="constrained")
    for axes, (method, r) in zip(figure.subplots(1, len(last), squeeze=False)[0], last.items(), strict=True):
        measured, predicted, calibrated = (
            [n[f"{name}_ms"] for n in r["networks"]] for name in ("measured", "predicted", "calibrated")
        )
        ends = [min(*measured, *predicted), max(*measured, *predicted)]
        axes.plot(ends, ends, color="#6b6b6b", linewidth=1, zorder=0)
        axes.plot(measured, predicted, "x", color="#a8480f", markersize=5, label="predicted: sum of rows")
        axes.plot(measured, calibrated, "o", color="#3b6ea5", markersize=4, label="calibrated on other networks")
        axes.set(xlabel="measured, ms", ylabel="from the table, ms", title=f"method {method}")
        axes.set_aspect("equal")
        axes.legend(fontsize=8)
    save_picture(figure, path)


def options_from(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one run, with fewer timings and networks")
    parser.add_argument("--runs", type=int, help="(default: 3; short: 1)")
    parser.add_argument("--methods", nargs="+", default=["networks"], choices=["networks", "isolated"])
    parser.add_argument("--space", nargs="+", default=["mobilenetv2"], help="(default: the ImageNet space)")
    parser.add_argument("--resolution", default="224")
    parser.add_argument("--channels", default="3")
    parser.add_argument("--build", help="more words for latency build, in one text")
    parser.add_argument("--check", help="more words for latency check, in one text")
    parser.add_argument("--output", type=Path, help="JSON file for the result, written after every run")
    parser.add_argument("--picture", type=Path, help="SVG or PNG file for the picture")
    options = parser.parse_args(arguments)
    options.runs = options.runs or (1 if options.short else 3)
    for name, words in SHORT.items():
        if getattr(options, name) is None:
            setattr(options, name, words if options.short else None)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = options_from(arguments)
    space = ["--space", *options.space, "--resolution", options.resolution, "--channels", options.channels]
    runs: list[dict[str, Any]] = []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for method in options.methods:
                runs.append(
                    run(Path(folder), method, space, (options.build or "").split(), (options.check or "").split())
                )
                seconds = time.perf_counter() - began
                result = record.provenance(__file__, options, seconds) | {
                    "threads": runs[0]["conditions"]["threads"],  # of the commands, not of this process
                    "runs": runs,
                    "bars": bars(runs, short=options.short),
                }
                record.write(result, options.output)
    return record.finish(result, options, markdown, picture)


if __name__ == "__main__":
    sys.exit(main())
