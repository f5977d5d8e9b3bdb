"""The model that a space is made around, as a teacher: its name, where its weights lie, and the network that they make."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm import get_pretrained_cfg
from timm.models import load_state_dict
from torch import Tensor, nn

from ..core.user_path import expand_path
from ..data.normalization import Statistics
from ..search_spaces.timm_layout import PRETRAINED, is_timm_network
from ..search_spaces.timm_network import make_model, set_stem_stride
from .architecture import Architecture
from .renormalizing import renormalizing

__all__ = ["Original", "kept_original", "sha256_of"]

KEY = "original"  # of the search's record


@dataclass(frozen=True)
class Original:
    """A model of timm with weights.

    Attributes
    ----------
    model
        Its name in timm.
    weights
        ``'pretrained'``, those that timm has for it; else the path of a ``state_dict``.
    stem_stride
        Of its first convolution; None: its own.
    """

    model: str
    weights: str
    stem_stride: int | None = None

    @classmethod
    def of_space(cls, arguments: Mapping[str, Any]) -> Original | None:
        """That of a space ``timm`` with these arguments; None where they name no weights."""
        weights = arguments.get("weights")
        if not weights:
            return None
        return cls(arguments.get("model", "mobilenetv3_small_100"), weights, arguments.get("stem_stride"))

    @classmethod
    def of(cls, architecture: Architecture, weights: str | None = None) -> Original | None:
        """That of a network's space.

        Parameters
        ----------
        weights
            Other ones than the search began with; None: those.

        Returns
        -------
        Original or None
            None where the space is not made around a model, or the search began with fresh weights.
        """
        kept, network = architecture.search.get(KEY) or {}, architecture.network or {}
        weights = weights or kept.get("weights")
        if not weights or not is_timm_network(network):
            return None
        return cls(network["model"], weights, network["stem_stride"])

    @property
    def in_words(self) -> str:
        """For messages: which model with which weights."""
        return f"{self.model} ({'the weights of timm' if self.weights == PRETRAINED else self.weights})"

    def described(self) -> dict[str, Any]:
        """The entry of a search's record in ``architecture.json``; the path is absolute, so that trainings in other folders find it."""
        weights = self.weights
        if weights != PRETRAINED:
            weights = os.path.abspath(expand_path(weights))
        return {KEY: {"model": self.model, "weights": weights}}

    def problem(self, n_classes: int) -> str | None:
        """Why it cannot teach these classes; None if it can, as far as its classifier says.

        Raises
        ------
        ValueError
            There is no file, or none with readable weights.
        """
        known = self._classes()
        if known == n_classes:
            return None
        if known == 0:
            return f"the weights of {self.in_words} have no classifier, the images have {n_classes} classes"
        return f"the weights of {self.in_words} tell {known} classes apart, the images have {n_classes}"

    @property
    def statistics(self) -> Statistics | None:
        """Mean and standard deviation of the images that its weights were trained on, as timm says; None of a file, which says nothing of it."""
        if self.weights != PRETRAINED:
            return None
        cfg = get_pretrained_cfg(self.model)
        return None if cfg is None else (tuple(cfg.mean), tuple(cfg.std))

    def problem_of_statistics(self, given: Statistics | None) -> str | None:
        """What is wrong with images of such mean and standard deviation, in words; None where nothing is, or nothing is known."""
        known = self.statistics
        if given is None or known is None or len(given[0]) != len(known[0]):
            return None
        if all(np.allclose(one, other, atol=0.01) for one, other in zip(given, known, strict=True)):
            return None
        theirs, these = (
            " and ".join(", ".join(f"{value:.3g}" for value in values) for values in of) for of in (known, given)
        )
        return f"timm's weights of {self.model} know images of mean and deviation {theirs}, these are normalized by {these}"

    def teacher(self, n_classes: int, in_chans: int, given: Statistics | None = None) -> nn.Module:
        """The model with its weights, in evaluation mode, without gradients.

        Parameters
        ----------
        given
            Mean and standard deviation of the images that it will see; where timm says that its weights know others, they are changed to those.
            None: nothing is changed.

        Raises
        ------
        ValueError
            There are no such weights, they are those of another model, or they tell other classes apart.
        """
        if problem := self.problem(n_classes):
            raise ValueError(problem)
        made = make_model(self.model, self.weights, num_classes=n_classes, in_chans=in_chans)
        if self.weights != PRETRAINED:
            # make_model lets a classifier that does not fit begin anew, which is right for a search and wrong for a teacher.
            found, own = self._read(), made.state_dict()
            for name in ("classifier.weight", "classifier.bias"):
                if name not in found or found[name].shape != own[name].shape:
                    raise ValueError(f"the weights of {self.in_words} are those of another network: {name}")
        set_stem_stride(made, self.stem_stride)
        made.requires_grad_(False)
        known = self.statistics
        if given is not None and known is not None and len(given[0]) == len(known[0]):
            made = renormalizing(made, given, known)
        return made.eval()

    def _classes(self) -> int:
        if self.weights == PRETRAINED:
            cfg = get_pretrained_cfg(self.model)
            return 0 if cfg is None or not cfg.has_weights else int(cfg.num_classes)
        classifier = self._read().get("classifier.weight")
        return len(classifier) if isinstance(classifier, Tensor) and classifier.dim() else 0

    def _read(self) -> Mapping[str, Any]:
        path = Path(expand_path(self.weights))
        if not path.is_file():
            raise ValueError(f"the weights of {self.model}: {path}: no such file")
        try:
            found = load_state_dict(str(path), weights_only=True)
        except Exception as error:  # of torch, pickle, safetensors
            raise ValueError(f"the weights of {self.model}: {path}: no readable weights") from error
        return found if isinstance(found, Mapping) else {}


def kept_original(architecture: Architecture) -> dict[str, Any]:
    """The entry of a search's record for another network of the same space; empty where there is no original with weights."""
    kept = architecture.search.get(KEY)
    return {KEY: kept} if kept else {}


def sha256_of(network: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of a network's weights and statistics, whatever file they are from."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]
