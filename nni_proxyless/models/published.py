"""The published networks of ProxylessNAS (han-cai/files) as definitions: blocks of timm, and trees.

From their files proxyless_*.config; counts of parameters and multiply-adds are those of their logs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..search_spaces.tree_layout import FAMILY, PRESETS

__all__ = ["CIFAR_STATISTICS", "INPUT_SHAPES", "NETWORKS", "PLACES"]

# Mean and standard deviation that the network for CIFAR-10 was trained with: jeffreyzpan/micronet-submission
# at cb8cffb, Proxyless-NAS/Code/CIFAR/data_providers/cifar.py, the authors' package for reviewers.
CIFAR_STATISTICS = (
    tuple(v / 255 for v in (125.3, 123.0, 113.9)),
    tuple(v / 255 for v in (63.0, 62.1, 66.7)),
)


def _network(stem_size: int, blocks: list[list[str]], num_features: int) -> dict[str, Any]:
    return {
        "blocks": blocks,
        "stem_size": stem_size,
        "stem_stride": 2,
        "num_features": num_features,
        "act_layer": "relu6",
        "bn_eps": 1e-3,
        "num_classes": 1000,
        "in_chans": 3,
        "drop_rate": 0.0,
    }


def _trees() -> list[str]:
    """Operations of the network for CIFAR-10, block by block."""
    lines = Path(__file__).with_name("proxyless_cifar.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if not line.startswith("#")]


NETWORKS: dict[str, dict[str, Any]] = {
    "proxyless_cpu": _network(
        stem_size=40,
        blocks=[
            ["ds_r1_k3_s1_c24"],
            ["ir_r1_k3_s2_e6_c32", "ir_r1_k3_s1_e3_c32", "ir_r1_k3_s1_e3_c32", "ir_r1_k3_s1_e3_c32"],
            ["ir_r1_k3_s2_e6_c48", "ir_r1_k3_s1_e3_c48", "ir_r1_k3_s1_e3_c48", "ir_r1_k5_s1_e3_c48"],
            ["ir_r1_k3_s2_e6_c88", "ir_r1_k3_s1_e3_c88"],
            ["ir_r1_k5_s1_e6_c104", "ir_r1_k3_s1_e3_c104", "ir_r1_k3_s1_e3_c104", "ir_r1_k3_s1_e3_c104"],
            ["ir_r1_k5_s2_e6_c216", "ir_r1_k5_s1_e3_c216", "ir_r1_k5_s1_e3_c216", "ir_r1_k3_s1_e3_c216"],
            ["ir_r1_k5_s1_e6_c360"],
        ],
        num_features=1432,
    ),
    "proxyless_gpu": _network(
        stem_size=40,
        blocks=[
            ["ds_r1_k3_s1_c24"],
            ["ir_r1_k5_s2_e3_c32"],
            ["ir_r1_k7_s2_e3_c56", "ir_r1_k3_s1_e3_c56"],
            ["ir_r1_k7_s2_e6_c112", "ir_r1_k5_s1_e3_c112"],
            ["ir_r1_k5_s1_e6_c128", "ir_r1_k3_s1_e3_c128", "ir_r1_k5_s1_e3_c128"],
            ["ir_r1_k7_s2_e6_c256", "ir_r1_k7_s1_e6_c256", "ir_r1_k7_s1_e6_c256", "ir_r1_k5_s1_e6_c256"],
            ["ir_r1_k7_s1_e6_c432"],
        ],
        num_features=1728,
    ),
    "proxyless_mobile": _network(
        stem_size=32,
        blocks=[
            ["ds_r1_k3_s1_c16"],
            ["ir_r1_k5_s2_e3_c32", "ir_r1_k3_s1_e3_c32"],
            ["ir_r1_k7_s2_e3_c40", "ir_r1_k3_s1_e3_c40", "ir_r1_k5_s1_e3_c40", "ir_r1_k5_s1_e3_c40"],
            ["ir_r1_k7_s2_e6_c80", "ir_r1_k5_s1_e3_c80", "ir_r1_k5_s1_e3_c80", "ir_r1_k5_s1_e3_c80"],
            ["ir_r1_k5_s1_e6_c96", "ir_r1_k5_s1_e3_c96", "ir_r1_k5_s1_e3_c96", "ir_r1_k5_s1_e3_c96"],
            ["ir_r1_k7_s2_e6_c192", "ir_r1_k7_s1_e6_c192", "ir_r1_k7_s1_e3_c192", "ir_r1_k7_s1_e3_c192"],
            ["ir_r1_k7_s1_e6_c320"],
        ],
        num_features=1280,
    ),
    "proxyless_mobile_14": _network(
        stem_size=48,
        blocks=[
            ["ds_r1_k3_s1_c24"],
            ["ir_r1_k5_s2_e3_c40", "ir_r1_k3_s1_e3_c40"],
            ["ir_r1_k7_s2_e3_c56", "ir_r1_k3_s1_e3_c56", "ir_r1_k5_s1_e3_c56", "ir_r1_k5_s1_e3_c56"],
            ["ir_r1_k7_s2_e6_c112", "ir_r1_k5_s1_e3_c112", "ir_r1_k5_s1_e3_c112", "ir_r1_k5_s1_e3_c112"],
            ["ir_r1_k5_s1_e6_c136", "ir_r1_k5_s1_e3_c136", "ir_r1_k5_s1_e3_c136", "ir_r1_k5_s1_e3_c136"],
            ["ir_r1_k7_s2_e6_c256", "ir_r1_k7_s1_e6_c256", "ir_r1_k7_s1_e3_c256", "ir_r1_k7_s1_e3_c256"],
            ["ir_r1_k7_s1_e6_c448"],
        ],
        num_features=1792,
    ),
    "proxyless_cifar": {
        "family": FAMILY,
        **PRESETS["paper"],
        "depths": list(PRESETS["paper"]["depths"]),
        "trees": _trees(),
        "num_classes": 10,
        "in_chans": 3,
    },
}

INPUT_SHAPES = {name: (3, 32, 32) if name == "proxyless_cifar" else (3, 224, 224) for name in NETWORKS}
"""Of one image, (channels, height, width)."""

# Where the search has left blocks out, which a block definition does not say: per stage '#' for a block, '-' for none.
PLACES: dict[str, tuple[str, ...]] = {
    "proxyless_cpu": ("#", "####", "####", "#--#", "####", "####", "#"),
    "proxyless_gpu": ("#", "#---", "#--#", "#--#", "#-##", "####", "#"),
    "proxyless_mobile": ("#", "##--", "####", "####", "####", "####", "#"),
    "proxyless_mobile_14": ("#", "##--", "####", "####", "####", "####", "#"),
}
