"""``nni-proxyless init``: a commented experiment and its search, to start from."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from ..core.errors import UserError
from ..core.user_path import path_argument

__all__ = ["add_init_command"]


def add_init_command(commands: Any) -> None:
    """Add ``init`` to the commands of the parser."""
    init = commands.add_parser(
        "init", help="write an NNI experiment and its search.yml, commented, to start from",
        description="Write a commented pair of files: an experiment for nnictl, and the search.yml that its trials run.",
    )  # fmt: skip
    init.add_argument("folder", nargs="?", type=path_argument, default=Path(), metavar="DIR",
                      help="default: the current one")  # fmt: skip
    init.add_argument("--data", default="digits", metavar="NAME",
                      help="digits, fashion-mnist, cifar10, cifar100, folder, or package.module:function; default: digits")  # fmt: skip
    init.add_argument("--data-root", metavar="PATH", help="of a folder of images, with train/CLASS/* and val/CLASS/*")
    init.add_argument("--space", metavar="NAME",
                      help="a model space by name, or package.module:Class; default: mobilenetv2")  # fmt: skip
    init.add_argument("--from", dest="model", metavar="timm:MODEL",
                      help="search around a model of timm, such as timm:mobilenetv3_small_100, in the place of --space")  # fmt: skip
    init.add_argument("--list", action="store_true",
                      help="write nothing; print the models of timm that a search can go out from, and why the others are none")  # fmt: skip
    init.add_argument("--target", nargs="+", default=["50%", "80%"], metavar="T",
                      help="a search for each of these, in milliseconds or as a share of the slowest network; default: 50%% 80%%")  # fmt: skip
    init.add_argument("--strategy", default="proxyless", metavar="NAME",
                      help="proxyless, proxyless-reinforce, dsnas, or another by name; default: proxyless")  # fmt: skip
    init.set_defaults(run=_init)


def _init(arguments: argparse.Namespace) -> int:
    from ..config.templates import write_start

    if arguments.list:
        return _list()
    if arguments.model is not None and arguments.space is not None:
        raise UserError("--from and --space say the same twice; allowed: one of them")
    experiment, search = write_start(
        arguments.folder, data=arguments.data, data_root=arguments.data_root, space=arguments.space or "mobilenetv2",
        targets=arguments.target, strategy=arguments.strategy, model=_model(arguments.model),
    )  # fmt: skip
    n = len(arguments.target)
    print(f"{experiment}: an experiment of {n} search{'es' if n > 1 else ''}")
    print(f"{search}: what each of them is; read it, and change what you like")
    print("Next:")
    steps = {
        f"nni-proxyless check {shlex.quote(str(experiment))}": "says what is wrong, starts nothing",
        f"nnictl create --config {shlex.quote(str(experiment))}": "http://127.0.0.1:8080 shows it; another port: --port",
        "nni-proxyless watch": "how far its trials are, in the terminal",
        f"nni-proxyless search {shlex.quote(str(search))}": "or a single search, without NNI",
        "nni-proxyless report": "what the experiment has found",
    }
    width = max(map(len, steps))
    for command, what in steps.items():
        print(f"  {command:<{width}}  # {what}")
    return 0


def _model(given: str | None) -> str | None:
    if given is None:
        return None
    library, _, model = given.partition(":")
    if library != "timm" or not model:
        raise UserError(
            f"--from: {given!r} is not allowed; allowed: timm:MODEL, such as timm:mobilenetv3_small_100; which: --list"
        )
    return model


def _list() -> int:
    from ..core.progress import bar
    from ..search_spaces.timm_network import family, model_on_meta, problem_of_model

    names, sizes, refused = family(), {}, {}
    with bar(len(names), "timm", "model") as done:
        for name in names:
            model = model_on_meta(name)
            if problem := problem_of_model(model):
                refused[name] = problem
            else:
                sizes[name] = sum(p.numel() for p in model.parameters())
            done.update()
    width = max(map(len, names))
    for name, n in sizes.items():
        print(f"{name:<{width}}  {n / 1e6:6.2f} M parameters")
    print(f"\n{len(refused)} others of the family are none that a search can go out from:")
    for name, problem in refused.items():
        print(f"{name:<{width}}  {problem}")
    print(f"\nNext: nni-proxyless init DIR --from timm:{next(iter(sizes))}")
    return 0
