"""What a build that was stopped has left: taken over by the same build alone, and lost by no other one."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from nni_proxyless.latency import DeviceEstimator, LookupTable, TimingError, build_lookup_table
from nni_proxyless.latency.tables import time_in_chunks
from nni_proxyless.latency.tables.kept_timings import KeptTimings, digests_in
from nni_proxyless.search.latency_table import build_table, make_profiler

from .test_fitting import Killed, Known, built
from .test_runtime_tables import Space, by_command, lines_in, program

SHAPE = (8,)


# -- another program -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "dies_at", "as_text"), [("fit", 6, False), ("isolated", 10 + 8, True)])
def test_a_program_that_was_changed_in_between_is_another_one(tmp_path, method, dies_at, as_text):
    """It printed microseconds in most of the rounds, when it was stopped; the table is of milliseconds alone."""
    count, dies = f"echo x >> {tmp_path}/runs", f"test $(wc -l < {tmp_path}/runs) -ne {dies_at} || exit 9"

    def build(*lines: str, **arguments: Any) -> LookupTable:
        words = program(tmp_path, *lines)
        estimator = by_command(" ".join(words) if as_text else words)  # type: ignore[arg-type]
        return build_lookup_table(Space(), SHAPE, estimator, method=method, **arguments)

    def figures(table: LookupTable) -> list[float]:
        return [ms for row in (*table.rows.values(), *(n.measurement for n in table.references)) for ms in (row.median_ms, row.p95_ms)]  # fmt: skip

    partial = tmp_path / "t.yaml.partial"
    with pytest.raises(TimingError, match="the command ended with code 9"):
        build(count, dies, 'echo $(( $(wc -c < "$1") * 1000 ))', partial=partial)
    assert lines_in(partial) == 1 + (2 if method == "fit" else 1 + 7)
    table = build(count, dies, 'wc -c < "$1"', partial=partial)
    assert figures(table) == pytest.approx(figures(build('wc -c < "$1"')), rel=0.1)
    assert table.measured["unrest"] < 2


def test_the_files_of_a_command_are_known_by_what_is_in_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    bench, _ = program(tmp_path, "echo 1")
    (tmp_path / "board.json").write_text("{}")
    words = [bench, "{file}", f"{tmp_path}/board.json", str(tmp_path), "x" * 10_000, "\0", "-t"]
    found = digests_in(words)
    assert list(found) == [bench, f"{tmp_path}/board.json"]
    assert digests_in(f"{bench} {{file}} '{tmp_path}/board.json'") == found
    assert digests_in(["bench.sh", "{file}"]) == {"bench.sh": found[bench]}, "found in PATH"
    assert [digests_in(other) for other in (None, 3, [], "", "'", {"a": 1}, ["{file}"])] == [{}] * 7
    Path(bench).write_text("echo 2")
    assert digests_in(words)[bench] != found[bench]
    assert digests_in(words)[f"{tmp_path}/board.json"] == found[f"{tmp_path}/board.json"]


# -- another number of networks --------------------------------------------------------------------------------------------


@pytest.fixture
def limited(monkeypatch):
    """Chunks of 12, 12 and 8 networks, four of them in all, for which there is time till the tenth of the second chunk."""
    monkeypatch.setattr(time_in_chunks, "CHUNK", 12)
    monkeypatch.setattr(time_in_chunks, "LIMIT_S", 1.9)
    monkeypatch.setattr(time_in_chunks, "_seconds", lambda rounds: 1.0)


def stop_after_two_chunks(partial: Path, **arguments: Any) -> int:
    """The number of networks in them."""
    n = 0

    def kill(done: int, total: int) -> None:
        nonlocal n
        n = done
        if done > 12:
            raise Killed

    with pytest.raises(Killed):
        built(Known(), partial=partial, progress=kill, **arguments)
    assert lines_in(partial) == 1 + 2 * 5
    return n


@pytest.mark.parametrize(
    ("before", "n_before", "after", "n"), [({}, 18, {"networks": 24}, 24), ({"networks": 24}, 20, {}, 18)]
)
def test_a_number_of_networks_makes_another_build(limited, tmp_path, before, n_before, after, n):
    """Those that the limit has left out are timed; or are not, if there is a limit again."""
    partial = tmp_path / "p"
    assert stop_after_two_chunks(partial, **before) == n_before
    estimator = Known()
    table = built(estimator, partial=partial, **after)
    assert table.measured["networks"] == n
    assert estimator.calls == (3 if after else 2)
    assert table.rows == built(Known(), **after).rows


def test_a_round_is_taken_over_only_if_it_is_of_the_networks_of_its_chunk(limited, tmp_path, monkeypatch):
    partial = tmp_path / "p"
    assert stop_after_two_chunks(partial) == 18
    head, *rounds = partial.read_text().splitlines(keepends=True)
    monkeypatch.setattr(time_in_chunks, "LIMIT_S", 100.0)
    estimator, steps = Known(), []
    table = built(estimator, partial=partial, progress=lambda *done: steps.append(done))
    assert steps == [(12, 24), (20, 24), (24, 24)]
    assert estimator.calls == 2
    assert table.measured["networks"] == 24
    assert table.rows == built(Known()).rows
    assert partial.read_text().startswith(head + "".join(rounds[:5]))
    assert lines_in(partial) == 1 + 3 * 5
    for wrong in ("[]\n", "[[1, 0.5]]\n", rounds[0]):
        partial.write_text(head + "".join(rounds[:5]) + wrong + "".join(rounds[6:]))
        assert built(Known(), partial=partial).rows == table.rows
    partial.write_text(head + "".join(rounds[5:]))
    built(estimator := Known(), partial=partial)
    assert estimator.calls == 3, "none is of the first chunk"


# -- another build beside the same table -----------------------------------------------------------------------------------


def test_timings_of_another_build_are_set_aside(tmp_path, caplog):
    """Under a name that nothing has; where there are none, nothing is."""
    path = tmp_path / "t.yaml.partial"
    left = []
    for i in range(3):
        caplog.clear()
        kept = KeptTimings(path, {"build": i}, ["one"])
        assert kept.runs == []
        assert len(caplog.records) == min(i, 1)
        kept.add([("one", 1.0 + i)])
        left.append(path.read_text())
    aside = [path.with_name(f"{path.name}.of_another_build{number}") for number in ("", "_2")]
    assert [p.read_text() for p in aside] == left[:2]
    (said,) = caplog.messages
    assert said == f"latencies: {path} is of another build, with other settings or a program that was changed since: it is now {aside[1]}, and this build begins anew"  # fmt: skip
    caplog.clear()
    assert KeptTimings(path, {"build": 2}, ["one"]).runs == [[("one", 3.0)]]
    for nothing in ("", "\n", left[0].split("\n")[0], left[0].split("\n")[0] + "\n"):
        path.write_text(nothing)
        assert KeptTimings(path, {"build": 3}, ["one"]).runs == []
    assert sorted(tmp_path.iterdir()) == [path, *aside]
    assert not caplog.messages
    path.write_text(left[0])
    aside[0].rename(path)
    assert KeptTimings(path, {"build": 0}, ["one"]).runs == [[("one", 1.0)]], "under its old name it is taken over"


def test_a_search_and_a_build_leave_each_other_what_they_have_timed(tmp_path, caplog):
    """With the repeats that each has by itself."""
    table, partial = tmp_path / "t.yaml", tmp_path / "t.yaml.partial"
    aside = tmp_path / "t.yaml.partial.of_another_build"
    words = program(tmp_path, f'test ! -e {tmp_path}/unplugged && wc -c < "$1"')

    def estimator(repeats: int) -> DeviceEstimator:
        return DeviceEstimator(runtime="command", options={"command": words, "retries": 0}, repeats=repeats)

    built_first = KeptTimings(partial, {"build": "of the command"}, ["one"])
    built_first.add([("one", 1.0)])
    before = partial.read_text()
    make_profiler(Space(), SHAPE, estimator(2), table, tmp_path / "latencies.yaml")
    assert aside.read_text() == before
    assert f"is now {aside}" in caplog.text
    assert not partial.exists(), "that of the search is in its table"
    table.unlink()
    searched = KeptTimings(partial, {"build": "of a search"}, ["one"])
    searched.add([("one", 2.0)])
    build_table(Space(), SHAPE, estimator(3), partial=partial)
    assert aside.read_text() == before
    assert aside.with_name(f"{aside.name}_2").read_text().endswith("[[0, 2.0]]\n")


def test_a_full_disk_loses_no_timing_of_a_search_without_a_table(tmp_path, monkeypatch):
    """They are there until the search has its table."""
    kept, partial = tmp_path / "latencies.yaml", tmp_path / "latencies.yaml.partial"
    words = program(tmp_path, f"echo x >> {tmp_path}/runs", 'wc -c < "$1"')

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as at_first:
        at_first.setattr(LookupTable, "write", full)
        with pytest.raises(OSError, match="No space left"):
            make_profiler(Space(), SHAPE, by_command(words), None, kept)
    assert lines_in(partial) == 1 + 3
    n_runs = lines_in(tmp_path / "runs")
    make_profiler(Space(), SHAPE, by_command(words), None, kept)
    assert lines_in(tmp_path / "runs") == n_runs == 2 * 3, "nothing is timed twice"
    assert kept.exists()
    assert not partial.exists()
