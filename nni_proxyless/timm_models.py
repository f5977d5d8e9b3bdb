"""Importing this module makes ``timm.create_model`` know our models; see :mod:`.models.timm_registry`."""

from .models.timm_registry import (
    proxyless_cifar,
    proxyless_cpu,
    proxyless_derived,
    proxyless_gpu,
    proxyless_mobile,
    proxyless_mobile_14,
)

__all__ = [
    "proxyless_cifar",
    "proxyless_cpu",
    "proxyless_derived",
    "proxyless_gpu",
    "proxyless_mobile",
    "proxyless_mobile_14",
]
