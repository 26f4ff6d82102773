"""The demo: a simulated sky, served over HTTP, built into shards, checked against the truth, shown on a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mmu_pipeline.errors import BrokenArtefact
from mmu_pipeline.report.page import Checked, build_report
from mmu_pipeline.report.shard_set import open_set
from mmu_pipeline.simulate.check import compare
from mmu_pipeline.simulate.serve import serving
from mmu_pipeline.simulate.write import FOLDERS, Truth, read_truth, write_sky
from mmu_pipeline.stages.verify import verify

RECIPE = "hsc-sdss-gaia"


class Built(Protocol):
    """What the demo needs to know of a build."""

    @property
    def url(self) -> str:
        """Folder of the published version."""

    @property
    def samples(self) -> int: ...

    @property
    def set_aside(self) -> Sequence[Mapping[str, str]]: ...


@dataclass(frozen=True)
class Demo:
    """Where to look."""

    sky: Path
    """The simulated surveys, and truth.parquet beside them."""
    root: Path
    shards: str
    page: Path
    samples: int
    set_aside: tuple[Mapping[str, str], ...]
    """stage, unit and reason: the sky holds one broken file on purpose."""
    checks: tuple[Checked, ...]


def run_demo(folder: Path, cluster: str, build: Callable[..., Built], say: Callable[[str], None] = lambda text: None) -> Demo:
    """Write the sky (unless it is there), serve it, build it, check it, write the page; all under `folder`.

    `build` is called as build(recipe, root=, sources=, cluster=, cache=, replace=) and must publish. `say` gets a line at each
    step. Raises BrokenArtefact if the set does not pass its check or differs from the truth.
    """
    folder = folder.resolve()
    truth = _sky(folder / "sky", say)
    with serving(truth.folder) as server:
        say(f"serving the sky at {server.url}")
        sources = {name: f"{server.url}/{place}" for name, place in FOLDERS.items()}
        built = build(
            RECIPE, root=str(folder / "root"), sources=sources, cluster=cluster, cache=str(folder / "cache"), replace=True
        )
    say("checking the shards, from the outside and against the truth")
    if problems := verify(built.url).problems:
        raise BrokenArtefact("the shards do not pass their check", folder=built.url, problems="; ".join(problems[:5]))
    checks = compare(truth, open_set(built.url))
    if differing := [f"{line.what}: {line.found} instead of {line.expected}" for line in checks if not line.agrees]:
        raise BrokenArtefact("the shards differ from the simulated truth", folder=built.url, differing="; ".join(differing))
    page = build_report(built.url, folder / "report.html", truth=checks)
    return Demo(truth.folder, folder / "root", built.url, page, built.samples, tuple(built.set_aside), tuple(checks))


def _sky(folder: Path, say: Callable[[str], None]) -> Truth:
    """The simulated sky in a folder; truth.parquet is written last, so where it is the rest is."""
    if (folder / "truth.parquet").exists():
        say(f"the simulated sky is in {folder}")
        return read_truth(folder)
    say(f"writing a simulated sky to {folder}")
    return write_sky(folder)
