"""Dataflow, as far as it goes without the service: what is staged, and a stand-in that runs it."""

import json
import sys

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from beam_kmeans import KMeans, stage
from beam_kmeans.driver import run_segment
from beam_kmeans.errors import DataError
from beam_kmeans.job import TrainJob
from beam_kmeans.options import pipeline_options
from beam_kmeans.predicting import predict
from tests import dataflow_service, engines, runs, tables
from tests.test_fusion import parts_of

pytestmark = [pytest.mark.heavy, pytest.mark.dataflow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return engines.files(tmp_path_factory.mktemp("in"))


@pytest.fixture
def service():
    with dataflow_service.serving() as found:
        yield found


@pytest.mark.parametrize("fit", engines.FITS)
def test_the_bytes_are_those_of_memory(service, source, tmp_path, fit):
    engines.check(fit, source, tmp_path, service.options(tmp_path))
    assert len(service.jobs) == 2  # a fit, and its predictions


def test_the_driver_loop_goes_on_after_a_job_that_failed_or_was_cancelled(
    service, source, tmp_path
):
    options = service.options(tmp_path)
    settings = {"features_column": "features", "weight_column": "w", "iterations_per_job": 2}
    fit, work = engines.FITS["full batch"], tmp_path / "work"
    for state in ("JOB_STATE_CANCELLED", "JOB_STATE_FAILED"):
        service.refuse.append(state)
        with pytest.raises(Exception, match=state.removeprefix("JOB_STATE_")):
            fit.fit(source, work, options, **settings)
    model = fit.fit(source, work, options, **settings)
    assert runs.outcome(model) == engines.in_memory("full batch")
    assert [job["currentState"][10:] for job in service.jobs] == [
        "CANCELLED",
        "FAILED",
        "DONE",
        "DONE",
    ]


def test_a_worker_tells_the_driver_what_is_wrong_with_the_data(service, tmp_path):
    rows = engines.ROWS.astype(np.float64)
    rows[7, 2] = np.nan
    source = tables.write(tmp_path / "in", rows)
    with pytest.raises(DataError, match=r"^[^ ]*part-000\.parquet, row 7: column .* is NaN"):
        stage(
            source,
            tmp_path / "out",
            features_column="features",
            options=service.options(tmp_path),
        )
    (job,) = service.jobs
    assert job["currentState"] == "JOB_STATE_FAILED"


# What is staged, where nothing runs


def nowhere(folder, *more):
    """Options by which the job's graph is written below the folder, and not run."""
    service = dataflow_service.Service()
    service.port = 1
    return [*service.options(folder), f"--template_location={folder}/job.json", *more]


def staged(folder):
    """The job file, and the graph that it names."""
    job = json.loads((folder / "job.json").read_text())
    proto = beam_runner_api_pb2.Pipeline()
    proto.ParseFromString((folder / "staging" / "pipeline.pb").read_bytes())
    return job, proto


def test_the_job_of_50_iterations_is_small_and_holds_no_center(source, tmp_path):
    dataset = stage(source, tmp_path / "dataset", features_column="features")
    centers = np.random.default_rng(0).random((400, 6)).astype(np.float32)
    job = TrainJob(
        KMeans(num_clusters=400, initial_clusters=centers),
        (dataset.path,),
        str(tmp_path / "work"),
        iterations_per_job=50,
    )
    more = ["--resource_hint=min_ram=12GB", "--machine_type=n2-highmem-4"]
    assert run_segment(job, pipeline_options(nowhere(tmp_path, *more))) is None
    described, graph = staged(tmp_path)
    assert len(json.dumps(described)) < 100_000
    assert 10_000 < graph.ByteSize() < 5e6
    pickled = b"".join(parts_of(graph))
    assert b"_LloydPass" in pickled, "the pickles were found"
    for center in (centers[0], centers[123]):
        assert center[:2].tobytes() not in pickled
    # One kind of worker for the whole job, so that nothing has to cross between kinds.
    (environment,) = graph.components.environments.values()
    (hint,) = environment.resource_hints.values()
    assert int(hint) == 12 * 10**9
    (pool,) = [one for one in described["environment"]["workerPools"] if one.get("machineType")]
    assert pool["machineType"] == "n2-highmem-4"
    image = f"python3.{sys.version_info[1]}_sdk:{beam.__version__}"
    assert image in environment.payload.decode(errors="replace")
    # The graph does what train does, once somebody runs it.
    located = {"environment": {"sdkPipelineOptions": {"options": {}}}}
    located["environment"]["sdkPipelineOptions"]["options"]["pipelineUrl"] = str(
        tmp_path / "staging" / "pipeline.pb"
    )
    state = tmp_path / "work" / "state.json"
    assert not state.exists()
    service = dataflow_service.Service()
    assert service.end_of(service.create(located)) == "JOB_STATE_DONE", service.messages
    assert json.loads(state.read_text())["iteration"] > 0


@pytest.mark.parametrize("fit", engines.FITS)
def test_every_graph_of_a_run_is_translated(source, tmp_path, fit):
    settings = {"features_column": "features", "weight_column": "w"}
    job = TrainJob(engines.FITS[fit], (source,), str(tmp_path / "work"), **settings)
    options = pipeline_options([*nowhere(tmp_path), "--dry_run=True"])
    assert run_segment(job, options) is None  # stages, seeds and iterates
    assert not (tmp_path / "work" / "state.json").exists()
    model = engines.FITS[fit].fit(engines.ROWS)
    model.save(str(tmp_path / "model"))
    output = str(tmp_path / "out" / "rows")
    found = predict(
        str(tmp_path / "model"), source, output, features_column="features", options=options
    )
    assert found is None
    assert not list((tmp_path / "out").glob("rows-0*"))


def test_a_template_of_predictions_writes_them_when_it_runs(service, source, tmp_path):
    model = engines.FITS["full batch"].fit(engines.ROWS)
    model.save(str(tmp_path / "model"))
    arguments = (str(tmp_path / "model"), source, str(tmp_path / "out" / "rows"))
    assert predict(*arguments, features_column="features", options=nowhere(tmp_path)) is None
    job, _ = staged(tmp_path)
    assert service.end_of(service.create(job)) == "JOB_STATE_DONE", service.messages
    report = predict(*arguments, features_column="features")  # asked again, it is complete
    assert report.rows == len(engines.ROWS)
    assert len(list((tmp_path / "out").glob("rows-0*.parquet"))) == report.files


@pytest.mark.parametrize("option", ["template_location", "dry_run"])
def test_what_needs_its_jobs_results_refuses_not_to_run_them(source, tmp_path, option):
    options = nowhere(tmp_path)
    if option == "dry_run":
        options = [one for one in options if "template" not in one] + ["--dry_run=True"]
    with pytest.raises(ValueError, match=f"^{option}: "):
        engines.FITS["full batch"].fit(
            source, tmp_path / "work", options, features_column="features"
        )
    with pytest.raises(ValueError, match=f"^{option}: stage goes on from what its job has written"):
        stage(source, tmp_path / "out", features_column="features", options=options)
    assert not (tmp_path / "work").exists()
    assert not (tmp_path / "out").exists()
