"""Options of this test suite."""

import pytest
from hypothesis import HealthCheck, settings

# The same examples in every run, and no opinion on how long one takes: a test is to fail for what it is about, neither
# by chance nor because the machine is slow. `--hypothesis-profile=default` looks for other examples.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("same")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-stories",
        action="store_true",
        help="write what the core really does into tests/core/stories/*.txt, to be reviewed as a diff",
    )
