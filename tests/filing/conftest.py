"""One double for all tests of filing: starting it takes a second, and reports have ids of their own."""

from collections.abc import Iterator

import pytest

from tests.filing.double import Double, running_double


@pytest.fixture(scope="session")
def double_process() -> Iterator[Double]:
    with running_double() as double:
        yield double


@pytest.fixture
def double(double_process: Double) -> Double:
    """A double with nothing planned that an earlier test left."""
    double_process.steering.delete("/double/faults").raise_for_status()
    return double_process
