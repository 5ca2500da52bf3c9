"""One siege for all tests of a file: they attack, none of them ends the run."""

from collections.abc import Iterator

import pytest

from support.siege import Siege, besieged


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with besieged(tmp_path_factory.mktemp("siege")) as running:
        yield running
