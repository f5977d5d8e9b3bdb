"""What comes with the package is read in its source and checked without its constructor; both say what the imported class says."""

from __future__ import annotations

import pytest

from nni_proxyless.config.options import _said_by, options_of
from nni_proxyless.config.registry import accepted_arguments, argument_types, load, names, value_of
from nni_proxyless.core.signatures import read_signature

READ = {  # of all others the classes themselves are asked
    "nni_proxyless.strategies": {"dsnas", "nni-darts", "nni-gumbel-darts", "nni-proxyless", "nni-random", "proxyless"},
    "nni_proxyless.search_spaces": {
        "amoebanet",
        "autoformer",
        "darts",
        "detection",
        "eeea-net",
        "enas",
        "mobilenetv2",
        "mobilenetv3",
        "nasbench201",
        "nasnet",
        "pnas",
        "proxylessnas",
        "pyramid-tree",
        "regression",
        "segmentation",
        "shufflenet",
        "timm",
    },
    "nni_proxyless.estimators": {"activations", "device", "macs", "nn-meter", "parameters", "table"},
    "nni_proxyless.datasets": {
        "boxes",
        "cifar10",
        "cifar100",
        "csv",
        "digits",
        "fashion-mnist",
        "folder",
        "huggingface",
        "masks",
        "synthetic",
        "torchvision",
    },
    "nni_proxyless.tasks": {"classification", "detection", "multi-label", "regression", "segmentation"},
}


@pytest.mark.parametrize("group", READ)
def test_the_source_says_what_the_class_says(group):
    """Names, order, which of them have defaults, and every type but those made of names that are not Python's."""
    read = {}
    for name in names(group):
        module, _, attribute = value_of(group, name).partition(":")
        if (signature := read_signature(module, attribute)) is not None:
            read[name] = signature
    assert set(read) == READ[group]
    for name, (parameters, types) in read.items():
        factory = load(group, name)
        accepted, meant = accepted_arguments(factory), argument_types(factory)
        assert list(parameters) == list(accepted), name
        assert [p.kind for p in parameters.values()] == [p.kind for p in accepted.values()]
        assert [p.default for p in parameters.values()] == [p.default for p in accepted.values()]
        assert types == {key: meant[key] for key in types}
        assert types == {key: meant[key] for key in parameters if key in meant}


WRONG = {
    ("nni_proxyless.strategies", "proxyless"): [
        {},
        {"update": "reinforce", "entropy_weight": 1, "checkpoint_every": 1},
        {"update": "two", "cost_probs": "none", "baseline": "", "arc_update_every": 0, "arc_update_steps": 0},
        {"arc_start_epoch": -1, "reinforce_samples": 0, "entropy_weight": -1, "baseline_weight": 0, "reward_exponent": 1},
        {"warmup_epochs": -1, "log_prob_every_n_step": 0, "accumulate_grad_batches": 0, "size_bias": -1, "arc_learning_rate": 0},
        {"warmup_learning_rate": 0.1, "gradient_clip_val": 0, "gradient_clip_algorithm": "max", "checkpoint_every": 0},
    ],
    ("nni_proxyless.strategies", "dsnas"): [
        {},
        {"warmup_epochs": 2, "warmup_learning_rate": 0.1},
        {"reward": "x", "paths": "y", "search_epochs": 0, "entropy_weight": -1, "fix_gap": 0, "baseline_weight": 2, "size_bias": -1},
        {"warmup_learning_rate": -1, "gradient_clip_val": -1, "seed": 1},
    ],
    ("nni_proxyless.strategies", "nni-proxyless"): [
        {"warmup_epochs": 2, "gradient_clip_val": 5.0},
        {"arc_learning_rate": 0, "warmup_epochs": -1, "log_prob_every_n_step": 0, "gradient_clip_val": 0},
    ],
    ("nni_proxyless.strategies", "nni-gumbel-darts"): [
        {"temperature": 0.5},
        {"temperature": [1.0, 0.5]},
        {"temperature": [0.5, 1.0]},
        {"temperature": 0},
        {"temperature": [1.0]},
    ],
    ("nni_proxyless.search_spaces", "mobilenetv2"): [
        {"preset": "small"},
        {"preset": "big"},
        {"preset": "small", "stem_width": 9, "first_width": 0, "feature_mix": 4, "num_classes": 0, "in_channels": 0, "dropout": 1},
        {"preset": "small", "widths": [16], "depths": [1, 1], "strides": [1, 1, 1]},
        {"preset": "small", "widths": [], "depths": [0, 1, 1], "strides": [3, 1, 1], "stem_stride": 4, "kernels": [3, 4], "expansions": [1, 1]},
        {"preset": "open", "entry_kernels": [2, 2], "squeeze_excite": [1], "activations": ["relu6", "gelu"], "se_ratio": 2},
    ],
    ("nni_proxyless.search_spaces", "pyramid-tree"): [
        {"preset": "small"},
        {"preset": "tall"},
        {"preset": "small", "depths": [1, 0], "stem_width": 3, "final_width": 0, "num_classes": 0, "in_channels": 0},
        {"preset": "small", "depths": [], "operations": ["dw3", "dw4", "sep3"]},
        {"preset": "small", "stem_width": 30, "operations": ["id", "id"]},
    ],
    ("nni_proxyless.estimators", "device"): [
        {},
        {"device": "cpu", "threads": 2, "batch": 8, "warmup": 0, "repeats": 1, "precision": "bfloat16", "runtime": "torch"},
        {"threads": 0, "batch": 0, "repeats": 0, "warmup": -1, "precision": "int8"},
        {"device": "tpu"},
        {"device": "cuda:99"},
        {"precision": "bfloat16"},
        {"runtime": "onxruntime"},
        {"runtime": "ncnn", "batch": 2},
        {"runtime": "command", "options": {"command": 1}},
    ],
    ("nni_proxyless.estimators", "table"): [{}, {"device": "a phone", "threads": 0, "unit": ""}],
    ("nni_proxyless.estimators", "macs"): [{}],
    ("nni_proxyless.estimators", "parameters"): [{}],
    ("nni_proxyless.estimators", "activations"): [{}],
}  # fmt: skip


@pytest.mark.parametrize(("group", "name"), WRONG)
def test_what_is_refused_is_what_the_constructor_refuses(group, name):
    options = options_of(group, name)
    assert options.factory is None
    assert options.problems is not None
    said = [options.refusal(arguments) for arguments in WRONG[group, name]]
    assert said == [_said_by(load(group, name), arguments) for arguments in WRONG[group, name]]
    assert said[0] is None
    assert all(said[2:])
