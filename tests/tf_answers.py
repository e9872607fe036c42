"""What TensorFlow's own class answers, asked in a process of its own that stays in graph mode."""

import concurrent.futures
import functools
import multiprocessing

import numpy as np

from tests.tf_oracle import run_oracle


@functools.cache
def _process():
    # Started anew, not forked: a process that has used TensorFlow cannot be.
    context = multiprocessing.get_context("spawn")
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=context)


def ask(rows, centers=None, **settings):
    """The arrays of `run_oracle`, by name, with every score."""
    return _process().submit(_answer, rows, centers, {"all_scores": True, **settings}).result()


def call(function, *args):
    """What a function of this module's process finds; it may use TensorFlow's raw kernels."""
    return _process().submit(function, *args).result()


def _answer(rows, centers, settings):
    return run_oracle(np.asarray(rows, np.float32), centers, **settings)
