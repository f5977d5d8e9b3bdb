"""NNI's manager as a trial sees it: find the trial's parameters, and go on without the manager."""

from __future__ import annotations

import json
import logging
import os
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nni
import requests

from ..core.cpu_threads import manager_url
from ..core.nni_compat import report_as

__all__ = ["own_parameters", "reporting"]

_logger = logging.getLogger(__name__)

_PATIENCE = 20.0  # seconds; NNI files a trial a moment after it has started it

_has_complained = False


def own_parameters() -> Any:
    """The parameters that NNI's REST interface and web UI show for this trial.

    NNI 3.0 hands parameters out in the order in which trials ask (``onRequestParameter`` in its
    ``training_service/v3/compat.js``): of two that start at once, each may get the other's, and the tuner learns the wrong thing.
    So a trial asks, and then looks up what was meant for it. On other machines there is nobody to ask; there it is as NNI does it.
    """
    given = nni.get_next_parameter()
    record = _shown() if os.environ.get("NNI_PLATFORM") == "local" else None
    if record is None:
        return given
    if record["parameters"] != given:
        _logger.info("NNI has given out %s, which is another trial's; this one's: %s", given, record["parameters"])
    report_as(record)
    return record["parameters"]


def _shown() -> dict[str, Any] | None:
    """This trial's parameters in NNI's database, with their id; None where NNI does not say."""
    url = manager_url(f"trial-jobs/{os.environ['NNI_TRIAL_JOB_ID']}")
    if url is None:
        return None
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            with urllib.request.urlopen(url, timeout=_PATIENCE) as answer:
                return nni.load(json.loads(answer.read())["hyperParameters"][0])
        except (OSError, ValueError, LookupError) as error:  # not there yet
            if time.monotonic() > deadline:
                _logger.warning("NNI does not say which parameters are this trial's (%s): %s", url, error)
                return None
        time.sleep(0.2)


@contextmanager
def reporting() -> Iterator[None]:
    """A context for reports: a trial goes on without NNI's manager, since ``nnictl resume`` collects its results."""
    global _has_complained
    try:
        yield
    except requests.ConnectionError:
        if not _has_complained:
            _logger.warning(
                "NNI's manager does not answer; it was stopped or killed. This trial (process %d) goes on by itself and keeps its "
                "results in %s. What takes them up: nnictl resume %s",
                os.getpid(), os.environ.get("NNI_OUTPUT_DIR"), os.environ.get("NNI_EXP_ID"),
            )  # fmt: skip
            _has_complained = True
