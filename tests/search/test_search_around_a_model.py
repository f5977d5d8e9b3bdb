"""From a model of timm to a trained network of its space: the commands that a user types, on the digits."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch
import yaml
from pytorch_lightning import Trainer
from safetensors.torch import load_file

import nni_proxyless.timm_models  # noqa: F401  (registers with timm)
from nni_proxyless.cli.main import main
from nni_proxyless.config.read import read_config
from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.data import digits
from nni_proxyless.derive import Architecture, count_macs, to_timm
from nni_proxyless.models.block_diagram import diagram_of_architecture
from nni_proxyless.models.original import Original
from nni_proxyless.search.build import images_of
from nni_proxyless.search.evaluator import TaskTraining
from nni_proxyless.search.evolved_space import EvolvedSpace
from nni_proxyless.search.original import with_share

from ..tasks.classification import classification

MODEL = "mobilenetv3_small_050"


@pytest.fixture(scope="module")
def run(tmp_path_factory, request):
    """A search around a model whose weights are in a file."""
    folder = tmp_path_factory.mktemp("around")
    torch.manual_seed(0)
    torch.save(timm.create_model(MODEL).state_dict(), folder / "weights.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["init", ".", "--from", f"timm:{MODEL}", "--target", "60%"]) == 0
        words = ["space.weights=weights.pth", "latency.estimator={name: macs}", "latency.table=null", "output=run"]
        words += ["training.epochs=2", "strategy.warmup_epochs=1", "data.batch_size=128", "search.select=supernet"]
        assert main(["search", "search.yml", *words]) == 0
        yield folder / "run"


def test_a_search_leaves_a_network_within_its_target(run, monkeypatch):
    architecture = Architecture.read(run / "architecture.json")
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]
    assert architecture.network["model"] == MODEL
    weights = load_file(run / "weights.safetensors")
    network = to_timm(architecture, weights).eval()
    assert type(network).__name__ == "MobileNetV3"
    created = timm.create_model(
        "proxyless_derived", pretrained=True, architecture=str(run / "architecture.json"), drop_path_rate=0.1
    ).eval()
    x = torch.randn(2, *architecture.input_shape)
    with torch.no_grad():
        assert torch.equal(network(x), created(x))
        maps = timm.create_model(
            "proxyless_derived", pretrained=True, architecture=str(run / "architecture.json"), features_only=True
        ).eval()
        assert [m.shape[1] for m in maps(x)] == maps.feature_info.channels()
        assert [x.shape[-1] // m.shape[-1] for m in maps(x)] == maps.feature_info.reduction()


def test_it_is_derived_again_trained_drawn_and_exported(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    budget = 0.8 * json.loads((run / "architecture.json").read_text())["latency"]["table_ms"]
    assert main(["derive", "run", "--budget-ms", str(budget), "--output", "smaller"]) == 0
    assert Architecture.read("smaller/architecture.json").latency["table_ms"] <= budget
    assert main(["train", "smaller/architecture.json", "weights=inherited", "epochs=1", "drop_path=0.1"]) == 0
    assert main(["draw", "smaller", "--output", "net.svg"]) == 0
    assert main(["export", "smaller/architecture.json", "--formats", "onnx", "--repeats", "1"]) == 0
    assert (run.parent / "net.svg").exists()
    diagram = diagram_of_architecture(run.parent / "smaller" / "architecture.json")
    definition = Architecture.read("smaller/architecture.json").network
    assert diagram.stages[-2].notes == ("1×1", "1024 ch"), "MobileNetV3 pools before its last convolution"
    shown = [[block.skipped for block in stage.blocks] for stage in diagram.stages[1:-2]]
    assert shown == [[i not in kept for i in range(depth)] for kept, depth in zip(definition["made_from"], definition["depths"], strict=True)]  # fmt: skip


def test_what_is_made_of_a_search_does_without_the_file_of_its_weights(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    assert "weights" not in Architecture.read("run/architecture.json").space["arguments"]
    (run.parent / "weights.pth").rename(tmp_path / "elsewhere.pth")
    try:
        cost = json.loads((run / "architecture.json").read_text())["latency"]["table_ms"]
        assert (
            main(["derive", "run", "--budget-ms", str(0.9 * cost), "--judge", "3", "--output", str(tmp_path / "net")])
            == 0
        )
        assert (
            main(["reference", "run", "--widths", "1", "--random", "1", "--output", str(tmp_path / "reference")]) == 0
        )
    finally:
        (tmp_path / "elsewhere.pth").rename(run.parent / "weights.pth")


def test_what_it_has_to_beat_is_the_model_at_several_widths(run, tmp_path, capsys):
    words = ["--widths", "0.5", "1", "--random", "1", "--output", str(tmp_path)]
    assert main(["reference", str(run), *words]) == 0
    said = capsys.readouterr().out
    assert f"structure: {MODEL} of timm" in said
    whole = Architecture.read(tmp_path / "width-1.0" / "architecture.json")
    model = timm.create_model(MODEL, num_classes=10, in_chans=1)
    assert whole.n_params == sum(p.numel() for p in model.parameters())
    assert Architecture.read(tmp_path / "width-0.5" / "architecture.json").n_params < whole.n_params
    assert main(["train", str(tmp_path / "width-0.5" / "architecture.json"), "weights=scratch", "epochs=1"]) == 0


def test_widths_of_stages_are_searched_from_its_weights(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", ".", "--from", f"timm:{MODEL}", "--strategy", "dsnas", "--target", "60%"]) == 0
    words = [
        "latency.estimator={name: macs}",
        "latency.table=null",
        "output=run",
        "training.epochs=4",
        "data.batch_size=128",
    ]
    words += [f"space.weights={run.parent / 'weights.pth'}", "strategy.warmup_epochs=1", "strategy.search_epochs=2"]
    assert main(["search", "search.yml", *words]) == 0
    architecture = Architecture.read("run/architecture.json")
    assert architecture.latency["table_ms"] <= architecture.latency["target_ms"]
    widths = {label: int(value) for label, value in architecture.choices.items() if label.endswith(".width")}
    assert sorted(widths) == ["stage2.width", "stage4.width", "stage5.width"], (
        "others have too few channels for another multiple of 8"
    )
    network = to_timm(architecture, load_file("run/weights.safetensors"))
    assert network.blocks[5][0].conv.out_channels == network.conv_head.in_channels == widths["stage5.width"]
    assert count_macs(network, architecture.input_shape) / 1e6 == pytest.approx(architecture.latency["table_ms"])
    assert main(["train", "run/architecture.json", "weights=inherited", "epochs=1"]) == 0
    assert main(["draw", "run", "--output", "net.svg"]) == 0
    assert main(["export", "run/architecture.json", "--formats", "onnx", "--repeats", "1"]) == 0
    notes = diagram_of_architecture(tmp_path / "run" / "architecture.json").stages[6].notes
    assert notes[-1] == f"{widths['stage5.width']} ch"
    assert main(["reference", "run", "--widths", "1", "--output", "reference"]) == 0
    whole = Architecture.read("reference/width-1.0/architecture.json")
    assert whole.n_params == sum(p.numel() for p in timm.create_model(MODEL, num_classes=10, in_chans=1).parameters())


def test_what_a_strategy_cannot_search_is_refused_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", ".", "--from", f"timm:{MODEL}"]) == 0
    assert main(["search", "search.yml", "output=run", "space.widths=[0.5, 1]", "latency.table=null"]) == 2
    said = capsys.readouterr().err
    assert (
        "strategy: proxyless cannot search TimmSpace: choice 'stage1.width' gives another shape with each candidate"
        in said
    )
    assert "allowed: ProxylessNAS with update 'reinforce', DSNAS" in said
    assert "latencies" not in said


def test_a_survey_has_the_model_beside_the_others(run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    words = ["latency.estimator={name: macs}", "latency.table=null", "--no-time", "--json", "space.json"]
    assert main(["space", "search.yml", *words]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^cost +fastest +middle +slowest +the model$", said, re.MULTILINE)
    costs = json.loads((run.parent / "space.json").read_text())["costs"]["latency"]
    model = timm.create_model(MODEL, num_classes=10, in_chans=1)
    model.conv_stem.stride = (1, 1)
    assert costs["original"] == pytest.approx(count_macs(model, (1, 16, 16)) / 1e6)
    assert costs["fastest"] < costs["original"] < costs["slowest"]


def test_init_says_which_models_there_are_and_which_are_none(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "x", "--from", f"timm:{MODEL}", "--data", "cifar10"]) == 0
    space = yaml.safe_load((tmp_path / "x" / "search.yml").read_text())["space"]
    assert (space["name"], space["model"], space["stem_stride"]) == ("timm", MODEL, 1)
    assert main(["check", "x/proxyless.yml", "x/search.yml"]) == 0
    capsys.readouterr()
    for words, said in {
        ("--from", "timm:mixnet_s"): "--from: space: model is 'mixnet_s', of which no space can be made: blocks.2.0: conv_dw is a MixedConv2d",
        ("--from", "timm:mobilenet3"): "--from: space: model is 'mobilenet3'; allowed: a model of timm.",
        ("--from", MODEL): f"--from: '{MODEL}' is not allowed; allowed: timm:MODEL",
        ("--from", f"timm:{MODEL}", "--space", "eeea-net"): "--from and --space say the same twice",
    }.items():  # fmt: skip
        assert main(["init", "y", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "y").exists()
    for model, said in {
        "mobilenet3": "allowed: a model of timm.",
        "mixnet_s": "no space can be made",
        "lcnet_035": "timm has none",
    }.items():
        assert main(["check", "x/search.yml", f"space.model={model}", "space.weights=pretrained"]) == 2
        assert said in capsys.readouterr().err


def test_init_lists_the_models(monkeypatch, capsys):
    from nni_proxyless.search_spaces import timm_network

    some = [MODEL, "mixnet_s", "mobilenetv4_conv_small"]
    monkeypatch.setattr(timm_network, "family", lambda: some)  # all of them: 20 seconds
    assert main(["init", "--list"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:2]] == [MODEL, "mobilenetv4_conv_small"]
    assert "1 others of the family" in said[3]
    assert "blocks.2.0: conv_dw is a MixedConv2d" in said[4]


TEACHING = (
    "latency.estimator={name: macs}",
    "latency.table=null",
    "training.epochs=1",
    "strategy.warmup_epochs=0",
    "search.judged=4",
)


def test_a_supernet_learns_from_the_model_it_is_made_around(tmp_path, monkeypatch, capsys):
    """With a share close to 1, the answers of the original are what it learns, be they right or not."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    teacher = timm.create_model(MODEL, num_classes=10, in_chans=1)
    torch.nn.init.zeros_(teacher.classifier.weight)
    with torch.no_grad():
        teacher.classifier.bias.copy_(torch.tensor([4.0] + [0.0] * 9))  # it takes every digit for a zero
    torch.save(teacher.state_dict(), "weights.pth")
    before = {name: tensor.clone() for name, tensor in torch.load("weights.pth", weights_only=True).items()}
    assert main(["init", ".", "--from", f"timm:{MODEL}", "--target", "60%"]) == 0
    said = {}
    for share in ("0", "0.99"):
        words = [*TEACHING, "space.weights=weights.pth", f"training.distillation={share}", f"output=run{share}"]
        assert main(["search", "search.yml", *words]) == 0
        architecture = Architecture.read(f"run{share}/architecture.json")
        network = to_timm(architecture, load_file(f"run{share}/weights.safetensors")).eval()
        with torch.no_grad():
            said[share] = network(digits().test.images[:100]).softmax(dim=1).mean(dim=0)
    wanted = teacher.classifier.bias.detach().softmax(dim=0)
    distance = {share: float((mean - wanted).abs().sum()) for share, mean in said.items()}
    assert distance["0.99"] < 0.1
    assert distance["0.99"] < 0.5 * distance["0"]
    after = torch.load("weights.pth", weights_only=True)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_by_default_half_of_the_loss_is_the_originals_where_its_weights_know_the_classes(tmp_path, monkeypatch, capsys):
    """In the search, and in the final training of what comes of it: the network, one that is derived, the model itself at other widths."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(timm.create_model(MODEL, num_classes=10, in_chans=1).state_dict(), "weights.pth")
    assert main(["init", ".", "--from", f"timm:{MODEL}", "--target", "60%"]) == 0
    words = ["search", "search.yml", *TEACHING, "space.weights=weights.pth", "output=run"]
    assert main(words) == 0
    said = f"distillation: the supernet learns from {MODEL} (weights.pth), whose share of the loss is 0.5"
    assert capsys.readouterr().err.count(said) == 1
    assert yaml.safe_load((tmp_path / "run" / "search.yml").read_text())["training"]["distillation"] == 0.5
    searched = Architecture.read("run/architecture.json")
    assert searched.search["distillation"] == 0.5
    assert main(["space", "search.yml", *TEACHING, "space.weights=weights.pth"]) == 0
    assert f"the supernet learns from {MODEL}" in capsys.readouterr().err, "whose time belongs to that of a step"
    file = str(tmp_path / "weights.pth")
    assert searched.search["original"] == {"model": MODEL, "weights": file}
    assert main(["derive", "run", "--budget-ms", str(searched.latency["table_ms"]), "--output", "derived"]) == 0
    assert main(["reference", "run", "--widths", "0.5", "--random", "1", "--output", "reference"]) == 0
    networks = ["run", "derived", "reference/width-0.5", "reference/random-0.0"]
    assert all(Architecture.read(f"{one}/architecture.json").search["original"]["weights"] == file for one in networks)
    monkeypatch.chdir("reference")  # the path is that of the search, from wherever the training is started
    capsys.readouterr()
    assert main(["train", "width-0.5/architecture.json", "weights=scratch", "epochs=1"]) == 0
    assert f"distillation: learns from {MODEL} ({file}), whose share of the loss is 0.5" in capsys.readouterr().err
    trained = json.loads((tmp_path / "reference" / "width-0.5" / "final" / "result.json").read_text())
    assert trained["distillation"] == {
        "teacher": MODEL,
        "weights": file,
        "share": 0.5,
        "temperature": 1.0,
        "anneal": True,
    }


def test_by_default_there_is_no_teacher_where_its_weights_are_for_other_classes(run, capsys):
    """Of the search of this module; and the log of the final training says so too."""
    assert yaml.safe_load((run / "search.yml").read_text())["training"]["distillation"] == 0
    assert Architecture.read(run / "architecture.json").search["distillation"] == 0
    words = ["weights=inherited", "epochs=1", f"output={run / 'once'}"]
    assert main(["train", str(run / "architecture.json"), *words]) == 0
    said = "distillation: trained without a teacher: the weights of "
    assert capsys.readouterr().err.count(said) == 1
    with_share(read_config(SearchConfig, run / "search.yml", [("test", "training.distillation", None)]), images_of)
    assert "distillation: none: the weights of " in capsys.readouterr().err


def test_a_trial_of_an_evolution_has_the_original_too(run, monkeypatch):
    monkeypatch.chdir(run.parent)
    evolved = EvolvedSpace.read(run / "search.yml")
    found = evolved.record(evolved.space.original)
    assert found.search["original"] == {"model": MODEL, "weights": str(run.parent / "weights.pth")}
    assert Original.of(found) == Original(MODEL, str(run.parent / "weights.pth"), 1)


def test_the_loss_of_the_weights_has_its_share_of_the_teacher(monkeypatch):
    images, targets = torch.randn(6, 1, 8, 8), torch.arange(6)
    network, teacher = (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)) for _ in range(2))
    training = TaskTraining(
        task=classification(10), optimizer="sgd", learning_rate=0.1, momentum=0.9, weight_decay=0.0, label_smoothing=0.1,
        teacher=teacher.eval(), distillation=0.3,
    )  # fmt: skip
    training.set_model(network)
    monkeypatch.setattr(training, "log", lambda *given, **more: None)
    training.trainer = trainer = Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False)
    p, q = teacher(images).softmax(dim=1), network(images).softmax(dim=1)
    distance = (p * (p / q).log()).sum(dim=1).mean()
    plain = torch.nn.functional.cross_entropy(network(images), targets, label_smoothing=0.1)
    for epoch, share in enumerate((0.3, 0.225, 0.15, 0.075)):
        trainer.fit_loop.epoch_progress.current.completed = epoch
        found = training.training_step((images, targets), 0)
        assert torch.allclose(found, (1 - share) * plain + share * distance, atol=1e-6)
    assert torch.allclose(
        training.architecture_loss((images, targets), 0), torch.nn.functional.cross_entropy(network(images), targets)
    )
    assert not any(p is own for p in teacher.parameters() for own in training.parameters())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["space={name: mobilenetv2, preset: small}"], "there is no model to learn from"),
        (["space.weights=null"], "there is no model to learn from"),
        (["space.weights=weights.pth"], f"the weights of {MODEL} (weights.pth) tell 1000 classes apart, the images have 10"),
        (["training.distillation=1"], "training.distillation: 1 is not allowed here; allowed: less than 1"),
        (["task=regression", "data={name: 'tests.tasks.made:values'}", "space.weights=weights.pth"], "task 'regression' has none"),
    ],
)  # fmt: skip
def test_who_cannot_teach_is_refused(words, said, run, monkeypatch, capsys):
    monkeypatch.chdir(run.parent)
    assert main(["search", "search.yml", *TEACHING, "training.distillation=0.5", "output=none", *words]) == 2
    assert said in capsys.readouterr().err


def test_weights_that_do_not_fit_the_images_are_said_of_the_space(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(timm.create_model(MODEL, in_chans=1).state_dict(), "weights.pth")
    assert main(["init", ".", "--from", f"timm:{MODEL}", "--target", "60%"]) == 0
    words = [*TEACHING, "space.weights=weights.pth", "data={name: synthetic, n_images: 64}"]
    assert main(["search", "search.yml", *words]) == 2
    assert "space: timm: weights is 'weights.pth': those of another network" in capsys.readouterr().err
