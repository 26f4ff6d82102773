"""The URL of a shard set to its manifest, its index and any of its samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fsspec.core import url_to_fs

from mmu_pipeline.errors import BadInput
from mmu_pipeline.shards.index import INDEX_PATH
from mmu_pipeline.shards.narrow import widened_sample
from mmu_pipeline.shards.opened import read_manifest, set_folder
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.tar import iterate, read_sample
from mmu_pipeline.shards.ustar import END_OF_ARCHIVE
from mmu_pipeline.sky import Float
from mmu_pipeline.storage import Root


@dataclass(frozen=True)
class ShardSet:
    """A published set, opened."""

    folder: Root
    manifest: Mapping[str, Any]
    index: pa.Table
    """All rows of the index, in sky order."""

    @property
    def survey_names(self) -> list[str]:
        """The primary first."""
        return [survey["name"] for survey in self.manifest["surveys"]]

    def sample(self, row: int) -> Sample:
        """The sample of one row of the index, read by its byte range; narrowed arrays are float32 again.

        Raises BrokenArtefact if it is not there whole.
        """
        place = {name: self.index[name][row].as_py() for name in ("key", "shard", "offset", "nbytes")}
        path, start = self.folder.path(place["shard"]), place["offset"]
        content = memoryview(self.folder.fs.cat_file(path, start=start, end=start + place["nbytes"]) + END_OF_ARCHIVE)
        stored = read_sample(content, next(iterate(content, f"{path} from byte {start}")))
        return Sample(stored.key, widened_sample(stored.arrays, stored.record, self.manifest["members"]), stored.record)

    def row_of(self, key: str) -> int:
        """Row of the sample with this key, or with this id in the primary survey. Raises BadInput if there is none."""
        for column in ("key", f"{self.survey_names[0]}_object_id"):
            found = pc.index(self.index[column], key).as_py()
            if found >= 0:
                return int(found)
        raise BadInput(
            f"no sample {key!r} in the set", shards=self.folder.url, hint="a key of the index, or an id of the primary survey"
        )


def open_set(url: str | Path) -> ShardSet:
    """Open a set by the folder of a version, or of a recipe (then its latest version). Raises BadInput if there is none."""
    folder = set_folder(str(url))
    return ShardSet(folder, read_manifest(folder), folder.read_table(INDEX_PATH))


def object_positions(shard_set: ShardSet) -> dict[str, tuple[Float, Float]]:
    """Positions (ra, dec in degrees) of each survey's object table under the same root; empty where the set lies alone."""
    fs, path = url_to_fs(shard_set.folder.url)
    root = path.rstrip("/").rsplit("/shards/", 1)[0]
    positions = {}
    for name in shard_set.survey_names:
        files = sorted(fs.glob(f"{root}/objects/{name}/dataset/Norder=*/Dir=*/Npix=*.parquet"))
        if files:
            tables = [Root(fs.unstrip_protocol(root)).read_table(file[len(root) + 1 :], columns=["ra", "dec"]) for file in files]
            table = pa.concat_tables(tables)
            positions[name] = np.asarray(table["ra"].to_numpy(), float), np.asarray(table["dec"].to_numpy(), float)
    return positions
