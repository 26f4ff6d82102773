"""The `mmu` command: words on a command line to calls of the pipeline, results to tables for people or JSON for machines.

Exit codes: 0 complete, 1 failed, 2 bad input, 3 finished with units set aside.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

import mmu_pipeline
from mmu_pipeline.errors import BadInput, PipelineError

app = typer.Typer(
    name="mmu",
    help="Match sky surveys object by object and write them as training shards.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
SET_ASIDE = 3

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
    str, typer.Option("--cluster", help="local, local:N for N processes, or tcp://host:port of a Dask scheduler.")
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
    from mmu_pipeline.catalog import load_surveys

    known = load_surveys(*survey_dir or ()).values()
    rows = [
        {
            "name": survey.name,
            "modality": survey.modality,
            "release": survey.release,
            "rows": survey.expected_rows,
            "forms": {name: form.reader for name, form in survey.forms.items()},
            "members": [field.name for field in survey.members],
            "columns": [field.name for field in survey.columns],
            "title": survey.title,
        }
        for survey in known
    ]
    columns = ("name", "modality", "rows", "title")
    _give(as_json, rows, lambda: _table(columns, ([_cell(row[c]) for c in columns] for row in rows), right=("rows",)))


@app.command()
def survey(name: str, as_json: AsJson = False, survey_dir: SurveyDirs = None, debug: Debug = False) -> None:
    """Show one survey: where it lies, its fields, its known faults, how to cite it."""
    from mmu_pipeline.catalog import load_surveys

    known = load_surveys(*survey_dir or ())
    if name not in known:
        raise BadInput(f"unknown survey {name!r}", hint=f"known surveys: {', '.join(sorted(known))}")
    one = known[name]

    def page() -> Group:
        fields = _table(
            ("field", "kind", "dtype", "shape", "unit", "description"),
            (
                (f.name, "member" if f.is_member else "column", f.dtype, " x ".join(map(str, f.shape)), f.unit, f.description)
                for f in one.fields
            ),
        )
        forms = _table(
            ("form", "reader", "url"), ((key, form.reader, form.url or "give --source") for key, form in one.forms.items())
        )
        faults = [f"[yellow]fault[/] ({key}) {escape(fault)}" for key, form in one.forms.items() for fault in form.faults]
        head = f"[bold]{escape(one.title)}[/]  {one.modality}, {escape(one.release)}, {_cell(one.expected_rows)} rows"
        tail = f"[dim]licence[/]  {escape(one.licence)}\n[dim]cite[/]     {escape(one.citation)}\n{escape(one.homepage)}"
        return Group(head, escape(one.summary), "", forms, fields, *faults, tail)

    _give(as_json, one.model_dump(mode="json", by_alias=True), page)


@app.command()
def recipes(as_json: AsJson = False, survey_dir: SurveyDirs = None, debug: Debug = False) -> None:
    """List the recipes that are shipped."""
    from mmu_pipeline.catalog import catalogs_folder, load_recipe, load_surveys

    known = load_surveys(*survey_dir or ())
    found = [load_recipe(path.stem, known) for path in sorted((catalogs_folder() / "recipes").glob("*.yaml"))]
    rows = [
        {
            "name": recipe.name,
            "primary": recipe.primary.survey,
            "counterparts": [
                {"survey": c.survey, "radius_arcsec": c.radius_arcsec, "pick": c.pick, "how": c.how} for c in recipe.counterparts
            ],
            "title": recipe.title,
        }
        for recipe in found
    ]

    def table() -> Table:
        lines = (
            (
                recipe.name,
                recipe.primary.survey,
                "\n".join(f'{c.survey} within {c.radius_arcsec:g}" ({c.pick}, {c.how})' for c in recipe.counterparts),
                recipe.title,
            )
            for recipe in found
        )
        return _table(("name", "primary", "counterparts", "title"), lines)

    _give(as_json, rows, table)


def _give(as_json: bool, data: Any, page: Callable[[], Any]) -> None:
    if as_json:
        print(json.dumps(data, indent=2, default=str))
    else:
        Console(highlight=False).print(page())


def _table(columns: Iterable[str], rows: Iterable[Iterable[str]], right: Iterable[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column.replace("_", " "), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
