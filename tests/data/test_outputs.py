"""A network's outputs are held against the classes of the images before the first epoch."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.train_config import TrainConfig
from nni_proxyless.core.errors import UserError
from nni_proxyless.data.outputs import outputs_problem, require_outputs, where_classes_are_given
from nni_proxyless.derive import Architecture, build_network
from nni_proxyless.models.export.check_images import CheckImages
from nni_proxyless.search.derivation import require_free
from nni_proxyless.training.loop import train

from ..tasks.classification import classification
from ..training.test_training import small

BASE = ["data.name=synthetic", "data.n_images=64", "data.channels=1", "data.image_size=8", "data.batch_size=6",
        "latency.estimator.name=macs", "latency.target_ms=null", "strategy.arc_update_every=1", "strategy.warmup_epochs=0",
        "training.epochs=1"]  # fmt: skip


class Space(ModelSpace):
    """One whose argument has a name of its own; what it gives is what ``form`` says."""

    def __init__(self, n_classes: int = 1000, k: int = 3, form: str = "logits", dtype: str = "float32"):
        super().__init__()
        self.c = LayerChoice([nn.Conv2d(1, 8, 1), nn.Conv2d(1, 8, k, padding=1)], label="c")
        self.h, self.form = nn.Linear(8, n_classes), form
        self.norm, self.drop = nn.BatchNorm1d(8), nn.Dropout()
        self.to(getattr(torch, dtype))

    def forward(self, x):
        maps = self.c(x)
        if self.form == "maps":
            return maps
        if self.form == "fails":
            return self.h(maps.flatten(1))
        logits = self.h(self.drop(self.norm(maps.mean((2, 3)))))
        return {"tuple": (logits, logits), "one": logits[0], "logits": logits}[self.form]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "gives outputs of shape (batch, 1000), where the images have 10 classes; allowed: (batch, 10). A search fills in an "
             "argument called num_classes or num_labels; name 'n_classes' so, or give it: space.n_classes=10"),
        (["space.n_classes=5"], "gives outputs of shape (batch, 5), where the images have 10 classes"),
        (["space.form=maps"], "gives outputs of shape (batch, 8, 8, 8), where"),
        (["space.form=tuple"], "gives a tuple; allowed: a tensor of shape (batch, 10)"),
        (["space.form=one"], "gives outputs of shape (1000), where"),
        (["space.form=fails"], "does not run on images of shape (1, 8, 8): "),
        (["space.n_classes=10", "space.dtype=bfloat16"],
         "It has weights of bfloat16, the images are float32; allowed: weights of float32, or a forward that converts"),
        (["space.n_classes=10", "space.dtype=float64"], "It has weights of float64, the images are float32; allowed"),
    ],
)  # fmt: skip
def test_a_space_that_does_not_fit_the_classes_is_refused(tmp_path, refused, words, said):
    output = f"output={tmp_path / 'run'}"
    message = refused("search", f"space.name={__name__}:Space", output, *BASE, *words).splitlines()[-1]
    assert message.startswith(f"nni-proxyless: space: {__name__}:Space ")
    assert said in message
    assert not (tmp_path / "run" / "latencies.yaml").exists()  # before anything is measured


def test_a_search_in_float64(tmp_path, capsys):
    """Networks are judged in the precision in which they are trained."""
    words = [f"output={tmp_path / 'run'}", *BASE, "data.n_images=256", "space.n_classes=10", "strategy.warmup_epochs=0"]
    for dtype in ("float32", "float64"):
        changed = [f"space.name={__name__}:Space", *words, "trainer.precision=64-true", f"space.dtype={dtype}"]
        assert main(["search", *changed]) == 0, capsys.readouterr().err
        assert "epoch 1/1: validation accuracy" in capsys.readouterr().err
        assert main(["derive", str(tmp_path / "run"), "--budget-ms", "1", "--output", str(tmp_path / dtype)]) == 0


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="it has one")
def test_an_accelerator_that_is_not_there(tmp_path, refused):
    words = [f"space.name={__name__}:Space", *BASE, "space.n_classes=10", "trainer.accelerator=gpu"]
    said = refused("search", f"output={tmp_path / 'run'}", *words).splitlines()[-1]
    assert said.startswith("nni-proxyless: trainer: ")
    assert "accelerator is 'gpu', devices 1; allowed: what this machine has" in said


def test_an_output_that_cannot_be_a_folder(tmp_path, refused):
    (tmp_path / "file").write_text("x")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        said = refused("search", f"output={output}", f"space.name={__name__}:Space", *BASE).splitlines()[-1]
        assert said.startswith(f"nni-proxyless: output: '{output}' cannot be made: ")
        with pytest.raises(UserError, match="is a file; name another folder"):
            require_free(output)
    assert (tmp_path / "file").read_text() == "x"


def test_which_argument_carries_the_number_of_classes():
    given = where_classes_are_given(["num_labels", "k"], {"num_labels": 5}, 10)
    assert given == ". Leave out space.num_labels: a search fills it in"
    assert where_classes_are_given(["num_classes"], {}, 10) == ". Its constructor got num_classes=10"
    assert "name 'out_dim' so" in where_classes_are_given(["k", "out_dim"], {}, 10)
    assert where_classes_are_given(["k", "w"], {}, 10).endswith("its constructor takes k, w")


def test_a_look_at_the_outputs_changes_nothing():
    space = Space(10)
    space.norm.eval()  # its owner has frozen it
    modes = [module.training for module in space.modules()]
    state, generator = copy.deepcopy(space.state_dict()), torch.get_rng_state()
    require_outputs(space, data.synthetic(n_images=20, channels=1, image_size=8), "space")
    assert modes == [module.training for module in space.modules()]
    assert all(torch.equal(tensor, state[name]) for name, tensor in space.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert (
        outputs_problem(space, torch.zeros(2, 1, 8, 8, dtype=torch.float64), classification(10)) is None
    )  # all is computed so
    assert outputs_problem(space, torch.zeros(2, 1, 8, 8), classification(10)) is None


def test_a_network_of_other_classes_is_not_trained_nor_checked_on_these_images(tmp_path, caplog):
    path = small(tmp_path)
    content = json.loads(path.read_text())
    four = {"n_images": 64, "channels": 1, "image_size": 8, "num_classes": 4}
    path.write_text(json.dumps(content | {"data": {"name": "synthetic", "arguments": four}}))
    problem = "network gives outputs of shape (batch, 10), where the images have 4 classes"
    for epochs in (0, 1):
        config = read_config(TrainConfig, None, [("test", "epochs", epochs), ("test", "device", "cpu")])
        with pytest.raises(UserError) as error:
            train(config, path, tmp_path / "out")
        assert str(error.value) == f"{path}: its {problem}; allowed: (batch, 4)"
    assert not (tmp_path / "out").exists()
    architecture = Architecture.read(path)
    images = CheckImages.of(architecture, (1, 8, 8), build_network(architecture).eval())
    assert images.data is None
    assert f"the {problem}" in caplog.text
