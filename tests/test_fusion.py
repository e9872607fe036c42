"""On a Java runner nothing but references, states and partial sums would leave a process."""

import base64
import bz2
import pickle

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.pvalue import AsSingleton

from beam_kmeans import StagedDataset, lloyd, sampling, stage
from beam_kmeans.checkpoint import WorkDir
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.io.plan import make_plan
from beam_kmeans.io.shards import read_shard
from beam_kmeans.io.staging import StageFiles
from beam_kmeans.kernels import Centers
from beam_kmeans.options import pipeline_options
from beam_kmeans.segment import Start, build_segment
from beam_kmeans.tally import LloydTally
from tests import data, java_fusion, tables

ROWS = data.blobs(20_000, 8)
#: A shard of ROWS has 40 kB; a reference, a state or a partial sum is far smaller.
MOST_BYTES = 12_000

HEAVY = [pytest.mark.heavy, pytest.mark.runners]

#: PCollection id -> sizes of its pickled elements; filled by workers in this process.
CROSSED: dict[str, list[int]] = {}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tables.write(tmp_path_factory.mktemp("in"), ROWS, "npy", files=3)


@pytest.fixture(scope="module")
def dataset(files, tmp_path_factory):
    return stage(files, str(tmp_path_factory.mktemp("staged") / "dataset"), block_rows=1250)


def segment(work_dir, dataset, iterations=3, initial="random", k=5, **fields):
    """A pipeline that holds a segment over the dataset whose path a transform gives."""
    pipeline = beam.Pipeline(options=pipeline_options())
    work = WorkDir(str(work_dir), k)
    parameters = Parameters(num_clusters=k, initial_clusters=initial, tolerance=0, **fields)
    given = parameters.given_centers
    start = Start() if given is None else Start(given=work.save_given(given))
    path = pipeline | "Dataset" >> dataset
    build_segment(path, work, parameters, 8, start, iterations, f"{work_dir}/model")
    return pipeline


def record(element, collection):
    CROSSED.setdefault(collection, []).append(len(pickle.dumps(element)))


def heavy_crossings(pipeline):
    """Runs a pipeline; names of what makes elements of over MOST_BYTES that leave a process."""
    proto, context = pipeline.to_runner_api(return_context=True)
    original = {*proto.components.pcollections}
    makers = {}
    for transform in proto.components.transforms.values():
        for collection in transform.outputs.values():
            makers[collection] = transform.unique_name
    crossing = {
        collection
        for found in java_fusion.stages(proto)
        for collection in found.materialized
        # The others were made by lifting: they hold what a combiner has merged.
        if collection in original
    }
    assert crossing
    CROSSED.clear()
    for collection in sorted(crossing):
        values = context.pcollections.get_by_id(collection)
        values | f"Record {collection}" >> beam.Map(record, collection)
    pipeline.run().wait_until_finish()
    assert CROSSED, "nothing was seen to cross"
    return {makers[name] for name, sizes in CROSSED.items() if max(sizes) > MOST_BYTES}


def stage_with(pipeline, name):
    """The stage that holds the transform of this name."""
    found = [
        part
        for part in java_fusion.stages(pipeline.to_runner_api())
        if any(own.endswith(name) for own in part.names)
    ]
    assert len(found) == 1, f"{name} is in {len(found)} stages"
    return found[0]


@pytest.mark.parametrize(
    "ranges",
    [
        pytest.param(False, id="one-range", marks=[pytest.mark.heavy, pytest.mark.runners]),
        pytest.param(True, id="ranges"),
    ],
)
def test_nothing_heavy_crosses_between_the_stages_of_a_segment(
    dataset, tmp_path, monkeypatch, ranges
):
    if ranges:
        monkeypatch.setattr(lloyd, "RANGE_VALUES", 16)
        monkeypatch.setattr(sampling, "RANGE_ENTRIES", 2)
    assert heavy_crossings(segment(tmp_path, beam.Create([dataset.path]))) == set()
    assert (tmp_path / "state.json").exists()


@pytest.mark.parametrize(
    ("initial", "rounds"),
    [("kmeans_plus_plus", 1), pytest.param("afkmc2", 1, marks=HEAVY)],
)
def test_nothing_heavy_crosses_while_centers_are_found(dataset, tmp_path, initial, rounds):
    fields = {"seeding_rounds": rounds, "kmc2_chain_length": 40}
    pipeline = segment(tmp_path, beam.Create([dataset.path]), 0, initial, **fields)
    assert heavy_crossings(pipeline) == set()
    assert len(list(tmp_path.glob("seeding/pass=*"))) in (3, 4)


def test_gate_read_and_what_an_initialiser_measures_are_one_stage(tmp_path):
    pipeline = segment(tmp_path, beam.Create(["dataset"]), 0, "kmeans_plus_plus")
    for number, name in ((0, "Measure"), (3, "Measure"), (6, "LookUp")):
        fused = stage_with(pipeline, f"Seed/Pass{number}/{name}")
        assert len(fused.names) == 2
        assert fused.urns[1] == java_fusion.PRECOMBINE
        assert len(fused.materialized) == 1


def test_nothing_heavy_crosses_while_staging(files, tmp_path):
    plan = make_plan(files, str(tmp_path / "dataset"), block_rows=1250, standardize=True)
    plan.save()

    staging = StageFiles(plan.path, plan.standardize)
    assert heavy_crossings(segment(tmp_path, staging, iterations=1)) == set()
    assert StagedDataset.open(plan.output).rows == len(ROWS)


@pytest.mark.parametrize("ranges", [False, True], ids=["one-range", "ranges"])
@pytest.mark.parametrize("number", [0, 2])
def test_gate_read_kernel_and_sums_are_one_stage(tmp_path, monkeypatch, number, ranges):
    if ranges:
        monkeypatch.setattr(lloyd, "RANGE_VALUES", 16)
    pipeline = segment(tmp_path, beam.Create(["dataset"]))
    fused = stage_with(pipeline, f"Iteration{number}/Pass")
    assert len(fused.names) == 2
    assert fused.names[0] == f"Iteration{number}/Pass"
    assert fused.names[1].startswith(f"Iteration{number}/Sum")
    assert fused.urns[1] == java_fusion.PRECOMBINE
    assert len(fused.materialized) == 1


def test_all_passes_read_the_same_references(tmp_path):
    pipeline = segment(tmp_path, beam.Create(["dataset"]))
    names = ["Iteration0/Pass", "Iteration1/Pass", "Iteration2/Pass", "Measure/Pass"]
    names += ["Seed/Pass0/Measure", "Seed/Pass0/LookUp"]
    inputs = {stage_with(pipeline, name).main_input for name in names}
    assert len(inputs) == 1


# The rules find what is wrong


class Read(beam.DoFn):
    def process(self, info, path):
        yield from read_shard(path, info, 8, False)


class Kernel(beam.DoFn):
    def __init__(self, centers=None):
        self._centers = centers

    def process(self, block, centers=None):
        tally = LloydTally(Centers(self._centers if centers is None else centers), far=False)
        tally.include([block])
        yield 0, tally.result()[1]


def wrong_pass(dataset, kernel):
    """A pass of two steps: a read, and a kernel that is fused with it or not."""
    pipeline = beam.Pipeline(options=pipeline_options())
    blocks = (
        pipeline
        | "Shards" >> beam.Create(dataset.shards)
        | "Spread" >> beam.Reshuffle()
        | "Read" >> beam.ParDo(Read(), dataset.path)
    )
    sums = kernel(pipeline, blocks) | "Sum" >> beam.CombinePerKey(MergeSummaries())
    sums | "Only" >> beam.Map(lambda _: None)
    return pipeline


def fused_kernel(pipeline, blocks):
    return blocks | "Kernel" >> beam.ParDo(Kernel(ROWS[:5].copy()))


def side_input_kernel(pipeline, blocks):
    centers = pipeline | "Centers" >> beam.Create([ROWS[:5].copy()])
    return blocks | "Kernel" >> beam.ParDo(Kernel(), AsSingleton(centers))


def hinted_kernel(pipeline, blocks):
    kernel = beam.ParDo(Kernel(ROWS[:5].copy())).with_resource_hints(min_ram="8GB")
    return blocks | "Kernel" >> kernel


def test_two_steps_without_side_inputs_are_one_stage(dataset):
    pipeline = wrong_pass(dataset, fused_kernel)
    fused = stage_with(pipeline, "Read")
    assert {"Read", "Kernel"} <= {*fused.names}
    assert java_fusion.PRECOMBINE in fused.urns
    assert heavy_crossings(pipeline) == set()


@pytest.mark.parametrize("kernel", [side_input_kernel, hinted_kernel])
def test_a_kernel_that_does_not_fuse_with_its_read_is_found(dataset, kernel):
    pipeline = wrong_pass(dataset, kernel)
    assert "Kernel" not in stage_with(pipeline, "Read").names
    assert heavy_crossings(pipeline) == {"Read"}


def test_a_stateful_kernel_is_found(dataset):
    class Stateful(beam.DoFn):
        COUNT = beam.transforms.userstate.CombiningValueStateSpec("count", sum)

        def process(self, element, count=beam.DoFn.StateParam(COUNT)):  # noqa: B008
            count.add(1)
            yield 0, element[1]

    def stateful(pipeline, blocks):
        return blocks | "Key" >> beam.Map(lambda b: (0, b)) | "Kernel" >> beam.ParDo(Stateful())

    assert "Kernel" not in stage_with(wrong_pass(dataset, stateful), "Read").names


# The size of a graph


def parts_of(proto):
    """Everything that was pickled into a graph, as the bytes of the pickles."""
    for transform in proto.components.transforms.values():
        if transform.spec.urn == common_urns.primitives.PAR_DO.urn:
            payload = beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
            yield bz2.decompress(base64.b64decode(payload.do_fn.payload))


@pytest.mark.heavy
@pytest.mark.runners
def test_the_graph_of_50_iterations_is_small_and_holds_no_center_and_no_shard(dataset, tmp_path):
    centers = np.random.default_rng(0).random((400, 8)).astype(np.float32)
    whole = segment(tmp_path, beam.Create([dataset.path]), 50, centers, k=400)
    proto = whole.to_runner_api()
    size = proto.ByteSize()
    assert size < 5e6
    pickled = b"".join(parts_of(proto))
    assert b"_LloydPass" in pickled, "the pickles were found"
    assert dataset.path.encode() in pickled
    for center in (centers[0], centers[123], centers.astype(np.float64)[7]):
        assert center[:2].tobytes() not in pickled
    assert dataset.shards[3].path.encode() not in pickled
    assert dataset.shards[3].checksum.encode() not in pickled
    # Nor does it grow with k.
    other = segment(tmp_path / "other", beam.Create([dataset.path]), 50, centers[:5], k=5)
    assert abs(other.to_runner_api().ByteSize() - size) < 0.005 * size
