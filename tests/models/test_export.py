"""``nni-proxyless export``, as a user types it; what the files compute is found out with onnxruntime and torch alone."""

from __future__ import annotations

import json
import logging
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from timm.models.efficientnet import EfficientNet
from torch import Tensor

from nni_proxyless import data
from nni_proxyless.cli.main import main
from nni_proxyless.core.atomic_files import write_weights
from nni_proxyless.data.image_parts import loader
from nni_proxyless.derive import Architecture, build_network, load_weights, to_timm
from nni_proxyless.latency.runtimes.onnx_file import write_onnx as write_timed
from nni_proxyless.latency.runtimes.runtime import Program
from nni_proxyless.models.export.check_images import CheckImages
from nni_proxyless.models.export.int8_accuracy import int8_merit
from nni_proxyless.models.export.onnx_format import write_onnx_for_netron
from nni_proxyless.models.timm_model import build_efficientnet

from .derived_nets import TINY, difference, digits, leave, logits, onnx_logits, skips, three_nets

QUICK = ("--repeats", "3", "--test-images", "20", "--calibration-images", "32")


@pytest.fixture(scope="module")
def nets(tmp_path_factory) -> dict[str, Path]:
    """Three derived nets of the small space."""
    return three_nets(tmp_path_factory.mktemp("nets"))


@pytest.fixture(scope="module")
def files(nets, tmp_path_factory) -> dict[str, Path]:
    """The ONNX file of each, with export.json beside it."""
    folder = tmp_path_factory.mktemp("files")
    for name, path in nets.items():
        assert main(["export", str(path), "--formats", "onnx", "--output", str(folder / name), *QUICK]) == 0
    return {name: folder / name / "model.onnx" for name in nets}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A small net that knows the digits."""
    return leave(tmp_path_factory.mktemp("trained"), lambda values: "k3e3", epochs=4, **TINY)


@pytest.fixture
def tiny(trained, tmp_path) -> Path:
    """The same in a folder of its own."""
    shutil.copytree(trained.parent, tmp_path / "run")
    return tmp_path / "run" / "architecture.json"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- logits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["skips", "largest", "mixed"])
def test_onnxruntime_computes_what_torch_does_on_a_hundred_images(name, nets, files):
    assert difference(onnx_logits(files[name], digits(100)), logits(nets[name], digits(100))) <= 1e-4


def test_the_file_is_the_one_that_is_timed(nets, files, tmp_path):
    """The graph, node by node and weight by weight, that ONNX Runtime and others are timed with; the output has another name."""
    assert json.loads(files["mixed"].with_name("export.json").read_text())["opset"] == 17
    network = build_network(
        Architecture.read(nets["mixed"]), load_weights(nets["mixed"].with_name("weights.safetensors"))
    )
    timed = write_timed(Program("a network", network.eval(), (digits(1),)), tmp_path / "timed.onnx").path
    graphs = [onnx.load(path).graph for path in (files["mixed"], timed)]
    assert [graph.output[0].name for graph in graphs] == ["logits", "output"]
    for graph in graphs:
        assert list(graph.node[-1].output) == [graph.output[0].name]
        del graph.node[-1].output[:], graph.output[:]
    assert graphs[0] == graphs[1]


def test_the_nets_of_these_tests_are_three_and_tell_images_apart(nets):
    """Else their equal logits would say nothing."""
    found = [logits(path, digits(100)) for path in nets.values()]
    assert all(float(some.std(dim=0).max()) > 0.05 for some in found)
    assert min(difference(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))) > 0.1
    choices = {name: list(Architecture.read(path).choices.values()) for name, path in nets.items()}
    assert [choices[name].count("skip") for name in ("skips", "largest")] == [6, 0]
    assert 0 < choices["mixed"].count("skip") < 6
    assert set(choices["largest"]) == {"k7e6"}


def test_opset_size_and_free_batch_are_as_asked_for(tiny, tmp_path):
    """Read back with onnx; all formats run at any batch and compute the same on images of that size."""
    # The newest that quantizes; Python 3.10 ends with onnxruntime 1.23.
    opset = 23 if version("onnxruntime") >= "1.24" else 21
    words = ["--opset", str(opset), "--input-size", "24", "20", "--dynamic-batch", "--output", str(tmp_path / "out")]
    assert main(["export", str(tiny), *words, *QUICK]) == 0
    model = onnx.load(tmp_path / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [opset]
    (given,) = model.graph.input
    sides = given.type.tensor_type.shape.dim
    assert (given.name, sides[0].dim_param, [side.dim_value for side in sides[1:]]) == ("input", "batch", [1, 24, 20])
    assert [entry.name for entry in model.graph.output] == ["logits"]

    images = digits(13, (24, 20))
    expected = logits(tiny, images)
    program = torch.export.load(tmp_path / "out" / "model.pt2").module()
    script = read_script(tmp_path / "out" / "model.torchscript.pt")
    for n in (1, 2, 13):
        assert difference(onnx_logits(tmp_path / "out" / "model.onnx", images[:n], n), expected[:n]) <= 1e-4
        assert onnx_logits(tmp_path / "out" / "model.int8.onnx", images[:n], n).shape == (n, 10)
        with torch.no_grad():
            assert difference(program(images[:n]), expected[:n]) <= 1e-4
            assert difference(script(images[:n]), expected[:n]) <= 1e-4


@pytest.mark.parametrize(("resolution", "batch", "words"), [(12, 13, ["--dynamic-batch"]), (24, 1, [])])
def test_a_net_of_another_resolution_takes_images_of_the_data_and_resizes_them_inside(
    resolution, batch, words, tmp_path
):
    """In every format; with a free batch and one image. A net of the same weights that is given resized images computes the same."""
    path = leave(tmp_path / "run", lambda values: "k3e3", **TINY, resolution=resolution)
    images = digits(13)
    expected = logits(path, images)
    plain = dict(Architecture.read(path).network or {})
    assert plain.pop("resolution") == resolution
    network = build_efficientnet(EfficientNet, plain).eval()
    network.load_state_dict(load_weights(path.with_name("weights.safetensors")))
    resized = torch.nn.functional.interpolate(images, (resolution, resolution), mode="bilinear", align_corners=False)
    with torch.no_grad():
        assert difference(network(resized), expected) <= 1e-6
        assert difference(network(images), expected) > 1e-2
    out = tmp_path / "out"
    assert main(["export", str(path), *words, "--output", str(out), *QUICK]) == 0
    graph = onnx.load(out / "model.onnx").graph
    assert [side.dim_value for side in graph.input[0].type.tensor_type.shape.dim[1:]] == [1, 16, 16]
    assert [node.op_type for node in graph.node].count("Resize") == 1
    assert difference(onnx_logits(out / "model.onnx", images, batch), expected) <= 1e-4
    assert onnx_logits(out / "model.int8.onnx", images, batch).shape == (13, 10)
    program = torch.export.load(out / "model.pt2").module()
    script = read_script(out / "model.torchscript.pt")
    with torch.no_grad():
        for run in (program, script):
            assert difference(torch.cat([run(part) for part in images.split(batch)]), expected) <= 1e-4


def test_a_net_of_another_resolution_takes_images_smaller_than_its_stride(tmp_path):
    path = leave(tmp_path / "run", lambda values: "k3e3", **TINY, resolution=12)
    words = ["--formats", "onnx", "--input-size", "2", "2", "--output", str(tmp_path), *QUICK]
    assert main(["export", str(path), *words]) == 0
    images = digits(5, (2, 2))
    assert difference(onnx_logits(tmp_path / "model.onnx", images), logits(path, images)) <= 1e-4


def read_script(path: Path) -> Callable[[Tensor], Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`torch.jit.load` is deprecated", category=FutureWarning)
        return torch.jit.load(str(path))


def test_a_fixed_batch_is_fixed_and_lower_opsets_go_another_way(tiny):
    """Those that torch's newer exporter cannot write."""
    assert main(["export", str(tiny), "--batch", "7", "--opset", "13", "--formats", "onnx", "torchscript", *QUICK]) == 0
    model = onnx.load(tiny.parent / "model.onnx")
    assert [entry.version for entry in model.opset_import if not entry.domain] == [13]
    assert [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim] == [7, 1, 16, 16]
    images = digits(7)
    assert difference(onnx_logits(tiny.parent / "model.onnx", images, 7), logits(tiny, images)) <= 1e-4
    with pytest.raises(Exception, match="Got: 1 Expected: 7"):
        onnx_logits(tiny.parent / "model.onnx", images)


def test_trained_weights_come_first_and_others_can_be_named(tiny, capsys):
    (tiny.parent / "final").mkdir()
    weights = load_weights(tiny.with_name("weights.safetensors"))
    other = {name: t + 0.1 if "classifier" in name else t for name, t in weights.items()}
    write_weights(tiny.parent / "final" / "weights.safetensors", other)
    images = digits(5)
    for words, file, said in (
        ([], "final/weights.safetensors", "trained"),
        (["--weights", str(tiny.with_name("weights.safetensors"))], "weights.safetensors", "named"),
    ):
        assert main(["export", str(tiny), "--formats", "onnx", "--opset", "17", *words, *QUICK]) == 0
        assert f"weights: {tiny.parent / file}, {said}\n" in capsys.readouterr().err
        assert difference(onnx_logits(tiny.parent / "model.onnx", images), logits(tiny, images, file)) <= 1e-4
        content = json.loads((tiny.parent / "export.json").read_text())
        assert (content["weights"], content["weights_are"]) == (file, said)
    assert difference(logits(tiny, images), logits(tiny, images, "final/weights.safetensors")) > 0.05


# -- int8 ------------------------------------------------------------------------------------------------------------------


def test_int8_answers_like_float_and_has_a_scale_per_filter(trained, tmp_path):
    """Bar: nine of ten answers of a net that is right on nine of ten; a net of 8-bit noise would have one of ten."""
    words = ["--formats", "int8", "--opset", "17", "--output", str(tmp_path), "--repeats", "3"]
    assert main(["export", str(trained), *words]) == 0
    assert names(tmp_path) == {"model.int8.onnx", "export.json"}
    test = data.digits().test
    images, targets = digits(len(test)), torch.tensor([test[i][1] for i in range(len(test))])
    ours = logits(trained, images).argmax(dim=1)
    eight = onnx_logits(tmp_path / "model.int8.onnx", images).argmax(dim=1)
    assert float((ours == targets).float().mean()) > 0.9
    assert float((ours == eight).float().mean()) > 0.9
    accuracy = json.loads((tmp_path / "export.json").read_text())["accuracy"]
    assert accuracy["images"] == len(test) == 359
    assert accuracy["torch"] == pytest.approx(float((ours == targets).float().mean()), abs=1e-6)
    assert accuracy["int8"] == pytest.approx(float((eight == targets).float().mean()), abs=1e-6)
    assert accuracy["int8 agreement"] == pytest.approx(float((eight == ours).float().mean()), abs=1e-6)
    network = build_network(Architecture.read(trained), load_weights(trained.with_name("weights.safetensors")))
    found = int8_merit(
        network, data.digits().train_plain, loader(test, 64), data.digits().task
    )  # by the same images, on the way of searches
    assert found == pytest.approx(accuracy["int8"], abs=1e-6)

    graph = onnx.load(tmp_path / "model.int8.onnx").graph
    stored = {entry.name: onnx.numpy_helper.to_array(entry) for entry in graph.initializer}
    produced = {node.output[0]: node for node in graph.node}
    groups = []
    for node in graph.node:
        if node.op_type == "Conv":
            weight, scale, *_ = produced[node.input[1]].input
            assert stored[weight].dtype == np.int8
            assert stored[scale].shape == stored[weight].shape[:1], "a scale per filter"
            groups.append(next(a.i for a in node.attribute if a.name == "group"))
    assert max(groups) > 1, "there are depthwise convolutions among them"

    timed = Program("a network", network, (torch.randn(1, 1, 16, 16),))  # as tables time it: calibrated by noise
    timed_graph = onnx.load(write_timed(timed, tmp_path / "timed.onnx", "int8").path).graph
    assert [node.op_type for node in timed_graph.node] == [node.op_type for node in graph.node]


def test_int8_is_calibrated_with_training_images_of_every_class(trained):
    """Not with those that its accuracy is then told of; and not with the first ones, which may be of one class."""
    images = CheckImages.of(Architecture.read(trained), (1, 16, 16))
    sets = data.digits()
    train, test = ({part[i][0].numpy().tobytes() for i in range(len(part))} for part in (sets.train_plain, sets.test))
    assert {image.numpy().tobytes() for image in images.calibration(50)} <= train - test
    assert {image.numpy().tobytes() for image in images.some(50)} <= test
    assert len(images.calibration(50)) == 50
    chosen = {image.numpy().tobytes() for image in images.calibration(50)}
    known = [sets.train_plain[i] for i in range(len(sets.targets))]
    assert {label for image, label in known if image.numpy().tobytes() in chosen} == set(range(10))


# -- the command -----------------------------------------------------------------------------------------------------------


def test_the_command_as_typed(command, tmp_path):
    path = leave(tmp_path / "run", skips, **TINY)
    done = command("nni-proxyless", "export", "run/architecture.json", "--repeats", "5", "--test-images", "50")
    assert done.returncode == 0, done.stderr
    assert names(path.parent) == {
        "architecture.json", "weights.safetensors", "model.onnx", "model.torchscript.pt", "model.pt2", "model.int8.onnx",
        "export.json",
    }  # fmt: skip
    assert difference(onnx_logits(path.parent / "model.onnx", digits(100)), logits(path, digits(100))) <= 1e-4
    content = json.loads((path.parent / "export.json").read_text())
    for name, file in (("torch", "torch"), *((name, entry["file"]) for name, entry in content["files"].items())):
        printed = re.search(rf"^{re.escape(file)} +(\d+\.\d+) ", done.stdout, re.MULTILINE)
        assert printed, file
        assert float(printed[1]) == pytest.approx(content["latency"][name]["median_ms"], abs=5.1e-4)
        assert content["latency"][name]["median_ms"] > 0
        assert content["latency"][name]["count"] == 5
    assert done.stdout.splitlines()[-1] == "export: run/export.json"
    assert (content["images"], content["accuracy"]["images"]) == ("test images of 'digits'", 50)
    assert {"onnx", "onnxruntime", "onnxscript", "torch"} <= content["versions"].keys()
    assert {name: entry["largest_difference"] <= 1e-4 for name, entry in content["files"].items() if name != "int8"} == {
        "onnx": True, "torchscript": True, "torch-export": True,
    }  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if not re.match(r"\d\d:\d\d:\d\d ", line)]
    assert lines == [], "nothing but our log on stderr"


def test_a_file_that_computes_something_else_is_never_left(tiny, refused):
    assert main(["export", str(tiny), "--formats", "onnx", "--opset", "17", *QUICK]) == 0
    before = {path: path.read_bytes() for path in tiny.parent.iterdir()}
    formats = ("--formats", "onnx", "torchscript", "torch-export")  # int8 is held to no tolerance
    said = refused("export", tiny, *formats, "--opset", "16", "--tolerance", "1e-30")
    assert re.search(
        r"model\.\S+: its outputs differ from torch's by \d\S+ on 100 test images of 'digits'; allowed: 1e-30 \(--tolerance\)( of the largest, \d\S+)?\. "
        r"Nothing has been written", said,
    ), said  # fmt: skip
    assert {path: path.read_bytes() for path in tiny.parent.iterdir()} == before


# -- nets and images of others ---------------------------------------------------------------------------------------------

OTHER = """
from nni.nas.nn.pytorch import LayerChoice, ModelSpace
from torch import nn

class Other(ModelSpace):
    def __init__(self, width: int = 4):
        super().__init__()
        self.body = LayerChoice({"plain": nn.Conv2d(1, width, 3), "wide": nn.Conv2d(1, width, 5)}, label="kernel")
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        return self.head(self.body(x).relu().mean(dim=(2, 3)))
"""


@pytest.fixture
def other(tmp_path, monkeypatch) -> Path:
    """A net of a space that is no timm model, searched on images that are not here."""
    (tmp_path / "other_space.py").write_text(OTHER)
    monkeypatch.syspath_prepend(tmp_path)
    architecture = Architecture(
        space={"name": "other_space:Other", "arguments": {"width": 6}}, choices={"kernel": "wide"}, input_shape=(1, 12, 12),
        network=None, data={"name": "other_data:none", "arguments": {}},
    )  # fmt: skip
    (tmp_path / "run").mkdir()
    architecture.write(tmp_path / "run" / "architecture.json")
    torch.manual_seed(0)
    write_weights(tmp_path / "run" / "weights.safetensors", build_network(architecture).state_dict())
    yield tmp_path / "run" / "architecture.json"
    sys.modules.pop("other_space", None)


def test_a_net_that_is_no_timm_model_is_exported_too_and_checked_on_noise(other, refused, capsys):
    words = ["--formats", "onnx", "torchscript", "torch-export", "--opset", "17", "--input-size", "9", "11", *QUICK]
    assert main(["export", str(other), *words]) == 0
    printed = capsys.readouterr()
    assert "compared: 100 noise, in batches of 1" in printed.out
    assert "accuracy: not known, without the data set" in printed.out
    assert "the data set 'other_data:none' cannot be had here ('other_data:none' does not import:" in printed.err
    network = build_network(Architecture.read(other), load_weights(other.with_name("weights.safetensors"))).eval()
    images = torch.randn(4, 1, 9, 11)
    with torch.no_grad():
        assert difference(onnx_logits(other.parent / "model.onnx", images), network(images)) <= 1e-4

    said = refused("export", other, *QUICK)
    assert "--formats int8: it is calibrated with training images, which cannot be had here: 'other_data:none'" in said
    assert "without it: --formats onnx torchscript torch-export" in said
    said = refused("export", other, "--formats", "onnx", "--input-size", "4", "4")
    assert "--input-size is 4x4; the network does not run on it: " in said


# -- mistakes --------------------------------------------------------------------------------------------------------------


def test_mistakes_are_refused_before_anything_is_written(tiny, nets, tmp_path, refused):
    before, bare, damaged = names(tiny.parent), tmp_path / "bare" / "architecture.json", tmp_path / "damaged"
    bare.parent.mkdir()
    shutil.copy(tiny, bare)
    damaged.write_text("no tensors")
    for words, said in (
        ([tmp_path / "nowhere.json"], f"{tmp_path / 'nowhere.json'}: No such file or directory"),
        ([tiny, "--weights", "w.safetensors"], "--weights w.safetensors: no such file"),
        ([bare], f"{bare.with_name('weights.safetensors')}: no such file, nor final/weights.safetensors beside it; name one: --weights FILE"),
        ([tiny, "--weights", damaged], f"{damaged}: no readable weights"),
        ([tiny, "--opset", 12], "--opset is 12; allowed: 13 to 23"),
        ([tiny, "--input-size", 16, 3], "--input-size is 16x3; the network makes maps 4 times smaller; allowed: 4 or more, each"),
        ([tiny, "--batch", 4, "--dynamic-batch"], "not allowed with argument"),
        ([tiny, "--formats", "onx"], "invalid choice: 'onx'"),
        ([tiny, "--output", tiny], f"--output {tiny}: File exists"),
        ([tiny, "--batch", 16, "--calibration-images", 8], "--calibration-images is 8; allowed: 16 or more, a whole --batch"),
    ):  # fmt: skip
        assert said in refused("export", *words)
    weights = nets["largest"].with_name("weights.safetensors")
    of_another = rf"{re.escape(str(weights))}: the weights of another network than {re.escape(str(tiny))}: '\S+' is .*, and \d+ more"
    assert re.search(of_another, refused("export", tiny, "--weights", weights))
    said = refused("export", tiny, "--batch", 0, "--images", 0, "--threads", 0, "--tolerance", 0)
    for name in ("batch", "images", "threads"):
        assert f"--{name} is 0; allowed: 1 or more" in said
    assert "--tolerance is 0.0; allowed: more than 0" in said
    assert names(tiny.parent) == before


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_what_to_install(package, tiny, monkeypatch, refused):
    monkeypatch.setitem(sys.modules, package, None)
    needed = "ONNX files need onnx, onnxscript, onnxruntime; not installed:"
    said = refused("export", tiny, "--formats", "onnx")
    assert f"{needed} {package}. pip install 'nni-proxyless[export]'" in said
    assert main(["export", str(tiny), "--formats", "torchscript", *QUICK]) == 0, "that one needs none of them"
    assert "model.torchscript.pt" in names(tiny.parent)


# -- what a search leaves --------------------------------------------------------------------------------------------------


def test_a_search_goes_on_where_there_is_no_model_onnx_to_be_had(tiny, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("nni_proxyless"), "propagate", True)
    network = to_timm(Architecture.read(tiny))
    for missing in (True, False):
        (tiny.parent / "model.onnx").write_text("that of an earlier search")
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.INFO, logger="nni_proxyless"):
            if missing:
                patch.setitem(sys.modules, "onnxscript", None)
            write_onnx_for_netron(network, (1, 16, 16) if missing else (3, 16, 16), tiny.parent / "model.onnx")
        (line,) = {record.getMessage() for record in caplog.records}
        assert line.startswith("no model.onnx")
        assert ("pip install 'nni-proxyless[export]'" in line) == missing
        assert names(tiny.parent) == {"architecture.json", "weights.safetensors"}
