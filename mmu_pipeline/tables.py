"""What a command found -> tables that people read on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from mmu_pipeline.catalog import Recipe, Survey
    from mmu_pipeline.simulate.demo import Demo
    from mmu_pipeline.stages.clean import Found
    from mmu_pipeline.stages.moved import Moved
    from mmu_pipeline.stages.overview import Status
    from mmu_pipeline.stages.publish import Published
    from mmu_pipeline.stages.sizing import Estimate
    from mmu_pipeline.stages.verify import Verification


def counted(number: int | None) -> str:
    """A count with its thousands apart; empty for None."""
    return "" if number is None else f"{number:,}"


def size(nbytes: float | None) -> str:
    """Bytes in decimal units, three digits: `310 MB`; empty for None."""
    if nbytes is None:
        return ""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.3g} TB"


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[str] = ()) -> Table:
    """A borderless table; columns named in `right` hold numbers."""
    found = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        found.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        found.add_row(*map(escape, row))
    return found


def surveys_table(surveys: Iterable[Survey]) -> Table:
    rows = ((s.name, s.modality, counted(s.expected_rows), s.title) for s in surveys)
    return table(("name", "modality", "rows", "title"), rows, right=("rows",))


def simulated_table(folder: str, objects: int, written: Sequence[Mapping[str, Any]]) -> Group:
    """How many of the objects of a simulated sky each survey lists."""
    rows = ((str(one["survey"]), str(one["form"]), counted(int(one["listed"]))) for one in written)
    return Group(
        f"{counted(objects)} objects, in {escape(folder)}", "", table(("survey", "form", "listed"), rows, right=("listed",))
    )


def survey_page(survey: Survey) -> Group:
    """All that is declared of one survey."""
    fields = table(
        ("field", "kind", "dtype", "shape", "unit", "description"),
        (
            (
                f.name,
                "member" if f.is_member else "column",
                f.dtype,
                " x ".join(map(str, f.shape)),
                f.unit,
                "; ".join(part for part in (f.description, *f.facts) if part),
            )
            for f in survey.fields
        ),
    )
    only = ["[dim]read[/]     only as the MMU has it, not the files that the survey itself releases"] if survey.only_mmu else []
    forms = table(("form", "reader", "url"), ((name, f.reader, f.url or "say --source") for name, f in survey.forms.items()))
    faults = [f"[yellow]fault[/]    {name}: {escape(fault)}" for name, form in survey.forms.items() for fault in form.faults]
    rows = f"{counted(survey.expected_rows)} rows" if survey.expected_rows else "rows unknown"
    epoch = survey.epoch if isinstance(survey.epoch, str) else f"J{survey.epoch:g}" if survey.epoch else ""
    precision = [
        f"[dim]place[/]    {name}: positions are {form.position_precision_arcsec:g} arcsec coarse"
        for name, form in survey.forms.items()
        if form.position_precision_arcsec
    ]
    return Group(
        f"[bold]{escape(survey.title)}[/]  {survey.modality}, {escape(survey.release)}, {rows}",
        escape(survey.summary),
        "",
        forms,
        "",
        fields,
        "",
        *faults,
        f"[dim]epoch[/]    {f'positions are of {epoch}' if epoch else 'the epoch of its positions is not declared'}",
        *precision,
        *only,
        f"[dim]licence[/]  {escape(survey.licence)}",
        f"[dim]cite[/]     {escape(survey.citation)}",
        f"[dim]see[/]      {escape(survey.homepage)}" if survey.homepage else "",
    )


def recipes_table(recipes: Iterable[Recipe]) -> Table:
    rows = (
        (r.name, r.primary.survey, "\n".join(f"{c.survey} {c.rule}, {c.pick}" for c in r.counterparts), r.title) for r in recipes
    )
    return table(("name", "primary", "counterparts", "title"), rows)


def estimate_table(estimate: Estimate) -> Group:
    """What a build takes on some machines: time per stage and what bounds it, storage, memory."""
    nodes = estimate.nodes
    columns = ("stage", "units", "rows", "reads", "writes", "core hours", "takes", "bound by")
    rows = (
        (s.load.stage, counted(s.load.units), counted(s.load.rows), size(s.load.nbytes), size(s.load.written),
         f"{s.core_seconds / 3600:,.1f}", duration(s.seconds), s.bound)
        for s in estimate.stages
    )  # fmt: skip
    stored = table(("stored", "bytes"), ((what, size(nbytes)) for what, nbytes in estimate.stored.items()), right=("bytes",))
    fitted = f"rates of {', '.join(estimate.fitted)} fitted to runs under this root" if estimate.fitted else ""
    guessed = f"rows of {', '.join(estimate.guessed)} not counted yet" if estimate.guessed else ""
    return Group(
        f"[bold]{counted(nodes.count)} x {nodes.workers} workers: {duration(estimate.seconds)}[/]",
        "",
        table(columns, rows, right=columns[1:-1]),
        "",
        stored,
        "",
        Text(
            f"memory  {size(estimate.worker_memory)} a node for its workers, {size(estimate.driver_memory)} for the flow", "dim"
        ),
        *(Text(note, "dim") for note in (fitted, guessed) if note),
    )


def duration(seconds: float) -> str:
    """`42 s`, `7 min 5 s`, `3 h 20 min`, `2 d 4 h`: the two largest units."""
    whole = round(seconds)
    for (name, length), (below, part) in zip((("d", 86400), ("h", 3600), ("min", 60)),
                                             (("h", 3600), ("min", 60), ("s", 1)), strict=True):  # fmt: skip
        if whole >= length:
            return f"{whole // length} {name} {whole % length // part} {below}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"


def status_table(status: Status) -> Group:
    """How far each stage has come, what was left out and what was set aside."""
    columns = ("stage", "units", "done", "partial", "set aside", "rows")
    rows = ((s.stage, *(counted(n) for n in (s.units, s.done, s.partial, s.set_aside, s.rows))) for s in status.stages)
    skipped = [(s.stage, counted(count), reason) for s in status.stages for reason, count in s.skipped.items()]
    left_out = table(("stage", "rows left out", "reason"), skipped, right=("rows left out",))
    remote = ("survey", "remote files", "size", "moved", "requests", "read")
    moved = [(m.survey, counted(m.files), size(m.file_bytes), size(m.bytes), counted(m.requests), _ways(m)) for m in status.moved]
    return Group(
        table(columns, rows, right=columns[1:]),
        "",
        *((left_out, "") if skipped else ()),
        *((table(remote, moved, right=remote[1:-1]), "") if moved else ()),
        *set_aside_lines(status.set_aside),
        f"[dim]published[/]  {status.version or 'nothing yet'}",
    )


def _ways(moved: Moved) -> str:
    return ", ".join(f"{way} {counted(times)}" for way, times in moved.readings.items())


def published_lines(published: Published, seconds: float, page: str | None = None) -> Group:
    """What a build made, the page of its run, and what to do next."""
    head = "nothing to do, this version is there" if published.reused else f"published in {seconds:.1f} s"
    return Group(
        *set_aside_lines(published.set_aside),
        f"[bold green]{published.version}[/]  {counted(published.samples)} samples, {head}",
        Text(published.url),
        *([Text(f"page of the run: {page}", "dim")] if page else []),
        Text(f"next: mmu show {published.url}", "dim"),
    )


def margin_lines(written: Mapping[str, int], set_aside: Sequence[Mapping[str, str]]) -> Group:
    """The margin catalogs of a root, and how LSDB takes one."""
    rows = ((url, counted(count) if count else "none: nothing lies near a border") for url, count in written.items())
    return Group(
        *set_aside_lines(set_aside),
        table(("margin catalog", "rows"), rows, right=("rows",)),
        Text("next: lsdb.open_catalog(OBJECT_TABLE, margin_cache=MARGIN_CATALOG)", "dim"),
    )


def set_aside_lines(units: Sequence[Mapping[str, str]], most: int = 10) -> list[str | Text]:
    """What is missing and why, the first few in full."""
    if not units:
        return []
    lines: list[str | Text] = [
        f"\n[bold yellow]set aside: {counted(len(units))}[/]  the next run tries them again",
        *(
            Text.assemble((f"  {u['stage']} {u['unit']}  ", "yellow"), "; ".join(map(str.strip, u["reason"].splitlines())))
            for u in units[:most]
        ),
        *([f"  and {counted(len(units) - most)} more: see mmu status --json"] if units[most:] else []),
        "",
    ]
    return lines


def verification_lines(found: Verification) -> Group:
    """Whether a set is as its manifest says."""
    verdict = f"[bold red]{len(found.problems)} problems[/]" if found.problems else "[bold green]all is as the manifest says[/]"
    amount = f"{counted(found.samples)} samples, {counted(found.shards)} shards, {size(found.nbytes)}"
    return Group(*(Text(f"  {problem}", "red") for problem in found.problems), f"{escape(found.version)}  {amount}: {verdict}")


def clean_table(found: Sequence[Found], dry_run: bool) -> Group:
    """What takes room, what of it goes, and why the rest stays."""
    gone = [item for item in found if not item.kept]
    verb = "would go" if dry_run else "gone"
    rows = ((item.kind, item.path, f"{item.age_days:.1f}", size(item.nbytes), item.kept or verb) for item in found)
    return Group(
        table(("kind", "path", "days", "size", ""), rows, right=("days", "size")),
        f"{len(gone)} of {len(found)} {verb}, {size(sum(item.nbytes for item in gone))}",
    )


def demo_lines(demo: Demo) -> Group:
    """Where to look after the demo, and what to try."""
    checks = table(
        ("against the simulated truth", "expected", "found"), ((c.what, str(c.expected), str(c.found)) for c in demo.checks)
    )
    return Group(
        checks,
        *set_aside_lines(demo.set_aside),
        f"[bold green]{counted(demo.samples)} samples[/]",
        Text(f"  page    {demo.page}"),
        Text(f"  shards  {demo.shards}"),
        Text(f"next: mmu show {demo.shards}", "dim"),
    )
