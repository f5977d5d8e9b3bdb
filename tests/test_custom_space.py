"""``docs/how-to/your_space.md`` and ``docs/how-to/your_data.md`` as they stand there: their files written, their commands given."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.data import ImageData, digits
from nni_proxyless.data.validate import make_images
from nni_proxyless.derive import Architecture
from nni_proxyless.models.space import make_searchable_space

from .forked import fork
from .search.test_experiment import run_to_the_end


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


def test_the_walk_from_an_empty_folder_to_a_trained_net(command, tmp_path, pytestconfig, forget, monkeypatch, capsys):
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
    search = fork(main, ["search", "search.yml", "output=first"], cwd=tmp_path, said=tmp_path / "said")
    search.join()
    assert search.exitcode == 0, (tmp_path / "said").read_text()
    first = Architecture.read(run / "architecture.json")
    assert first.space == {
        "name": "my_package.space:Blocks",
        "arguments": {"num_classes": 3, "in_channels": 1, "width": 16},
    }
    assert set(first.choices) == {"first", "more0", "more1", "more2", "depth"}
    assert first.latency["conditions"]["device"] == "my board"

    commands.remove("pip install .")
    installed = command("pip", "install", ".", **own)
    assert installed.returncode == 0, installed.stderr
    commands.remove("nnictl create --config experiment.yml --port 8080")
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
    path = "first/architecture.json"
    assert main(["draw", path]) == 2
    assert "gives no timm block definition, so there are no blocks to draw" in capsys.readouterr().err
    quick = ["epochs=1", "batch_size=32", "threads=1", "weights=inherited"]
    assert main(["train", path, *quick, "drop_path=0.1"]) == 2
    assert "drop_path: the network of space 'my_package.space:Blocks' is no model of timm" in capsys.readouterr().err
    assert (
        main(["train", path, *quick, "distillation={teacher: architecture.json}", f"output={tmp_path / 'taught'}"]) == 0
    )
    (tmp_path / "my_package" / "space.py").unlink()
    forget_modules()
    capsys.readouterr()
    assert main(["train", path, *quick]) == 2
    assert (
        "the space 'my_package.space:Blocks' of the architecture makes no network: 'my_package.space:Blocks' does not "
        in (said := capsys.readouterr().err)
    )
    assert "Its package must be installed as it was when the network was found" in said


def test_the_page_on_images(tmp_path, pytestconfig, forget, capsys):
    """Every command of it but the download of CIFAR, whose file is checked."""
    commands = write_files(pytestconfig.rootpath / "docs" / "how-to" / "your_data.md", tmp_path)
    for part, n in (("train", 12), ("val", 4)):
        for red, name in enumerate(("daisy", "tulip")):
            (tmp_path / "flowers" / part / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (40, 48), (255 * red, 10 * i, 100)).save(
                    tmp_path / "flowers" / part / name / f"{i:03}.jpg"
                )
    for line in (
        "nni-proxyless search folder.yml output=flowers-net",
        "nni-proxyless search blobs.yml output=blobs-net",
    ):
        commands.remove(line)
        fewer = ["data.n_images=300"] if "blobs" in line else []
        assert main([*line.split()[1:], *fewer]) == 0, capsys.readouterr().err
    assert commands == ["nni-proxyless search cifar.yml"]
    assert read_config(SearchConfig, tmp_path / "cifar.yml").data.name == "cifar10"
    flowers = Architecture.read(tmp_path / "flowers-net" / "architecture.json")
    assert (flowers.input_shape, flowers.space["arguments"]["num_classes"]) == ((3, 32, 32), 2)
    blobs = Architecture.read(tmp_path / "blobs-net" / "architecture.json")
    assert (blobs.input_shape, blobs.space["arguments"]["in_channels"]) == ((1, 16, 16), 1)

    text = (tmp_path / "my_data.py").read_text()
    (tmp_path / "my_data.py").write_text(
        text.replace("targets = torch.arange(n) % 2", "targets = torch.arange(n) % 2 + 1")
    )
    del sys.modules["my_data"]
    capsys.readouterr()
    assert main(["search", "blobs.yml", "output=again"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"    {said}\n" in (pytestconfig.rootpath / "docs" / "how-to" / "your_data.md").read_text()


def changed(**fields: Any) -> Any:
    """The digits with other fields, as somebody's function might give them."""
    return ImageData(**{**vars(digits(image_size=8)), **fields})


def short(n: int) -> Any:
    return torch.utils.data.Subset(digits(image_size=8).train, range(n))


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("builtins:dict", {}, "data: builtins:dict gives a dict; allowed: nni_proxyless.data.ImageData"),
        (f"{__name__}:changed", {"train": short(3)}, "gives train with 3, train_plain with 1438, targets with 1438 entries; allowed: the same images in the same order in all three"),
        (f"{__name__}:changed", {"num_classes": 9}, "gives targets with 10 classes from 0 to 9; allowed with num_classes 9: 0 to 8, each at least once"),
        (f"{__name__}:changed", {"shape": (3, 8, 8)}, "gives images of shape (1, 8, 8); allowed with shape (3, 8, 8): that in train_plain"),
        (f"{__name__}:changed", {"test": []}, "gives no image in test; allowed: one or more"),
        (f"{__name__}:changed", {"test": [(torch.zeros(1, 8, 8, dtype=torch.uint8), 1)]}, "gives torch.uint8 tensors as images; allowed: tensors of torch.float32 in test"),
        (f"{__name__}:changed", {"test": [torch.zeros(1, 8, 8)]}, "gives a Tensor; allowed: an image and its class in test"),
        (f"{__name__}:changed", {"targets": [*range(9, -1, -1), *digits(image_size=8).targets[10:]]}, "the same order"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused(name, arguments, message):
    with pytest.raises(UserError) as error:
        make_images(name, arguments)
    assert message in str(error.value)


def test_a_module_of_the_users_own_that_does_not_import_says_where(tmp_path, forget, capsys):
    (tmp_path / "their_data.py").write_text("import torch\n\ntorch.zeros(2)[3]\n")
    assert main(["search", "data.name=their_data:blobs"]) == 2
    assert (
        f"'their_data:blobs' does not import: {tmp_path / 'their_data.py'}, line 3: IndexError: index 3 is out of bounds"
        in (capsys.readouterr().err)
    )
    (tmp_path / "their_data.py").write_text("def blobs(:\n")
    assert main(["search", "data.name=their_data:blobs"]) == 2
    assert f"'their_data:blobs' does not import: {tmp_path / 'their_data.py'}, line 1: invalid syntax" in (
        capsys.readouterr().err
    )
    (tmp_path / "their_data.py").write_text("def blobs():\n    return None\n")
    assert main(["search", "data.name=their_data:blob"]) == 2
    assert "module their_data has no 'blob'. Did you mean 'blobs'?" in capsys.readouterr().err
    assert main(["search", "data.name=your_data:blobs"]) == 2
    assert f"allowed: a module that is installed, or one in the current folder, {tmp_path}" in capsys.readouterr().err


def test_a_space_without_a_choice_is_refused():
    with pytest.raises(
        UserError, match=r"tests\.training\.test_training:Plain has no choice, so there is nothing to search"
    ):
        make_searchable_space("tests.training.test_training:Plain", {})
