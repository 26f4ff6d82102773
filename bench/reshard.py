"""What does it cost to deal the samples of a set into other shards, in another order?

    python -m bench.reshard [--records 20000] [--rounds 5] [--folder DIR]

Ours copies byte ranges in a random permutation. Peer: `webdataset.WebDataset(...).decode()` into `webdataset.ShardWriter`, in the
order in which the samples lie: it knows no other. Records per CPU-second (user and system time of the process), medians of rounds
that alternate. `copy` is what makes the shards, and what the goal of 8x is for; `whole` is `reshard` with all that it does
beside: choosing, index, card, and the check of every byte, offset, name, type and digest of the new set before it is published.
Written to memory if there is room, unless a folder is named.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import healpy as hp
import numpy as np
import pyarrow as pa
import typer
import webdataset
from rich.console import Console
from rich.table import Table

from bench.shards import MEMORY, records
from mmu_pipeline.catalog import Recipe, Survey
from mmu_pipeline.shards.copy import Rows, copies, make_shard
from mmu_pipeline.shards.index import piece_index, piece_sizes
from mmu_pipeline.shards.manifest import Account, Provenance, manifest_of
from mmu_pipeline.shards.plan import plan_shards
from mmu_pipeline.shards.reshape import ReshardRule
from mmu_pipeline.shards.samples import Sample
from mmu_pipeline.shards.schema import sample_scalars
from mmu_pipeline.shards.tar import write_samples
from mmu_pipeline.sky import healpix29
from mmu_pipeline.stages.reshard import prepare_reshard, publish_reshard, run_unit, units
from mmu_pipeline.stages.seal import seal, set_facts
from mmu_pipeline.storage import Root

GOAL = 8.0
PER_SHARD = 5000
"""Shards of some 500 MB, as a recipe makes them that does not say."""
COMMON = {
    "modality": "image", "release": "1", "summary": "Made up.", "licence": "CC0-1.0", "citation": "none",
    "forms": {"files": {"reader": "mmu_v1", "files": ["*"]}},
}  # fmt: skip
IMAGE = {"name": "image", "dtype": "float32", "shape": [5, 64, 64]}
SURVEYS = {
    "hsc": Survey.model_validate({**COMMON, "name": "hsc", "title": "Images", "fields": [IMAGE]}),
    "sdss": Survey.model_validate(
        {**COMMON, "name": "sdss", "title": "Spectra", "fields": [{"name": "flux", "dtype": "float32", "shape": [4096]}]}
    ),
}
RECIPE = Recipe.model_validate(
    {
        "name": "bench", "primary": {"survey": "hsc"}, "counterparts": [{"survey": "sdss", "radius_arcsec": 1}],
        "split": {"train": 1, "validation": 0, "test": 0}, "shards": {"samples_per_shard": PER_SHARD},
    }
)  # fmt: skip


def make_set(folder: Path, count: int) -> str:
    """Write a set of so many samples of 98.5 kB all over the sky. Gives its URL."""
    root, held = Root(str(folder)), records()
    pixels = np.arange(count) * (12 * 4**10 // count)
    ra, dec = hp.pix2ang(1 << 10, pixels, nest=True, lonlat=True)
    names = [(scalar.name, scalar.type) for scalar in sample_scalars(RECIPE, SURVEYS)]
    rows = [
        dict.fromkeys([name for name, _ in names])
        | {
            "healpix": int(pixels[row] >> 12),
            "hsc_object_id": str(row),
            "hsc_ra": float(ra[row]),
            "hsc_dec": float(dec[row]),
            "has_sdss": True,
        }
        for row in range(count)
    ]
    samples = (
        Sample(
            f"object-{row:016x}",
            {name: held[row % len(held)][name] for name in ("hsc.image", "sdss.flux")},  # type: ignore[misc]
            rows[row],
        )
        for row in range(count)
    )
    with root.writing("piece.tar") as file:
        written = write_samples(file, samples)
    scalars = pa.Table.from_pylist(rows, pa.schema(names))
    root.write_table("piece.parquet", piece_index(written, healpix29(ra, dec), ra, dec, scalars, RECIPE))
    sizes = piece_sizes(root, "piece.parquet")
    plan = plan_shards([sizes], RECIPE.shards)
    form = Rows(("hsc.image", "sdss.flux"), pa.schema(names), "hsc", RECIPE.split)
    shards = []
    for number, name in enumerate(plan.names):
        part, chosen = plan.ranges(number), plan.samples(number)
        wanted = copies(part.piece, part.offset[:, None], part.nbytes[:, None], plan.is_repeat(number), sizes.digest[chosen])
        shards.append(make_shard(root, "aside", name, root.fs, [root.path("piece.tar")], wanted, form))
    root.remove("piece.tar")
    provenance = [Provenance(survey, "files", "", 1) for survey in SURVEYS.values()]
    files = set_facts(root, "aside", RECIPE.name, "0123456789ab", shards)
    seal(root, "aside", "set", manifest_of(RECIPE, files, provenance, Account()))
    return root.at("set").url


def peer(url: str, out: Path) -> None:
    """All samples, decoded and written again."""
    shards = sorted(str(path) for path in Path(url).glob("*.tar"))
    with webdataset.ShardWriter(f"{out}/train-%06d.tar", maxcount=PER_SHARD, maxsize=1e15, verbose=0) as writer:
        for sample in webdataset.WebDataset(shards, shardshuffle=False).decode():
            writer.write({name: value for name, value in sample.items() if name in ("__key__", "json") or name.endswith(".npy")})


def ours(url: str, out: Path) -> tuple[float, float]:
    """CPU seconds of making the shards of another order, and of all together."""
    start = time.process_time()
    job = prepare_reshard([url], str(out), ReshardRule(seed=int(time.time_ns() % 2**31)))
    todo = units(job)
    planned = time.process_time()
    for unit in todo:
        run_unit(unit, job)
    copied = time.process_time()
    publish_reshard(job)
    return copied - planned, time.process_time() - start


def seconds(make: Callable[[str, Path], None], url: str, out: Path) -> float:
    start = time.process_time()
    make(url, out)
    return time.process_time() - start


def main(
    records_: Annotated[int, typer.Option("--records", help="Samples of the set.")] = 20_000,
    rounds: Annotated[int, typer.Option(help="Rounds that count.")] = 5,
    folder: Annotated[Path | None, typer.Option(help="Where to write; memory if there is room for three times the set.")] = None,
) -> None:
    room = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 3 * records_ * 100_000
    spent: dict[str, list[float]] = {"copy": [], "whole": [], "decode and ShardWriter": []}
    with tempfile.TemporaryDirectory(dir=folder or (MEMORY if room else None)) as place:
        url = make_set(Path(place, "from"), records_)
        out = Path(place, "to")
        for _ in range(rounds + 1):
            copied, whole = ours(url, out)
            shutil.rmtree(out)
            out.mkdir()
            theirs = seconds(peer, url, out)
            shutil.rmtree(out)
            for name, value in zip(spent, (copied, whole, theirs), strict=True):
                spent[name].append(value)
    median = {name: statistics.median(values[1:]) for name, values in spent.items()}
    table = Table("way", "records / CPU-s", "x decode and ShardWriter", "goal", title=f"{records_:,} records of 98.5 kB")
    for name, value in median.items():
        ratio = median["decode and ShardWriter"] / value
        goal = f"{GOAL:g}x {'met' if ratio >= GOAL else 'MISSED'}" if name == "copy" else ""
        table.add_row(name, f"{records_ / value:,.0f}", f"{ratio:.1f}x", goal)
    Console().print(table)
    raise typer.Exit(median["decode and ShardWriter"] / median["copy"] < GOAL)


if __name__ == "__main__":
    typer.run(main)
