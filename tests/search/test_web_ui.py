"""NNI's web UI in a real browser: an experiment of ``nnictl create``, one trial finished and one running, and what a user clicks.

The pages come from NNI's manager and from the TensorBoard that it starts; nothing is asked of the internet.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from ..runs import TINY, process_in
from .test_experiment import ask, free_port

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no browser: apt-get install chromium chromium-driver, as .ci/run does"
)

# One value is enough for a setting to stand among the hyper-parameters.
EXPERIMENT = """
experimentName: web UI
trialCommand: nni-proxyless search search.yml
trialCodeDirectory: .
searchSpace:
  strategy.name: {_type: choice, _value: [proxyless]}
  latency.target_ms: {_type: choice, _value: [90%]}
  seed: {_type: choice, _value: [3]}
  training.epochs: {_type: choice, _value: [3, 2000]}
maxTrialNumber: 2
trialConcurrency: 1
tuner: {name: GridSearch}
trainingService: {platform: local}
"""
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--window-size=1500,1400",
]  # fmt: skip


def wait_for(what: str, condition: Callable[[], Any], seconds: float = 240) -> Any:
    """What the condition comes to, once it is something."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} within {seconds:.0f} s"
        time.sleep(0.3)
    return found


def can_open(address: str) -> bool:
    """Whether a web server is there by now."""
    try:
        urllib.request.urlopen(address, timeout=20).close()
    except OSError:
        return False
    return True


@dataclass
class Experiment:
    """A running experiment and a browser that looks at it."""

    home: Path
    port: int
    browser: Any

    def trials(self) -> dict[str, dict[str, Any]]:
        """Status -> trial."""
        return {trial["status"]: trial for trial in json.loads(ask(self.port, "/api/v1/nni/trial-jobs"))}

    def trial(self, status: str) -> str:
        return wait_for(f"trial that is {status}", lambda: self.trials().get(status))["trialJobId"]

    def epochs(self, trial: str) -> list[dict[str, float]]:
        """What the trial has reported so far."""
        found = json.loads(ask(self.port, f"/api/v1/nni/metric-data/{trial}?type=PERIODICAL"))
        return [json.loads(json.loads(metric["data"])) for metric in found]

    def folder(self, trial: str) -> Path:
        experiment = json.loads(ask(self.port, "/api/v1/nni/experiment"))["id"]
        (folder,) = self.home.glob(f"nni-experiments/{experiment}/environments/*/trials/{trial}")
        return folder

    def process(self, trial: str) -> psutil.Process:
        return process_in(self.folder(trial))

    # -- in the browser --------------------------------------------------------------------------------------------

    def element(self, css: str, text: str = "", within: Any = None) -> Any:
        """The first element with this text, as soon as it is there."""

        def find() -> Any:
            found = (within or self.browser).find_elements("css selector", css)
            return next((e for e in found if e.is_displayed() and text in e.text), None)

        return wait_for(f"{css} {text!r}", find, 60)

    def fetch(self, url: str, as_json: bool = True) -> Any:
        """What the page that is open gets from a URL: JSON, or the SHA-256 of the bytes."""
        script = """
            const [url, asJson, done] = arguments;
            fetch(url).then(async answer => {
                if (!answer.ok) return done({problem: `${answer.status} ${await answer.text()}`});
                if (asJson) return done({answer: await answer.json()});
                const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", await answer.arrayBuffer()));
                done({answer: Array.from(hash, byte => byte.toString(16).padStart(2, "0")).join("")});
            }).catch(error => done({problem: String(error)}));
        """
        got = self.browser.execute_async_script(script, url, as_json)
        assert "problem" not in got, f"{url}: {got['problem']}"
        return got["answer"]

    def open_trials(self) -> None:
        """The page with the table of trials, as if just opened; what a button would open in a new window is written down."""
        self.browser.get(f"http://127.0.0.1:{self.port}/detail")
        self.browser.execute_script("window.open = url => { window.opened = url }")

    def opened(self) -> str:
        """The address that a button has opened."""
        return wait_for("new window", lambda: self.browser.execute_script("return window.opened"), 60)

    def expand(self, trial: str) -> None:
        """The details below a trial's row."""
        self.element("[data-icon-name=ChevronRight]", within=self.row(trial)).click()

    def row(self, trial: str) -> Any:
        """The trial's row in the table."""
        return self.element(".ms-DetailsRow", trial)

    def headers(self) -> list[str]:
        """Of the table of trials."""
        found = self.browser.find_elements("css selector", ".ms-DetailsHeader-cellName")
        return [header.text for header in found if header.text]

    def cells(self, trial: str) -> list[str]:
        """Of the trial's row, those below a header; without the icons that follow the text."""
        cells = self.row(trial).find_elements("css selector", ".ms-DetailsRow-cell")
        keys = [cell.get_attribute("data-automation-key") for cell in cells]
        without = ("_selected", "_expand")
        return [cell.text.partition("\n")[0] for cell, key in zip(cells, keys, strict=True) if key not in without]

    def pictures(self) -> list[int]:
        """Widths of all pictures that the page shows, those within its components included."""
        script = """
            const all = root => [...root.querySelectorAll("*")].flatMap(e => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
            return all(document).filter(e => e.tagName === "IMG" && e.complete).map(e => e.naturalWidth);
        """
        return self.browser.execute_script(script)

    def tag_for_netron(self) -> None:
        """What a trial does where netron.app answers."""
        experiment = json.loads(ask(self.port, "/api/v1/nni/experiment"))["id"]
        code = f"from nni_proxyless.search.nni_web_ui import tag_for_netron; tag_for_netron({experiment!r})"
        subprocess.run([sys.executable, "-c", code], env={**os.environ, "HOME": str(self.home)}, check=True)

    def drawn(self) -> list[float]:
        """The values of the curve on the page: what the UI hands to the library that paints it."""
        script = """
            const chart = document.querySelector(".ms-Modal .echarts-for-react");
            if (!chart) return null;
            let node = chart[Object.keys(chart).find(key => key.startsWith("__reactFiber"))];
            while (!(node.stateNode && node.stateNode.getEchartsInstance)) node = node.return;
            return node.stateNode.getEchartsInstance().getOption().series[0].data;
        """
        return self.browser.execute_script(script)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Experiment]:
    from selenium import webdriver

    home = tmp_path_factory.mktemp("home")
    (home / "search.yml").write_text(TINY)
    (home / "experiment.yml").write_text(EXPERIMENT)
    environment = {
        **os.environ, "HOME": str(home), "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONWARNINGS": "", "OMP_NUM_THREADS": "1", "SE_OFFLINE": "true",
    }  # fmt: skip

    def nnictl(*words: str) -> None:
        done = subprocess.run(
            ["nnictl", *words], cwd=home, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    port = free_port()
    nnictl("create", "--config", "experiment.yml", "--port", str(port))
    browser = process = None
    try:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for flag in [*FLAGS, f"--user-data-dir={home / 'browser'}"]:
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER, env=environment))
        browser.set_script_timeout(30)
        found = Experiment(home, port, browser)
        found.trial("SUCCEEDED")  # here, so that a manager that does not come up is waited for once, not by each test
        running = found.trial("RUNNING")
        wait_for("three epochs", lambda: len(found.epochs(running)) >= 3)
        process = found.process(running)
        process.suspend()  # to NNI and to its pages it still runs; it would have a core to itself
        yield found
    finally:
        if process is not None and process.is_running():
            process.resume()  # else it takes no signal to end
        if browser is not None:
            browser.quit()
        nnictl("stop", json.loads(ask(port, "/api/v1/nni/experiment"))["id"])


def test_the_table_has_the_trials_with_their_figures(experiment):
    done, running = experiment.trial("SUCCEEDED"), experiment.trial("RUNNING")
    experiment.open_trials()
    final = json.loads(json.loads(experiment.trials()["SUCCEEDED"]["finalMetricData"][0]["data"]))
    assert list(final)[:5] == ["default", "measured_ms", "table_ms", "expected_ms", "macs"]
    experiment.element("button", "Add/Remove columns").click()
    experiment.element(".ms-Dialog-main .ms-Checkbox", "measured_ms").click()
    experiment.element(".ms-Dialog-main button", "Save").click()
    headers = wait_for(
        "new column", lambda: [h for h in experiment.headers() if "measured_ms" in h] and experiment.headers(), 30
    )
    row = dict(zip(headers, experiment.cells(done), strict=True))
    assert (row["ID"], row["Status"]) == (done, "SUCCEEDED")
    value, kind = row["Default metric"].split()
    assert (float(value), kind) == (pytest.approx(final["default"], abs=1e-6), "(FINAL)")
    assert float(row["measured_ms (metric)"]) == pytest.approx(final["measured_ms"], abs=1e-3)
    row = dict(zip(headers, experiment.cells(running), strict=True))
    assert (row["ID"], row["Status"]) == (running, "RUNNING")


def test_the_hyper_parameters_are_strategy_target_and_seed(experiment):
    done = experiment.trial("SUCCEEDED")
    experiment.open_trials()
    experiment.expand(done)
    shown = experiment.element(".openRow").text
    for line in ('strategy.name:"proxyless"', 'latency.target_ms:"90%"', "seed:3"):
        assert line in shown
    experiment.element("button[role=tab]", "Hyper-parameter").click()
    experiment.element(".parcoords text.label", "measured_ms")
    axes = [label.text for label in experiment.browser.find_elements("css selector", ".parcoords text.label")]
    assert axes[:6] == ["strategy.name", "latency.target_ms", "seed", "training.epochs", "default", "measured_ms"]


def test_the_curve_of_a_running_trial_is_that_of_the_key(experiment):
    running = experiment.trial("RUNNING")
    experiment.open_trials()
    experiment.element("button[title=Intermediate]", within=experiment.row(running)).click()
    for key in ("expected_ms", "entropy"):
        experiment.element(".ms-Modal .ms-Dropdown").click()
        experiment.element(".ms-Dropdown-item", key).click()
        reported = [epoch[key] for epoch in experiment.epochs(running)]
        drawn = wait_for(
            "curve",
            lambda key=key, reported=reported: experiment.drawn()[:1] == reported[:1] and experiment.drawn(),
            30,
        )
        assert len(drawn) >= 2
        assert drawn == [epoch[key] for epoch in experiment.epochs(running)][: len(drawn)]


def test_the_tensorboard_button_shows_the_trials_that_are_ticked(experiment):
    trials = [experiment.trial("SUCCEEDED"), experiment.trial("RUNNING")]
    experiment.open_trials()
    for trial in trials:
        experiment.row(trial).find_element("css selector", ".ms-Checkbox").click()
    experiment.element("button", "TensorBoard").click()
    experiment.element(".ms-Dialog-main button", "Ok").click()
    page = experiment.opened()
    wait_for("TensorBoard", lambda: can_open(page))
    experiment.browser.get(page)

    def runs(kind: str, tag: str) -> dict[str, list[str]]:
        """Trial -> tags, once both trials have this one."""
        found = experiment.fetch(f"/data/plugin/{kind}/tags")
        by_trial = {trial: list(tags) for trial in trials for run, tags in found.items() if trial in run}
        return by_trial if all(tag in by_trial.get(trial, ()) for trial in trials) else {}

    labels = {f"probabilities/stage{s}.{i}" for s in (1, 2) for i in (0, 1)}
    for tags in wait_for("pictures", lambda: runs("images", "probabilities/stage2.1")).values():
        assert set(tags) == labels | {"network"}
    for tags in wait_for("curves", lambda: runs("scalars", "search/entropy")).values():
        assert {f"search/{name}" for name in ("default", "expected_ms", "table_ms", "multiplier", "train_loss")} <= set(
            tags
        )
    experiment.browser.get(f"{page}/?#images")  # and the page shows them
    wait_for("pictures on the page", lambda: sum(width > 400 for width in experiment.pictures()) >= len(labels), 60)


def test_the_netron_button_opens_the_model(experiment):
    """Netron is a page of netron.app; it fetches the model from NNI, which has to give the bytes that the trial has left."""
    done = experiment.trial("SUCCEEDED")
    experiment.tag_for_netron()
    experiment.open_trials()
    experiment.expand(done)
    experiment.element(".openRow button[role=tab]", "Visualization").click()
    experiment.element(".openRow button", "Netron").click()
    opened = urllib.parse.urlsplit(experiment.opened())
    assert opened.path == "/netron/index.html"
    (model,) = urllib.parse.parse_qs(opened.query)["url"]
    left = (experiment.folder(done) / "model.onnx").read_bytes()
    assert experiment.fetch(model, as_json=False) == sha256(left).hexdigest()


def test_the_log_has_a_line_per_epoch(experiment):
    done = experiment.trial("SUCCEEDED")
    experiment.open_trials()
    experiment.expand(done)
    experiment.element(".openRow button[role=tab]", "Log").click()
    experiment.element(".openRow button", "View trial log").click()
    experiment.browser.get(f"http://127.0.0.1:{experiment.port}{experiment.opened()}")
    lines = experiment.element("body", "epoch 3/3").text.splitlines()
    assert [f"epoch {n}/3: validation accuracy" in line for line in lines if "epoch " in line for n in (1, 2, 3)].count(
        True
    ) == 3
    assert not [line for line in lines if "Warning" in line or "Traceback" in line]
