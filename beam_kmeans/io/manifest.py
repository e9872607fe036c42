"""The staged dataset: its shards, and the manifest `dataset.json` that is written last."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash

from beam_kmeans.errors import DataError
from beam_kmeans.io import files
from beam_kmeans.io.shards import ShardInfo, read_shard
from beam_kmeans.statistics import Statistics
from beam_kmeans.tally import Rows

FORMAT_VERSION = 1
MANIFEST = "dataset.json"


@dataclasses.dataclass(frozen=True)
class Standardization:
    """(x - mean) / scale, in float64, before a value becomes float32.

    Attributes:
        means: float64 [d], of the original values.
        scales: float64 [d]: their standard deviations, 1 where a feature does not vary.
    """

    means: tuple[float, ...]
    scales: tuple[float, ...]

    def apply(self, values: Any) -> Any:
        """float64 [n, d]: the standardized values."""
        return (np.asarray(values, np.float64) - np.array(self.means)) / np.array(self.scales)


@dataclasses.dataclass(frozen=True, eq=False)
class StagedDataset:
    """Immutable shards of float32 rows, each with a number, and what is known of them.

    Attributes:
        path: the directory.
        features: the features' names.
        weighted: whether rows have weights.
        statistics: exact, over the rows as staged.
        standardization: what was done to the values, None for nothing.
        rejected: rows that were dropped.
        denormals: values that became +0.
        source: what the rows were made from; its fingerprint decides whether a stage is reused.
        shards: in the order of their rows.
    """

    path: str
    features: tuple[str, ...]
    weighted: bool
    statistics: Statistics
    standardization: Standardization | None
    rejected: int
    denormals: int
    source: dict[str, Any]
    shards: tuple[ShardInfo, ...]

    @property
    def rows(self) -> int:
        """N, rejected rows not included."""
        return self.statistics.rows

    @property
    def num_features(self) -> int:
        """d."""
        return len(self.features)

    @property
    def fingerprint(self) -> str:
        """Of the source."""
        return str(self.source["fingerprint"])

    @classmethod
    def open(cls, path: str) -> StagedDataset:
        """Opens the dataset in a directory.

        Raises:
            DataError: there is none, it is damaged, or of a newer format.
        """
        name = files.join(path, MANIFEST)
        if not files.exists(name):
            raise DataError(f"{path} holds no staged dataset: it has no {MANIFEST}")
        fields = read_json(name, "a manifest of a staged dataset", FORMAT_VERSION)
        try:
            return cls._of(path, fields)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{name} is no manifest of a staged dataset: {error!r}") from error

    @classmethod
    def _of(cls, path: str, fields: dict[str, Any]) -> StagedDataset:
        features = tuple(str(name) for name in fields["features"])
        standardization = fields["standardization"]
        if standardization is not None:
            standardization = Standardization(
                tuple(standardization["means"]), tuple(standardization["scales"])
            )
        dataset = cls(
            path=path,
            features=features,
            weighted=bool(fields["weighted"]),
            statistics=Statistics.from_json(len(features), fields["statistics"]),
            standardization=standardization,
            rejected=int(fields["rejected"]),
            denormals=int(fields["denormals"]),
            source=fields["source"],
            shards=tuple(ShardInfo(**shard) for shard in fields["shards"]),
        )
        for shard in dataset.shards:
            parts = shard.path.split("/")
            if ".." in parts or not parts[0] or "://" in shard.path:
                raise ValueError(f"shard {shard.path!r} lies outside the dataset")
        if sum(shard.rows for shard in dataset.shards) != dataset.rows:
            raise ValueError("the shards' rows do not add up")
        return dataset

    def save(self) -> None:
        """Writes the manifest: the dataset exists from then on."""
        statistics = self.statistics
        readable = {
            "rows": statistics.rows,
            "num_features": self.num_features,
            "total_weight": float(statistics.weight.to_fraction()),
            "means": statistics.means().tolist() if statistics.positive_rows else None,
            "variances": statistics.variances().tolist() if statistics.positive_rows else None,
            "exponents": statistics.exponents().tolist(),
            "sum_of_squares": float(statistics.sum_of_squares()),
        }
        fields = {
            **readable,
            "features": list(self.features),
            "weighted": self.weighted,
            "statistics": statistics.to_json(),
            "standardization": self.standardization and dataclasses.asdict(self.standardization),
            "rejected": self.rejected,
            "denormals": self.denormals,
            "source": self.source,
            "shards": [dataclasses.asdict(shard) for shard in self.shards],
        }
        write_json(files.join(self.path, MANIFEST), fields, FORMAT_VERSION)

    def read(self, shard: ShardInfo) -> Iterator[Rows]:
        """Yields the verified blocks of a shard."""
        return read_shard(self.path, shard, self.num_features, self.weighted)

    def blocks(self) -> Iterator[Rows]:
        """Yields all blocks, in the order of their rows."""
        for shard in self.shards:
            yield from self.read(shard)


def write_json(path: str, fields: dict[str, Any], version: int) -> None:
    """Writes an artefact of ours, whole: its format version, fields, and a checksum over them."""
    body = json.dumps({"format_version": version, **fields}, indent=1, allow_nan=False)
    checksum = xxhash.xxh3_128_hexdigest(body.encode())
    files.write_bytes(path, f'{body[:-2]},\n "checksum": "{checksum}"\n}}\n'.encode())


def read_json(path: str, what: str, version: int) -> dict[str, Any]:
    """Reads an artefact of ours, verified.

    Raises:
        DataError: it is damaged, foreign, or of a newer format.
    """
    try:
        text = files.read_bytes(path).decode()
        fields = json.loads(text)
        found = fields["format_version"]
        body, _, checksum = text.rstrip().rpartition(',\n "checksum": "')
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not {what}, or is damaged: {error}") from error
    if not isinstance(found, int) or found > version:
        raise DataError(
            f"{path} has format version {found}, this version of beam_kmeans reads up to "
            f"{version}: a newer one wrote it"
        )
    if checksum != xxhash.xxh3_128_hexdigest(f"{body}\n}}".encode()) + '"\n}':
        raise DataError(f"{path} is damaged: it does not have its checksum")
    return dict(fields)
