"""Pages that follow from the code say what the code says."""

from __future__ import annotations

import runpy

import pytest

from nni_proxyless.config.search_config import SearchConfig
from nni_proxyless.config.train_config import TrainConfig

from .conftest import ROOT

GENERATE = ROOT / "docs" / "reference" / "generate.py"


@pytest.fixture(scope="module")
def generator() -> dict:
    return runpy.run_path(str(GENERATE))


def test_the_pages_are_up_to_date(generator):
    old = [path.name for path, text in generator["pages"]().items() if path.read_text("utf-8") != text]
    assert not old, f"run: python {GENERATE.relative_to(ROOT)}"


@pytest.mark.parametrize("model", [SearchConfig, TrainConfig])
def test_every_key_has_a_description(generator, model):
    def without(model, path=""):
        for name, field in model.model_fields.items():
            if not field.description:
                yield path + name
            if (inner := generator["section_of"](field.annotation)) is not None:
                yield from without(inner, f"{path}{name}.")

    assert list(without(model)) == []
