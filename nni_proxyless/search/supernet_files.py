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
    "EVOLVED_FRONT",
    "JUDGED",
    "PROBABILITIES",
    "SUPERNET",
    "TIMED",
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
EVOLVED_FRONT = "evolved_front.csv"  # those that no other dominates, after derive --evolve
TIMED = "timed.csv"  # networks that were timed for one of them to be chosen, after derive --time
LOGITS = "_arch_alpha"  # of NNI's strategies, in the module whose choice they are about
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


def write_supernet(
    folder: Path, probs: Mapping[str, Mapping[Any, Any]], supernet: nn.Module, shapes: Shapes, *, keeps_candidates: bool
) -> None:
    """Write ``probabilities.json`` and, if the supernet still has all candidates, ``supernet.safetensors``.

    Parameters
    ----------
    probs
        Label -> choice -> probability.
    supernet
        What the search has trained; NNI's logits in it are left out.
    shapes
        Of a fresh space.
    keeps_candidates
        Whether the strategy says so of itself. The file then loads into what it makes of a fresh space, which for cells and for
        choices of values has other weights than the space; else it has to load into the space.
    """
    from ..core.nni_compat import MixedOperation  # here: it takes seconds, and whoever reads these files does without

    _write_numbers(folder / PROBABILITIES, FORMAT, "probabilities", probs)
    weights = {name: tensor for name, tensor in supernet.state_dict().items() if LOGITS not in name.split(".")}
    (folder / SUPERNET).unlink(missing_ok=True)
    # All names: in a cell those of a space are among those of its supernet, and are of other operations there. Of a super-kernel a
    # space has the weights of one value.
    sliced = any(isinstance(module, MixedOperation) for module in supernet.modules())
    fits = not sliced and {name: tensor.shape for name, tensor in weights.items()} == shapes
    if keeps_candidates or fits:
        write_weights(folder / SUPERNET, weights)


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
