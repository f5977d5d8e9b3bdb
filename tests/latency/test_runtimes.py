"""Every runtime keeps the contract; the estimator times with all of them; what cannot be run or is not there is said."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import onnx
import onnxruntime
import pytest
import torch
from nni.nas.nn.pytorch import ModelSpace
from torch import Tensor, nn

from nni_proxyless.core.entry_point_names import names
from nni_proxyless.latency import (
    DeviceEstimator,
    LookupTable,
    Measurement,
    Operation,
    Runtime,
    TableError,
    TimingError,
    build_lookup_table,
)
from nni_proxyless.latency.runtimes.command import Command
from nni_proxyless.latency.runtimes.default import default_runtime
from nni_proxyless.latency.runtimes.litert_runtime import LiteRt
from nni_proxyless.latency.runtimes.mnn_runtime import Mnn
from nni_proxyless.latency.runtimes.ncnn_runtime import Ncnn
from nni_proxyless.latency.runtimes.onnx_file import write_onnx
from nni_proxyless.latency.runtimes.onnx_runtime import OnnxRuntime
from nni_proxyless.latency.runtimes.openvino_runtime import OpenVino
from nni_proxyless.latency.runtimes.runtime import GROUP, InProcess, Program, RefusedByRuntime, make_runtime
from nni_proxyless.latency.runtimes.torch_compile import TorchCompile
from nni_proxyless.latency.runtimes.torch_eager import TorchEager
from nni_proxyless.testing import RuntimeContract

BENCH = Path(__file__).parents[2] / "experiments" / "targets" / "bench_onnx.py"
FLOATS = ("float32", "bfloat16")


class Sort(nn.Module):
    """Torch alone can do this."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvalsh(x.reshape(-1, 2, 2))


class Contract(RuntimeContract):
    runtime: ClassVar[type[Runtime]]

    def make_runtime(self, **settings: Any) -> Runtime:
        return self.runtime(**settings)


class TestTorchEager(Contract):
    runtime = TorchEager
    precisions = FLOATS


@pytest.mark.skipif(TorchCompile().problems() != [], reason="there is no C++ compiler")
class TestTorchCompile(Contract):
    runtime = TorchCompile

    def operations(self):  # a kernel that is compiled takes seconds
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return [
                Operation("a layer", nn.Linear(6, 5), (6,)),
                Operation("two layers", nn.Sequential(nn.Linear(4, 3), nn.ReLU()), (4,)),
            ]


class TestOnnxRuntime(Contract):
    runtime = OnnxRuntime
    precisions = ("float32", "int8")

    def refused_operation(self):
        return Operation("eigenvalues", Sort(), (4,))


class TestOpenVino(Contract):
    runtime = OpenVino
    precisions = (*FLOATS, "int8")


class TestNcnn(Contract):
    runtime = Ncnn


class TestMnn(Contract):
    runtime = Mnn


@pytest.mark.skipif(LiteRt().missing() != [], reason="litert-torch is not installed: an extra of its own")
class TestLiteRt(Contract):
    runtime = LiteRt


class TestCommand(Contract):
    """Through a program that runs ONNX Runtime in a process of its own."""

    def make_runtime(self, **settings: Any) -> Runtime:
        return Command(
            command=[sys.executable, str(BENCH), "{file}", "{threads}", "10"], target="another process", **settings
        )


def test_all_runtimes_are_registered():
    assert set(names(GROUP)) == {
        "torch",
        "torch-compile",
        "onnxruntime",
        "openvino",
        "ncnn",
        "mnn",
        "litert",
        "command",
    }


# -- the estimator -----------------------------------------------------------------------------------------------------------


def layer() -> Operation:
    return Operation("a layer", nn.Linear(4, 2), (4,))


def test_the_default_follows_from_the_device():
    assert DeviceEstimator().conditions == DeviceEstimator(runtime="onnxruntime").conditions
    assert DeviceEstimator().conditions["runtime"] == f"onnxruntime {version('onnxruntime')}"
    assert [default_runtime(device) for device in ("cpu", "cuda", "cuda:1", "mps")] == ["onnxruntime", *["torch"] * 3]


def test_conditions_of_torch_are_those_of_older_tables():
    conditions = DeviceEstimator(runtime="torch").conditions
    assert list(conditions) == ["device", "torch_device", "runtime", "threads", "batch", "precision", "processes"]
    assert conditions["runtime"] == f"torch {torch.__version__}"
    assert conditions == TorchEager().conditions


def test_tables_of_different_runtimes_do_not_mix():
    table = LookupTable({"a layer": Measurement(1, 1, 1)}, DeviceEstimator(runtime="torch").conditions)
    with pytest.raises(
        TableError, match=r"runtime is 'torch .*' in the table, 'onnxruntime .*' here.*needs latency.estimator.runtime"
    ):
        table.require(DeviceEstimator().conditions)


def test_tables_in_int8_are_of_no_search_in_float32():
    in_int8 = DeviceEstimator(runtime="onnxruntime", precision="int8").conditions
    table = LookupTable({"a layer": Measurement(1, 1, 1)}, in_int8)
    table.require(in_int8)
    with pytest.raises(TableError, match="precision is 'int8' in the table, 'float32' here"):
        table.require(DeviceEstimator(runtime="onnxruntime").conditions)


def test_options_that_make_a_difference_are_conditions():
    command = {"command": [sys.executable, "{file}"], "target": "a phone"}
    conditions = DeviceEstimator(runtime="command", options=command).conditions
    assert conditions["device"] == "a phone"
    assert conditions["runtime"] == "command"
    assert DeviceEstimator(runtime="command", options={**command, "timeout": 3, "retries": 0}).conditions == conditions
    assert DeviceEstimator(runtime="command", options={**command, "format": "torchscript"}).conditions != conditions
    again = DeviceEstimator.of_conditions(conditions, options={"timeout": 7.0}, repeats=3)
    assert again.conditions == conditions
    assert (again.repeats, again.options["timeout"]) == (3, 7.0)


def test_conditions_of_something_else_are_those_of_no_estimator_here():
    with pytest.raises(ValueError, match="does not say torch_device, batch: its target cannot be timed here"):
        DeviceEstimator.of_conditions({"threads": 1, "precision": "float32"})
    of_target = {**DeviceEstimator().conditions, "runtime": "torchscript, torch 2.0"}
    assert DeviceEstimator.of_conditions(of_target).conditions != of_target


def test_inside_of_networks_only_torch_is_timed():
    estimator = DeviceEstimator(runtime="onnxruntime")
    with (
        pytest.raises(ValueError, match=r"runtime onnxruntime cannot time operations inside of networks.*'isolated'"),
        estimator.prepared([nn.ReLU()]),
    ):
        pass


def test_several_inputs_of_several_types(tmp_path):
    """As one operation of a space may have them; the second one is taken for what was seen."""
    from nni_proxyless.latency.calls import Call, TensorSpec

    class Picks(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[:, index] * 2

    call = Call(
        (
            TensorSpec((1, 4), torch.float32, batch_dims=(0,)),
            TensorSpec((2,), torch.int64, torch.tensor([1, 3]), batch_dims=()),
        )
    )
    operation = Operation("picks", Picks(), (4,), call=call)
    with OnnxRuntime(batch=3).prepare([operation]) as (ours,), TorchEager(batch=3).prepare([operation]) as (torchs,):
        assert ours.run_ms() > 0
        (found,), (expected,) = ours.outputs(), torchs.outputs()
    assert found.shape == (3, 2)
    assert torch.equal(found, expected)


# -- CUDA, as far as a CPU goes ---------------------------------------------------------------------------------------------------


def test_a_session_that_would_run_on_the_cpu_in_the_place_of_cuda_is_refused():
    """Where the provider's libraries do not load, ONNX Runtime goes on without it. That is no fault of the operation."""
    on_cuda = OnnxRuntime(device="cuda:1")
    assert on_cuda.providers == [("CUDAExecutionProvider", {"device_id": 1}), "CPUExecutionProvider"]
    assert OnnxRuntime().providers == ["CPUExecutionProvider"]
    message = "runtime onnxruntime failed at 'a layer': ImportError: CUDAExecutionProvider does not load, and all would run on the CPU"
    with pytest.raises(TimingError, match=message) as caught, on_cuda.prepare([layer()]):
        pass
    assert not isinstance(caught.value, RefusedByRuntime)


def test_a_session_that_waits_for_its_device_gives_the_same():
    with OnnxRuntime().prepare([layer()]) as (runner,):
        before = runner.outputs()
        runner._runner.is_cuda = True
        assert runner.run_ms() > 0
        assert torch.equal(runner.outputs()[0], before[0])


# -- a runtime of the user's own ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mine(Runtime):
    """Runs nothing, wrong in one way."""

    way: str = ""
    size: int = 3
    name: ClassVar[str] = "mine"

    @property
    def version(self) -> str:
        return "7"

    def load(self, program, folder):
        (folder / "model").write_text(self.way)
        if self.way == "draws":
            torch.rand(1)
        return MyRunner(self.way, program)


class MyRunner(InProcess):
    def __init__(self, way, program):
        self.way, self.program, self.n = way, program, 0

    def run(self):
        return self.program.module(*self.program.inputs)

    def run_ms(self):
        self.n += 1
        return {"zero": 0.0, "text": "1.0"}.get(self.way, 1.0)

    @torch.no_grad()
    def outputs(self):
        return [self.run() + {"wrong": 1, "grows": (self.n - 1) * 1e-7}.get(self.way, 0)]


class One(ModelSpace):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x)


class Own(RuntimeContract):
    way = ""

    def make_runtime(self, **settings: Any) -> Runtime:
        return Mine(way=self.way, **settings)


class TestMine(Own):
    def refused_operation(self):
        return None


@pytest.mark.parametrize(
    ("way", "test", "said"),
    [
        ("wrong", "test_outputs_are_those_of_torch", "a network, float32: outputs differ from torch's by"),
        ("zero", "test_outputs_are_those_of_torch", "a network: 0.0 ms; allowed: more than 0"),
        ("text", "test_outputs_are_those_of_torch", "a network: '1.0' is a str; allowed: float"),
        ("grows", "test_outputs_are_those_of_torch", "a network: after some runs, its outputs are others"),
        ("draws", "test_a_module_is_left_as_it_is", "random numbers have been drawn"),
    ],
)
def test_the_contract_sees_what_is_wrong(way, test, said):
    contract = Own()
    contract.way = way
    with pytest.raises(AssertionError, match=said):
        getattr(contract, test)()


@pytest.mark.parametrize(("method", "runs"), [("rounds", 1 + 5 + 2 * 3), ("isolated", 1 + 5 + 2 * (10 + 3 + 10))])
def test_the_second_of_two_runs_counts_and_a_run_warms_up_once(monkeypatch, method, runs):
    """One when it is prepared, five to warm up, two per timing; a table times its first entry ten times before and after."""
    made = []
    monkeypatch.setattr(MyRunner, "run_ms", lambda self: made.append(1) or float(len(made)))
    estimator = DeviceEstimator(runtime=f"{__name__}:Mine", warmup=5, repeats=3)
    if method == "rounds":
        assert estimator.time_in_turns([layer()]) == [[8.0], [10.0], [12.0]]
    else:
        build_lookup_table(One(), (4,), estimator, method="isolated")
    assert len(made) == runs


def test_one_of_the_users_own_is_named_by_its_module():
    estimator = DeviceEstimator(runtime=f"{__name__}:Mine", options={"size": 4}, repeats=1, warmup=0)
    assert estimator.conditions["runtime"] == f"{__name__}:Mine 7"
    assert estimator.conditions["options"] == '{"size": 4}'
    assert estimator.estimate(layer()) > 0
    assert DeviceEstimator.of_conditions(estimator.conditions).conditions == estimator.conditions


# -- bad input -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"runtime": "onxruntime"}, r"runtime: 'onxruntime' is unknown; allowed: command, .*Did you mean 'onnxruntime'\?"),
        ({"runtime": "torch", "options": {"mode": "x"}}, "runtime torch: unknown option 'mode'; it has none"),
        ({"runtime": "torch.nn:Linear"}, "'torch.nn:Linear' is of another kind; allowed: a class that inherits nni_proxyless.latency.Runtime"),
        ({"runtime": "no.such:Thing"}, "runtime: 'no.such:Thing' does not import"),
        ({"runtime": "onnxruntime", "precision": "int4"}, "precision is 'int4'; allowed with runtime onnxruntime: float32, int8"),
        ({"runtime": "onnxruntime", "precision": "int8", "device": "cuda"}, "device is 'cuda'; allowed with runtime onnxruntime in int8: cpu"),
        ({"runtime": "ncnn", "precision": "int8"}, "precision is 'int8'; allowed with runtime ncnn: float32"),
        ({"runtime": "openvino", "device": "cuda"}, "device is 'cuda'; allowed with runtime openvino: cpu"),
        ({"runtime": "ncnn", "batch": 4}, "batch is 4; allowed with runtime ncnn: 1"),
        ({"runtime": "onnxruntime", "threads": 0, "batch": -1}, "threads is 0; allowed: 1 or more; batch is -1; allowed: 1 or more"),
        ({"runtime": "onnxruntime", "device": "cuda"}, "device is 'cuda', but this onnxruntime has no CUDAExecutionProvider.*pip install onnxruntime-gpu; device is 'cuda', but torch finds no CUDA"),
        ({"runtime": "torch-compile", "device": "cuda:1"}, "device is 'cuda:1', but torch finds no CUDA device here; allowed: cpu$"),
        ({"runtime": "torch-compile", "device": "mps"}, "device is 'mps'; allowed: cpu, cuda, cuda:N$"),
        ({"runtime": "onnxruntime", "repeats": 0}, "repeats is 0; allowed: 1 or more"),
        ({"runtime": "torch-compile", "options": {"mode": "fast"}}, "mode is 'fast'"),
        ({"runtime": "command"}, "command is empty; allowed: a program and its arguments"),
        ({"runtime": "command", "options": {"comand": "x"}}, r"unknown option 'comand'; allowed: command, .*Did you mean 'command'\?"),
        ({"runtime": "command", "options": {"command": 3}}, "option command is 3"),
        ({"runtime": "command", "options": {"command": "./no-such-bench {file}"}}, "command: ./no-such-bench is not there"),
        ({"runtime": "command", "options": {"command": "no-such-bench {file}"}}, "command: no-such-bench is not found in PATH"),
        ({"runtime": "command", "options": {"command": "/ {file}"}}, "command: / is a folder"),
        ({"runtime": "command", "options": {"command": f"{__file__} {{file}}"}}, "may not be executed"),
        ({"runtime": "command", "options": {"command": "sh -c true"}}, "no argument holds {file}"),
        ({"runtime": "command", "options": {"command": "sh '{file}"}}, "No closing quotation"),
        ({"runtime": "command", "options": {"command": "sh {file}", "timeout": 0}}, "timeout is 0; allowed: greater than 0"),
        ({"runtime": "command", "options": {"command": "sh {file}", "retries": -1}}, "retries is -1; allowed: 0 or more"),
        ({"runtime": "command", "options": {"command": "sh {file}", "format": "tf"}}, "format is 'tf'|option format is 'tf'"),
        ({"runtime": "command", "batch": 2, "options": {"command": "sh {file}", "format": "ncnn"}}, "batch is 2; allowed with runtime ncnn: 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_once(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        DeviceEstimator(**arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "package"),
    [("openvino", "openvino"), ("ncnn", "pnnx"), ("mnn", "MNN"), ("litert", "litert_torch, ai_edge_litert")],
)
def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch, name, package):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda asked, *more: None if asked in package.split(", ") else find(asked, *more)
    )
    with pytest.raises(
        ValueError, match=rf"runtime {name} needs .*; not installed: {package}. pip install 'nni-proxyless\[{name}\]'"
    ):
        make_runtime(name)


class Erf(nn.Module):
    """No operator of 8 bits."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.erf(x)


@pytest.mark.parametrize("runtime", [OnnxRuntime, OpenVino])
def test_what_cannot_be_quantized_is_named(runtime):
    said = f"runtime {runtime.name} cannot run 'an error function': nothing in it can be quantized: it computes Erf"
    operation = Operation("an error function", Erf(), (4,))
    with pytest.raises(RefusedByRuntime, match=said), runtime(precision="int8").prepare([operation]):
        pass


def test_int8_is_computed_in_int8(tmp_path):
    """Both runtimes say by which kernels: the file asks for 8 bits, and a runtime may go back to floats."""
    layers = [nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16)]
    program = Program("a", nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 4)).eval(), (torch.randn(1, 8, 8, 8),))
    file = write_onnx(program, tmp_path / "model.onnx", "int8")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    onnxruntime.InferenceSession(str(file.path), options)
    done = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    computed = [name for name in done if name.endswith(("Conv", "Gemm", "MatMul"))]
    assert computed == ["QLinearConv", "QLinearConv", "QGemm"]

    with OpenVino(precision="int8").prepare([(program.module, (8, 8, 8))]) as (runner,):
        compiled = runner._runner.request.get_compiled_model().get_runtime_model()
    said = [op.get_rt_info() for op in compiled.get_ordered_ops()]
    kinds = [i["runtimePrecision"].value for i in said if i["layerType"].value in ("Convolution", "FullyConnected")]
    assert kinds == ["u8", "u8", "u8"]


def test_an_operator_that_pnnx_leaves_is_named():
    class Cumulated(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.linalg.det(x.reshape(-1, 2, 2))

    with (
        pytest.raises(RefusedByRuntime, match="runtime ncnn cannot run 'a determinant': ") as caught,
        Ncnn().prepare([Operation("a determinant", Cumulated(), (4,))]),
    ):
        pass
    assert isinstance(caught.value, TimingError)
