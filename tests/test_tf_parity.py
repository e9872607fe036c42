"""Our centers, indices and scores beside those of TensorFlow's own class, which still runs.

Both are given the same rows, centers and batches. Where TensorFlow's float32 is wrong the measure
is a plain float64 reference, and the test's name says which defect it is.
"""

import functools

import apache_beam as beam
import numpy as np
import pytest

from beam_kmeans import Block, KMeans, KMeansModel, LloydStep, minibatch
from beam_kmeans.tally import Rows
from tests import data, tf_answers
from tests.transforms import pipelines

METRICS = ["squared_euclidean", "cosine"]
ITERATIONS = 5
K = 6


def _random():
    return np.random.default_rng(3).normal(size=(600, 8)).astype(np.float32)


def _sphere():
    rows = np.random.default_rng(4).normal(size=(600, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _duplicated():
    random = np.random.default_rng(5)
    return random.permutation(np.repeat(random.normal(size=(60, 8)), 10, axis=0)).astype(np.float32)


DATA = {
    "random": _random,
    "clustered": lambda: data.blobs(600, 8, K),
    "duplicated": _duplicated,
    "sphere": _sphere,
}
MODES = {"full batch": None, "S=1": 1, "S=4": 4}


@functools.cache
def rows_of(name):
    return DATA[name]()


def centers_of(name):
    return data.given_rows(rows_of(name), K, seed=2)


@functools.cache
def batches(steps):
    """Batches of 60 rows in a given order; the last one is smaller."""
    random = np.random.default_rng(6)
    return [random.permutation(600)[: 60 if i < 19 else 37] for i in range(steps)]


@functools.cache
def theirs(name, metric, mode):
    steps = MODES[mode]
    settings = {"metric": metric, "iterations": ITERATIONS}
    if steps:
        settings |= {"mode": "mini", "steps_per_iteration": steps}
        settings |= {"batches": batches(ITERATIONS * steps)}
    return tf_answers.ask(rows_of(name), centers_of(name), **settings)


@functools.cache
def ours(name, metric, mode):
    """The centers after 0, 1, ... iterations, and the rows' indices in them, a step at a time."""
    if MODES[mode] is None:
        return _full_batch(name, metric)
    return _mini_batch(name, metric, MODES[mode])


def _full_batch(name, metric):
    rows = rows_of(name)
    models = [
        KMeans(
            num_clusters=K,
            initial_clusters=centers_of(name),
            distance_metric=metric,
            max_iterations=iterations,
            tolerance=0,
            empty_clusters="keep",
        ).fit(rows)
        for iterations in range(ITERATIONS + 1)
    ]
    steps = [(model, rows) for model in models[:-1]]
    return [model.cluster_centers for model in models], steps


def _mini_batch(name, metric, steps):
    rows, all_batches = rows_of(name), batches(ITERATIONS * steps)
    start = model_of(centers_of(name), metric).cluster_centers
    learned = minibatch.Learned.start(start, metric, carried=steps == 1)
    centers, taken = [start], []
    for i in range(ITERATIONS):
        own = all_batches[i * steps : (i + 1) * steps]
        taken += [(model_of(learned.centers, metric), rows[numbers]) for numbers in own]
        parts = [Rows(rows[numbers], None, numbers) for numbers in own]
        learned, _ = minibatch.iteration(learned, parts, metric)
        centers.append(learned.centers)
    return centers, taken


def model_of(centers, metric):
    return KMeansModel(centers, 0.0, np.zeros(len(centers), np.int64), distance_metric=metric)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def check_centers(found, expected, metric):
    """Within 1e-5 of each center's length; under cosine TensorFlow's S=1 leaves them not unit."""
    expected = unit(expected) if metric == "cosine" else expected.astype(np.float64)
    off = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    assert off.max() <= 1e-5


def check_index(model, rows, found):
    """The same but where the two scores differ by less than 1e-5."""
    own, every = model.predict(rows), model.transform(rows)
    places = np.arange(len(rows))
    near = np.abs(every[places, own] - every[places, found]) < 1e-5
    assert near[own != found].all()
    assert (own == found).mean() > 0.99


def check_scores(found, expected, rows, metric):
    """Within 1e-5, of 1 under cosine, else of the size of what float32 subtracts: |x|^2."""
    size = 1.0 if metric == "cosine" else float((rows.astype(np.float64) ** 2).sum(axis=1).max())
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6 * size)
    if metric == "cosine" or size < 2:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", DATA)
class TestParity:
    def test_centers_of_five_iterations(self, name, metric, mode):
        found, _ = ours(name, metric, mode)
        expected = theirs(name, metric, mode)["iteration_centers"]
        assert len(found) == len(expected) == ITERATIONS + 1
        for own, other in zip(found, expected, strict=True):
            check_centers(own, other, metric)
        # The comparison says something: centers move by far more than the bound.
        assert np.abs(found[-1] - found[0]).max() > 0.05

    def test_index_and_score_of_every_row_of_every_step(self, name, metric, mode):
        answer, (_, steps) = theirs(name, metric, mode), ours(name, metric, mode)
        offsets = answer["step_offsets"]
        assert len(steps) == len(offsets) - 1
        for i, (model, rows) in enumerate(steps):
            part = slice(offsets[i], offsets[i + 1])
            check_index(model, rows, answer["step_idx"][part])
            check_scores(model.score_samples(rows), answer["step_scores"][part], rows, metric)
            loss = answer["step_loss"][i]
            assert model.score(rows) == pytest.approx(loss, rel=1e-5)

    def test_all_scores_of_the_final_centers(self, name, metric, mode):
        answer, rows = theirs(name, metric, mode), rows_of(name)
        # What TensorFlow infers with, so that only the scores are compared here.
        model = model_of(answer["final_centers"], metric)
        check_index(model, rows, answer["cluster_idx"])
        check_scores(model.score_samples(rows), answer["scores"], rows, metric)
        check_scores(model.transform(rows), answer["all_scores"], rows, metric)


@pytest.mark.parametrize("mode", ["full batch", "S=4"])
@pytest.mark.parametrize("metric", METRICS)
def test_lloyd_steps_of_a_users_own_pipeline(metric, mode):
    """Five steps in one pipeline, each from the centers of the one before."""
    rows, steps = rows_of("clustered"), MODES[mode]

    def build(pipeline):
        centers, found = model_of(centers_of("clustered"), metric).cluster_centers, []
        for i in range(ITERATIONS):
            blocks = [Block(rows)]
            if steps:
                own = batches(ITERATIONS * steps)[i * steps : (i + 1) * steps]
                blocks = [Block(rows[numbers]) for numbers in own]
            step = LloydStep(centers, empty_clusters="keep", distance_metric=metric)
            result = pipeline | f"Rows{i}" >> beam.Create(blocks) | f"Step{i}" >> step
            centers = result | f"Centers{i}" >> beam.Map(lambda one: one.cluster_centers)
            found.append(centers | f"Number{i}" >> beam.Map(lambda one, place: (place, one), i))
        return found | beam.Flatten()

    expected = theirs("clustered", metric, mode)["iteration_centers"]
    for place, centers in pipelines.elements(build):
        check_centers(centers, expected[place + 1], metric)
