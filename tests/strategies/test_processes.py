"""Two processes over gloo, which are told what Lightning's DDP tells those that it starts (tests/search/test_search.py has it start them)."""

from __future__ import annotations

import warnings

import pytest
import torch
from nni_proxyless.strategies.oneshot.distributed import check_strategy

from ..forked import fork
from ..search.test_experiment import free_port
from . import searches

METHODS = tuple(searches.DISTRIBUTED)
ONE_PATH = tuple(method for method in METHODS if "per-process" not in method)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[dict]]]:
    """Number of processes -> method -> what each process ended with; one process has twice the batch of two."""
    folder = tmp_path_factory.mktemp("processes")
    told = {"WORLD_SIZE": "2", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    said = folder / "said"
    two = [
        fork(searches.all_distributed, 2, 16, "2", cwd=folder, said=said, LOCAL_RANK=str(rank), **told)
        for rank in range(2)
    ]
    for process in two:
        process.join(500)
    assert [process.exitcode for process in two] == [0, 0], said.read_text()[-3000:]
    with warnings.catch_warnings():
        for method in ONE_PATH:
            searches.distributed(1, 32, method, str(folder / f"1.{method}"))
    return {
        processes: {
            method: [
                torch.load(folder / f"{processes}.{method}.{rank}", weights_only=True) for rank in range(processes)
            ]
            for method in methods
        }
        for processes, methods in ((1, ONE_PATH), (2, METHODS))
    }


@pytest.mark.parametrize("method", ONE_PATH)
def test_two_processes_are_one_search(method, results):
    """Same paths and same logits at every step on both, on different images; and the result of one process with twice the
    batch, up to rounding: the mean over two halves of a batch is the mean over the batch."""
    first, second = results[2][method]
    (alone,) = results[1][method]
    assert len(first["seen"]) == 2 * 256 / 32
    for (path, alphas, images), (path2, alphas2, images2) in zip(first["seen"], second["seen"], strict=True):
        assert path == path2
        assert alphas == alphas2  # to the bit
        assert images != images2
    assert [path for path, _, _ in first["seen"]] == [path for path, _, _ in alone["seen"]]
    assert first["architecture"] == alone["architecture"]
    for name, weight in alone["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name])
        torch.testing.assert_close(first["weights"][name], weight, rtol=1e-9, atol=1e-10)
    for label, alpha in alone["alphas"].items():
        torch.testing.assert_close(first["alphas"][label], alpha, rtol=0, atol=1e-7)
        assert (alpha - alpha.mean()).abs().max() > 1e-2  # it has moved


@pytest.mark.parametrize("reward", ["loss", "gradient"])
def test_processes_with_paths_of_their_own_share_weights_and_logits(reward, results):
    """DSNAS as published: every process samples its own network, and all of them have the same weights and logits."""
    first, second = results[2][f"dsnas-per-process-{reward}"]
    searching = len(first["seen"]) // 2
    different = 0
    for i, ((path, alphas, images), (path2, alphas2, images2)) in enumerate(
        zip(first["seen"], second["seen"], strict=True)
    ):
        assert alphas == alphas2  # to the bit
        assert first["undivided"][i] == second["undivided"][i]
        assert images != images2
        different += path != path2
        assert i < searching or path == path2, "the child is one network"
    assert different > searching // 2
    assert first["architecture"] == second["architecture"]


def test_a_strategy_that_divides_the_weights_is_refused_by_name():
    from pytorch_lightning.strategies import FSDPStrategy

    with pytest.raises(TypeError, match=r"strategy is a FSDPStrategy; allowed: one device, or DDP \(strategy='ddp'\)"):
        check_strategy(FSDPStrategy())
