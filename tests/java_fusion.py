"""Java's rules of fusion, applied to a portable pipeline.

Beam's Java runners (Flink, Spark) cut a pipeline into stages by rules that the Python SDK's own
optimizer does not have (org.apache.beam.sdk.util.construction.graph: GreedyPipelineFuser,
GreedyStageFuser, GreedyPCollectionFusers). Between stages everything goes through the runner, from
a Python process to a Java one and back:

- a PCollection that is a side input somewhere is materialized;
- a ParDo with a side input, state or a timer starts a stage of its own: it is never fused with what
  makes its main input;
- a transform of another environment (which resource hints make, too) starts another stage;
- a PCollection is fused with all of its consumers or with none.
"""

import dataclasses

from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import translations

_PAR_DO = common_urns.primitives.PAR_DO.urn
_BY_RUNNER = {
    common_urns.primitives.GROUP_BY_KEY.urn,
    common_urns.primitives.IMPULSE.urn,
    common_urns.primitives.FLATTEN.urn,
}
_OF_COMBINERS = {
    common_urns.combine_components.COMBINE_PER_KEY_PRECOMBINE.urn,
    common_urns.combine_components.COMBINE_PER_KEY_MERGE_ACCUMULATORS.urn,
    common_urns.combine_components.COMBINE_PER_KEY_EXTRACT_OUTPUTS.urn,
    common_urns.combine_components.COMBINE_PER_KEY_CONVERT_TO_ACCUMULATORS.urn,
}
PRECOMBINE = common_urns.combine_components.COMBINE_PER_KEY_PRECOMBINE.urn


@dataclasses.dataclass(frozen=True)
class Stage:
    """Transforms that run in one process, element by element.

    Attributes:
        names: of the transforms.
        urns: of the transforms.
        main_input: id of the PCollection that comes from the runner.
        materialized: ids of the PCollections that go to the runner.
    """

    names: tuple[str, ...]
    urns: tuple[str, ...]
    main_input: str
    materialized: tuple[str, ...]


def lifted(proto):
    """The pipeline as SDKs hand it to a runner: with its combiners lifted."""
    return translations.optimize_pipeline(
        proto,
        phases=[translations.pack_combiners, translations.lift_combiners],
        known_runner_urns=frozenset(_BY_RUNNER),
        partial=True,
    )


def stages(proto):
    """The stages that a Java runner would cut a portable pipeline into."""
    return _Graph(lifted(proto)).stages()


class _Graph:
    def __init__(self, proto):
        self._all = proto.components.transforms
        self._leaves = {}
        for root in proto.root_transform_ids:
            self._find_leaves(root)
        self._consumers, self._side_inputs = {}, set()
        for name, transform in self._leaves.items():
            sides = _payload(transform).side_inputs if _is_par_do(transform) else {}
            for tag, collection in transform.inputs.items():
                if tag in sides:
                    self._side_inputs.add(collection)
                else:
                    self._consumers.setdefault(collection, []).append(name)

    def _find_leaves(self, name):
        transform = self._all[name]
        known = {_PAR_DO} | _BY_RUNNER | _OF_COMBINERS
        if transform.spec.urn in known or not transform.subtransforms:
            if transform.spec.urn:
                self._leaves[name] = transform
            return
        for child in transform.subtransforms:
            self._find_leaves(child)

    def stages(self):
        found, seen, waiting = [], set(), []
        for transform in self._leaves.values():
            if transform.spec.urn in _BY_RUNNER:
                waiting += transform.outputs.values()
        while waiting:
            collection = waiting.pop(0)
            if collection in seen:
                continue
            seen.add(collection)
            for root in self._consumers.get(collection, []):
                # (Java also joins siblings without side inputs; what is materialized is the same.)
                if self._leaves[root].spec.urn not in _BY_RUNNER:
                    stage = self._stage(root, collection)
                    found.append(stage)
                    waiting += stage.materialized
        return found

    def _stage(self, root, main_input):
        environment = self._leaves[root].environment_id
        members, materialized = [root], []
        waiting = [*self._leaves[root].outputs.values()]
        while waiting:
            collection = waiting.pop(0)
            consumers = self._consumers.get(collection, [])
            if collection not in self._side_inputs and all(
                self._can_fuse(consumer, environment) for consumer in consumers
            ):
                members += consumers
                for consumer in consumers:
                    waiting += self._leaves[consumer].outputs.values()
            else:
                materialized.append(collection)
        leaves = [self._leaves[name] for name in members]
        return Stage(
            names=tuple(leaf.unique_name for leaf in leaves),
            urns=tuple(leaf.spec.urn for leaf in leaves),
            main_input=main_input,
            materialized=tuple(materialized),
        )

    def _can_fuse(self, name, environment):
        transform = self._leaves[name]
        if transform.environment_id != environment:
            return False
        if _is_par_do(transform):
            payload = _payload(transform)
            return not (payload.side_inputs or payload.state_specs or payload.timer_family_specs)
        return transform.spec.urn in _OF_COMBINERS


def _is_par_do(transform):
    return transform.spec.urn == _PAR_DO


def _payload(transform):
    return beam_runner_api_pb2.ParDoPayload.FromString(transform.spec.payload)
