import copy
import dataclasses
import pickle

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import KMeansModel, LloydStep, lloyd
from beam_kmeans.blocks import Block
from beam_kmeans.combiners import MergeSummaries
from beam_kmeans.config import METRICS, Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.in_memory import fit
from beam_kmeans.io.manifest import Standardization
from beam_kmeans.statistics import Directionless
from beam_kmeans.transforms.centers import CentersLoader
from beam_kmeans.transforms.lloyd import Overview, _TallyFn
from beam_kmeans.values import unit_rows
from tests.data import FOUR_POINTS, blobs, digits, given_rows, spambase
from tests.laws import check_monoid
from tests.transforms.pipelines import (
    THREADS,
    TWICE,
    apply,
    blocks_of,
    counters,
    elements,
    failure,
    run,
)

WEIGHTS = (np.arange(600) % 4 / 2).astype(np.float32)
CENTERS = given_rows(blobs(), 5)


def outcome(result):
    """All of a result, to the byte."""
    return {
        name: value.tobytes() if isinstance(value, np.ndarray) else value
        for name, value in dataclasses.asdict(result).items()
    }


def step(blocks, centers=CENTERS, *flags, **options):
    (result,) = apply(LloydStep(centers, **options), blocks, *flags)
    return result


def fitted(rows, centers, iterations, weights=None, empty_clusters="relocate"):
    parameters = Parameters(
        len(centers),
        centers,
        max_iterations=iterations,
        tolerance=0.0,
        empty_clusters=empty_clusters,
    )
    return fit(MemoryDataset(rows, weights), parameters)


def test_the_step_worked_by_hand():
    result = step([Block(FOUR_POINTS)], FOUR_POINTS[[0, 2]])
    assert result.cluster_centers.tolist() == [[0.5, 0], [10.5, 0]]
    assert result.cluster_centers.dtype == np.float32
    assert (result.inertia, result.shift) == (2.0, 0.5)
    assert result.counts.tolist() == [2, 2]
    assert result.counts.dtype == np.int64
    assert result.cluster_weights.tolist() == [2.0, 2.0]


HEAVY = [pytest.mark.heavy, pytest.mark.runners]


@pytest.mark.parametrize(
    ("weights", "empty_clusters"),
    [
        pytest.param(
            None, "relocate", id="unweighted", marks=[pytest.mark.heavy, pytest.mark.runners]
        ),
        pytest.param(WEIGHTS, "relocate", id="weighted"),
        pytest.param(WEIGHTS, "keep", id="keep", marks=HEAVY),
    ],
)
def test_steps_by_hand_are_a_fit(weights, empty_clusters):
    # Far away and twice the same: two clusters start empty.
    far = np.full((1, 8), 1e4, np.float32)
    centers = np.concatenate([CENTERS, far, far])
    expected = fitted(blobs(), centers, 2, weights, empty_clusters)
    for iteration in range(3):
        result = step(blocks_of(blobs(), weights), centers, empty_clusters=empty_clusters)
        record = expected.state.history[iteration]
        assert result.inertia == record["inertia"]
        assert result.cluster_weights.min() == record["smallest"]
        if iteration < 2:
            assert result.shift == record["shift"]
            centers = result.cluster_centers
    assert centers.tobytes() == expected.centers.tobytes()
    assert result.counts.tolist() == expected.counts.tolist()
    assert (result.counts.min() == 0) == (empty_clusters == "keep")


@pytest.mark.heavy
@pytest.mark.quality
@pytest.mark.parametrize("rows", [digits(), spambase()], ids=["digits", "spambase"])
def test_a_step_over_real_rows_is_that_of_a_fit(rows):
    centers = given_rows(rows, 10)
    result, expected = step(blocks_of(rows, size=500), centers), fitted(rows, centers, 1)
    assert result.cluster_centers.tobytes() == expected.centers.tobytes()
    assert result.inertia == expected.state.history[0]["inertia"]


@pytest.mark.parametrize(
    "numbered",
    [
        pytest.param(True, id="numbered", marks=[pytest.mark.heavy, pytest.mark.runners]),
        pytest.param(False, id="unnumbered"),
    ],
)
def test_blocks_bundles_and_threads_change_nothing(numbered):
    # Whole numbers and far centers: many rows are equally far, for two empty clusters.
    rows = np.round(blobs())
    centers = np.concatenate([np.round(CENTERS), np.full((2, 8), 1e4)]).astype(np.float32)
    expected = outcome(step(blocks_of(rows, WEIGHTS, numbered=numbered), centers))
    for size, seed, flags in [
        (600, None, ()),
        (7, 1, THREADS),
        (90, 2, (*THREADS, *TWICE)),
    ]:
        blocks = blocks_of(rows, WEIGHTS, size, seed, numbered)
        assert outcome(step(blocks, centers, *flags)) == expected


def test_equally_far_rows_without_numbers_are_told_apart_by_value():
    # Five rows at the same distance, two of which the empty clusters' centers take.
    rows = np.concatenate([np.zeros((20, 5)), 3 * np.eye(5)]).astype(np.float32)
    centers = np.concatenate([np.zeros((1, 5)), np.full((2, 5), 1e4)])
    found = {
        step(blocks_of(rows, size=4, seed=seed, numbered=False), centers).cluster_centers.tobytes()
        for seed in range(3)
    }
    assert len(found) == 1


def test_a_weight_of_two_is_a_row_twice():
    weighted = step([Block(blobs(), 1 + (WEIGHTS > 0.7), 0)])
    twice = np.concatenate([blobs(), blobs()[WEIGHTS > 0.7]])
    repeated = step([Block(twice, None, 0)])
    assert weighted.cluster_centers.tobytes() == repeated.cluster_centers.tobytes()
    assert weighted.inertia == repeated.inertia
    assert weighted.cluster_weights.tolist() == repeated.counts.tolist()


def test_many_ranges_of_centers_give_the_same(monkeypatch):
    blocks = blocks_of(blobs(), WEIGHTS)
    expected = outcome(step(blocks))
    monkeypatch.setattr(lloyd, "RANGE_VALUES", 16)
    assert len(lloyd.ranges(5, 8)) == 3
    assert outcome(step(blocks)) == expected


def save_array(folder):
    np.save(folder / "centers.npy", CENTERS.astype(np.float64))
    return str(folder / "centers.npy")


def save_model(folder):
    KMeansModel(CENTERS, 0.0, np.zeros(5, np.int64)).save(str(folder / "model"))
    return str(folder / "model")


@pytest.mark.parametrize("save", [save_array, save_model])
def test_centers_may_be_a_path(save, tmp_path):
    assert outcome(step(blocks_of(blobs()), save(tmp_path))) == outcome(step(blocks_of(blobs())))


def test_centers_may_be_a_list_or_a_pcollection():
    expected = outcome(step(blocks_of(blobs())))
    assert outcome(step(blocks_of(blobs()), CENTERS.tolist())) == expected

    def build(pipeline):
        centers = pipeline | "Centers" >> beam.Create([CENTERS])
        return pipeline | "Blocks" >> beam.Create(blocks_of(blobs())) | LloydStep(centers)

    for flags in [(), THREADS, TWICE]:
        (result,) = elements(build, *flags)
        assert outcome(result) == expected


def test_a_file_that_changed_is_read_again(tmp_path):
    before = step(blocks_of(blobs()), save_array(tmp_path))
    np.save(tmp_path / "centers.npy", before.cluster_centers)
    after = step(blocks_of(blobs()), str(tmp_path / "centers.npy"))
    assert outcome(after) == outcome(step(blocks_of(blobs()), before.cluster_centers))


def test_a_file_is_loaded_once_a_process(tmp_path):
    loader = CentersLoader(save_array(tmp_path))
    copies = [pickle.loads(pickle.dumps(loader)) for _ in range(3)]
    assert len({id(copy.get()) for copy in copies}) == 1


def test_given_centers_are_not_changed():
    before = CENTERS.copy()
    step(blocks_of(blobs()))
    assert CENTERS.tobytes() == before.tobytes()


def refusal(blocks, centers=CENTERS):
    return failure(lambda pipeline: pipeline | beam.Create(blocks) | LloydStep(centers))


@pytest.mark.parametrize("blocks", [[], [Block(np.zeros((0, 8)))]], ids=["no_block", "empty"])
def test_no_rows_are_refused(blocks):
    assert refusal(blocks) == "the data has no rows"


def test_weights_that_are_all_zero_are_refused():
    assert refusal([Block(blobs(), np.zeros(600))]) == "the weights of all 600 rows are 0"


def test_rows_of_other_features_are_refused():
    blocks = [Block(np.zeros((2, 3)), None, 40)]
    assert refusal(blocks) == (
        "a block of 2 rows from row 40 on has 3 features, the centers have 8"
    )


def test_centers_that_cannot_be_read_are_refused(tmp_path):
    rows = [Block(blobs())]
    assert refusal(rows, str(tmp_path)) == f"{tmp_path} holds no model: it has no model.json"
    missing = str(tmp_path / "none.npy")
    assert f"{missing} cannot be read" in refusal(rows, missing)
    np.save(tmp_path / "bad.npy", np.full((2, 8), np.nan))
    assert "bad.npy: center 0 holds a value that is no finite" in refusal(
        rows, str(tmp_path / "bad.npy")
    )


def test_a_model_that_standardizes_is_refused(tmp_path):
    scaled = Standardization((0.0,) * 8, (2.0,) * 8)
    model = KMeansModel(CENTERS, 0.0, np.zeros(5, np.int64), standardization=scaled)
    model.save(str(tmp_path))
    message = refusal([Block(blobs())], str(tmp_path))
    assert f"the centers of the model in {tmp_path} are standardized, the rows here are" in message
    assert "cluster_centers can be given" in message


@pytest.mark.parametrize(
    ("arrays", "message"),
    [([], "centers: the PCollection is empty"), ([np.zeros(3)], "centers: an array of shape")],
    ids=["none", "vector"],
)
def test_a_pcollection_that_holds_no_centers_is_refused(arrays, message):
    def build(pipeline):
        centers = pipeline | "Centers" >> beam.Create(arrays)
        return pipeline | "Blocks" >> beam.Create([Block(blobs())]) | LloydStep(centers)

    assert message in failure(build)


@pytest.mark.parametrize(
    ("centers", "message"),
    [
        (None, "centers: None is not allowed; allowed: an array"),
        ("", "centers: '' is not allowed; allowed: an array"),
        ([1.0, 2.0], r"centers: an array of shape \[k, d\] is needed, found \[2\]"),
        ([[np.nan]], "centers: center 0 holds a value that is no finite float32"),
    ],
)
def test_centers_that_are_none_are_refused(centers, message):
    with pytest.raises(ValueError, match=message):
        LloydStep(centers)


def test_an_unknown_policy_is_refused():
    with pytest.raises(ValueError, match="empty_clusters: 'drop' is not allowed"):
        LloydStep(CENTERS, empty_clusters="drop")


def test_other_elements_than_blocks_are_refused():
    with pytest.raises(beam.typehints.TypeCheckError):
        apply(LloydStep(CENTERS), [1, 2])


def test_blocks_and_rows_are_counted():
    blocks = blocks_of(blobs())
    _, metrics = run(lambda pipeline: pipeline | beam.Create(blocks) | LloydStep(CENTERS))
    assert counters(metrics, "Tally") == {"rows": 600, "blocks": 6}


def tally_of(metric):
    return _TallyFn(CentersLoader(unit_rows(CENTERS)[0], metric), True, metric)


def overviews(metric="squared_euclidean"):
    rows = blobs().copy()
    rows[5::50] = 0
    blocks = blocks_of(rows, WEIGHTS) + blocks_of(rows[:50] * 3, size=20)
    return [next(tally_of(metric).process(block)) for block in blocks]


def said(overview):
    survey, statistics = overview.survey, overview.statistics
    far = [getattr(survey.far, f.name).tobytes() for f in dataclasses.fields(survey.far)]
    exact = survey.cluster_weights().to_fractions()
    of_rows = (statistics.sum_of_squares(), statistics.rows, overview.directionless)
    return survey.counts.tolist(), exact, far, of_rows


@pytest.mark.parametrize("metric", METRICS)
def test_an_overview_is_a_monoid(metric):
    parts, tally = overviews(metric), tally_of(metric)
    assert any(part.directionless.rows for part in parts) == (metric == "cosine")

    def zero():
        nothing = Block(np.zeros((1, 8)), np.zeros(1), 0)
        overview = next(tally.process(nothing))
        survey, statistics = overview.survey, overview.statistics
        return Overview(
            lloyd.Survey(survey.counts * 0, survey.weights, survey.far),
            type(statistics).zero(8),
            Directionless(),
        )

    check_monoid(zero, parts, said)


def test_merging_follows_the_laws_of_a_combine_fn():
    parts, merge = overviews(), MergeSummaries()
    before = [pickle.dumps(part) for part in parts]

    def accumulated(some):
        accumulator = merge.create_accumulator()
        for part in some:
            accumulator = merge.add_input(accumulator, part)
        return pickle.loads(pickle.dumps(accumulator))

    expected = said(merge.extract_output(accumulated(parts)))
    random = np.random.default_rng(0)
    for cut in [1, 3, 5]:
        order = random.permutation(len(parts))
        groups = [accumulated([parts[i] for i in group]) for group in np.array_split(order, cut)]
        groups.insert(1, merge.create_accumulator())
        others = copy.deepcopy(groups[1:])
        merged = merge.merge_accumulators(group for group in groups)
        assert said(merge.extract_output(merged)) == expected
        assert [len(group) for group in others] == [len(group) for group in groups[1:]]
    assert merge.extract_output(merge.create_accumulator()) is None
    assert [pickle.dumps(part) for part in parts] == before
