"""210 damaged ``search.yml`` and experiment files: each is taken for what it says, or refused in one clear message and code 2.

The damage is drawn with a fixed seed. Nothing is asserted of how many are refused by which message; but what is taken
must be, key by key, what an independent reader finds in the file, and what is refused must name file and place.
"""

from __future__ import annotations

import math
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from nni.experiment.config import ExperimentConfig

from nni_proxyless.cli.main import main
from nni_proxyless.config.shipped import shipped

SEARCHES = ("search.yml", "search_dsnas.yml", "search_pareto.yml", "search_reinforce.yml")
EXPERIMENTS = ("proxyless.yml", "dsnas.yml", "pareto.yml", "proxyless-reinforce.yml")
N_SEARCHES, N_EXPERIMENTS = 120, 90

VALUES = [
    "-1", "0", "1", "2.5", "1e-3", "-1e-3", "1e999", ".nan", ".inf", "-.inf", "99999999999999999999999999", "9" * 5000, "0x1F",
    "''", "x", "50%", "0%", "1e3%", "true", "no", "null", "~", "[]", "[1, 2]", "{}", "{a: 1}", "2026-11-22", "2026-02-31",
    "12:30:45", "'1'", "!!str 5", "!!int x", "!!bool maybe", "!!binary x", "!!timestamp now", "!!python/object:os.system x",
    "!!python/object/apply:os.system ['true']", "!unknown 1", "*nowhere", "&here 1", "|\n   text", "\"\\x00\"", "\"\\u2028\"",
    "'a: b'", "a: b", "@", "`", "%", "# nothing", "\U0001f600", "'" + "y" * 3000 + "'",
]  # fmt: skip
WHOLE = [
    b"", b"\n", b"# only a comment\n", b"- a\n- list\n", b"text", b"42", b"null", b"--- \nseed: 1\n--- \nseed: 2\n", b"seed", b"{", b"[1, 2",
    b"\x00\x01\x02", b"\xff\xfe s\x00", b"seed: \xe9\n", b"\xef\xbb\xbfseed: 3\n", "seed: 3\n".encode("utf-16"), b"seed:\t1\n\tx: 2\n",
    b"a: &a [*a]\n", b"? [a, b]\n: 1\n", b"{{ seed }}: 1\n", b"<<: {seed: 4}\n", b"seed: 1\nseed: 1\n", b"1: 2\n", b"null: 2\n",
    b"&a a: &b {x: *b}\n", b"!!set {seed}\n", b"!!omap [seed: 1]\n", b"!!map seed\n", b"%YAML 3.0\n---\nseed: 1\n", b"seed: 1\r\nspace: {}\r\n",
    b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c]\n"
    b"e: &e [*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n",
    b"a: &a {x: 1}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}\n", b"[" * 3000, b"a: " + b"{a: " * 2000, b"x: 'unfinished\n",
]  # fmt: skip


def truncated(text: str, chance: random.Random) -> str:
    return text[: chance.randrange(len(text))]


def without_a_line(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    del lines[chance.randrange(len(lines))]
    return "".join(lines)


def with_lines_swapped(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    i, j = chance.sample(range(len(lines)), 2)
    lines[i], lines[j] = lines[j], lines[i]
    return "".join(lines)


def with_a_line_twice(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    i = chance.randrange(len(lines))
    return "".join([*lines[:i], lines[i], *lines[i:]])


def indented_otherwise(text: str, chance: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    i = chance.randrange(len(lines))
    lines[i] = chance.choice(["", " ", "\t", "    "]) + lines[i].lstrip()
    return "".join(lines)


def with_a_key_mistyped(text: str, chance: random.Random) -> str:
    where = chance.choice(list(re.finditer(r"(?m)^ *([\w.]+):", text)))
    key = list(where[1])
    i = chance.randrange(len(key))
    key[i : i + 1] = chance.choice([[], [key[i], key[i]], [chance.choice("xÉ-. \n")], [key[i].swapcase()]])
    return text[: where.start(1)] + "".join(key) + text[where.end(1) :]


def with_another_value(text: str, chance: random.Random) -> str:
    where = chance.choice(list(re.finditer(r"(?m)(?<=: )[^\s#{}\[\],]+|(?<=_value: \[)[^\],]+", text)))
    return text[: where.start()] + chance.choice(VALUES) + text[where.end() :]


def with_a_key_more(text: str, chance: random.Random) -> str:
    key = chance.choice(["seed", "strategy", "x", "1", "[1]", "trialCommand", "trial_concurrency", "update", "name"])
    lines = text.splitlines(keepends=True)
    i = chance.randrange(len(lines))
    return "".join([*lines[:i], f"{chance.choice(['', '  '])}{key}: {chance.choice(VALUES)}\n", *lines[i:]])


def with_a_wild_character(text: str, chance: random.Random) -> str:
    i = chance.randrange(len(text))
    return text[:i] + chance.choice("\x00\x07\t:{}[]&*!|>'\"%@`,\ufeff\u2028\ud7ff\x85-") + text[i + 1 :]


DAMAGES: list[Callable[[str, random.Random], str]] = [
    truncated, without_a_line, with_lines_swapped, with_a_line_twice, indented_otherwise, with_a_key_mistyped, with_another_value,
    with_another_value, with_another_value, with_a_key_more, with_a_wild_character,
]  # fmt: skip


def damage(text: str, chance: random.Random) -> str:
    """One to three damages."""
    for _ in range(chance.choice([1, 1, 2, 3])):
        try:
            text = chance.choice(DAMAGES)(text, chance)
        except (ValueError, IndexError):  # too little is left to be damaged in this way
            continue
    return text


def damaged(names: tuple[str, ...], n: int) -> list[bytes]:
    """First whole files of rubbish, then shipped files with one to three damages."""
    chance = random.Random(2026)
    shipped_ones = [shipped(name).read_text(encoding="utf-8") for name in names]
    texts = (damage(chance.choice(shipped_ones), chance) for _ in range(n - len(WHOLE)))
    return [*WHOLE, *(text.encode("utf-8") for text in texts)]


def clear(error: str, *places: str) -> bool:
    """Each line names a file, or where else it came from, and is no longer than a screen can hold."""
    log = re.compile(r"\d\d:\d\d:\d\d ")  # of what an override lets go of, whatever comes of it
    said = "\n".join(line for line in error.splitlines() if not log.match(line))
    lines = said.removeprefix("nni-proxyless: ").splitlines()
    return bool(lines) and all(line.startswith(places) and len(line) < 900 and line.isprintable() for line in lines)


def same(ours: Any, theirs: Any) -> bool:
    """Whether what was resolved holds all that the file says; to ours 1e-3 is a number."""
    if isinstance(theirs, dict):
        # Where no runtime is named, that of the device is written down.
        said = {key: value for key, value in theirs.items() if (key, value) != ("runtime", None)}
        return isinstance(ours, dict) and all(key in ours and same(ours[key], value) for key, value in said.items())
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, str) and isinstance(ours, float):
        return math.isclose(float(theirs), ours)
    return (type(ours) is type(theirs) and ours == theirs) or (type(theirs) is int and ours == theirs)


def merged(content: dict[str, Any]) -> dict[str, Any]:
    """What the file says of the chosen strategy, in one place."""
    strategies = content.pop("strategies", {})
    strategy = content.get("strategy", {})
    if chosen := strategies.get(strategy.get("name", "proxyless")):
        content["strategy"] = {**chosen, **strategy}
    return content


def check(name: str, content: bytes, capsys, *places: str) -> str | None:
    """What ``check`` prints of a file that it takes; None for one that it refuses, in clear words."""
    Path(name).write_bytes(content)
    code = main(["check", name])
    said = capsys.readouterr()
    if code == 0:
        return said.out
    assert code == 2
    assert said.out == ""
    assert clear(said.err, *places), f"{content!r}\n{said.err}"
    return None


def test_damaged_searches(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    taken = 0
    for i, content in enumerate(damaged(SEARCHES, N_SEARCHES)):
        if (said := check("search.yml", content, capsys, "search.yml: ")) is not None:
            taken += 1
            there = yaml.safe_load(content.decode("utf-8"))
            assert same(yaml.safe_load(said), merged(there)), f"{i}: {content!r}\n{said}"
    assert N_SEARCHES / 20 < taken < N_SEARCHES / 2, "neither all nor nothing"


def test_damaged_experiments(tmp_path, monkeypatch, capsys):
    """Beside sound searches. What is taken, NNI takes as well, and means the same by it."""
    monkeypatch.chdir(tmp_path)
    for name in SEARCHES:
        shutil.copy(shipped(name), tmp_path)
    taken = 0
    for i, content in enumerate(damaged(EXPERIMENTS, N_EXPERIMENTS)):
        if (said := check("e.yml", content, capsys, "e.yml: ", *(f"{name}: " for name in SEARCHES))) is not None:
            there = yaml.safe_load(content.decode("utf-8"))
            if "trialCommand" not in there:  # damaged to something else, a tiny search.yml
                continue
            taken += 1
            known = ExperimentConfig.load("e.yml")
            known.validate()
            assert (known.trial_command, known.search_space) == (there["trialCommand"], there["searchSpace"]), i
            assert "is valid" in said
    assert N_EXPERIMENTS / 20 < taken < N_EXPERIMENTS / 2, "neither all nor nothing"


def test_a_real_process_says_the_same(command, tmp_path):
    """No traceback, code 2, and a search does not begin."""
    (tmp_path / "search.yml").write_bytes(b"a: &a [*a]\n")
    done = command("nni-proxyless", "search", "search.yml")
    assert done.returncode == 2
    assert done.stderr == "nni-proxyless: search.yml: line 1: an alias stands in what it is an alias of\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["search.yml"]
