"""The conformance checks: sound methods pass, each broken one fails the check that is meant for it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sdbench import registry
from sdbench.checks import CHECKS, Finding, run_checks
from sdbench.errors import UserError

PLUGINS = Path(__file__).parent / "plugins"

# Method, the first check that it fails, and words that its message must hold.
BROKEN = {
    "toy_broken_init": ("constructs", "__init__() raised ZeroDivisionError: no weight suits me", "broken.py:"),
    "toy_broken_exit": ("constructs", "__init__() raised SystemExit: 3"),
    "toy_broken_default": ("constructs", "weight: the default 7.0 is outside space['weight']", "widen"),
    "toy_broken_recommended": ("constructs", "recommended['cifar100']", "2.0 is outside"),
    "toy_broken_views": ("constructs", "views is 0", "at least 1"),
    "toy_broken_setup": ("sets_up", "setup() raised RuntimeError: no such stage"),
    "toy_broken_holder": ("sets_up", "holds the network's own parameter", "frozen_copy"),
    "toy_broken_view": ("sets_up", "'prototypes' shares its memory", "clone()"),
    "toy_broken_loss": ("returns_terms", "loss() raised IndexError: off by one", "broken.py:"),
    "toy_broken_tensor": ("returns_terms", "returned a tensor", "return a dict"),
    "toy_broken_vector": ("returns_terms", "term 'ce' is of shape [12]", "mean over the batch"),
    "toy_broken_number": ("returns_terms", "term 'extra' is a float", "0-d"),
    "toy_broken_detached": ("returns_terms", "no term of the loss has a gradient"),
    "toy_broken_nan": ("stays_finite", "term 'log' is nan in step 0"),
    "toy_broken_nan_gradient": ("stays_finite", "the gradient of the network's", "not finite"),
    "toy_broken_names": ("names_terms_alike", "['even']", "['odd']"),
    "toy_broken_aside": ("reaches_network", "no weight of the network gets a gradient"),
    "toy_broken_unused": ("uses_its_parameters", "temperature got no gradient"),
    "toy_broken_neutral": ("neutral_is_baseline", "with weight=0.0 the loss of step 0", "plain cross-entropy"),
    "toy_broken_neutral_gradient": ("neutral_is_baseline", "its gradient does not"),
    "toy_broken_labels": ("leaves_batch_alone", "wrote into batch.labels", "clone()"),
    "toy_broken_images": ("leaves_batch_alone", "wrote into batch.images"),
    "toy_broken_progress": ("leaves_batch_alone", "wrote into progress"),
    "toy_broken_mode": ("leaves_network_alone", "eval mode"),
    "toy_broken_frozen": ("leaves_network_alone", "'classifier.bias' without requires_grad"),
    "toy_broken_top3": ("takes_two_classes", "out of range", "Two classes are enough"),
    "toy_broken_full_batch": ("takes_short_batch", "must match", "A last batch of two images"),
    "toy_broken_bf16": ("computes_in_bf16", "BFloat16", "bfloat16 autocast"),
    "toy_broken_coupled": ("splits_over_devices", "term 'spread' is", "images to each other", "couples_samples"),
    "toy_broken_coupled_gradient": ("splits_over_devices", "other gradients", "couples_samples"),
    "toy_broken_sum": ("splits_over_devices", "term 'energy' is", "name it in summed_terms"),
    "toy_broken_mean": ("splits_over_devices", "term 'ce' is", "take it out of summed_terms"),
    "toy_broken_joins": ("splits_over_devices", "buffer 'steps' is declared to join as 'sum'"),
    "toy_broken_rows": ("splits_over_devices", "buffer 'past' is declared to join as 'rows'"),
    "toy_broken_seed": ("repeats", "the same seed gives another loss"),
    "toy_broken_dropout": ("draws_from_its_generator", "global random generator", "task.generator"),
    "toy_broken_attribute": ("resumes", "curve[2]", "register_buffer"),
    "toy_broken_late": ("resumes", "resumed trial ends as failed", "memory", "in setup()"),
    "toy_broken_mix": ("mixes_within_bounds", "share 1.5"),
    "toy_broken_mix_tuple": ("mixes_within_bounds", "returned a tuple", "sdbench.Mixed"),
    "toy_broken_mix_in_place": ("mixes_within_bounds", "wrote into batch.images"),
    "toy_broken_mix_random": ("mixes_within_bounds", "another result for the same generator"),
}
FAILS_RESUMING_TOO = {"toy_broken_full_batch", "toy_broken_frozen", "toy_broken_unused"}
"""Their faults make a whole trial fail, or end otherwise when resumed."""
SOUND = [
    "toy_average",
    "toy_base+toy_mix",
    "toy_carry",
    "toy_drops",
    "toy_partners_in_batch",
    "toy_per_sample",
    "toy_says_it_couples",
    "toy_says_it_sums",
    "toy_switches_modes",
    "toy_three_generations",
    "toy_validation",
    "toy_views",
]


@pytest.fixture(autouse=True)
def _toys(own_registry: None) -> None:
    """The toy methods and the broken ones, known for the time of one test."""
    for path in sorted(PLUGINS.glob("*.py")):
        registry.load_plugin(path)


@pytest.mark.parametrize("name", SOUND)
def test_sound_methods_pass_every_check(name: str) -> None:
    findings = run_checks(name, quick=True)
    assert [f.message for f in findings if not f.passed] == []
    assert [f.check for f in findings] == [c.name for c in CHECKS]


@pytest.mark.parametrize("name", sorted(BROKEN))
def test_broken_methods_fail_the_check_that_is_meant_for_them(name: str) -> None:
    expected, *words = BROKEN[name]
    failed = [finding for finding in run_checks(name, quick=True) if not finding.passed]
    assert failed[0].check == expected
    for word in words:
        assert word in failed[0].message
    if name not in FAILS_RESUMING_TOO | {"toy_broken_seed"}:
        assert len(failed) == 1, "one fault must not bury its author in findings about others"


def test_every_broken_method_and_every_check_is_covered() -> None:
    assert set(BROKEN) == {name for name in registry.names() if name.startswith("toy_broken_")}
    assert {expected for expected, *_ in BROKEN.values()} == {check.name for check in CHECKS}


def test_after_a_basic_failure_the_rest_is_left_out() -> None:
    findings = run_checks("toy_broken_init", quick=True)
    assert [(f.check, f.passed) for f in findings] == [("constructs", False)]


def test_hyper_parameters_are_taken() -> None:
    """A weight that makes the loss overflow is found, the default is not."""
    findings = run_checks("toy_views", {"weight": 1e38}, quick=True)
    assert not findings[-1].passed
    assert findings[-1].check == "stays_finite"


def test_bad_names_and_parameters_are_the_users_own() -> None:
    with pytest.raises(UserError, match="unknown method 'toy_view'; did you mean 'toy_views'"):
        run_checks("toy_view", quick=True)
    with pytest.raises(UserError, match="unknown parameter 'wieght'; did you mean 'weight'"):
        run_checks("toy_views", {"wieght": 1.0}, quick=True)
    with pytest.raises(UserError, match=r"unknown parameter 'width'.*'toy_mix.width'"):
        run_checks("toy_base+toy_mix", {"width": 1.0}, quick=True)


def test_a_combination_that_cannot_be_is_a_finding() -> None:
    findings = run_checks("toy_unmixable+toy_mix", quick=True)
    assert not findings[-1].passed
    assert "cannot be trained on mixed images: it remembers each image's own loss" in findings[-1].message


def test_the_process_is_left_as_it_was() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    expected = (torch.rand(1).item(), random.random(), np.random.rand())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    run_checks("toy_noise", quick=True)
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected
    assert torch.get_num_threads() == threads
    assert torch.are_deterministic_algorithms_enabled() == deterministic


def test_checks_say_what_they_are() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(20 < len(check.summary) < 120 and "\n" not in check.summary for check in CHECKS)
    findings = run_checks("ce", quick=True)
    assert all(isinstance(f, Finding) and f.seconds >= 0 for f in findings)
    assert [f.message for f in findings] == [check.summary for check in CHECKS]


@pytest.mark.slow
def test_the_command_lines_checks_pass_on_the_full_task() -> None:
    assert [f.message for f in run_checks("toy_carry") if not f.passed] == []
