"""``docs/how-to/your_space.md`` and ``docs/how-to/your_data.md`` as they stand there: their files written, their commands given."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.derive import Architecture
from nni_proxyless.models.space import make_searchable_space

from .forked import fork
from .search.test_experiment import run_to_the_end

FEWER = "search.judged=8"  # networks, where the pages leave it at 128


def write_files(page: Path, folder: Path) -> list[str]:
    """Write the blocks of a page that begin with the name of a file; returns the commands of the page."""
    text = page.read_text(encoding="utf-8")
    for code in re.findall(r"```\w+\n(.*?)```", text, re.DOTALL):
        name = re.match(r"# ([\w/]+\.\w+)\n", code)
        assert name is not None, code
        (folder / name[1]).parent.mkdir(exist_ok=True)
        (folder / name[1]).write_text(code)
    return re.findall(r"^    ((?:nni-proxyless|nnictl|pip) .*)$", text, re.MULTILINE)


@pytest.fixture
def forget(monkeypatch, tmp_path):
    """Modules of the pages are imported from the folder of the test, and not kept for the next one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    forget_modules()


def forget_modules() -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("my_package", "my_data", "their_data")]:
        del sys.modules[name]


def test_the_walk_from_an_empty_folder_to_a_trained_net(
    command, tmp_path, pytestconfig, forget, monkeypatch, refused, capsys
):
    """Space, images and estimator of a user's own: searched by path and, installed, by name under NNI; derived, trained,
    exported, read back."""
    commands = write_files(pytestconfig.rootpath / "docs" / "how-to" / "your_space.md", tmp_path)
    own = {
        # Where pip installs, without an index: what the package needs is there.
        "PIP_TARGET": str(tmp_path / "site"), "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1",
        "PYTHONPATH": str(tmp_path / "site"), "HOME": str(tmp_path), "PIP_ROOT_USER_ACTION": "ignore",
    }  # fmt: skip

    run = tmp_path / "first"
    commands.remove("nni-proxyless search search.yml output=first")
    search = fork(main, ["search", "search.yml", "output=first", FEWER], cwd=tmp_path, said=tmp_path / "said")
    search.join()
    assert search.exitcode == 0, (tmp_path / "said").read_text()
    first = Architecture.read(run / "architecture.json")
    arguments = {"num_classes": 3, "in_channels": 1, "width": 16}
    assert first.space == {"name": "my_package.space:Blocks", "arguments": arguments}
    assert set(first.choices) == {"first", "more0", "more1", "more2", "depth"}
    assert first.latency["conditions"]["device"] == "my board"

    commands.remove("pip install .")
    installed = command("pip", "install", ".", **own)
    assert installed.returncode == 0, installed.stderr
    commands.remove("nnictl create --config experiment.yml --port 8080")
    given = (tmp_path / "experiment.yml").read_text()
    assert "search search.yml " in given
    (tmp_path / "experiment.yml").write_text(given.replace("search search.yml ", f"search search.yml {FEWER} "))
    ended = run_to_the_end(command, tmp_path, "experiment.yml", own)
    experiment, trials = ended.id, ended.trials
    assert ended.watched.returncode == 0
    assert [trial["status"] for trial in trials] == ["SUCCEEDED"] * 2
    commands.remove("nni-proxyless report")
    with monkeypatch.context() as at_home:
        at_home.setenv("HOME", str(tmp_path))
        capsys.readouterr()
        assert main(["report"]) == 0
    table = capsys.readouterr().out
    found = {}
    for trial in trials:
        (run,) = tmp_path.glob(f"nni-experiments/{experiment}/environments/*/trials/{trial['trialJobId']}")
        assert str(run) in table
        found[run] = Architecture.read(run / "architecture.json")
    assert {(a.space["name"], a.data["name"]) for a in found.values()} == {
        ("my-blocks", "stripes"), ("my_package.space:Blocks", "stripes"),
    }  # fmt: skip
    assert all(a.choices == first.choices for a in found.values())  # by whatever name, the same search

    run = next(run for run, a in found.items() if a.space["name"] == "my-blocks")
    with monkeypatch.context() as patched:  # in this process, as starting one takes longer than each of these does
        patched.syspath_prepend(tmp_path / "site")
        for line in (
            "nni-proxyless derive RUN --budget-ms 1.5",
            "nni-proxyless train RUN/budget-1.500/architecture.json epochs=3 batch_size=32 dropout=0.1",
            "nni-proxyless export RUN/budget-1.500/architecture.json --formats onnx torchscript --repeats 5",
        ):
            commands.remove(line)
            assert main(line.replace("RUN", str(run)).split()[1:]) == 0, capsys.readouterr().err
    assert commands == []
    forget_modules()
    derived = run / "budget-1.500"
    architecture = Architecture.read(derived / "architecture.json")
    assert architecture.latency["table_ms"] <= 1.5
    assert architecture.search["weights"] == "supernet"
    assert json.loads((derived / "final" / "result.json").read_text())["accuracy"] > 0.8
    assert {"model.onnx", "model.torchscript.pt", "export.json"} <= {path.name for path in derived.iterdir()}
    done = command(sys.executable, "-W", "ignore", "use.py", derived, **own)
    assert done.stdout == f"{architecture.n_params} parameters\n", done.stderr

    # What the page says of such nets, where the package is not installed but lies in the current folder.
    path, mine = "first/architecture.json", "'my_package.space:Blocks'"
    assert "gives no timm block definition, so there are no blocks to draw" in refused("draw", path)
    quick = ["train", path, "epochs=1", "batch_size=32", "threads=1", "weights=inherited"]
    assert f"drop_path: the network of space {mine} is no model of timm" in refused(*quick, "drop_path=0.1")
    taught = ["distillation={teacher: architecture.json}", f"output={tmp_path / 'taught'}"]
    assert main([*quick, *taught]) == 0
    (tmp_path / "my_package" / "space.py").unlink()
    forget_modules()
    said = refused(*quick)
    assert f"the space {mine} of the architecture makes no network: {mine} does not " in said
    assert "Its package must be installed as it was when the network was found" in said


def test_the_page_on_images(tmp_path, pytestconfig, forget, refused, capsys):
    """Every command of it but the download of CIFAR, whose file is checked."""
    commands = write_files(pytestconfig.rootpath / "docs" / "how-to" / "your_data.md", tmp_path)
    for part, n in (("train", 12), ("val", 4)):
        for red, name in enumerate(("daisy", "tulip")):
            (tmp_path / "flowers" / part / name).mkdir(parents=True)
            for i in range(n):
                picture = Image.new("RGB", (40, 48), (255 * red, 10 * i, 100))
                picture.save(tmp_path / "flowers" / part / name / f"{i:03}.jpg")
    for name, output in (("folder", "flowers-net"), ("blobs", "blobs-net")):
        line = f"nni-proxyless search {name}.yml output={output}"
        commands.remove(line)
        fewer = ["data.n_images=300"] if "blobs" in line else []
        words = [*line.split()[1:], *fewer, FEWER, "training.epochs=1", "strategy.warmup_epochs=0"]
        assert main(words) == 0, capsys.readouterr().err
    assert commands == ["nni-proxyless search cifar.yml"]
    assert read_config(SearchConfig, tmp_path / "cifar.yml").data.name == "cifar10"
    flowers = Architecture.read(tmp_path / "flowers-net" / "architecture.json")
    assert (flowers.input_shape, flowers.space["arguments"]["num_classes"]) == ((3, 32, 32), 2)
    blobs = Architecture.read(tmp_path / "blobs-net" / "architecture.json")
    assert (blobs.input_shape, blobs.space["arguments"]["in_channels"]) == ((1, 16, 16), 1)

    text = (tmp_path / "my_data.py").read_text()
    (tmp_path / "my_data.py").write_text(text.replace("torch.arange(n) % 2", "torch.arange(n) % 2 + 1", 1))
    del sys.modules["my_data"]
    said = refused("search", "blobs.yml", "output=again").splitlines()[-1]
    assert f"    {said}\n" in (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text()


def test_a_module_of_the_users_own_that_does_not_import_says_where(tmp_path, forget, refused):
    path, unknown = (
        tmp_path / "their_data.py",
        f"allowed: a module that is installed, or one in the current folder, {tmp_path}",
    )
    for text, name, said in (
        ("import torch\n\ntorch.zeros(2)[3]\n", "their_data:blobs", f"does not import: {path}, line 3: IndexError: index 3 is out of bounds"),
        ("def blobs(:\n", "their_data:blobs", f"does not import: {path}, line 1: invalid syntax"),
        ("def blobs():\n    return None\n", "their_data:blob", "module their_data has no 'blob'. Did you mean 'blobs'?"),
        ("", "your_data:blobs", unknown),
    ):  # fmt: skip
        path.write_text(text)
        assert said in refused("search", f"data.name={name}")


def test_a_space_without_a_choice_is_refused():
    with pytest.raises(
        UserError, match=r"tests\.training\.test_training:Plain has no choice, so there is nothing to search"
    ):
        make_searchable_space("tests.training.test_training:Plain", {})
