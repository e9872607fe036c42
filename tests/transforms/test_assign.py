import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import AssignClusters, KMeansModel
from beam_kmeans.blocks import Block
from tests import oracles
from tests.data import blobs, digits, given_rows
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

CENTERS = given_rows(digits(), 10)
SCORES = oracles.all_scores(digits(), CENTERS)


def joined(found, rows):
    """Assignments in the order of the row numbers: indices, scores and all scores."""
    order = np.argsort(np.concatenate([one.row_numbers for one in found]))
    assert len(order) == len(rows)
    columns = [(one.cluster_index, one.scores, one.all_scores) for one in found]
    return [np.concatenate(column)[order] for column in zip(*columns, strict=True)]


@pytest.mark.parametrize(
    ("size", "seed", "flags"),
    [(100, None, ()), (1797, None, TWICE), (33, 1, THREADS)],
    ids=["plain", "twice", "threads"],
)
def test_rows_are_assigned_by_definition(size, seed, flags):
    blocks = blocks_of(digits(), None, size, seed)
    found = apply(AssignClusters(CENTERS, all_scores=True), blocks, *flags)
    assert len(found) == len(blocks)
    index, scores, every = joined(found, digits())
    assert (index.dtype, scores.dtype, every.dtype) == (np.int32, np.float64, np.float64)
    np.testing.assert_array_equal(every, SCORES)
    np.testing.assert_array_equal(index, SCORES.argmin(axis=1))
    np.testing.assert_array_equal(scores, SCORES.min(axis=1))


def test_all_scores_are_given_where_asked_for():
    (found,) = apply(AssignClusters(CENTERS), [Block(digits()[:9], None, 5)])
    assert found.all_scores is None
    assert found.row_numbers == 5
    np.testing.assert_array_equal(found.cluster_index, SCORES[:9].argmin(axis=1))
    np.testing.assert_array_equal(found.scores, SCORES[:9].min(axis=1))


def test_rows_need_no_numbers_and_blocks_may_be_empty():
    blocks = [Block(digits()[:4]), Block(digits()[:0])]
    found = sorted(apply(AssignClusters(CENTERS), blocks), key=lambda one: -len(one.scores))
    assert [len(one.cluster_index) for one in found] == [4, 0]
    assert [one.row_numbers for one in found] == [None, None]


def test_equal_centers_go_to_the_lowest():
    (found,) = apply(AssignClusters([[3.0], [1.0], [1.0]]), [Block(np.array([[1.0], [2.0]]))])
    assert found.cluster_index.tolist() == [1, 0]


def test_centers_come_from_anywhere_alike(tmp_path):
    np.save(tmp_path / "centers.npy", CENTERS)
    model = KMeansModel(CENTERS, 0.0, np.zeros(10, np.int64))
    model.save(str(tmp_path / "model"))

    def build(centers):
        def blocks(pipeline):
            given = centers if centers is not None else pipeline | "C" >> beam.Create([CENTERS])
            return pipeline | "B" >> beam.Create(blocks_of(digits())) | AssignClusters(given, True)

        return blocks

    for centers in (CENTERS, str(tmp_path / "centers.npy"), str(tmp_path / "model"), None):
        index, scores, every = joined(elements(build(centers)), digits())
        np.testing.assert_array_equal(index, model.predict(digits()))
        np.testing.assert_array_equal(scores, model.score_samples(digits()))
        np.testing.assert_array_equal(every, model.transform(digits()))


def test_rows_of_other_features_are_refused():
    blocks = [Block(blobs())]
    message = failure(lambda pipeline: pipeline | beam.Create(blocks) | AssignClusters(CENTERS))
    assert message == "a block of 600 rows has 8 features, the centers have 64"


def test_all_scores_is_true_or_false():
    with pytest.raises(ValueError, match="all_scores: 'no' is not allowed"):
        AssignClusters(CENTERS, all_scores="no")


def test_blocks_and_rows_are_counted():
    blocks = blocks_of(digits())
    _, metrics = run(lambda pipeline: pipeline | beam.Create(blocks) | AssignClusters(CENTERS))
    assert counters(metrics, "Assign") == {"rows": 1797, "blocks": 18}
