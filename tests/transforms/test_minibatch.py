import dataclasses
import pickle
from fractions import Fraction

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import LloydStep, MiniBatchStep, batches
from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.in_memory import fit
from tests.data import blobs, given_rows
from tests.transforms.pipelines import THREADS, TWICE, apply, blocks_of, elements, failure

WEIGHTS = (np.arange(600) % 4 / 2).astype(np.float32)
CENTERS = given_rows(blobs(), 5)


def step(blocks, centers=CENTERS, *flags, **options):
    (result,) = apply(MiniBatchStep(centers, **options), blocks, *flags)
    return result


def outcome(result):
    """All of a result, to the byte."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in dataclasses.asdict(result).items()
    }


def test_the_step_worked_by_hand():
    rows = np.array([[1.0], [1.2], [50.0]], np.float32)
    result = step([Block(rows)], np.array([[1.0], [40.0], [90.0]]), counts=[1, 3, 7])
    wanted = (1 + 1 + Fraction(float(rows[1, 0]))) / 3
    assert result.cluster_centers.tolist() == [[np.float32(float(wanted))], [42.5], [90.0]]
    assert result.counts.tolist() == [3, 4, 7]
    assert result.batch_inertia == pytest.approx(0.04 + 100)
    assert result.cluster_centers.dtype == np.float32
    assert result.counts.dtype == np.float64
    assert result.means.tolist() == result.cluster_centers.tolist()


def fit_and_batches(metric, weights, iterations=2, size=100):
    rows = blobs() - blobs().mean(axis=0)
    rows[7] = 0
    p = Parameters(
        len(CENTERS),
        rows[::120][:5],
        distance_metric=metric,
        use_mini_batch=True,
        batch_size=size,
        max_iterations=iterations,
        tolerance=0.0,
        max_no_improvement=None,
        random_seed=4,
    )
    whole = fit(MemoryDataset(rows, weights, metric), p)
    order = batches.shuffled(4, np.arange(len(rows)))
    parts = []
    for number in range(iterations):
        places = batches.intervals(4, len(rows), number * size, (number + 1) * size)
        numbers = np.concatenate([order[a:b] for a, b in places])
        parts.append([Block(rows[numbers], None if weights is None else weights[numbers], numbers)])
    return p, whole, parts


@pytest.mark.parametrize(
    ("metric", "weights"),
    [
        pytest.param("squared_euclidean", None, marks=[pytest.mark.heavy, pytest.mark.runners]),
        ("cosine", WEIGHTS),
    ],
)
def test_a_fit_is_a_sequence_of_steps(metric, weights):
    p, whole, parts = fit_and_batches(metric, weights)

    def build(pipeline):
        result = pipeline | "Centers" >> beam.Create([p.initial_clusters])
        results = []
        for number, part in enumerate(parts):
            batch = pipeline | f"Batch{number}" >> beam.Create(part)
            result = batch | f"Step{number}" >> MiniBatchStep(result, distance_metric=metric)
            results.append(result | f"Key{number}" >> beam.Map(lambda r, n=number: (n, r)))
        return tuple(results) | beam.Flatten()

    found = dict(elements(build))
    assert found[1].cluster_centers.tobytes() == whole.centers.tobytes()
    for number, record in enumerate(whole.state.history[:-1]):
        assert record["batch_inertia"] == found[number].batch_inertia
        assert record["shift"] == found[number].shift
    # Arrays do as well as the result they are of.
    second = step(parts[1], found[0].means, counts=found[0].counts, distance_metric=metric)
    assert outcome(second) == outcome(found[1])
    assert outcome(step(parts[1], found[0], distance_metric=metric)) == outcome(second)


@pytest.mark.parametrize("metric", ["cosine"])
def test_any_blocks_bundles_and_threads_give_the_same_bytes(metric):
    rows = blobs()
    whole = outcome(step([Block(rows, WEIGHTS)], distance_metric=metric))
    for seed, flags in enumerate([THREADS, TWICE]):
        parts = blocks_of(rows, WEIGHTS, size=37, seed=seed)
        assert outcome(step(parts, CENTERS, *flags, distance_metric=metric)) == whole


@pytest.mark.parametrize("metric", ["squared_euclidean"])
def test_a_weight_counts_as_copies(metric):
    rows, weights = blobs()[:200], (np.arange(200) % 4).astype(np.float32)
    copies = np.repeat(rows, weights.astype(int), axis=0)
    assert outcome(step([Block(rows, weights)], distance_metric=metric)) == outcome(
        step([Block(copies)], distance_metric=metric)
    )


def test_ranges_of_centers_give_the_same_bytes(monkeypatch):
    whole = outcome(step([Block(blobs(), WEIGHTS)], distance_metric="cosine"))
    monkeypatch.setattr("beam_kmeans.lloyd.RANGE_VALUES", 16)
    assert outcome(step([Block(blobs(), WEIGHTS)], distance_metric="cosine")) == whole


def test_several_steps_an_iteration_are_a_lloyd_step():
    p, _, parts = fit_and_batches("cosine", WEIGHTS, iterations=2, size=300)
    several = dataclasses.replace(
        p, mini_batch_steps_per_iteration=3, batch_size=100, max_iterations=2
    )
    rows = blobs() - blobs().mean(axis=0)
    rows[7] = 0
    whole = fit(MemoryDataset(rows, WEIGHTS, "cosine"), several)
    centers = p.initial_clusters
    for part, record in zip(parts, whole.state.history, strict=False):
        (result,) = apply(LloydStep(centers, "keep", "cosine"), part)
        assert record["batch_inertia"] == result.inertia
        assert record["shift"] == result.shift
        centers = result.cluster_centers
    assert centers.tobytes() == whole.centers.tobytes()


def test_centers_and_counts_from_files(tmp_path):
    np.save(tmp_path / "centers.npy", CENTERS)
    np.save(tmp_path / "counts.npy", np.arange(1.0, 6.0))
    paths = {"counts": str(tmp_path / "counts.npy")}
    found = step([Block(blobs())], str(tmp_path / "centers.npy"), **paths)
    assert outcome(found) == outcome(step([Block(blobs())], counts=np.arange(1.0, 6.0)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"centers": ""}, "centers: '' is not allowed"),
        ({"centers": None}, "centers: None is not allowed"),
        ({"centers": CENTERS, "counts": [1, 2]}, r"counts: numbers of shape \[5\]"),
        ({"centers": CENTERS, "counts": [1, 2, 3, 4, -1]}, "counts: cluster 4 has -1"),
        ({"centers": CENTERS, "counts": [1, 2, 3, 1e300, 1]}, r"counts: cluster 3 has 1e\+300"),
        ({"centers": CENTERS, "counts": [1, 2, np.nan, 4, 1]}, "counts: cluster 2 has nan"),
        ({"centers": CENTERS, "distance_metric": "l1"}, "distance_metric: 'l1'"),
        ({"centers": [[0.0]], "distance_metric": "cosine"}, "center 0 is all zeros"),
    ],
)
def test_arguments_that_are_not_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        MiniBatchStep(**arguments)


def test_failures_in_the_pipeline_say_why(tmp_path):
    def empty(pipeline):
        return pipeline | beam.Create([], reshuffle=False) | MiniBatchStep(CENTERS)

    assert failure(empty) == "the batch has no rows"

    def counts(pipeline):
        batch = pipeline | beam.Create([Block(blobs())])
        return batch | MiniBatchStep(CENTERS, str(tmp_path / "none.npy"))

    assert "none.npy cannot be read" in failure(counts)


def test_its_partial_sums_are_merged_and_pickled():
    from beam_kmeans.transforms.minibatch import _Loader, _TallyFn

    function = pickle.loads(pickle.dumps(_TallyFn(_Loader(CENTERS, None, "cosine"), "cosine")))
    surveys = [
        next(iter(function.process(block))) for block in blocks_of(blobs(), WEIGHTS, size=200)
    ]
    merge = MergeSummaries()
    both = merge.extract_output(
        merge.merge_accumulators([merge.add_input([], survey) for survey in surveys])
    )
    assert both.rows == 600
    assert isinstance(pickle.loads(pickle.dumps(both)).survey.counts, np.ndarray)
