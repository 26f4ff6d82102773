"""Sets of shards and a rule -> a new set: other samples, split, members, size or order; bytes are copied, never decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from mmu_pipeline.catalog import ShardRule, SplitRule
from mmu_pipeline.errors import BadInput, BrokenArtefact
from mmu_pipeline.expressions import parse_where
from mmu_pipeline.fingerprint import fingerprint
from mmu_pipeline.log import logged
from mmu_pipeline.receipt import Receipt, valid_receipt, write_receipt
from mmu_pipeline.shards.copy import Rows, copies, make_shard
from mmu_pipeline.shards.index import piece_sizes, repeated_keys, shard_index_path
from mmu_pipeline.shards.inherit import inherited
from mmu_pipeline.shards.manifest import MANIFEST_PATH, ShardFile, scalar_type
from mmu_pipeline.shards.opened import LATEST
from mmu_pipeline.shards.parents import Parent, open_parents, rows_of, shard_places
from mmu_pipeline.shards.plan import PieceSizes, ShardPlan, plan_shards, without
from mmu_pipeline.shards.regions import Cone, Moc, Region, read_moc
from mmu_pipeline.shards.reshape import Copies, ReshardRule, as_piece, beyond, chosen, kept_members, ranks
from mmu_pipeline.shards.splits import check_guard
from mmu_pipeline.sky import Int
from mmu_pipeline.stages.build import Deal, Outcome, Unit, in_turn
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.stages.seal import point_to, seal, set_facts
from mmu_pipeline.storage import Root

PLAN = "plan.json"
SET = "set"
"""Folder of the new set in the working folder, until it is published."""


@dataclass(frozen=True)
class Reshard:
    """What is asked for, checked before work starts. Small and picklable: it travels with each task."""

    parents: tuple[Parent, ...]
    out: Root
    rule: ReshardRule
    moc: Moc | None
    version: str

    @property
    def work(self) -> str:
        """Where all is written until it is published, receipts too: a hidden folder beside its place."""
        return f".{self.version}.work"

    @property
    def root(self) -> Root:
        return self.out.at(self.work)

    @property
    def name(self) -> str:
        return str(self.rule.name or self.parents[0].manifest["name"])

    @property
    def shards(self) -> ShardRule:
        return self.rule.shards(self.parents[0].manifest["recipe"]["shards"])

    @property
    def split(self) -> SplitRule:
        return self.rule.split or SplitRule.model_validate(self.parents[0].manifest["recipe"]["split"])

    @property
    def regions(self) -> dict[str, Region]:
        """Reason to leave a sample out -> the region that it is not in."""
        cone: dict[str, Region] = {"not in the cone": Cone(*self.rule.cone)} if self.rule.cone else {}
        return cone | ({"not in the MOC": self.moc} if self.moc else {})

    @cached_property
    def members(self) -> list[int]:
        """Places of the members that stay."""
        return kept_members(self.rule.members, self.parents[0].manifest["members"])

    @property
    def rows(self) -> Rows:
        """What the index says of the samples."""
        first = self.parents[0].manifest
        members = tuple(first["members"][place]["name"] for place in self.members)
        scalars = pa.schema([(scalar["name"], scalar_type(scalar)) for scalar in first["scalars"]])
        return Rows(members, scalars, first["surveys"][0]["name"], self.split)

    @property
    def keeps_all(self) -> bool:
        """Whether samples stay as they are, and keep their digests."""
        return len(self.members) == len(self.parents[0].manifest["members"])


def reshard(inputs: Sequence[str], out: str, rule: ReshardRule, progress: Callable[[int, int], None] | None = None) -> Published:
    """Make a new version in the folder `out` from the sets at some URLs, in this process; run it again to go on.

    The same inputs and rule give the same bytes. Raises BadInput for what the user must correct, before anything is written,
    or if no sample is left or two inputs have the same one; BrokenArtefact if an input is not what its index says.
    """
    job = prepare_reshard(inputs, out, rule)
    todo = units(job)
    for number, unit in enumerate(todo, 1):
        run_unit(unit, job)
        if progress is not None:
            progress(number, len(todo))
    return publish_reshard(job)


def prepare_reshard(inputs: Sequence[str], out: str, rule: ReshardRule) -> Reshard:
    """Open the inputs and check the rule against them. Raises BadInput; writes nothing."""
    parents = open_parents(inputs)
    first = parents[0].manifest
    moc = read_moc(rule.moc) if rule.moc else None
    said = rule.model_dump(mode="json", exclude={"moc"}, exclude_none=True)
    sets = [[parent.manifest[what] for what in ("name", "version", "set_digest", "index")] for parent in parents]
    job = Reshard(parents, Root(out.rstrip("/")), rule, moc, fingerprint("reshard", said, moc, sets)[:12])
    if rule.split is None:
        for parent in parents[1:]:
            if parent.manifest["recipe"]["split"] != first["recipe"]["split"]:
                raise BadInput("the sets are split by different rules", one=parents[0].folder.url, other=parent.folder.url,
                               hint="say how to split the new one")  # fmt: skip
    check_guard(job.split)
    kept_members(rule.members, first["members"])
    job.shards, job.regions  # noqa: B018  raise what is wrong with them
    if rule.where is not None:
        parse_where(rule.where, parents[0].columns)
    for column in (rule.balance, rule.limit_per_class[0] if rule.limit_per_class else None):
        if column is not None and column not in parents[0].columns:
            raise BadInput(
                f"the index has no column {column!r} of single values", hint=f"columns: {', '.join(parents[0].columns)}"
            )
    return job


def is_published(job: Reshard) -> bool:
    return job.out.exists(f"{job.version}/{MANIFEST_PATH}")


def units(job: Reshard) -> list[Unit]:
    """One unit per shard of the new set, planned first if that is still to do; none if it is published."""
    if is_published(job):
        return []
    if not job.root.exists(PLAN):
        _write_plan(job)
    plan = job.root.read_json(PLAN)
    return [
        Unit("reshard", shard["name"], None, shard["nbytes"], (), fingerprint("reshard", job.version, shard))
        for shard in plan["shards"]
    ]


def run_unit(unit: Unit, job: Reshard) -> Outcome:
    """Copy one shard, or find that it is there. Raises BrokenArtefact if an input is shorter than its index says."""
    known = valid_receipt(job.root, unit.stage, unit.name, unit.fingerprint)
    if known is not None:
        return Outcome(unit, "reused", known)
    fs, paths = shard_places(job.parents)
    wanted = job.root.read_table(f"ranges/{unit.name}.parquet")
    with logged(job.name, unit):
        made = make_shard(job.root, SET, unit.name, fs, paths, wanted, job.rows, job.shards.sha256)
    outputs = [f"{SET}/{path}" for path in (unit.name, shard_index_path(unit.name))]
    receipt = Receipt(
        stage=unit.stage, unit=unit.name, fingerprint=unit.fingerprint, rows_in=len(wanted), rows_out=len(wanted),
        outputs={path: job.root.size(path) or 0 for path in outputs}, facts=asdict(made),
    )  # fmt: skip
    return Outcome(unit, "done", write_receipt(job.root, receipt))


def publish_reshard(job: Reshard, deal: Deal = in_turn) -> Published:
    """Seal, check and publish the new version, all of whose shards are there. `deal` runs the checks of single shards.

    Raises BrokenArtefact if a shard is missing, a sample is not what its index said, or the check finds a problem.
    """
    reused = is_published(job)
    if not reused:
        _seal(job, deal)
    point_to(job.out, LATEST, job.version)
    job.out.remove(job.work, recursive=True)
    samples = job.out.read_json(f"{job.version}/{MANIFEST_PATH}")["samples"]
    return Published(job.version, job.out.at(job.version).url, samples, reused, ())


def _write_plan(job: Reshard) -> None:
    """Choose the samples, and write what each shard is copied from."""
    parents, rule = job.parents, job.rule
    members = len(parents[0].manifest["members"])
    classes = [column for column in (rule.balance, rule.limit_per_class[0] if rule.limit_per_class else None) if column]
    skipped: Counter[str] = Counter()
    found: list[Copies] = []
    pieces: list[str] = []
    for table in rows_of(parents):
        rows, left = chosen(table, rule, job.regions, parents[0].columns)
        skipped.update(left)
        if len(rows):
            piece, copied = as_piece(rows, rule.split, job.shards.seed, job.members, members, list(dict.fromkeys(classes)))
            found.append(copied)
            pieces.append(f"rows/{len(pieces):06d}.parquet")
            job.root.write_table(pieces[-1], piece)
    if not found:
        raise BadInput("no sample is left", **{reason.replace(" ", "_"): count for reason, count in skipped.items()},
                       hint="ask for less")  # fmt: skip
    source, offset, nbytes = (np.concatenate([getattr(part, name) for part in found]) for name in ("source", "offset", "nbytes"))
    sizes = [piece_sizes(job.root, path) for path in pieces]
    _refuse_repeated(job, pieces, sizes, source)
    plan, limited = _dealt(job, pieces, sizes)
    if limited:
        skipped["over limit_per_class"] = limited
    digests = np.concatenate([piece.digest for piece in sizes if piece.digest is not None])
    shards = []
    for number, name in enumerate(plan.names):
        rows = plan.samples(number)
        expected = digests[rows] if job.keeps_all else None
        table = copies(source[rows], offset[rows], nbytes[rows], plan.is_repeat(number), expected)
        job.root.write_table(f"ranges/{name}.parquet", table)
        shards.append({"name": name, "samples": len(rows), "nbytes": int(nbytes[rows].sum())})
    job.root.remove("rows", recursive=True)
    job.root.write_json(PLAN, {"shards": shards, "skipped": {reason: count for reason, count in skipped.items() if count}})


def _refuse_repeated(job: Reshard, pieces: Sequence[str], sizes: Sequence[PieceSizes], source: Int) -> None:
    """Raise BadInput if two samples have the same key."""
    found = repeated_keys(job.root, pieces, sizes)
    if found:
        row, key, earlier = found[0]
        _, places = shard_places(job.parents)
        raise BadInput(
            f"{len(found)} samples stand in the inputs twice",
            key=key,
            one=places[int(source[earlier])],
            other=places[int(source[row])],
            hint="take each set once; choose parts that do not overlap with `where`",
        )


def _dealt(job: Reshard, pieces: Sequence[str], sizes: Sequence[PieceSizes]) -> tuple[ShardPlan, int]:
    """The plan of the new shards, and how many samples a limit leaves out of it."""
    left: Int = np.zeros(0, np.int64)
    if job.rule.limit_per_class is not None:
        column, limit = job.rule.limit_per_class
        left = beyond(limit, ranks(_column(job, pieces, column)), np.concatenate([piece.order for piece in sizes]))
    strata = ranks(_column(job, pieces, job.rule.balance)) if job.rule.balance else None
    return plan_shards(without(sizes, left.tolist()), job.shards, strata), len(left)


def _column(job: Reshard, pieces: Iterable[str], name: str) -> pa.ChunkedArray:
    column = f"class_{name}"
    return pa.concat_tables([job.root.read_table(path, columns=[column]) for path in pieces])[column]


def _seal(job: Reshard, deal: Deal) -> None:
    plan = job.root.read_json(PLAN)
    receipts = {unit.name: valid_receipt(job.root, unit.stage, unit.name, unit.fingerprint) for unit in units(job)}
    if missing := [name for name, receipt in receipts.items() if receipt is None]:
        raise BrokenArtefact("shards are missing", shards=", ".join(missing), hint="run again: it goes on where it stopped")
    shards = [ShardFile(**receipt.facts) for receipt in receipts.values() if receipt]
    rule = job.rule.model_dump(mode="json", exclude_none=True)
    if job.moc is not None:
        rule["moc"] = {"ranges": len(job.moc.ranges), "fingerprint": fingerprint(job.moc)}
    aside = f"{job.work}/{SET}"
    new = set_facts(job.out, aside, job.name, job.version, shards)
    new |= {"name": job.name, "rule": rule, "left_out": plan["skipped"]}
    manifest = inherited([parent.manifest for parent in job.parents], new, job.members, job.split, job.shards)
    seal(job.out, aside, job.version, manifest, deal)
