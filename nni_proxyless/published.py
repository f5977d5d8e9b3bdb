"""The networks that the authors of ProxylessNAS published, block by block (han-cai/files), as timm block definitions.

``proxyless_cpu`` and ``proxyless_mobile_14`` are not here: their structure is not among our sources.
"""

from __future__ import annotations

from typing import Any

__all__ = ["NETWORKS", "PLACES"]


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


NETWORKS: dict[str, dict[str, Any]] = {
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
}

# Where the search has left blocks out, which a block definition does not say: per stage '#' for a block, '-' for none.
PLACES: dict[str, tuple[str, ...]] = {
    "proxyless_gpu": ("#", "#---", "#--#", "#--#", "#-##", "####", "#"),
    "proxyless_mobile": ("#", "##--", "####", "####", "####", "####", "#"),
}
