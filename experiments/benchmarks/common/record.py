"""What every benchmark records besides its figures: where, when and how it ran, and the bars that its figures are held to.

A result is one JSON object. ``provenance`` begins it, ``bars`` is the list that :func:`bar` makes, the rest is the benchmark's own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nni_proxyless.core.atomic_files import write_text
from nni_proxyless.latency.estimators.timing import device_name

from .. import ROOT

PACKAGES = ("torch", "nni", "pytorch-lightning", "timm", "nni-proxyless")
PLACES = (
    "output",
    "report",
    "picture",
    "folder",
)  # options that say where something lies, which is nobody else's business


def provenance(script: str, options: argparse.Namespace, seconds: float | None = None) -> dict[str, Any]:
    """Machine, date, versions, the command that repeats the run, its settings, and how long it took.

    Parameters
    ----------
    script
        ``__file__`` of the benchmark.
    options
        Its options; those named in ``PLACES`` are left out.
    seconds
        Of the whole run.
    """
    settings = {name: value for name, value in vars(options).items() if name not in PLACES}
    words = []
    for name, value in settings.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value not in (None, False):
            words.append(
                f"{flag} {shlex.join(map(str, value)) if isinstance(value, list) else shlex.quote(str(value))}"
            )
    return {
        "machine": {"cpu": device_name(torch.device("cpu")), "cores": os.cpu_count(), "system": platform.system()},
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "command": " ".join(["python -m", module_of(script), *words]),
        "settings": settings,
        "seconds": None if seconds is None else round(seconds, 1),
    }


def without_places(found: Any) -> Any:
    """The same plain types, with this interpreter called ``python`` and files of this repository named from its root."""
    if isinstance(found, dict):
        return {name: without_places(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return [without_places(value) for value in found]
    if isinstance(found, str):
        return found.replace(sys.executable, "python").replace(f"{ROOT}{os.sep}", "")
    return found


def module_of(script: str) -> str:
    """The name by which ``python -m`` runs a file of this repository."""
    return ".".join(Path(script).resolve().relative_to(ROOT).with_suffix("").parts)


def bar(
    name: str, value: float, *, at_least: float | None = None, at_most: float | None = None, noise: float = 0.0
) -> dict[str, Any]:
    """A figure and what it is held to.

    Parameters
    ----------
    noise
        How far the figure may be off in this run, in its own unit, as the run itself shows it: by a control, by quartiles. A bar
        that is missed by no more is ``within noise``, by more ``missed``.
    """
    below = 0.0 if at_least is None else at_least - value
    above = 0.0 if at_most is None else value - at_most
    by = max(below, above)
    verdict = "met" if by <= 0 else "within noise" if by <= noise else "missed"
    return {"bar": name, "value": value, "at_least": at_least, "at_most": at_most, "noise": noise, "verdict": verdict}


def missed(bars: Iterable[dict[str, Any]]) -> list[str]:
    """Bars that are missed by more than their noise, a sentence each."""
    return [
        f"{b['bar']}: {b['value']:.4g}, bar {limits(b)}, noise {b['noise']:.2g}"
        for b in bars
        if b["verdict"] == "missed"
    ]


def counted(verdicts: Sequence[str]) -> str:
    """How many bars ended how."""
    return ", ".join(f"{verdicts.count(v)} {v}" for v in ("met", "within noise", "missed") if v in verdicts)


def limits(b: dict[str, Any]) -> str:
    found = [f"{sign} {b[side]:g}" for side, sign in (("at_least", "≥"), ("at_most", "≤")) if b[side] is not None]
    return ", ".join(found)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
        *("| " + " | ".join(map(str, row)) + " |" for row in rows),
    ]


def bars_table(bars: Sequence[dict[str, Any]]) -> list[str]:
    if not bars:
        return []
    return table(
        ("bar", "measured", "allowed", "noise", ""),
        [
            (b["bar"], f"{b['value']:.4g}", limits(b), f"{b['noise']:.2g}" if b["noise"] else "", b["verdict"])
            for b in bars
        ],
    )


def head(result: dict[str, Any]) -> list[str]:
    """Lines that say where, when and how a result came about."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    threads = "" if result["threads"] is None else f", {result['threads']} thread(s)"
    took = "" if result["seconds"] is None else f"; took {result['seconds'] / 60:.0f} min"
    return [
        f"{machine['cpu']}, {machine['cores']} cores{threads}; {result['date']}; {versions}{took}.",
        "",
        f"    {today(result['command'])}",
    ]


def today(command: str) -> str:
    """A recorded command as it is typed now: until 2026-11-29 each question was one file, and one was spelled otherwise."""
    file = re.compile(r"python experiments/benchmarks/(\w+)\.py")
    return file.sub(lambda found: f"python -m experiments.benchmarks.{found[1]}.run", command).replace(
        ".specialis", ".specializ"
    )


def write(result: dict[str, Any], path: Path | None) -> None:
    """As JSON; nothing where no file is wanted. A file is there whole or not at all."""
    if path is not None:
        write_text(path, json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def finish(
    result: dict[str, Any], options: argparse.Namespace, markdown: Callable[[dict[str, Any]], Iterable[str]],
    picture: Callable[[dict[str, Any], Path], None] | None = None,
) -> int:  # fmt: skip
    """Write, draw and print a result as its options say; the exit code is 1 where a bar is missed, which stderr then names."""
    write(result, options.output)
    if picture is not None and options.picture is not None:
        picture(result, options.picture)
    print("\n".join(markdown(result)))
    lost = missed(result["bars"])
    for sentence in lost:
        print(f"missed: {sentence}", file=sys.stderr)
    return 1 if lost else 0
