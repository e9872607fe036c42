"""A whole fit over a dataset that answers at once."""

import logging

from beam_kmeans import minibatch
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import Dataset
from beam_kmeans.fitting import Fit, fit_from
from beam_kmeans.seeding.rows import check_rows
from beam_kmeans.seeding.run import initial_centers

_log = logging.getLogger(__name__)


def fit(dataset: Dataset, parameters: Parameters) -> Fit:
    """Finds initial centers and runs the iterations.

    Raises:
        DataError: the data cannot be clustered so.
    """
    check_rows(dataset.statistics, parameters.num_clusters, dataset.directionless.rows)
    centers = parameters.given_centers
    if centers is None:
        seeding = initial_centers(dataset, parameters)
        for text in seeding.warnings:
            _log.warning("%s", text)
        assert seeding.centers is not None
        centers = seeding.centers
    if parameters.use_mini_batch:
        return minibatch.fit(dataset, parameters, centers)
    return fit_from(dataset, parameters, centers)
