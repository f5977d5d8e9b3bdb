"""The forms of a choice (a name, a number, a tuple, anything hashable): as a key, in a sample of NNI, and in a file.

====================  ==============================  ====================================
in a sample of NNI    as a key                        in a file
====================  ==============================  ====================================
a value               the value                       as plain JSON, else as its text
a list of inputs      :class:`InputSet`               the list
====================  ==============================  ====================================

JSON knows no tuples, and no values of other types. So a choice that is read back is looked up among those of its label.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Mapping
from typing import Any

from nni.mutable import Categorical, CategoricalMultiple

from ..core.plain_values import as_plain

__all__ = ["InputSet", "as_key", "as_nni_has_it", "check_values", "input_sets", "read_back", "read_probs_back"]


class InputSet(tuple):
    """A set of inputs, which NNI's samples hold as a list. A tuple among the values of a choice is no such set."""

    __slots__ = ()


def as_nni_has_it(choice: Any) -> Any:
    """The choice of a key, for a sample."""
    return list(choice) if isinstance(choice, InputSet) else choice


def as_key(choice: Any) -> Any:
    """The choice of a sample, as a key."""
    return InputSet(choice) if isinstance(choice, list) else choice


def input_sets(mutable: CategoricalMultiple) -> Iterator[InputSet]:
    """All sets of inputs that may be chosen, those of one size after those of a smaller one."""
    sizes = [mutable.n_chosen] if mutable.n_chosen is not None else range(1, len(mutable.values) + 1)
    for size in sizes:
        yield from map(InputSet, itertools.combinations(mutable.values, size))


def read_back(choice: Any, mutable: Any) -> Any:
    """The choice of this mutable that a file has; one that is none of its stays as the file has it."""
    if isinstance(mutable, Categorical):
        plain = as_plain(choice)
        return next((value for value in mutable.values if as_plain(value) == plain), choice)
    return list(choice) if isinstance(choice, tuple) else choice


def read_probs_back(
    probs: Mapping[str, Mapping[Any, float]], mutables: Mapping[str, Any]
) -> dict[str, dict[Any, float]]:
    """Probabilities of a file, lists in it as tuples, with the choices of these mutables as keys."""

    def key(choice: Any, mutable: Any) -> Any:
        is_set = isinstance(mutable, CategoricalMultiple) and isinstance(choice, tuple)
        return InputSet(choice) if is_set else read_back(choice, mutable)

    return {
        label: {key(choice, mutables.get(label)): p for choice, p in ps.items()} for label, ps in probs.items()
    }  # fmt: skip


def check_values(label: str, mutable: Any) -> None:
    """Refuse values of a choice that can be no keys, or that no file can tell apart.

    Raises
    ------
    TypeError
        The message names label and value.
    """
    if not isinstance(mutable, Categorical):
        return
    seen: list[Any] = []
    for value in mutable.values:
        if not isinstance(value, Hashable) or not _has_hash(value):
            raise TypeError(
                f"choice {str(label)!r} has the value {value!r}, a {type(value).__name__}; allowed: values that are hashable, such as "
                "texts, numbers, and tuples of them"
            )
        plain = as_plain(value)
        if plain in seen:
            raise TypeError(
                f"choice {str(label)!r} has two values that are both written as {plain!r}; allowed: values with different texts"
            )
        seen.append(plain)


def _has_hash(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:  # a tuple with a list in it
        return False
    return True
