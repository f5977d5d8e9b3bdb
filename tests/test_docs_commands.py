"""Pages: every command that they name is one that the program takes (words, options, keys), and every link holds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from nni_proxyless.cli import main as cli
from nni_proxyless.config.read import file_and_overrides, read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTES = sorted((ROOT / "experiments").rglob("*.md"))
NNICTL = ("create", "resume", "stop", "view", "experiment", "trial", "config", "log", "webui")


def commands(text: str) -> Iterator[str]:
    """Lines of code blocks, indented or fenced, that begin with a command; continued lines are joined."""
    fenced = False
    for line in text.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif (fenced or line.startswith("    ")) and re.match(r"\s*(nni-proxyless|nnictl) ", line):
            yield line.strip()


def problem(line: str) -> str | None:
    """What the program has against a command, without running it."""
    words = shlex.split(re.sub(r"\$\w+", "a", line), comments=True)  # a variable of the shell, such as a loop's
    words = words[: words.index("&&")] if "&&" in words else words
    if words[0] == "nnictl":
        if words[1] not in NNICTL:
            return f"nnictl has no {words[1]}"
        files = [Path(word) for word in words if word.startswith("experiments/")]
        return next((f"{path}: no such file" for path in files if not (ROOT / path).exists()), None)
    try:
        given = cli._parser().parse_args(words[1:])
    except SystemExit:
        return "it is not what the parser takes"
    section = {"search": SearchConfig, "train": TrainConfig}.get(words[1])
    if section is None or not getattr(given, "items", None):
        return None
    try:
        _, overrides = file_and_overrides(given.items)
        read_config(section, None, overrides)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_command_of_a_page_is_taken(page, capsys):
    wrong = {line: said for line in commands(page.read_text(encoding="utf-8")) if (said := problem(line))}
    assert not wrong, capsys.readouterr().err


def test_pages_have_commands_and_wrong_ones_are_seen():
    assert len([line for page in PAGES for line in commands(page.read_text(encoding="utf-8"))]) > 30
    assert problem("nni-proxyless search x.yml training.epoch=3")
    assert problem("nni-proxyless seach x.yml")
    assert problem("nnictl create --config experiments/none.yml")
    assert problem("nni-proxyless report --picture x.svg")
    assert problem("nni-proxyless search x.yml training.epochs=3  # a comment") is None


def without_code(page: Path) -> str:
    return re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page, or the lines of any other file."""
    if page.suffix != ".md":
        return {f"L{n}" for n, _ in enumerate(page.read_text(encoding="utf-8").splitlines(), 1)}
    titles = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """Relative links to a file that is not there, or to a heading that the file does not have."""
    broken = []
    text = without_code(page)
    for link in [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE)]:
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not re.match(r"https?:", link) and not (path.exists() and (not anchor or anchor in anchors(path))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", [*PAGES, *NOTES], ids=lambda path: path.name)
def test_every_link_of_a_page_leads_somewhere(page):
    assert not broken_links(page)


def test_broken_links_are_seen(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b`: c-d\n[1](#a-b-c-d) [2](page.md#e) [3](no.md) [4](https://x.org/no.md) [5](a.py#L1) [6](a.py#L2)\n"
    )
    (tmp_path / "a.py").write_text("pass\n")
    assert broken_links(page) == ["page.md#e", "no.md", "a.py#L2"]
