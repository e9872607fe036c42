"""A whole fit over a dataset that answers at once."""

import logging
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from beam_kmeans import minibatch
from beam_kmeans.batches import shuffled
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import Dataset
from beam_kmeans.fitting import Fit, FitState, check_start, fit_from
from beam_kmeans.seeding.rows import check_rows
from beam_kmeans.seeding.run import initial_centers
from beam_kmeans.tally import Rows

#: Rows of a batch that are gathered at a time.
_PART_ROWS = 8192

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
        return _fit_batches(dataset, parameters, centers)
    return fit_from(dataset, parameters, centers)


def _fit_batches(dataset: Dataset, parameters: Parameters, centers: npt.NDArray[np.float32]) -> Fit:
    """Runs the iterations from these centers, and measures the last ones by one full pass.

    Raises:
        DataError: the data cannot be clustered so.
    """
    check_start(dataset, parameters, centers)
    at_hand = ShuffledMemory(dataset, parameters.random_seed)
    learned, state = minibatch.run(
        at_hand,
        parameters,
        minibatch.first(parameters, centers),
        FitState(),
        parameters.max_iterations,
        rows=at_hand.rows,
        mean_variance=dataset.statistics.mean_variance(),
        exponents=dataset.statistics.exponents(),
    )
    return fit_from(dataset, parameters, learned.centers, state)


class ShuffledMemory:
    """The rows of a dataset at hand, numbered from 0 to N - 1, by their shuffled positions."""

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self._dataset = dataset
        self.rows = dataset.statistics.rows + dataset.directionless.rows
        self._order = shuffled(seed, np.arange(self.rows))

    def parts(self, positions: list[tuple[int, int]]) -> Iterator[Rows]:
        numbers = np.concatenate([self._order[start:stop] for start, stop in positions])
        for start in range(0, len(numbers), _PART_ROWS):
            yield self._dataset.pick(numbers[start : start + _PART_ROWS])
