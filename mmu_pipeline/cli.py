"""The `mmu` command: words on a command line to calls of the pipeline, results to tables for people or JSON for machines.

Exit codes: 0 complete, 1 failed, 2 bad input, 3 finished with units set aside.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic_core import to_json
from rich.console import Console, Group, RenderableType
from rich.text import Text

import mmu_pipeline
from mmu_pipeline import tables, words
from mmu_pipeline.errors import BadInput, PipelineError

if TYPE_CHECKING:
    from mmu_pipeline.stages.build import Build, Deal

app = typer.Typer(
    name="mmu",
    help="Match sky surveys object by object and write them as training shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SET_ASIDE = 3


class LogStyle(StrEnum):
    """How log records are written."""

    text = "text"
    json = "json"


AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and the log of the orchestration.")]
SurveyDirs = Annotated[list[Path] | None, typer.Option("--survey-dir", help="Folder of further survey YAML files. Repeatable.")]
RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="Name of a recipe, or path of a YAML file.")]
RootUrl = Annotated[str, typer.Option("--root", help="Where all outputs go: a folder or any fsspec URL.")]
Sources = Annotated[
    list[str] | None, typer.Option("--source", metavar="SURVEY=URL", help="Read a survey from elsewhere. Repeatable.")
]
Cells = Annotated[str | None, typer.Option("--cells", metavar="1104,1107", help="Only these order-4 HEALPix cells (NESTED).")]
Cone = Annotated[
    str | None, typer.Option("--cone", metavar="RA,DEC,RADIUS", help="Only the cells that a cone touches, in degrees.")
]
Cache = Annotated[str | None, typer.Option("--cache", help="Local folder where remote source files are kept.")]
Replace = Annotated[bool, typer.Option("--replace", help="Build over what the root holds of another recipe of this name.")]
Shards = Annotated[str, typer.Argument(metavar="SHARDS", help="Folder or URL of a shard set.")]
Cluster = Annotated[
    str,
    typer.Option(
        callback=words.cluster, help="local, local:N processes, tcp://host:port of a Dask scheduler, slurm:profile.yaml."
    ),
]
OrHere = Annotated[
    str | None,
    typer.Option("--cluster", callback=words.cluster, help="On a cluster: local:4, tcp://host:port. Else in this process."),
]
Metrics = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus metrics while it runs; a port alone is of loopback.")
]
Log = Annotated[
    LogStyle | None,
    typer.Option(envvar="MMU_LOG", help="Log to stderr, a record per stage and set-aside unit; with --debug per unit."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def main() -> None:
    """Run the command. An error ends in one readable block on stderr; a traceback is shown only with --debug."""
    try:
        app()
    except PipelineError as error:
        if "--debug" in sys.argv:
            raise
        _complain(error.what, {key: str(value) for key, value in error.where.items()}, error.hint)
        raise SystemExit(error.exit_code) from None
    except (NotADirectoryError, PermissionError, FileExistsError, IsADirectoryError) as error:
        if "--debug" in sys.argv:
            raise
        place = {"path": error.filename, "reason": error.strerror or str(error)}
        _complain(
            "a place cannot be used",
            {key: str(value) for key, value in place.items() if value is not None},
            "choose another place, or change its rights",
        )
        raise SystemExit(BadInput.exit_code) from None
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        _complain(
            f"{type(error).__name__}: {error}", {}, "this was not foreseen: run again with --debug and report what it prints"
        )
        raise SystemExit(1) from None


def _complain(what: str, where: dict[str, str], hint: str) -> None:
    width = max(map(len, where), default=0)
    text = Text.assemble(("error  ", "bold red"), (what, "bold"))
    for key, value in where.items():
        text.append(f"\n  {key:<{width}}  ", "dim").append(value.replace("\n", "\n" + " " * (width + 4)))
    if hint:
        text.append("\n  to do: ", "green").append(hint)
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


def _show_version(asked: bool) -> None:
    if asked:
        print(f"mmu {mmu_pipeline.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    pass


@app.command()
def surveys(as_json: AsJson = False, survey_dir: SurveyDirs = None, debug: Debug = False) -> None:
    """List the surveys that can be built from."""
    from mmu_pipeline.catalog_files import load_surveys

    known = list(load_surveys(*survey_dir or ()).values())
    _give(as_json, [survey.model_dump(mode="json", by_alias=True) for survey in known], tables.surveys_table(known))


@app.command()
def survey(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of a survey: `mmu surveys` lists them.")],
    as_json: AsJson = False,
    survey_dir: SurveyDirs = None,
    debug: Debug = False,
) -> None:
    """Show one survey: where it lies, its fields, its known faults, how to cite it."""
    from mmu_pipeline.catalog_files import load_surveys

    known = load_surveys(*survey_dir or ())
    if name not in known:
        raise BadInput(f"unknown survey {name!r}", hint=f"known surveys: {', '.join(sorted(known))}")
    _give(as_json, known[name].model_dump(mode="json", by_alias=True), tables.survey_page(known[name]))


@app.command()
def recipes(as_json: AsJson = False, survey_dir: SurveyDirs = None, debug: Debug = False) -> None:
    """List the recipes that are shipped."""
    from mmu_pipeline.catalog_files import catalogs_folder, load_recipe, load_surveys

    known = load_surveys(*survey_dir or ())
    found = [load_recipe(path.stem, known) for path in sorted((catalogs_folder() / "recipes").glob("*.yaml"))]
    _give(as_json, [recipe.model_dump(mode="json") for recipe in found], tables.recipes_table(found))


@app.command()
def plan(
    recipe: RecipeName, root: RootUrl = "runs", source: Sources = None, survey_dir: SurveyDirs = None, cells: Cells = None,
    cone: Cone = None, cache: Cache = None,
    nodes: Annotated[int | None, typer.Option(min=1, help="Size it for so many machines.")] = None,
    workers_per_node: Annotated[int, typer.Option(help="With --nodes: worker threads of each, a core each.")] = 16,
    network: Annotated[float, typer.Option(help="With --nodes: network of each, gigabytes a second.")] = 1.25,
    source_rate: Annotated[float, typer.Option(help="With --nodes: what the surveys' servers give in all, GB/s.")] = 1.25,
    top: Annotated[int, typer.Option(min=0, help="How many of the best cells to show; --json gives all.")] = 10,
    moc: Annotated[Path | None, typer.Option(help="Write the sky that all surveys share as a MOC: .fits or .json.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the footprints on a map of the sky.")] = None,
    as_json: AsJson = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Show what a build would read and find, cell by cell, and with --nodes how long it would take. No source file is read."""
    from mmu_pipeline.plan_table import plan_table
    from mmu_pipeline.stages import overview, sizing

    build = _prepared(words.asked(recipe, root, source, survey_dir, cells, cone, cache))
    machines = sizing.Nodes(nodes, workers_per_node, network * 1e9, source_rate * 1e9) if nodes is not None else None
    found = overview.plan(build)
    if moc is not None:
        overview.write_overlap(found, moc)
    if figure is not None:
        from mmu_pipeline.report.footprints import draw_plan

        draw_plan(found, figure)
    if machines is None:
        _give(as_json, found.facts(), plan_table(found, top))
        return
    sized = sizing.size_build(build, found, machines)
    content = found.facts() | {"estimate": asdict(sized) | {"seconds": sized.seconds}}
    _give(as_json, content, Group(plan_table(found, top), "", tables.estimate_table(sized)))


@app.command()
def build(
    recipe: RecipeName, root: RootUrl = "runs", cluster: Cluster = "local", source: Sources = None, survey_dir: SurveyDirs = None,
    cells: Cells = None, cone: Cone = None, cache: Cache = None, replace: Replace = False, metrics: Metrics = None,
    log: Log = None, quiet: Quiet = False, as_json: AsJson = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Build a recipe's shards and publish them. Run it again at any time: what is finished is not done again."""
    from mmu_pipeline.log import log_to_stderr
    from mmu_pipeline.stages.prepare import claim_root

    asked = words.asked(recipe, root, source, survey_dir, cells, cone, cache)
    if log is not None:
        log_to_stderr(log.value, logging.DEBUG if debug else logging.INFO)
        os.environ["MMU_LOG"] = log.value  # for workers that this process starts
    claim_root(_prepared(asked), replace)  # what is wrong with it is said before the orchestration starts
    result = _flow(debug)(**asked, cluster=cluster, replace=replace, metrics=metrics, quiet=quiet or log is not None)
    _give(as_json, asdict(result), tables.published_lines(result, result.seconds, result.page))
    if result.set_aside:
        raise typer.Exit(SET_ASIDE)


@app.command()
def status(
    recipe: RecipeName, root: RootUrl = "runs", source: Sources = None, survey_dir: SurveyDirs = None, as_json: AsJson = False,
    debug: Debug = False,
) -> None:  # fmt: skip
    """Show how far a build has come, what was set aside, and the rows left out by reason."""
    from mmu_pipeline.stages import overview

    found = overview.status(_prepared(words.asked(recipe, root, source, survey_dir)))
    _give(as_json, asdict(found), tables.status_table(found))


@app.command()
def margins(
    recipe: RecipeName, root: RootUrl = "runs", source: Sources = None, survey_dir: SurveyDirs = None,
    arcsec: Annotated[float | None, typer.Option(min=0.001, help="How wide; else as far as the recipe's matches reach.")] = None,
    cluster: OrHere = None,
    as_json: AsJson = False, debug: Debug = False,
) -> None:  # fmt: skip
    """Write margin catalogs of a recipe's counterparts, with which LSDB joins across the borders of partitions."""
    from mmu_pipeline.stages.margins import finish
    from mmu_pipeline.stages.pipeline import margin_units, run_unit
    from mmu_pipeline.stages.receipts import set_aside_of

    plan = _prepared(words.asked(recipe, root, source, survey_dir))
    units = margin_units(plan, arcsec)
    with _deal(cluster) as deal:
        done = list(deal(run_unit, plan, units))
    written = finish(plan, done)
    missing = set_aside_of(outcome.receipt for outcome in done)
    _give(as_json, {"margins": written, "set_aside": missing}, tables.margin_lines(written, missing))
    if missing:
        raise typer.Exit(SET_ASIDE)


@app.command()
def verify(
    shards: Shards,
    all_values: Annotated[
        bool, typer.Option("--all-values", help="Compare the index with the JSON of all samples, not of 200.")
    ] = False,
    cluster: OrHere = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check a set of shards from the outside: every byte, offset, digest, name, type and split."""
    from mmu_pipeline.progress import counted, shown
    from mmu_pipeline.stages.verify import VALUES_COMPARED
    from mmu_pipeline.stages.verify import verify as check

    with _deal(cluster) as deal, shown(quiet) as show:
        found = check(words.place(shards), None if all_values else VALUES_COMPARED, counted(deal, "check", show))
    _give(as_json, asdict(found) | {"ok": found.ok}, tables.verification_lines(found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def reshard(
    shards: Annotated[list[str], typer.Argument(metavar="SHARDS", help="Folders or URLs of shard sets: several become one.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder or URL where the new version goes.")],
    where: Annotated[str | None, typer.Option(help='Only samples of which it is true: "i_mag < 21 and has_sdss".')] = None,
    cone: Annotated[str | None, typer.Option(metavar="RA,DEC,RADIUS", help="Only samples in a cone, in degrees.")] = None,
    moc: Annotated[str | None, typer.Option(help="Only samples in a multi-order coverage map, FITS or JSON.")] = None,
    split: Annotated[
        str | None, typer.Option(metavar="KEY=VALUE,...", help="Split anew: train, validation, test, order, seed, guard_arcsec.")
    ] = None,
    members: Annotated[str | None, typer.Option(metavar="NAME,NAME", help="Arrays to keep, by name or by survey.")] = None,
    target_bytes: Annotated[str | None, typer.Option(metavar="SIZE", help="Size of a shard: 512MiB.")] = None,
    samples_per_shard: Annotated[int | None, typer.Option(help="Most samples of a shard.")] = None,
    multiple_of: Annotated[int | None, typer.Option(help="Fill every shard to a multiple, with flagged repeats.")] = None,
    world_size: Annotated[int | None, typer.Option(help="Number of shards that a split has a multiple of.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the order of samples.")] = None,
    balance: Annotated[str | None, typer.Option(metavar="COLUMN", help="Every shard gets its share of each value.")] = None,
    limit_per_class: Annotated[str | None, typer.Option(metavar="COLUMN=N", help="At most N samples of each value.")] = None,
    sha256: Annotated[bool | None, typer.Option("--sha256/--no-sha256", help="Write SHA256SUMS.")] = None,
    count_in_name: Annotated[
        bool | None, typer.Option("--count-in-name/--plain-names", help="End names of shards in their number of samples.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the new set.")] = None,
    cluster: OrHere = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make other shards of the same samples, or of some: another size, split, sky, order. Array bytes are copied as they are."""
    from mmu_pipeline import options
    from mmu_pipeline.progress import Tally, shown
    from mmu_pipeline.stages import reshard as stage

    texts = {
        "where": where, "cone": cone, "moc": None if moc is None else words.place(moc), "split": split, "members": members,
        "target_bytes": target_bytes, "samples_per_shard": samples_per_shard, "multiple_of": multiple_of,
        "world_size": world_size, "seed": seed, "balance": balance, "limit_per_class": limit_per_class,
        "sha256": sha256, "count_in_name": count_in_name, "name": name,
    }  # fmt: skip
    rule, places = options.rule_of(texts), [words.place(place) for place in shards]
    start = time.monotonic()
    if cluster is None:
        with shown(quiet) as show:
            found = stage.reshard(places, words.place(out), rule, lambda done, of: show(Tally("reshard", of, done)))
    else:
        stage.prepare_reshard(places, words.place(out), rule)  # what is wrong with it is said before the orchestration starts
        found = _flow(debug, "reshard")(places, words.place(out), rule, cluster=cluster, quiet=quiet)
    _give(as_json, asdict(found), tables.published_lines(found, time.monotonic() - start))


@app.command()
def deploy(
    root: Annotated[str, typer.Option("--root", help="Where deployed builds put their outputs: a URL that every worker sees.")],
    cluster: Cluster = "local",
    recipe: Annotated[str, typer.Option("--recipe", help="What the scheduled build makes.")] = "hsc-sdss-gaia",
    pool: Annotated[str, typer.Option("--pool", help="Prefect work pool whose workers run the flows.")] = "mmu",
    file: Annotated[Path | None, typer.Option("--file", help="Your own prefect.yaml instead of the shipped one.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Apply the deployments (builds, scheduled and on demand, re-shards, maintenance) to the server in PREFECT_API_URL."""
    from flows.deploy import deploy as apply

    names = apply(words.place(root), cluster, recipe, pool, file)
    _give(as_json, names, Text("\n".join([*names, f"next: prefect worker start --pool {pool} --type process"])))


@app.command()
def clean(
    root: RootUrl = "runs",
    keep: Annotated[int, typer.Option(min=1, help="Newest versions of each recipe that stay.")] = 3,
    older_than: Annotated[float, typer.Option(min=0, metavar="DAYS", help="What is younger stays.")] = 14.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Remove old versions and what broken-off runs left. Never the latest version, or one that is being read or written."""
    from mmu_pipeline.stages.clean import CleanPolicy, clean_root
    from mmu_pipeline.storage import Root

    found = clean_root(Root(words.place(root)), CleanPolicy(keep_versions=keep, older_than_days=older_than), dry_run=dry_run)
    _give(as_json, [asdict(item) for item in found], tables.clean_table(found, dry_run))


@app.command()
def show(
    shards: Shards,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Key of a sample, or id of its primary object.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where its picture goes.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show one sample as text and as a picture."""
    from mmu_pipeline.report.show import show_sample

    text, picture = show_sample(words.place(shards), key, out)
    _give(as_json, {"text": text, "picture": str(picture)}, Text(f"{text.rstrip()}\n\npicture  {picture}"))


@app.command()
def demo(
    folder: Annotated[Path, typer.Option("--folder", help="Where the demo goes.")] = Path("demo"),
    cluster: Cluster = "local:2",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Simulate a small sky, serve it over HTTP, build hsc x sdss x gaia from it, check it, write a page with pictures."""
    from functools import partial

    from mmu_pipeline.simulate.demo import run_demo

    progress = Console(stderr=True, highlight=False, quiet=quiet)
    found = run_demo(folder, cluster, partial(_flow(debug), quiet=quiet), progress.print)
    _give(as_json, asdict(found), tables.demo_lines(found))


@app.command()
def simulate(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for SURVEY/FORM, truth.parquet and detections.parquet.")],
    surveys: Annotated[list[str] | None, typer.Argument(metavar="SURVEY", help="Names of surveys; none for all.")] = None,
    form: Annotated[str, typer.Option(help="mmu_v1, hats, raw (as the survey itself releases it), all, or a name.")] = "mmu_v1",
    positions: Annotated[
        Path | None, typer.Option(help="CSV or Parquet with ra and dec in degrees, and kind, mag and others if you like.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the objects, errors and noise.")] = 0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write small files of surveys, true to their layouts and faults, for one shared sky, and the truth about it."""
    from mmu_pipeline.catalog_files import load_surveys
    from mmu_pipeline.simulate import asked
    from mmu_pipeline.simulate.sky import sky_at, sky_objects
    from mmu_pipeline.simulate.survey_files import write_archive

    known = load_surveys()
    chosen = asked.wanted_forms(surveys or [], form, known)
    sky = sky_objects(seed) if positions is None else sky_at(asked.read_positions(positions), seed)
    listed = write_archive(out, known, chosen, sky, seed)
    found = {"folder": str(out), "objects": len(sky), "written": listed}
    _give(as_json, found, tables.simulated_table(str(out), len(sky), listed))


@contextmanager
def _deal(cluster: str | None) -> Iterator[Deal]:
    """What runs units: this process, or a cluster for as long as the block lasts."""
    from mmu_pipeline.stages.build import in_turn

    if cluster is None:
        yield in_turn
        return
    from mmu_pipeline.client import open_client
    from mmu_pipeline.cluster import run_units

    with open_client(cluster) as client:
        yield partial(run_units, client)


def _prepared(asked: dict[str, Any]) -> Build:
    from mmu_pipeline.stages.prepare import prepare

    return prepare(**asked | {"survey_dirs": [Path(folder) for folder in asked["survey_dirs"]]})


def _flow(debug: bool, name: str = "build") -> Any:
    """The flow of a name, its log silent unless it is asked for."""
    if debug:
        os.environ |= {"PREFECT_LOGGING_LEVEL": "INFO", "PREFECT_SERVER_LOGGING_LEVEL": "WARNING"}
    else:
        os.environ |= {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL", "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL"}
    from flows.stoppable import stoppable

    flow = getattr(import_module(f"flows.{name}"), name)
    return stoppable(flow, lambda: _complain("stopped", {}, "run the same command again: what is finished is kept"))


def _give(as_json: bool, data: Any, page: RenderableType) -> None:
    if as_json:
        print(to_json(data, indent=2, inf_nan_mode="strings", fallback=str).decode())
    else:
        console = Console(highlight=False)
        console.width = max(console.width, 80) if console.is_terminal else 160  # narrower than 80, columns break within words
        console.print(page, soft_wrap=True)
