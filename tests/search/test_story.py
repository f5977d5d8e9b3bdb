"""What TensorBoard shows of a search, and the way there from NNI's button."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import socket
import time

import numpy as np
import pytest
from matplotlib import colormaps
from nni_proxyless.search_spaces import MobileNetV2Space
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nni_proxyless.core.many_choices import mean_probs
from nni_proxyless.core.tensorboard_writer import Curves
from nni_proxyless.search import tensorboard
from nni_proxyless.search.heat_map import draw_choices, draw_heat_map, place_of
from nni_proxyless.search.nni_web_ui import answers, connect_tensorboard, show_netron
from nni_proxyless.search.tensorboard import PROBABILITIES, TensorBoardLog, is_drawn

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def space():
    return MobileNetV2Space(
        "small", num_classes=10, in_channels=1, widths=[8, 16], depths=[2, 2], strides=[2, 2], stem_width=8, feature_mix=32
    )  # fmt: skip


def probabilities(space, epoch):
    """Choices of six and of seven candidates, one inside another, by label, and one that is none."""
    found = {
        label: dict(
            zip(mutable.values, np.random.default_rng(epoch).dirichlet([1.0] * len(mutable.values)), strict=True)
        )
        for label, mutable in sorted(space.simplify().items())
    }
    return {**found, "outer/inner": {0: 0.5, 1: 0.5}, "single": {"only": 1.0}}


def a_new_second():
    second = int(time.time())
    while int(time.time()) == second:
        time.sleep(0.01)


def told(folder, epochs, *, space=None, of=5, story=None):
    """What TensorBoard reads after these epochs (figures, sample, probabilities) of a search of ``of`` epochs.

    TensorBoard reads files in the order of their names: by their second, and within one, by a counter of the process, 10 before 9.
    So each search has a second of its own.
    """
    a_new_second()
    story, logger = story or TensorBoardLog(), TensorBoardLogger(str(folder), name="", version="tensorboard")
    for epoch, sample, probs in epochs:
        story.write(
            logger, epoch, of, space=space, figures={"default": 0.5, "table_ms": 2.0}, sample=sample, probs=probs,
            input_shape=SHAPE, unit="ms", worth="validation accuracy 50.0 %",
        )  # fmt: skip
    logger.finalize("success")
    return EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()


def searched(space, folder, begin, end):
    """Some epochs of one search, in a process of its own as far as the story knows."""
    drawn = [(epoch, probabilities(space, epoch)) for epoch in range(begin, end)]
    return told(folder, [(e, {x: max(p, key=p.get) for x, p in ps.items()}, ps) for e, ps in drawn], space=space)


def steps(read, tag):
    return [event.step for event in read.Images(tag)]


def test_tensorboard_has_a_heat_map_for_each_choice_and_the_net(space, tmp_path):
    read = searched(space, tmp_path, 0, 5)
    labels = {f"probabilities/{label}" for label in (*space.simplify(), "outer/inner")}
    assert set(read.Tags()["images"]) == labels | {"network"}
    assert set(read.Tags()["scalars"]) == {"search/default", "search/table_ms"}
    assert [event.step for event in read.Scalars("search/default")] == [1, 2, 3, 4, 5]
    for tag in labels:  # one that changes no more is drawn at first, and when all is over
        assert steps(read, tag) == ([1, 5] if tag == "probabilities/outer/inner" else [1, 2, 3, 4, 5])
    assert Image.open(io.BytesIO(read.Images("network")[-1].encoded_image_string)).size[0] > 500


def test_a_search_that_goes_on_shows_its_epochs_before_the_kill(space, tmp_path):
    """And nothing of the epoch that it goes through again; the pictures are those of a search that was never killed."""
    whole = searched(space, tmp_path / "whole", 0, 5)
    searched(space, tmp_path / "killed", 0, 4)
    killed = searched(space, tmp_path / "killed", 3, 5)
    for tag in whole.Tags()["images"]:
        assert killed.Images(tag)[-1].encoded_image_string == whole.Images(tag)[-1].encoded_image_string


def test_a_heat_map_is_drawn_when_its_probabilities_change(tmp_path):
    """Not while weights alone train, nor once the choice is made; at the end it shows all epochs, as if always drawn."""
    first = [0.5, 0.5, 0.25, 0.0, 0.0, 0.0]
    epochs = [(epoch, {}, {"a": {0: p, 1: 1 - p}}) for epoch, p in enumerate(first)]
    once = told(tmp_path / "once", epochs, of=6)
    assert steps(once, "probabilities/a") == [1, 3, 4, 6]
    for epoch in epochs:  # as after a kill: nothing is drawn yet
        anew = told(tmp_path / "anew", [epoch], of=6)
    assert steps(anew, "probabilities/a") == [1, 2, 3, 4, 5, 6]
    pictures = {e.step: e.encoded_image_string for e in anew.Images("probabilities/a")}
    assert all(pictures[e.step] == e.encoded_image_string for e in once.Images("probabilities/a"))


def many(epoch):
    """101 choices of two candidates and of three, in parts of the network, and one that is none."""
    rng = np.random.default_rng(epoch)
    names = {f"part{i // 10}.{i % 10}.x": ("a", "b", "c")[: 2 + i % 2] for i in range(101)}
    found = {label: dict(zip(of, rng.dirichlet([1.0] * len(of)).tolist(), strict=True)) for label, of in names.items()}
    return {**found, "single": {"only": 1.0}}


def test_of_more_than_a_hundred_choices_two_pictures_show_all(tmp_path):
    """After a kill, too: the last ones are those of a search that was never killed."""
    whole = told(tmp_path / "whole", [(epoch, {}, many(epoch)) for epoch in range(5)])
    assert set(whole.Tags()["images"]) == {"probabilities/choices", "probabilities/mean"}
    told(tmp_path / "killed", [(epoch, {}, many(epoch)) for epoch in range(4)])
    killed = told(tmp_path / "killed", [(epoch, {}, many(epoch)) for epoch in (3, 4)])
    for tag in whole.Tags()["images"]:
        assert steps(whole, tag) == [1, 2, 3, 4, 5]
        assert killed.Images(tag)[-1].encoded_image_string == whole.Images(tag)[-1].encoded_image_string
    picture = np.asarray(Image.open(io.BytesIO(whole.Images("probabilities/mean")[-1].encoded_image_string)))
    probs = many(2)
    mean = np.mean([of["c"] for of in probs.values() if "c" in of])
    color = colormaps["viridis"](round(mean, 6), bytes=True)[:3]
    assert np.abs(picture[place_of(["a", "b", "c"], 5, 2, 3)].astype(int) - color).max() <= 1


def test_the_means_of_an_epoch_are_taken_once(tmp_path, monkeypatch):
    """And again where the epoch is gone through again: the pictures are those of the epochs that count."""
    taken = []
    monkeypatch.setattr(tensorboard, "mean_probs", lambda probs: taken.append(1) or mean_probs(probs))
    whole = told(tmp_path / "whole", [(epoch, {}, many(epoch)) for epoch in range(5)])
    assert len(taken) <= 2 * 5, "one for the names of candidates"
    story = TensorBoardLog()
    told(tmp_path / "again", [(epoch, {}, many(epoch if epoch < 2 else 9)) for epoch in range(4)], story=story)
    again = told(tmp_path / "again", [(epoch, {}, many(epoch)) for epoch in range(2, 5)], story=story)
    for tag in whole.Tags()["images"]:
        assert again.Images(tag)[-1].encoded_image_string == whole.Images(tag)[-1].encoded_image_string


def test_a_hundred_choices_have_a_heat_map_each(tmp_path):
    probs = dict(list(many(0).items())[:100])
    read = told(tmp_path, [(0, {}, probs)], of=1)
    assert set(read.Tags()["images"]) == {f"probabilities/{label}" for label in probs}


def test_epochs_are_appended_and_a_line_that_a_kill_cut_off_is_none(tmp_path):
    file = tmp_path / "tensorboard" / PROBABILITIES
    story = TensorBoardLog()

    def told_of(*epochs, story):
        told(tmp_path, [(epoch, {}, many(epoch)) for epoch in epochs], story=story)
        return file.stat().st_ino, [json.loads(line)["epoch"] for line in file.read_text().splitlines()]

    first, epochs = told_of(0, story=story)
    assert epochs == [1]
    assert told_of(1, 2, story=story) == (first, [1, 2, 3]), "it is the same file, which has grown"
    with file.open("a") as torn:
        torn.write('{"epoch": 4, "probabili')
    again = TensorBoardLog()
    second, epochs = told_of(3, story=again)
    assert (second != first, epochs) == (True, [1, 2, 3, 4])
    assert told_of(1, story=again)[1] == [1, 2], "later epochs were those of another search"


def test_many_choices_have_a_row_each_and_their_parts_a_name():
    labels = [f"stage1.{block}.half0.{edge}" for block in range(20) for edge in range(12)]
    over_time = np.linspace(0, 1, 2 * len(labels)).reshape(len(labels), 2)
    picture = draw_choices("title", labels, over_time)
    colors = colormaps["viridis"](over_time, bytes=True)[..., :3]
    tall = (picture.shape[0] - draw_choices("title", labels[:1], over_time[:1]).shape[0]) / (len(labels) - 1)
    assert tall >= 1
    _, left = place_of(["stage1.19"], 2, 0, 1)
    rows = [picture[int(30 + tall * (row + 0.5)), left].tolist() for row in range(len(labels))]
    assert rows == colors[:, 0].tolist()
    assert draw_choices("title", labels * 10, np.tile(over_time, (10, 1))).shape[0] < 2 * len(labels) * 10


def test_the_net_is_drawn_when_it_changes(space, tmp_path):
    first, second = ({label: mutable.values[i] for label, mutable in space.simplify().items()} for i in (0, 1))
    epochs = [(epoch, sample, {}) for epoch, sample in enumerate([first, first, second, second, first])]
    assert steps(told(tmp_path, epochs, space=space), "network") == [1, 3, 5]


def test_a_picture_that_cannot_be_drawn_costs_a_line_of_the_log(space, tmp_path, caplog):
    """Labels that the space does not know; the curves are there."""
    read = told(tmp_path, [(e, {"other": 1}, {"other": {1: 0.5, 2: 0.5}}) for e in range(2)], space=space, of=2)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "nni_proxyless.search.tensorboard"]
    assert line.startswith("TensorBoard lacks pictures of this search: ")
    assert len(read.Scalars("search/default")) == 2


def test_a_search_draws_a_dozen_times_and_at_its_end():
    assert [epoch for epoch in range(25) if is_drawn(epoch, None)] == [*range(20), 21, 23]
    assert [epoch + 1 for epoch in range(32) if is_drawn(epoch, 32)] == [1, 2, 4, 7, 8, 10, 13, 16, 20, 23, 26, 29, 32]
    for epochs in (1, 11, 300):
        drawn = [epoch for epoch in range(epochs) if is_drawn(epoch, epochs)]
        assert (drawn[0], drawn[-1]) == (0, epochs - 1)
        assert len(drawn) < 20


@pytest.mark.parametrize("names", [["k3e3", "skip"], ["k3e3", "a candidate with a name that goes on and on"]])
def test_a_heat_map_shows_each_probability_at_its_epoch(names):
    over_time = np.array([[0.5, math.nan, 0.0], [0.5, math.nan, 1.0]])
    picture = draw_heat_map("stage1.0", names, over_time)
    white, colours = [255, 255, 255], colormaps["viridis"]([0.0, 0.5, 1.0], bytes=True)[:, :3].tolist()
    found = [[picture[place_of(names, 3, row, epoch)].tolist() for epoch in (1, 2, 3)] for row in (0, 1)]
    assert found == [[colours[1], white, colours[0]], [colours[1], white, colours[2]]]


# -- NNI's TensorBoard button ----------------------------------------------------------------------------------------------


@pytest.fixture
def trial(tmp_path, monkeypatch):
    """A trial on this machine, as far as its environment says: what it writes, and what the button opens."""
    root = tmp_path / "nni-experiments" / "abc"
    output = root / "environments" / "local-env" / "trials" / "xyz"
    output.mkdir(parents=True)
    for name, value in {"NNI_PLATFORM": "local", "NNI_OUTPUT_DIR": output, "NNI_TRIAL_JOB_ID": "xyz"}.items():
        monkeypatch.setenv(name, str(value))
    return output / "tensorboard", root / "trials" / "xyz" / "output" / "tensorboard"


def test_the_button_finds_what_the_trial_writes(trial, tmp_path):
    written, opened = trial
    connect_tensorboard()
    connect_tensorboard()  # the same trial, started again
    assert written.is_dir()
    (written / "events").write_text("curves")
    assert (opened / "events").read_text() == "curves"
    (tmp_path / "nni-experiments").rename(tmp_path / "moved")
    assert (tmp_path / "moved" / "abc" / opened.relative_to(tmp_path / "nni-experiments" / "abc") / "events").exists()


@pytest.mark.parametrize("before", ["empty folder", "other link"])
def test_a_button_that_was_quicker_than_the_trial_is_no_obstacle(trial, before, tmp_path):
    written, opened = trial
    opened.parent.mkdir(parents=True)
    opened.mkdir() if before == "empty folder" else opened.symlink_to(tmp_path)
    connect_tensorboard()
    assert opened.resolve() == written.resolve()


def test_somebody_s_files_stay_and_the_trial_goes_on(trial, caplog):
    _, opened = trial
    opened.mkdir(parents=True)
    (opened / "notes").write_text("mine")
    with caplog.at_level(logging.WARNING):
        connect_tensorboard()
    assert (opened / "notes").read_text() == "mine"
    assert "NNI's TensorBoard button will show nothing of this trial: " in caplog.text
    assert "Directory not empty" in caplog.text


@pytest.mark.parametrize("platform", [None, "remote"])
def test_nothing_is_linked_where_no_button_looks(trial, platform, monkeypatch):
    _, opened = trial
    monkeypatch.delenv("NNI_PLATFORM")
    if platform:
        monkeypatch.setenv("NNI_PLATFORM", platform)
    connect_tensorboard()
    assert not os.path.lexists(opened)


# -- and its Netron button ---------------------------------------------------------------------------------------------------


def test_an_address_answers_or_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert answers("127.0.0.1", port)
    assert not answers("127.0.0.1", port)
    assert not answers("no-such-host.invalid", 443)


def test_without_a_model_nobody_is_asked(trial, caplog):
    """Neither netron.app nor NNI's list of experiments, which is not there."""
    with caplog.at_level(logging.INFO):
        show_netron()
    assert caplog.text == ""


# -- the final training ------------------------------------------------------------------------------------------------------


def curves(folder):
    read = EventAccumulator(str(folder / "tensorboard")).Reload()
    return {tag: [(event.step, event.value) for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def test_a_training_that_goes_on_has_each_epoch_once(tmp_path):
    """Epoch 3 is gone through again after a kill; of an earlier training nothing is left."""
    for first, losses in ((1, [9.0] * 5), (1, [3.0, 2.0, 1.5]), (3, [1.0, 0.5])):
        a_new_second()  # see told
        written = Curves(tmp_path, first)
        for i, loss in enumerate(losses):
            written.add({"epoch": first + i, "train_loss": loss})
        written.close()
    assert curves(tmp_path) == {"training/train_loss": [(1, 3.0), (2, 2.0), (3, 1.0), (4, 0.5)]}
