import dataclasses
import json
from fractions import Fraction

import numpy as np
import pytest

from beam_kmeans.config import Parameters
from beam_kmeans.errors import DataError
from beam_kmeans.fitting import FitState, advance
from beam_kmeans.lloyd import Measure

START = FitState()


def parameters(**fields):
    return Parameters(**{"num_clusters": 2, "initial_clusters": "random", **fields})


def step(state, inertia, shift, asked=None, mean_variance=2.0, **fields):
    measured = Measure(Fraction(inertia), np.array([3, 5]), np.array([3.0, 5.0]), 0)
    return advance(
        state,
        asked or parameters(),
        mean_variance=mean_variance,
        num_features=2,
        measured=measured,
        **{"relocated": 0, "shift": Fraction(shift), "rise": 0.0, **fields},
    )


def test_a_record_is_of_the_centers_that_were_measured():
    state = step(START, 10, 3, relocated=1, rise=0.5)
    assert state.iteration == 1
    assert state.history == (
        {
            "iteration": 0,
            "inertia": 10.0,
            "empty_clusters": 0,
            "relocated": 1,
            "smallest": 3.0,
            "largest": 5.0,
            "shift": 3.0,
        },
    )
    assert (state.inertia, state.rise) == (10, 0.5)
    assert not state.converged
    assert not state.finished


@pytest.mark.parametrize(
    ("shift", "tolerance", "converged"),
    [
        (Fraction(2, 10**4), 1e-4, True),  # at most tolerance x mean variance
        (Fraction(2001, 10**7), 1e-4, False),
        (Fraction(1, 10**30), 0, False),
        (Fraction(6), 3, True),
    ],
)
def test_the_shift_is_compared_with_the_variance(shift, tolerance, converged):
    state = step(START, 10, shift, parameters(tolerance=tolerance))
    assert state.converged == converged
    assert not state.finished


def test_after_convergence_a_last_pass_measures_the_final_centers():
    asked = parameters(tolerance=1.0)
    state = step(step(START, 10, 1, asked), 9, 1, asked)
    assert state.finished
    assert state.converged
    assert state.iteration == 1
    assert [record["iteration"] for record in state.history] == [0, 1]
    assert "shift" not in state.history[-1]
    assert state.history[-1]["inertia"] == 9


def test_centers_that_did_not_move_are_not_measured_again():
    state = step(START, 10, 0, parameters(tolerance=0))
    assert state.finished
    assert state.converged
    assert state.iteration == 1
    assert state.history[0] == {**state.history[1], "iteration": 0, "shift": 0.0}
    assert state.history[1]["iteration"] == 1
    assert state.history[1]["inertia"] == 10


def test_a_shift_that_rounds_to_zero_is_a_shift():
    state = step(START, 10, Fraction(1, 10**400), parameters(tolerance=0))
    assert not state.finished


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_there_are_no_more_updates_than_asked_for(iterations):
    asked, state, passes = parameters(max_iterations=iterations, tolerance=0), START, 0
    while not state.finished:
        state = step(state, 10 - passes, 1, asked)
        passes += 1
    assert state.iteration == iterations
    assert not state.converged
    assert [record["iteration"] for record in state.history] == list(range(iterations + 1))
    assert passes == iterations + 1


def test_more_iterations_go_on_from_the_same_state():
    state = step(START, 10, 1, parameters(max_iterations=1))
    assert state.is_last(parameters(max_iterations=1))
    assert state.is_last_of(1)
    assert not state.is_last_of(2)


def test_a_rising_cost_fails():
    state = step(START, 10, 1, rise=0.5)
    step(state, Fraction(21, 2), 1)
    with pytest.raises(DataError, match="iteration 1: the cost rose"):
        step(state, 11, 1)


@pytest.mark.parametrize("inertia", [None, Fraction(10), Fraction(1, 3), Fraction(2) ** -300])
def test_a_state_survives_json_exactly(inertia):
    state = dataclasses.replace(step(START, 10, 1, rise=0.1), inertia=inertia)
    assert FitState.from_json(json.loads(json.dumps(state.to_json()))) == state
    assert FitState.from_json(json.loads(json.dumps(START.to_json()))) == START
