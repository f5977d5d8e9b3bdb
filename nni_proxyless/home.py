"""``~`` in a path. A container's user may have neither a name nor a home, and then it stands for nothing."""

from __future__ import annotations

from pathlib import Path

from .errors import UserError

__all__ = ["expanded"]


def expanded(path: str | Path, what: str) -> Path:
    """The path with ``~`` and ``~user`` replaced by their folder.

    Parameters
    ----------
    what
        Which setting gives the path, for people.

    Raises
    ------
    UserError
        Nobody says where that home is.
    """
    try:
        return Path(path).expanduser()
    except (
        RuntimeError
    ) as error:  # of pathlib, where os.path would leave the '~' and somebody makes a folder of that name
        raise UserError(
            f"{what}: '{path}' begins with a home, and this user has none (HOME is not set); allowed: a path without '~', or HOME set"
            if str(path).split("/")[0] == "~"
            else f"{what}: '{path}' begins with the home of a user whom this machine does not know; allowed: another path"
        ) from error
