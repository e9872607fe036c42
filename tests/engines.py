"""Fits that every engine has to end in the same bytes, and how one is held to that."""

import functools

import numpy as np
import pyarrow.parquet as pq

from beam_kmeans import KMeans, KMeansModel
from beam_kmeans.predicting import predict
from tests import data, runs, tables

ROWS = data.blobs(2000, 6)
WEIGHTS = np.random.default_rng(1).integers(0, 4, len(ROWS)).astype(np.float32) / 2
_USUAL = {
    "num_clusters": 7,
    "seeding_oversampling": 1.0,  # so that candidates are drawn in rounds
    "max_iterations": 4,
    "tolerance": 0,
}
FITS = {
    "full batch": KMeans(**_USUAL),
    "cosine": KMeans(**_USUAL, distance_metric="cosine"),
    "mini-batch": KMeans(
        **_USUAL,
        use_mini_batch=True,
        mini_batch_steps_per_iteration=2,
        batch_size=300,
        max_no_improvement=None,
    ),
}


@functools.cache
def in_memory(fit):
    """What a fit comes to without any engine."""
    return runs.outcome(FITS[fit].fit(ROWS, sample_weight=WEIGHTS))


def files(folder):
    """ROWS with WEIGHTS as files, in three shards once they are staged."""
    return tables.write(folder, ROWS, files=3, weights=WEIGHTS, row_group=300)


def check(fit, source, folder, options, **settings):
    """Trains and predicts on an engine, and holds both to what memory gives."""
    settings = {"features_column": "features", "weight_column": "w", **settings}
    model = FITS[fit].fit(source, folder / "work", [*options], **settings)
    assert runs.outcome(model) == in_memory(fit)
    output = str(folder / "predictions")
    report = predict(
        str(folder / "work" / "model"),
        source,
        output,
        features_column="features",
        options=[*options],
    )
    found = pq.read_table([str(path) for path in sorted(folder.glob("predictions-*.parquet"))])
    assert report.rows == found.num_rows == len(ROWS)
    assert found["cluster_index"].to_pylist() == model.predict(ROWS).tolist()
    assert found["score"].to_pylist() == model.score_samples(ROWS).tolist()
    assert isinstance(model, KMeansModel)
