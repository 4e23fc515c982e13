"""Every registered method keeps the contract that its authors can check with ``sdbench check NAME``."""

import pytest

from sdbench import registry
from sdbench.checks import CHECKS, run_checks


@pytest.mark.parametrize("name", registry.names())
def test_conforms(name: str) -> None:
    findings = run_checks(name, quick=True)
    assert [f"{f.check}: {f.message}" for f in findings if not f.passed] == []
    assert [f.check for f in findings] == [check.name for check in CHECKS]
