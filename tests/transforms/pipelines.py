"""Pipelines of one transform, run on FnApiRunner, and what comes out of them."""

import uuid

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_kmeans.blocks import Block
from beam_kmeans.errors import message_of

# Runs with two threads, and with every bundle done twice.
THREADS = ("--direct_num_workers=2", "--direct_running_mode=multi_threading")
TWICE = ("--direct_runner_bundle_repeat=1",)

_found = {}


def run(build, *flags):
    """The elements of the PCollection that `build` makes of a pipeline, and the run's metrics."""
    key = uuid.uuid4().hex
    pipeline = beam.Pipeline(runner="FnApiRunner", options=PipelineOptions(flags))
    # As one list, so that a bundle that is done twice does not give its elements twice.
    _ = build(pipeline) | "All" >> beam.combiners.ToList() | "Keep" >> beam.Map(_keep, key)
    result = pipeline.run()
    result.wait_until_finish()
    return _found.pop(key), result.metrics()


def _keep(elements, key):
    _found[key] = elements


def elements(build, *flags):
    """The elements of the PCollection that `build` makes of a pipeline."""
    return run(build, *flags)[0]


def apply(transform, inputs, *flags):
    """What a transform makes of these inputs."""
    return elements(lambda pipeline: pipeline | beam.Create(inputs) | transform, *flags)


def failure(build, *flags):
    """Our own message of why the pipeline fails."""
    with pytest.raises((ValueError, RuntimeError)) as caught:
        elements(build, *flags)
    message = message_of(caught.value)
    assert message is not None, caught.value
    return message


def counters(metrics, step):
    """The counters of a step, by name."""
    found = metrics.query()["counters"]
    return {
        one.key.metric.name: one.committed
        for one in found
        if one.key.metric.namespace == "beam_kmeans" and step in one.key.step.split("/")
    }


def blocks_of(rows, weights=None, size=100, seed=None, numbered=True):
    """The rows as blocks of at most `size`; shuffled, with blocks of uneven size, if seeded."""
    numbers = np.arange(len(rows))
    stops = np.arange(size, len(rows), size)
    if seed is not None:
        random = np.random.default_rng(seed)
        numbers = random.permutation(len(rows))
        stops = np.sort(random.integers(0, len(rows), len(stops)))
    return [
        Block(rows[part], None if weights is None else weights[part], part if numbered else None)
        for part in np.split(numbers, stops)
    ]
