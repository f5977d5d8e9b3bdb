"""The files from which ``derive`` takes further networks: probabilities and the weights of all candidates."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..core.atomic_files import write_text, write_weights
from ..core.errors import UserError
from ..core.plain_values import as_plain

__all__ = [
    "JUDGED",
    "PROBABILITIES",
    "SUPERNET",
    "TRAINING",
    "is_finished",
    "read_probabilities",
    "read_training_scores",
    "require_finished",
    "shapes_of",
    "write_supernet",
    "write_training_scores",
]

PROBABILITIES = "probabilities.json"
SUPERNET = "supernet.safetensors"
TRAINING = "training_losses.json"  # what each candidate added to them
JUDGED = "judged.csv"  # verdicts of the supernet
FORMAT = "nni-proxyless probabilities 1"
FORMAT_OF_TRAINING = "nni-proxyless training losses 1"

Probabilities = dict[str, dict[Any, float]]
if TYPE_CHECKING:
    import torch
    from torch import nn

    Shapes = dict[str, torch.Size]


def is_finished(folder: Path) -> bool:
    """Whether the search in this folder has left its network and needs nothing more."""
    return (folder / "architecture.json").exists() and not (folder / "checkpoint").exists()


def require_finished(folder: Path) -> None:
    """Refuse a folder in which no search has finished.

    Raises
    ------
    UserError
        There is none, or it has not finished.
    """
    if not (folder / "search.yml").exists():
        raise UserError(f"{folder}: no search.yml there, so no search has been made in this folder")
    if not is_finished(folder):
        raise UserError(
            f"{folder}: the search has not finished; go on with it: nni-proxyless search --resume {shlex.quote(str(folder))}"
        )


def shapes_of(space: nn.Module) -> Shapes:
    """Name -> shape of all weights and statistics of a space; look before a strategy makes a supernet of it."""
    return {name: tensor.shape for name, tensor in space.state_dict().items()}


def write_supernet(folder: Path, probs: Mapping[str, Mapping[Any, Any]], supernet: nn.Module, shapes: Shapes) -> None:
    """Write ``probabilities.json`` and, if the supernet still has all candidates, ``supernet.safetensors``.

    Parameters
    ----------
    probs
        Label -> choice -> probability.
    supernet
        What the search has trained; what a strategy has added to the space, such as logits, is left out.
    shapes
        Of a fresh space, into which the file is to load.
    """
    from ..core.nni_compat import MixedOperation  # here: it takes seconds, and whoever reads these files does without

    _write_numbers(folder / PROBABILITIES, FORMAT, "probabilities", probs)
    state = supernet.state_dict()
    (folder / SUPERNET).unlink(missing_ok=True)
    # The space alone has no super-kernels, whose weights are larger.
    sliced = any(isinstance(module, MixedOperation) for module in supernet.modules())
    if not sliced and all(name in state and state[name].shape == shape for name, shape in shapes.items()):
        write_weights(folder / SUPERNET, {name: state[name] for name in shapes})


def write_training_scores(folder: Path, scores: Mapping[str, Mapping[Any, float]]) -> None:
    """Write ``training_losses.json``: label -> choice -> what it added to the losses of trained paths, in nats."""
    _write_numbers(folder / TRAINING, FORMAT_OF_TRAINING, "scores", scores)


def read_training_scores(folder: Path) -> Probabilities:
    """Read ``training_losses.json``, as :func:`read_probabilities`; nothing of a search by a version that noted no losses."""
    path = folder / TRAINING
    return _read_numbers(path, FORMAT_OF_TRAINING, "scores", "losses of the training") if path.exists() else {}


def read_probabilities(folder: Path) -> Probabilities:
    """Read ``probabilities.json``; what is a list there is a tuple (:func:`..latency.choices.read_probs_back` does the rest).

    Raises
    ------
    UserError
        The file is missing or damaged.
    """
    path = folder / PROBABILITIES
    if not path.exists():
        raise UserError(
            f"{folder}: no {PROBABILITIES}: the search was made by a version that did not keep its probabilities, and without "
            "them no other network can be derived; search again"
        )
    return _read_numbers(path, FORMAT, "probabilities", "probabilities")


def _write_numbers(path: Path, form: str, what: str, numbers: Mapping[str, Mapping[Any, Any]]) -> None:
    """Label -> choice -> number. JSON has no keys but texts, so choices stand in pairs with their numbers."""
    pairs = {
        label: [[as_plain(choice), float(number)] for choice, number in of.items()] for label, of in numbers.items()
    }
    write_text(path, json.dumps({"format": form, what: pairs}, indent=1) + "\n")


def _read_numbers(path: Path, form: str, what: str, called: str) -> Probabilities:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.get("format") != form:
            raise ValueError(f"'format' is not {form!r}")
        return {label: {_hashable(choice): float(p) for choice, p in pairs} for label, pairs in content[what].items()}
    except (ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise UserError(f"{path}: no readable {called}: {error}") from error


def _hashable(choice: Any) -> Any:
    return tuple(map(_hashable, choice)) if isinstance(choice, list) else choice
