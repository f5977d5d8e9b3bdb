"""Is a lookup table true? Built and checked as a user does it, in separate runs.

    python experiments/benchmarks/latency_truth.py --runs 3 --output latency_truth.json --report LATENCY.md

Each run is two commands in processes of their own, ``nni-proxyless latency build`` of the ImageNet space (224x224, batch 1, one
thread) and ``nni-proxyless latency check`` of that table. Recorded are the seconds of the build, and how far the table is off
for 30 random networks that were not calibrated on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

BARS = {"build_seconds": 180.0, "mean_error": 0.03, "worst_error": 0.08, "spearman": 0.98}


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


def summary(runs: list[dict[str, Any]]) -> str:
    """What a person reads."""
    lines = [
        "| method | build, s | drift, unrest | mean ms | predicted: bias | mean | worst | calibrated: mean | worst | Spearman (95 %) | Kendall | calibration |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in runs:
        before, after, c = r["before"], r["after"], r["calibration"]
        lines.append(
            f"| {r['method']} | {r['build_seconds']:.0f} | {r['measured']['drift']:.2f}, {r['measured']['unrest']:.2f} | "
            f"{r['mean_ms']:.1f} | {before['bias']:+.1%} | {before['mean_error']:.1%} | {before['worst_error']:.1%} | "
            f"{after['mean_error']:.2%} | {after['worst_error']:.2%} | {after['spearman'][0]:.4f} ({after['spearman'][1]:.3f}–{after['spearman'][2]:.3f}) | "
            f"{after['kendall'][0]:.3f} | {c['fixed_ms']:+.2f} ms + {c['slope']:.3f} t |"
        )
    lines += ["", "| bar, of all runs | measured | |", "|---|---|---|"]
    for method in dict.fromkeys(r["method"] for r in runs):
        mine = [r for r in runs if r["method"] == method]
        worst = {
            "build_seconds": max(r["build_seconds"] for r in mine),
            "mean_error": max(r["after"]["mean_error"] for r in mine),
            "worst_error": max(r["after"]["worst_error"] for r in mine),
            "spearman": min(r["after"]["spearman"][0] for r in mine),
        }
        for name, bar in BARS.items():
            met = worst[name] >= bar if name == "spearman" else worst[name] <= bar
            sign = "≥" if name == "spearman" else "≤"
            lines.append(f"| {method}: {name} {sign} {bar:g} | {worst[name]:.4g} | {'met' if met else 'not met'} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=["networks"], choices=["networks", "isolated"])
    parser.add_argument("--space", nargs="+", default=["mobilenetv2"], help="(default: the ImageNet space)")
    parser.add_argument("--resolution", default="224")
    parser.add_argument("--channels", default="3")
    parser.add_argument("--build", default="", help="more words for latency build, in one text")
    parser.add_argument("--check", default="", help="more words for latency check, in one text")
    parser.add_argument("--output", type=Path, help="JSON file for the result, written after every run")
    parser.add_argument("--report", type=Path, help="Markdown file for the result")
    options = parser.parse_args()
    space = ["--space", *options.space, "--resolution", options.resolution, "--channels", options.channels]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(options.runs):
            for method in options.methods:
                runs.append(run(Path(folder), method, space, options.build.split(), options.check.split()))
                result = {
                    "cpu": runs[0]["conditions"]["device"], "cores": os.cpu_count(), "date": datetime.now(timezone.utc).date().isoformat(),
                    "versions": {"Python": platform.python_version()} | {n: version(n) for n in ("torch", "nni", "timm", "nni-proxyless")},
                    "space": space, "runs": runs,
                }  # fmt: skip
                if options.output:
                    options.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    head = f"{result['cpu']}, {result['cores']} cores, {runs[0]['conditions']['threads']} thread; {result['date']}; "
    head += ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = f"{head}\n\n{summary(runs)}\n"
    if options.report:
        options.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
