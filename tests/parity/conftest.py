"""Fixtures, and the table of measured differences at the end of a run."""

import collections

import pytest
import torch

import reference_models
from probe import Probe
from reference import AdaptedModel

MEASURED = pytest.StashKey[dict]()


def pytest_addoption(parser):
    parser.addoption("--engine-probe", required=True,
                     help="the program built from engine_probe.cc")


def pytest_configure(config):
    config.stash[MEASURED] = collections.defaultdict(list)
    # Tiny networks: more threads only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def probe(pytestconfig, tmp_path_factory):
    client = Probe(pytestconfig.getoption("--engine-probe"),
                   tmp_path_factory.mktemp("probe"), threads=1)
    yield client
    client.close()


@pytest.fixture(scope="session", params=reference_models.ARCHITECTURES)
def model(request, tmp_path_factory):
    folder = reference_models.write_model(
        tmp_path_factory.mktemp("models") / request.param,
        reference_models.ARCHITECTURES[request.param])
    return AdaptedModel(folder)


@pytest.fixture
def measure(pytestconfig):
    """measure(what, difference, bound): keeps it for the table, checks it.
    `reference` is the reference's own, where it has the same task."""
    def keep_and_check(what: str, difference: float, bound: float,
                       reference: float | None = None) -> None:
        pytestconfig.stash[MEASURED][what, bound].append(
            (difference, reference))
        assert difference <= bound, what
    return keep_and_check


def pytest_terminal_summary(terminalreporter, config):
    if not config.stash[MEASURED]:
        return
    terminalreporter.section("differences from the reference")
    line = "{:<60} {:>6} {:>10} {:>8} {:>12}".format
    terminalreporter.write_line(
        line("what", "cases", "largest", "bound", "reference's"))
    for (what, bound), values in config.stash[MEASURED].items():
        differences, references = zip(*values)
        theirs = [value for value in references if value is not None]
        terminalreporter.write_line(line(
            what, len(values), f"{max(differences):.2g}", f"{bound:.2g}",
            f"{max(theirs):.2g}" if theirs else ""))
