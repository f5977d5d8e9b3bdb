"""The table and the picture of networks around models, from the recorded result alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common import record


def markdown(result: dict[str, Any]) -> list[str]:
    """The result as a person reads it."""
    grid, found = result["grid"], result["compared"]
    rows = []
    for row in found["rows"]:
        error = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.2f}"
        taken = " / ".join("" if seconds is None else f"{seconds:.0f}" for seconds in row["seconds"])
        rows.append(
            (
                row["model"], row["width"], f"{100 * row['original']:.2f}", f"{100 * row['searched']:.2f}", f"{100 * row['scaled']:.2f}",
                f"{100 * row['difference']:+.2f}{error}", f"{row['ms_by_scaled']:.3f}", row["seeds"], taken,
            )
        )  # fmt: skip
    tested = ""
    if found.get("p") is not None:
        tested = (
            f" ± {100 * found['standard_error']:.2f} points (p {found['p']:.3g} over the models; power for half a point {found['power']:.2f}, in 80 % of "
            f"experiments {100 * found['detectable']:.2f} would be found)"
        )
    titles = (
        "model",
        "width",
        "itself, %",
        "found, %",
        "scaled, %",
        "difference, points",
        "ms by the scaled",
        "seeds",
        "CPU seconds, both",
    )
    return [
        *record.head(result), "",
        f"The digits, 16x16. A model trains for {grid['original_epochs']} epochs; the search around it, {grid['search_epochs']} epochs, begins with its weights and "
        f"learns from it, as does the final training, {grid['final_epochs']} epochs. The model at a part of its width trains for "
        f"{grid['others_epochs']}, with the same teacher, and its milliseconds in ONNX Runtime are the target. Mean over the seeds, accuracy on the 360 test images.",
        "", *record.table(titles, rows), "",
        f"Over {found['models']} models: {100 * found['difference']:+.2f}{tested}; at least as accurate around {found['not_worse']}.",
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Of every model the accuracy of what is found and of the model scaled, seed by seed."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = result["compared"]["rows"]
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nni-proxyless"}):
        figure = Figure(figsize=(8, 3.8), layout="constrained")
        axes = figure.add_subplot()
        names = {"two-path": ("C0", "o", "found around it"), "original": ("C2", "s", "scaled to the same milliseconds")}
        for y, one in enumerate(result["models"]):
            for method, (color, marker, _) in names.items():
                accuracies = [100 * c["networks"][0]["test_accuracy"] for c in one["cells"] if c["method"] == method]
                height = y + (0.12 if method == "two-path" else -0.12)
                axes.scatter(
                    accuracies, [height] * len(accuracies), s=14, alpha=0.5, color=color, marker=marker, linewidths=0
                )
        for method, (color, marker, label) in names.items():
            key, shift = ("searched", 0.12) if method == "two-path" else ("scaled", -0.12)
            axes.scatter(
                [100 * row[key] for row in rows],
                [y + shift for y in range(len(rows))],
                s=42,
                color=color,
                marker=marker,
                label=label,
            )
        axes.set_yticks(range(len(rows)), [row["model"] for row in rows])
        axes.set_xlabel("accuracy on the test images of the digits, %; large: mean over the seeds")
        axes.legend(loc="lower left")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
