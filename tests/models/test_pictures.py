"""Pictures of nets: what is drawn against what the definition says, read off the figure's own artists."""

from __future__ import annotations

import itertools
import json
import logging
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from matplotlib.colors import to_hex
from nni_proxyless.search_spaces import MobileNetV2Space
from PIL import Image
from timm.models._efficientnet_builder import decode_arch_def

from nni_proxyless.cli.main import main
from nni_proxyless.core.errors import UserError
from nni_proxyless.models.architecture import Architecture
from nni_proxyless.models.block_diagram import diagram_of_architecture, diagram_of_definition, diagram_of_published
from nni_proxyless.models.draw import COLORS, draw_beside, draw_networks, save_picture
from nni_proxyless.models.published import NETWORKS, PLACES

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "published_architectures.json"

SMALL = {
    "stage1.0": "k5e3", "stage1.1": "skip", "stage1.2": "k3e6", "stage2.0": "k7e6", "stage2.1": "skip", "stage2.2": "skip",
    "stage3.0": "k3e3", "stage3.1": "k7e3", "stage3.2": "skip",
}  # fmt: skip


def leave(folder: Path, choices: dict[str, str] = SMALL, shape: tuple[int, ...] = (1, 16, 16), **known) -> Path:
    """The ``architecture.json`` of a net of the small space, or of another whose arguments are ``space``."""
    arguments = known.pop("space", {"preset": "small", "num_classes": 10, "in_channels": 1})
    network = MobileNetV2Space(**arguments).timm_definition(choices)
    path = folder / "architecture.json"
    Architecture(**{
        "space": {"name": "mobilenetv2", "arguments": arguments}, "choices": choices, "input_shape": shape,
        "network": network, "macs": 2_345_678, "n_params": 45_678, **known,
    }).write(path)  # fmt: skip
    return path


def drawn(figure, row: int = 0) -> list:
    """Rectangles of a row's blocks, from left to right as they are numbered; None for one that was left out."""
    (axes,) = figure.axes
    artists = {a.get_gid(): a for a in [*axes.patches, *axes.lines] if a.get_gid()}
    numbered = {name: re.fullmatch(rf"net{row}-block(\d+)(-skip)?", name) for name in artists}
    found = {int(m[1]): None if m[2] else artists[name] for name, m in numbered.items() if m is not None}
    return [found[n] for n in range(len(found))]


def test_blocks_are_drawn_as_the_definition_says(tmp_path):
    """Width: channels; height: expansion; color: kernel; and every label and figure is text of the SVG."""
    path = leave(tmp_path, latency={"target_ms": 3.0, "measured_ms": 3.141, "unit": "ms"}, search={"accuracy": 0.8768})
    figure = draw_networks([diagram_of_architecture(path)], title="A title & more <")
    rectangles = drawn(figure)
    assert [r is None for r in rectangles[2:11]] == [choice == "skip" for choice in SMALL.values()]
    definition = Architecture.read(path).network
    assert definition is not None
    blocks = [block for stage in decode_arch_def(definition["blocks"]) for block in stage]
    inner = [r for r in rectangles[1:-2] if r is not None]
    assert len(inner) == len(blocks) == 6
    per_channel = {round(r.get_width() / b["out_chs"], 9) for r, b in zip(inner, blocks, strict=True)}
    per_expansion = {round(r.get_height() / b.get("exp_ratio", 1), 9) for r, b in zip(inner, blocks, strict=True)}
    assert (len(per_channel), len(per_expansion)) == (1, 1)
    assert [to_hex(r.get_facecolor()) for r in inner] == [COLORS[b["dw_kernel_size"]] for b in blocks]
    assert all(a.get_x() + a.get_width() < b.get_x() for a, b in itertools.pairwise(inner))

    save_picture(figure, tmp_path / "a.svg")
    texts = texts_of(tmp_path / "a.svg")
    assert [text for text in texts if re.fullmatch(r"MB\d \dx\d|skip|Conv \dx\d|Pool, linear", text)] == [
        "Conv 3x3", "MB1 3x3", "MB3 5x5", "skip", "MB6 3x3", "MB6 7x7", "skip", "skip", "MB3 3x3", "MB3 7x7", "skip",
        "Conv 1x1", "Pool, linear",
    ]  # fmt: skip
    figures = "target 3.00 ms, measured 3.14 ms, 2.35 M multiply-adds, 45.7 k parameters, accuracy 87.7 % in the search"
    assert {"A title & more <", tmp_path.name, figures, "1×16×16", "8×8", "16 ch", "classes"} <= set(texts)


def test_a_definition_whose_choices_say_nothing_has_no_skips(tmp_path):
    """Labels of another space, or a number of blocks that does not fit: nothing is invented."""
    path = leave(tmp_path)
    known = json.loads(path.read_text())
    for choices in ({"layer3": "skip"}, {**SMALL, "stage1.1": "k3e3"}, {}):
        path.write_text(json.dumps({**known, "choices": choices}))
        labels = [b.label for b in diagram_of_architecture(path).blocks]
        assert labels[1:7] == ["MB1 3x3", "MB3 5x5", "MB6 3x3", "MB6 7x7", "MB3 3x3", "MB3 7x7"]


def test_stages_say_the_size_and_channels_of_their_maps(tmp_path):
    net = diagram_of_published("proxyless_mobile")
    assert [stage.notes for stage in net.stages] == [
        ("112×112", "32 ch"), ("112×112", "16 ch"), ("56×56", "32 ch"), ("28×28", "40 ch"), ("14×14", "80 ch"),
        ("14×14", "96 ch"), ("7×7", "192 ch"), ("7×7", "320 ch"), ("7×7", "1280 ch"), ("1000", "classes"),
    ]  # fmt: skip
    layout = {"widths": [8, 8], "depths": [1, 1], "strides": [1, 2]}  # whose first stage is left out as a whole
    space = {"preset": "small", "num_classes": 10, "in_channels": 1, **layout}
    net = diagram_of_architecture(leave(tmp_path, {"stage1.0": "skip", "stage2.0": "k3e3"}, space=space))
    assert [stage.notes for stage in net.stages] == [
        ("16×16", "16 ch"), ("16×16", "8 ch"), (), ("8×8", "8 ch"), ("8×8", "128 ch"), ("10", "classes"),
    ]  # fmt: skip
    odd = diagram_of_definition("odd", {"blocks": [["ds_r1_k3_s2_c8"]], "stem_stride": 2, "bn_eps": 1e-3}, (3, 225, 31))
    assert [stage.notes[0] for stage in odd.stages[:2]] == ["113×16", "57×8"]


@pytest.mark.parametrize("name", PLACES)
def test_published_nets_are_drawn_with_what_was_left_out(name):
    net = diagram_of_published(name)
    counts = {"proxyless_cpu": "439.2 M multiply-adds, 4.36 M parameters",
              "proxyless_mobile_14": "580.9 M multiply-adds, 6.86 M parameters",
              "proxyless_gpu": "465.3 M multiply-adds, 7.12 M parameters",
              "proxyless_mobile": "320.4 M multiply-adds, 4.08 M parameters"}  # fmt: skip
    assert net.figures == counts[name]
    assert len(drawn(draw_networks([net]))) == 1 + 22 + 2
    if not SHARED.exists():
        pytest.skip(f"the published architectures are not here: {SHARED}")
    known = json.loads(SHARED.read_text())
    if name not in known:
        pytest.skip(f"the shared file has no {name}")
    theirs = known[name]["blocks"]
    expected = ["skip" if b == "skip" else (b["kernel"], b["expand"], b["out_channels"]) for b in theirs]
    ours = ["skip" if b.skipped else (b.kernel, b.expansion, b.channels) for b in net.blocks[1:-2]]
    assert ours == expected


def test_places_fit_the_published_definitions():
    """Else the skips would quietly not be drawn."""
    for name, places in PLACES.items():
        assert [stage.count("#") for stage in places] == [len(stage) for stage in NETWORKS[name]["blocks"]]
    assert set(PLACES) == set(NETWORKS) - {"proxyless_cifar"}, "which has no skips"


def texts_of(path: Path) -> list[str]:
    """All text of an SVG, in its order; reading it shows that it is well-formed."""
    tree = ElementTree.parse(path)
    return ["".join(e.itertext()).strip() for e in tree.iter("{http://www.w3.org/2000/svg}text")]


def figures(folder: Path, **known) -> str:
    return diagram_of_architecture(leave(folder, **known)).figures


def test_figures_are_those_that_are_known(tmp_path):
    counts = "2.35 M multiply-adds, 45.7 k parameters"
    assert figures(tmp_path) == counts
    table = {"target_ms": None, "measured_ms": None, "table_ms": 2.5, "unit": "mJ"}
    assert figures(tmp_path, latency=table) == f"2.50 mJ by its table, {counts}"
    macs = {"target_ms": 2.0, "table_ms": 2.345678, "unit": "million multiply-adds"}
    assert figures(tmp_path, latency=macs, search={"accuracy": 0.5, "weights": "fresh"}) == counts
    derived = {"latency": {"target_ms": 3.0, "measured_ms": 2.5}, "search": {"derived_from": "run"}}
    assert figures(tmp_path, **derived) == f"budget 3.00 ms, measured 2.50 ms, {counts}"
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "result.json").write_text('{"accuracy": 0.9722}')
    assert figures(tmp_path, search={"accuracy": 0.5}) == f"{counts}, accuracy 97.2 %"


def test_figures_of_a_regression(tmp_path):
    counts = "2.35 M multiply-adds, 45.7 k parameters"
    metric = {"name": "mae", "higher_is_better": False, "is_share": False}
    known = {"search": {"mae": 2.93314, "metric": metric}, "task": {"name": "regression", "arguments": {}}}
    assert figures(tmp_path, **known) == f"{counts}, mae 2.933 in the search"
    assert diagram_of_architecture(tmp_path / "architecture.json").stages[-1].notes == ("10", "outputs")
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "result.json").write_text(json.dumps({"mae": 3.32767, "metric": metric}))
    assert figures(tmp_path, **known) == f"{counts}, mae 3.328"


def test_the_command_as_typed_writes_the_same_bytes_again(tmp_path, command):
    """SVG and PNG, of a fresh process, beside the net."""
    path = leave(tmp_path / "run")
    done = command("nni-proxyless", "draw", "run/architecture.json")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "picture: run/network.svg\npicture: run/network.png\n"
    figure = draw_networks([diagram_of_architecture(path)])
    for ending in ("svg", "png"):
        save_picture(figure, tmp_path / f"here.{ending}")
        assert (tmp_path / f"here.{ending}").read_bytes() == (path.parent / f"network.{ending}").read_bytes()
    inches = figure.get_size_inches()
    with Image.open(path.with_name("network.png")) as image:
        image.load()
        assert image.size == pytest.approx(tuple(150 * inches), abs=1)
        assert len(image.convert("RGB").getcolors(2**24)) > 10


def test_the_page_s_example_and_pictures(tmp_path, monkeypatch, pytestconfig):
    """docs/how-to/pictures.md: its Python runs, and the published nets on it are those of today, drawn by its command."""
    docs = pytestconfig.rootpath / "docs" / "how-to"
    page = (docs / "pictures.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    on_page = texts_of(docs / "published.svg")
    assert [text for text in on_page if text != "The published networks of ProxylessNAS"] == texts_of(
        tmp_path / "published.svg"
    )
    for picture in re.findall(r"\]\((\w+\.svg)\)", page):
        assert len(texts_of(docs / picture)) > 10


def test_where_pictures_go(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("front/2.100", "front/3.200"):
        leave(tmp_path / name)
    assert main(["draw", "front", "--title", "Two"]) == 0
    assert capsys.readouterr().out == "picture: front/networks.svg\npicture: front/networks.png\n"
    assert {"2.100", "3.200", "Two"} < set(texts_of(tmp_path / "front" / "networks.svg"))
    assert main(["draw", "proxyless_mobile"]) == 0
    assert capsys.readouterr().out == "picture: proxyless_mobile.svg\npicture: proxyless_mobile.png\n"
    assert main(["draw", "front/2.100", "proxyless_gpu", "--output", "new/both.svg"]) == 0
    assert capsys.readouterr().out == "picture: new/both.svg\n"
    assert {"2.100", "proxyless_gpu"} < set(texts_of(tmp_path / "new" / "both.svg"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["proxyles_gpu"], "draw: 'proxyles_gpu' is no file, no folder and no published network; allowed: the path of an architecture.json, a folder with such files, proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14, proxyless_cifar. Did you mean 'proxyless_gpu'?"),
        (["proxyless_gpu", "--output", "net.jpg"], "--output net.jpg: '.jpg' is not allowed here; allowed: .svg, .png"),
        (["empty"], "draw: no architecture.json in or below 'empty'"),
        (["nni/architecture.json"], "nni/architecture.json: the space 'nni.nas.hub.pytorch:NasBench201' gives no timm block definition, so there are no blocks to draw; allowed: networks of spaces with a method timm_definition, such as mobilenetv2, and the published networks proxyless_cpu, proxyless_gpu, proxyless_mobile, proxyless_mobile_14, proxyless_cifar"),
        (["mqa/architecture.json"], "mqa: block type 'mqa' has no picture here; allowed: ir, ds, dsa, er, uir, cn, each with one kernel, in timm's notation"),
        (["mixed/architecture.json"], "mixed: kernel [3, 5] has no picture here; allowed: ir, ds, dsa, er, uir, cn, each with one kernel, in timm's notation"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused(words, message, tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    space = {"name": "nni.nas.hub.pytorch:NasBench201", "arguments": {}}
    plain = {"space": space, "choices": {}, "input_shape": (3, 32, 32)}
    Architecture(**plain, network=None).write(tmp_path / "nni" / "architecture.json")
    for name, block in {"mqa": "mqa_r1_k3_h4_s1_d64_c8", "mixed": "ir_r1_k3.5_s1_e4_c8"}.items():
        network = {"blocks": [[block]], "stem_stride": 2, "bn_eps": 1e-3}
        Architecture(**plain, network=network).write(tmp_path / name / "architecture.json")
    assert refused("draw", *words) == f"nni-proxyless: {message}\n"


def test_other_blocks_of_timm(tmp_path):
    definition = {
        "blocks": [["cn_r1_k3_s1_c8"], ["er_r2_k3_s2_e4_c16"], ["ir_r1_k11_s1_e2.5_c24_se0.25"]],
        "stem_stride": 2,
    }
    net = diagram_of_definition("mine", definition, (3, 64, 64))
    assert [b.label for b in net.blocks] == [
        "Conv 3x3", "Conv 3x3", "Fused4 3x3", "Fused4 3x3", "MB2.5 11x11 SE", "Conv 1x1", "Pool, linear",
    ]  # fmt: skip
    save_picture(draw_networks([net]), tmp_path / "a.svg")
    with pytest.raises(UserError, match=r"^picture .*a\.pdf: '\.pdf' is not allowed here; allowed: \.svg, \.png$"):
        save_picture(draw_networks([net]), tmp_path / "a.pdf")


def test_a_search_does_not_fail_because_of_a_picture(tmp_path, caplog):
    path = leave(tmp_path)
    draw_beside(path)
    assert "MB6 7x7" in texts_of(tmp_path / "network.svg")
    known = json.loads(path.read_text())
    path.write_text(json.dumps({**known, "network": {**known["network"], "blocks": [["ir_q7"]]}}))
    with caplog.at_level(logging.WARNING, logger="nni_proxyless.models.draw"):
        draw_beside(path)
    assert f"{path}: no picture of the network: " in caplog.text
    assert not (tmp_path / "network.svg").exists(), "that of another network would stay"
    caplog.clear()
    path.write_text(json.dumps({**known, "network": None}))
    draw_beside(path)
    assert caplog.text == ""


def test_a_folder_whose_name_is_no_text(tmp_path, monkeypatch, capsys):
    """Bytes that are no UTF-8, as old archives bring them: pictures, table and page name it as a terminal does."""
    folder = tmp_path / b"\xe9".decode("utf-8", "surrogateescape")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system has names of letters only")
    leave(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["draw", "."]) == 0
    assert main(["report", "."]) == 0
    assert "\\udce9" in (tmp_path / "report.html").read_text(encoding="utf-8")
