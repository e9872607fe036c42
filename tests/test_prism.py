"""Prism, a portable runner in Go, which shares no code with FnApiRunner."""

import os
import pathlib

import numpy as np
import pytest

from beam_kmeans.passes import minibatch
from tests import engines, servers, tables

pytestmark = [pytest.mark.heavy, pytest.mark.prism, pytest.mark.timeout(300)]

#: `make test-prism` builds it there.
PRISM = pathlib.Path(os.environ.get("PRISM", servers.ROOT / ".prism" / "bin" / "prism"))
OPTIONS = [
    "--runner=PrismRunner",
    f"--prism_location={PRISM}",
    "--environment_type=LOOPBACK",
]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return engines.files(tmp_path_factory.mktemp("in"))


@pytest.mark.parametrize("fit", engines.FITS)
def test_the_bytes_are_those_of_memory(source, tmp_path, fit):
    engines.check(fit, source, tmp_path, OPTIONS)


def test_mini_batch_as_passes_too(source, tmp_path, monkeypatch):
    monkeypatch.setattr(minibatch.settings, "batch_bytes", 0)
    engines.check("mini-batch", source, tmp_path, OPTIONS)


def test_a_segment_of_ten_iterations_and_jobs_of_one_are_the_same(source, tmp_path):
    for number, iterations in enumerate([1, 10]):
        folder = tmp_path / str(number)
        folder.mkdir()
        engines.check("full batch", source, folder, OPTIONS, iterations_per_job=iterations)


def test_bad_rows_are_named_as_elsewhere(tmp_path):
    rows = engines.ROWS.astype(np.float64)
    rows[7, 2] = np.nan
    source = tables.write(tmp_path / "in", rows)
    result = servers.command(
        "stage",
        f"--input={source}",
        "--features_column=features",
        f"--output={tmp_path / 'out'}",
        *OPTIONS,
    )
    assert result.code == 1
    # Not the last line: a worker in this process prints tracebacks of its own, and of Prism's end.
    said = [line for line in result.err.splitlines() if line.startswith("beam-kmeans: ")]
    assert len(said) == 1
    assert said[0].startswith(f"beam-kmeans: {tmp_path / 'in' / 'part-000.parquet'}, row 7: column")
