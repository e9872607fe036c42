"""The same bytes on every runner, with every split of the files, every tile and every thread."""

import dataclasses

import numpy as np
import pytest

from beam_kmeans import KMeans, kernels
from tests import data, runs, servers, tables

ROWS = data.blobs(2000, 6)
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)).astype(np.float32) / 2
#: Two of the same, and two that no row is near to: clusters that are empty, and are relocated.
CROWDED = np.concatenate([ROWS[[0, 0, 1, 2, 3]], np.full((2, 6), 50, np.float32)])

FITS = {
    "random": KMeans(num_clusters=7, initial_clusters="random", max_iterations=4, tolerance=0),
    "relocate": KMeans(num_clusters=7, initial_clusters=CROWDED, max_iterations=4, tolerance=0),
}
THREADS = ["--direct_running_mode=multi_threading", "--direct_num_workers=2"]
PROCESSES = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
REPEATED = ["--direct_runner_bundle_repeat=1"]

each_fit = pytest.mark.parametrize("fit", FITS)


@pytest.fixture(scope="module")
def expected():
    """What each fit comes to in memory, with weights."""
    found = {name: runs.outcome(fit.fit(ROWS, sample_weight=WEIGHTS)) for name, fit in FITS.items()}
    assert sum(record["relocated"] for record in found["relocate"].history) >= 2
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Files of ROWS with WEIGHTS."""
    folder = tmp_path_factory.mktemp("in")
    return tables.write(folder, ROWS, files=3, weights=WEIGHTS, row_group=300)


def fit_files(fit, source, work, options=(), **settings):
    settings = {"features_column": "features", "weight_column": "w", **settings}
    return runs.outcome(FITS[fit].fit(source, str(work), [*options], **settings))


HEAVY = [pytest.mark.heavy, pytest.mark.runners]


@pytest.mark.parametrize(
    ("fit", "options"),
    [
        pytest.param("random", THREADS, id="random-threads"),
        pytest.param("relocate", REPEATED, id="relocate-repeated"),
        pytest.param("relocate", THREADS, id="relocate-threads", marks=HEAVY),
        pytest.param("random", REPEATED, id="random-repeated", marks=HEAVY),
    ],
)
def test_runners_in_this_process(expected, source, tmp_path, fit, options):
    assert fit_files(fit, source, tmp_path, options) == expected[fit]


@pytest.mark.heavy
@pytest.mark.runners
def test_many_files_and_small_blocks(expected, tmp_path):
    source = tables.write(tmp_path / "in", ROWS, files=17, weights=WEIGHTS, row_group=100)
    assert fit_files("random", source, tmp_path / "work", block_rows=40) == expected["random"]


@pytest.mark.parametrize(("fit", "settings"), [("random", (64, 1)), ("relocate", (1000, 3))])
def test_tiles_and_threads_of_kernels(expected, monkeypatch, fit, settings):
    monkeypatch.setattr(kernels, "settings", kernels.Settings(*settings))
    assert runs.outcome(FITS[fit].fit(ROWS, sample_weight=WEIGHTS)) == expected[fit]


# Other processes


def command(fit, source, work, *options, **more):
    """Fits in a process of its own, by the command line; its report."""
    kmeans = FITS[fit]
    initial = kmeans.initial_clusters
    if not isinstance(initial, str):
        work.mkdir()
        np.save(work / "given.npy", initial)
        initial = work / "given.npy"
    arguments = [
        "train",
        f"--input={source}",
        "--features_column=features",
        "--weight_column=w",
        f"--work_dir={work}",
        f"--num_clusters={kmeans.num_clusters}",
        f"--initial_clusters={initial}",
        f"--max_iterations={kmeans.max_iterations}",
        f"--tolerance={kmeans.tolerance}",
        "--json",
    ]
    return servers.command(*arguments, *options, **more).report()


@pytest.fixture(scope="module")
def worker_pool(tmp_path_factory):
    """Address of a pool of workers, as one stands beside a Flink task manager."""
    log, port = tmp_path_factory.mktemp("pool") / "log", servers.free_port()
    module = "apache_beam.runners.worker.worker_pool_main"
    with servers.started(["-m", module, f"--service_port={port}"], log) as process:
        servers.wait_until_ready(process, port, log)
        yield f"localhost:{port}"


@pytest.fixture(scope="module")
def job_server(tmp_path_factory):
    """Address of a portable job server."""
    log, port = tmp_path_factory.mktemp("server") / "log", servers.free_port()
    module = "apache_beam.runners.portability.local_job_service_main"
    with servers.started(["-m", module, f"--port={port}"], log) as process:
        servers.wait_until_ready(process, port, log)
        yield f"localhost:{port}"


@pytest.mark.heavy
@pytest.mark.runners
@each_fit
def test_two_processes(expected, source, tmp_path, fit):
    report = command(fit, source, tmp_path / "work", *PROCESSES)
    assert runs.outcome(report["model_dir"]) == expected[fit]
    assert report["inertia"] == expected[fit].inertia


@pytest.mark.heavy
@pytest.mark.runners
@each_fit
def test_a_job_server_with_a_pool_of_workers(
    expected, source, tmp_path, job_server, worker_pool, fit
):
    report = command(
        fit,
        source,
        tmp_path / "work",
        "--runner=PortableRunner",
        f"--job_endpoint={job_server}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool}",
        "--iterations_per_job=3",
    )
    assert report["jobs"] == 2
    assert runs.outcome(report["model_dir"]) == expected[fit]


@pytest.mark.heavy
@pytest.mark.runners
def test_a_job_server_hands_on_what_is_wrong_with_the_data(tmp_path, job_server, worker_pool):
    rows = ROWS.astype(np.float64)
    rows[7, 2] = np.nan
    source = tables.write(tmp_path / "in", rows, weights=WEIGHTS)
    arguments = ["stage", f"--input={source}", "--features_column=features"]
    result = servers.command(
        *arguments,
        f"--output={tmp_path / 'out'}",
        "--runner=PortableRunner",
        f"--job_endpoint={job_server}",
        "--environment_type=EXTERNAL",
        f"--environment_config={worker_pool}",
    )
    assert result.code == 1
    last = result.err.rstrip().splitlines()[-1]
    assert last.startswith(f"beam-kmeans: {tmp_path / 'in' / 'part-000.parquet'}, row 7: column")
    assert "Traceback" not in result.err


@pytest.mark.heavy
@pytest.mark.runners
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_of_tensorflow(expected, source, tmp_path, threads):
    more = {"TF_NUM_INTRAOP_THREADS": str(threads), "TF_NUM_INTEROP_THREADS": str(threads)}
    report = command("relocate", source, tmp_path / "work", **more)
    assert runs.outcome(report["model_dir"]) == expected["relocate"]


@pytest.mark.heavy
@pytest.mark.runners
@each_fit
@pytest.mark.parametrize(
    ("files", "block_rows", "options"),
    [
        (1, 100, THREADS),
        (1, 33, REPEATED),
        (3, None, REPEATED),
        (3, 100, THREADS),
        (17, None, THREADS),
        (17, 100, []),
    ],
    ids=str,
)
def test_files_blocks_and_runners(expected, tmp_path, fit, files, block_rows, options):
    source = tables.write(tmp_path / "in", ROWS, files=files, weights=WEIGHTS, row_group=100)
    found = fit_files(fit, source, tmp_path / "work", options, block_rows=block_rows)
    assert found == expected[fit]


@pytest.mark.heavy
@pytest.mark.runners
def test_rows_without_weights_too(source, tmp_path):
    fit = dataclasses.replace(FITS["relocate"], max_iterations=3)
    wanted = runs.outcome(fit.fit(ROWS))
    for number, options in enumerate([[], THREADS, REPEATED]):
        settings = {"features_column": "features", "block_rows": 100}
        found = fit.fit(source, str(tmp_path / f"{number}"), options, **settings)
        assert runs.outcome(found) == wanted
