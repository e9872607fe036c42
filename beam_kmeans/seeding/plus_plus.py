"""Weighted k-means++ over rows in memory, and the centers that weighted candidates cluster into."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans.config import Parameters
from beam_kmeans.dataset import MemoryDataset
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import fit_from
from beam_kmeans.sampling import PICKS, uniforms
from beam_kmeans.seeding.spread import Spread, running_sums

Rows = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

#: Lloyd's iterations over candidates at most.
_ITERATIONS = 100


def plus_plus(
    rows: Rows, weights: Floats, num_clusters: int, random_seed: int, retries: int
) -> npt.NDArray[np.int64]:
    """Places of k rows of distinct values, each drawn by weight x squared distance to the others.

    For each pick `retries` further rows are drawn, and the one that leaves the least potential,
    the weighted sum of squared distances, is kept; the first pick too, as in TensorFlow's kernel.

    Args:
        rows: finite float32 [n, d].
        weights: float64 [n], at least 0.
        num_clusters: k, at least 1.
        random_seed: 0 to 2**63 - 1.
        retries: at least 0; 0 is plain sampling by squared distance.

    Returns:
        int64 [k] in the order of picking; fewer where there are fewer distinct rows of a weight.

    References:
        D. Arthur, S. Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007,
        with the repeated draws of its section 7.
    """
    spread = Spread(rows, min(num_clusters, len(rows)))
    potentials, picked = weights, []
    for turn in range(num_clusters):
        places = _drawn(potentials, uniforms(random_seed, PICKS, turn, np.arange(1 + retries)))
        if not len(places):
            break
        best: tuple[int, npt.NDArray[np.intp], Floats] | None = None
        least = after = np.zeros(0)
        for place in dict.fromkeys(places.tolist()):
            which, found = spread.closer(rows[place])
            after = potentials.copy()
            after[which] = weights[which] * found
            if best is None or running_sums(after)[-1] < running_sums(least)[-1]:
                best, least = (place, which, found), after
        assert best is not None
        spread.take(rows[best[0]], *best[1:])
        potentials = least
        picked.append(best[0])
    return np.array(picked, np.int64)


def _drawn(chances: Floats, uniform: Floats) -> npt.NDArray[np.int64]:
    """Places drawn by their chances, one for each number; none where all chances are 0."""
    sums = running_sums(chances)
    if not len(sums) or not sums[-1] > 0:
        return np.zeros(0, np.int64)
    # The last place with a chance: a product with the total may be rounded up to it.
    last = np.searchsorted(sums, sums[-1])
    places = np.searchsorted(sums, uniform * sums[-1], side="right")
    drawn: npt.NDArray[np.int64] = np.minimum(places, last).astype(np.int64)
    return drawn


def recluster(
    rows: Rows,
    weights: Floats,
    num_clusters: int,
    random_seed: int,
    retries: int,
    distance_metric: str = "squared_euclidean",
) -> Rows:
    """The k centers of weighted candidates: k-means++, then Lloyd's iterations over them.

    Args:
        rows: float32 [m, d] candidates, as the metric measures them.
        weights: float64 [m], above 0.
        num_clusters: k.
        random_seed: 0 to 2**63 - 1.
        retries: further draws at each pick of k-means++.
        distance_metric: of the centers.

    Returns:
        float32 [k, d], distinct. Where Lloyd's iterations would lose a center, to an empty cluster
        or to one of equal bytes, they are the candidates that k-means++ picked.

    Raises:
        DataError: there are fewer than k distinct candidates; names their number.
    """
    picked = plus_plus(rows, weights, num_clusters, random_seed, retries)
    if len(picked) < num_clusters:
        raise too_few(num_clusters, len(picked))
    chosen = rows[picked]
    if len(rows) == num_clusters:
        return chosen
    # MemoryDataset holds weights as float32: scaled to at most 1, none may vanish.
    scaled = np.maximum(weights / weights.max(), 2.0**-126)
    metric: Any = distance_metric
    parameters = Parameters(
        num_clusters, "random", distance_metric=metric, max_iterations=_ITERATIONS
    )
    fit = fit_from(MemoryDataset(rows, scaled, distance_metric), parameters, chosen)
    lost = len(np.unique(fit.centers, axis=0)) < num_clusters or not fit.counts.all()
    return chosen if lost else fit.centers


def too_few(num_clusters: int, found: int) -> DataError:
    """What to say where there are fewer distinct rows than clusters."""
    return DataError(
        f"num_clusters: {num_clusters} distinct rows are needed to start from, and the data has "
        f"only {found} (rows of weight 0 are never drawn)"
    )
