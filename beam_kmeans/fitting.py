"""The state of a fit, the one transition that each pass over the data ends in, and their loop."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from beam_kmeans import lloyd
from beam_kmeans.config import Parameters
from beam_kmeans.dataset import Dataset
from beam_kmeans.errors import DataError
from beam_kmeans.lloyd import Measure, check_cost


@dataclasses.dataclass(frozen=True)
class Trend:
    """Mini-batch's exponentially weighted averages, as scikit-learn's.

    Attributes:
        inertia: of a row of a batch.
        shift: of the squared distance that centers moved.
        least: the least `inertia` so far.
        stalled: iterations since then.
    """

    inertia: float
    shift: float
    least: float
    stalled: int


@dataclasses.dataclass(frozen=True)
class FitState:
    """Where a fit stands: all that a transition needs beside the centers themselves.

    Attributes:
        iteration: updates done.
        history: one record for each set of centers measured so far.
        inertia: the exact inertia of the centers before the last update; None at the start.
        rise: how much the rounding of the last update can add to it.
        converged: the last update moved the centers by no more than `tolerance` allows.
        finished: the last record is of the centers as they are now.
        trend: of mini-batch; None before its second iteration.
    """

    iteration: int = 0
    history: tuple[dict[str, Any], ...] = ()
    inertia: Fraction | None = None
    rise: float = 0.0
    converged: bool = False
    finished: bool = False
    trend: Trend | None = None

    def is_last(self, parameters: Parameters) -> bool:
        """Whether these centers are final, so that a pass only measures them."""
        return self.is_last_of(parameters.max_iterations)

    def is_last_of(self, max_iterations: int) -> bool:
        """The same, for another number of iterations."""
        return self.converged or self.iteration >= max_iterations

    def to_json(self) -> dict[str, Any]:
        """The state as plain values; exact numbers as numerator and denominator in text."""
        fields = dataclasses.asdict(self)
        fields["inertia"] = None if self.inertia is None else str(self.inertia)
        fields["history"] = list(self.history)
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> FitState:
        inertia = None if fields["inertia"] is None else Fraction(fields["inertia"])
        trend = fields.get("trend")
        own = {
            "inertia": inertia,
            "history": tuple(fields["history"]),
            "trend": None if trend is None else Trend(**trend),
        }
        return cls(**{**fields, **own})


def advance(
    state: FitState,
    parameters: Parameters,
    *,
    mean_variance: float,
    num_features: int,
    measured: Measure,
    relocated: int,
    shift: Fraction,
    rise: float,
) -> FitState:
    """The state after a pass that measured the centers, and the update that followed.

    Args:
        state: the state that the pass was given.
        parameters: of the fit.
        mean_variance: of the features, the scale of `tolerance`.
        num_features: d.
        measured: what the pass found.
        relocated: empty clusters whose centers moved to far rows.
        shift: the sum over centers of the squared distance moved.
        rise: how much cost the rounding of the new centers can add.

    Raises:
        DataError: the cost rose by more than rounding explains.
    """
    if state.inertia is not None:
        check_cost(state.iteration, state.inertia, measured.inertia, state.rise, num_features)
    record: dict[str, Any] = {
        "iteration": state.iteration,
        "inertia": float(measured.inertia),
        "empty_clusters": measured.empty_clusters,
        "relocated": relocated,
        "smallest": float(measured.cluster_weights.min()),
        "largest": float(measured.cluster_weights.max()),
    }
    if state.is_last(parameters):
        return dataclasses.replace(state, history=(*state.history, record), finished=True)
    moved = float(shift)
    history = (*state.history, {**record, "shift": moved})
    if shift == 0:
        # The next centers are these, so what was measured is theirs too.
        history = (*history, {**record, "iteration": state.iteration + 1})
    return FitState(
        iteration=state.iteration + 1,
        history=history,
        inertia=measured.inertia,
        rise=rise,
        converged=moved <= parameters.tolerance * mean_variance,
        finished=shift == 0,
    )


@dataclasses.dataclass(frozen=True)
class Fit:
    """A finished fit: the final centers float32 [k, d], what was measured of them, the history."""

    centers: npt.NDArray[np.float32]
    counts: npt.NDArray[np.int64]
    state: FitState


def check_start(dataset: Dataset, parameters: Parameters, centers: npt.NDArray[np.float32]) -> None:
    """Refuses centers that are not of the dataset's features, or a dataset of another metric.

    Raises:
        DataError, ValueError: names both.
    """
    d = len(dataset.statistics.minimums)
    if centers.shape[1] != d:
        raise DataError(
            f"initial_clusters: the centers have {centers.shape[1]} features, the data has {d}"
        )
    metric = parameters.distance_metric
    if dataset.distance_metric != metric:
        raise ValueError(
            f"distance_metric: the dataset's is {dataset.distance_metric!r}, the fit's {metric!r}"
        )


def fit_from(
    dataset: Dataset,
    parameters: Parameters,
    centers: npt.NDArray[np.float32],
    state: FitState | None = None,
) -> Fit:
    """Runs Lloyd's iterations over a dataset that answers at once, from these centers.

    Args:
        dataset: the rows.
        parameters: of the fit.
        centers: float32 [k, d].
        state: where the fit stands; None for the start.

    Raises:
        DataError: the data cannot be clustered so.
    """
    check_start(dataset, parameters, centers)
    statistics, metric = dataset.statistics, parameters.distance_metric
    state, mean_variance = state or FitState(), statistics.mean_variance()
    relocate = parameters.empty_clusters == "relocate"
    while True:
        survey, totals = dataset.tally(centers, relocate)
        moves = lloyd.relocations(survey) if relocate and not state.is_last(parameters) else []
        update = lloyd.update_range(centers, totals, survey, moves, 0, metric)
        measured = lloyd.measure(
            survey, [update.cost], statistics.sum_of_squares(), metric, dataset.directionless
        )
        last = state.is_last(parameters)
        state = advance(
            state,
            parameters,
            mean_variance=mean_variance,
            num_features=centers.shape[1],
            measured=measured,
            relocated=len(moves),
            shift=update.shift,
            rise=update.rise,
        )
        centers = centers if last else update.centers
        if state.finished:
            return Fit(centers, measured.counts, state)
