"""What a page says, for tests: its identifiers, links, headings, tables and words."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

EMPTY = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """A parsed page.

    Attributes
    ----------
    ids, hrefs
        In their order.
    tags
        Those that occur.
    attributes
        All of them as (tag, name, value).
    headings
        Levels, in their order.
    tables
        Rows of cells, as text.
    words
        All that is read, in one line.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.ids: list[str] = []
        self.hrefs: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[int] = []
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == [], "not closed"
        self.words = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        if tag not in EMPTY:
            self._open.append(tag)
        self._note(tag, attrs)
        if tag[0] == "h" and tag[1:].isdigit():
            self.headings.append(int(tag[1:]))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)

    def _note(self, tag, attrs):
        self.tags.add(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value)
            if name == "href":
                self.hrefs.append(value)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self._words.append(data)
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data
