"""Options of this test suite."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-stories",
        action="store_true",
        help="write what the core really does into tests/core/stories/*.txt, to be reviewed as a diff",
    )
