"""What is made of the costs of stages: tables and a picture, from the recorded result alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..common import record

FILES = {name: f"experiments/imagenet/search_{name}.yml" for name in ("proxyless", "dsnas")}
TITLES = {"proxyless": "ProxylessNAS", "dsnas": "DSNAS"}
TRAINING_EPOCHS = 300  # of ProxylessNAS's final training


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the steps; what the control is off by is their noise, and no bar of its own."""
    found = []
    for name, stage, limit in (("proxyless", "search", 1.25), ("dsnas", "search", 1.05), ("dsnas", "child", 1.05)):
        (row,) = (s for s in result["stages"] if (s["strategy"], s["stage"]) == (name, stage))
        found.append(
            record.bar(f"{TITLES[name]}, a batch of its {stage}, time", row["ratio"], at_most=limit, noise=row["noise"])
        )
    for name, total in result["totals"].items():
        found.append(
            record.bar(
                f"{TITLES[name]}, all epochs by one training of {TRAINING_EPOCHS}",
                total["trainings"],
                at_most=1.0,
                noise=total["noise"],
            )
        )
    return found  # fmt: skip


def markdown(result: dict[str, Any]) -> list[str]:
    settings, totals = result["settings"], result["totals"]
    here = f"{result['device']} hours here"
    return [
        *record.head(result),
        "",
        f"ProxylessNAS's ImageNet space (21 choices), {settings['pixels']} px, batch {settings['batch']}, {settings['rounds']} samples. "
        f"A plain training step of timm's models of the same sampled networks: {result['plain_images_per_second']:.2f} images/s.",
        "",
        *record.table(
            ("step", "by a plain training step", "images/s"),
            [
                (row["name"], "{:.3f} ({:.3f}–{:.3f})".format(row["ratio"], *row["ratio_quartiles"]), f"{settings['batch'] / row['seconds']:.2f}")
                for row in result["entries"]
            ],
        ),
        "",
        *record.table(
            ("search", "stage", "epochs", "a batch, by a plain step", "images/s", f"by one training of {TRAINING_EPOCHS} epochs", here),
            [
                (TITLES[s["strategy"]], s["stage"], s["epochs"], f"{s['ratio']:.3f}", f"{s['images_per_second']:.2f}", f"{s['trainings']:.2f}",
                 f"{s['hours_here']:,.0f}")
                for s in result["stages"]
            ],
        ),
        "",
        *record.table(
            ("search", "epochs", f"by one training of {TRAINING_EPOCHS} epochs", here, "GPU hours in the paper", "images/s of plain training for these"),
            [
                (TITLES[name], t["epochs"], f"{t['trainings']:.2f} ± {t['noise']:.2f}", f"{t['hours_here']:,.0f}", t["published_gpu_hours"],
                 f"{t['plain_images_per_second_for_these']:.0f}")
                for name, t in totals.items()
            ],
        ),
        "",
        "The ratio is what goes over to another machine; hours are those of this one, and no GPU was used where it says CPU. The papers' hours are "
        "of their GPUs, and the last column is arithmetic: how fast plain training has to be for our searches to take as many. "
        f"ProxylessNAS leaves a network that still has to be trained, which is {TRAINING_EPOCHS} epochs more; DSNAS's is trained, in "
        f"{totals['dsnas']['epochs']} epochs. Reading images and judging networks are not in it.",
        "",
        *record.bars_table(result["bars"]),
    ]  # fmt: skip


def picture(result: dict[str, Any], path: Path) -> None:
    """Stages of both searches, and the training that is left after one of them, by one training."""
    from matplotlib.figure import Figure

    from nni_proxyless.models.draw import save_picture

    colours = {"warm-up": "#c9c9c9", "search": "#a8480f", "child": "#3b6ea5", "final training": "#3b6ea5"}
    figure = Figure(figsize=(6.4, 2.4), layout="constrained")
    axes = figure.subplots()
    for y, name in enumerate(reversed(FILES)):
        parts = [(s["stage"], s["trainings"]) for s in result["stages"] if s["strategy"] == name]
        parts += [("final training", 1.0)] if name == "proxyless" else []
        left = 0.0
        for stage, width in parts:
            axes.barh(y, width, left=left, color=colours[stage], edgecolor="white", height=0.6)
            narrow = width < 0.2  # no room for words inside
            axes.annotate(
                f"{stage} {width:.2f}" if narrow else f"{stage}\n{width:.2f}", (left + (0 if narrow else width / 2), y + 0.32 * narrow),
                ha="left" if narrow else "center", va="bottom" if narrow else "center", fontsize=7, color="black" if narrow else "white",
            )  # fmt: skip
            left += width
    axes.set_ylim(-0.45, len(FILES) - 0.3)
    axes.set_yticks(range(len(FILES)), [TITLES[name] for name in reversed(FILES)])
    axes.axvline(1.0, color="#666666", linestyle="--", linewidth=0.8)
    axes.set_xlabel(f"time, by one training of {TRAINING_EPOCHS} epochs of the same networks")
    save_picture(figure, path)
