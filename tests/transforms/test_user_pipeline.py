"""A pipeline of one's own, as the README shows it, is a fit."""

import apache_beam as beam
import numpy as np

from beam_kmeans import (
    AssignClusters,
    InitializeCenters,
    KMeans,
    LloydStep,
    ReadBlocks,
    StackRows,
    stage,
)
from tests.transforms.pipelines import THREADS, elements

PEOPLE = [{"id": i, "age": 20 + i % 50, "visits": i % 7} for i in range(1000)]
ROWS = np.array([[person["age"], person["visits"]] for person in PEOPLE], np.float32)


def pipeline_of(read):
    """Initial centers, two steps and an assignment, over the blocks that `read` gives."""

    def build(pipeline):
        blocks = read(pipeline)
        centers = blocks | InitializeCenters(3, "random", random_seed=1)
        for number in range(2):
            step = blocks | f"Step{number}" >> LloydStep(centers)
            centers = step | f"Centers{number}" >> beam.Map(lambda result: result.cluster_centers)
        assigned = blocks | AssignClusters(centers)
        return (step, assigned) | beam.Flatten()

    return build


def test_a_pipeline_of_ones_own_is_a_fit():
    model = KMeans(3, "random", random_seed=1, max_iterations=2, tolerance=0).fit(ROWS)

    def read(pipeline):
        stack = StackRows(features=["age", "visits"], row_id="id", block_rows=64)
        return pipeline | beam.Create(PEOPLE) | stack

    results = elements(pipeline_of(read), *THREADS)
    (step,) = [one for one in results if hasattr(one, "inertia")]
    assert step.cluster_centers.tobytes() == model.cluster_centers.tobytes()
    assert step.inertia == model.history[1]["inertia"]
    found = {
        number: index
        for one in results
        if hasattr(one, "cluster_index")
        for number, index in zip(one.row_numbers, one.cluster_index, strict=True)
    }
    assert [found[i] for i in range(1000)] == model.predict(ROWS).tolist()


def test_a_staged_dataset_gives_the_same(tmp_path):
    np.save(tmp_path / "rows.npy", ROWS)
    dataset = stage(str(tmp_path / "rows.npy"), str(tmp_path / "staged"), block_rows=100)
    model = KMeans(3, "random", random_seed=1, max_iterations=2, tolerance=0).fit(ROWS)
    results = elements(pipeline_of(lambda pipeline: pipeline | ReadBlocks(dataset)))
    (step,) = [one for one in results if hasattr(one, "inertia")]
    assert step.cluster_centers.tobytes() == model.cluster_centers.tobytes()
