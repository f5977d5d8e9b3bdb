"""Bars of DSNAS's rewards, and how they are told; from the recorded result alone."""

from __future__ import annotations

import statistics
from typing import Any

from ..common import record
from ..common.planted import CANDIDATES, LAYERS

EPS = (1e-5, 1e-3, 1e-2)  # torch's default, the search space's, DSNAS's own code's in its search
# Bars: of the reward from eps 1e-5 to 1e-2, which are a factor of 1000; of the choices, by the loss.
LARGER, FOUND = 300.0, 0.95
ARC_LEARNING_RATE = 0.03


def bars(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the tiny sizes none: they measure nothing."""
    if result["settings"]["quick"]:
        return []
    grown = next(r for r in result["size"] if not r["skip_connection_behind"] and r["eps"] == EPS[-1])
    name = f"gradient reward where nothing is added, eps {EPS[-1]:g} by {EPS[0]:g}"
    found = [record.bar(name, grown["ratio_to_smallest_eps"], at_least=LARGER)]
    for row in result["planted"]:
        if row["reward"] == "loss":
            name = f"loss as reward, {'x + branch' if row['residual'] else 'branch'}: choices right"
            one = 1 / (LAYERS * len(row["found"]))  # choice of one seed
            found.append(record.bar(name, row["share_of_choices"], at_least=FOUND, noise=one))
    return found


def markdown(result: dict[str, Any]) -> list[str]:
    """Lines of the result as a person reads it."""
    settings = result["settings"]
    steps = settings["epochs"] * -(-settings["images"] // settings["batch"])
    lines = [
        *record.head(result),
        "",
        "# A. Size of the gradient reward",
        "",
        f"y goes through a convolution, batch norm, ReLU and a classifier; mean |r| over {settings['draws']} draws, float64. "
        "*Share*: mean |r| by mean sum |dL/dy · y|, which is 1 if nothing cancels.",
        "",
        "| what y feeds | eps | mean abs r | by eps 1e-05 | share |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {'y + x, then conv, norm' if row['skip_connection_behind'] else 'conv, norm'} | {row['eps']:g} | "
        f"{row['mean_abs_reward']:.2e} | {row['ratio_to_smallest_eps']:.3g} | {row['relative_to_terms']:.2e} |"
        for row in result["size"]
    ]
    lines += [
        "",
        "# B. Planted candidates",
        "",
        f"{LAYERS} choices of {CANDIDATES} candidates, weights still, {steps} steps of {settings['batch']} images at "
        f"arc_learning_rate {ARC_LEARNING_RATE:g}, {settings['seeds']} seeds. By chance: {1 / CANDIDATES:.2f} of the choices.",
        "",
        "| block | reward | seeds with all choices right | choices right |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {'x + branch' if row['residual'] else 'branch'} | {row['way']} | {row['seeds_with_all']} of {len(row['found'])} | "
        f"{row['share_of_choices']:.2f} |"
        for row in result["planted"]
    ]
    lines += [
        "",
        "# C. A supernet on the digits",
        "",
        f"MobileNetV2 space `small`, pretrained for {settings['pretraining']} epochs; then {settings['paths']} random paths, one "
        "batch each, weights still. Per choice, over its candidates: *r with Q*, Pearson's correlation of the mean gradient "
        "reward with the mean loss Q of the networks that contain the candidate. r is a cost, so a good reward has 1. *Q with "
        "Q*: of Q between the two halves of the paths, which is what the noise of as many paths allows, and what the loss "
        "reward learns from; *r with r*: the same of r. *Share*: mean |r| by mean sum |dL/dy · y|.",
    ]
    for measured in result["digits"]:
        lines += [
            "",
            f"eps {measured['eps']:g}; loss {measured['mean_loss']:.3f}, standard deviation {measured['std_of_one_loss']:.3f}:",
            "",
            "| choice | r with Q | Q with Q | r with r | spread of Q | spread of r | noise of one r | share |",
            "|---|---|---|---|---|---|---|---|",
        ]
        names = ("reward_with_loss", "loss_between_halves", "reward_between_halves")
        for c in measured["choices"]:
            correlations = " | ".join(f"{c[name]:+.2f}" for name in names)
            lines.append(
                f"| {c['label']} | {correlations} | {c['spread_of_mean_loss']:.3f} | {c['spread_of_mean_reward']:.1e} | "
                f"{c['std_of_one_reward']:.1e} | {c['reward_relative_to_terms']:.1e} |"
            )
        means = " | ".join(f"{statistics.mean(c[name] for c in measured['choices']):+.2f}" for name in names)
        lines.append(f"| mean | {means} | | | | |")
    return [*lines, "", *record.bars_table(result["bars"])] if result["bars"] else lines
