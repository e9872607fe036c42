"""The metrics of every step that handles blocks."""

from apache_beam.metrics.metric import Metrics

from beam_kmeans.blocks import Block


class BlockCounter:
    """Counts a step's blocks and rows, as the metrics `blocks` and `rows` of `beam_kmeans`."""

    def __init__(self) -> None:
        self._blocks = Metrics.counter("beam_kmeans", "blocks")
        self._rows = Metrics.counter("beam_kmeans", "rows")

    def counted(self, block: Block) -> Block:
        """The block, counted."""
        self._blocks.inc()
        self._rows.inc(len(block.rows))
        return block
