"""Words on a command line to surveys and forms that can be written, and to a list of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from mmu_pipeline.catalog import Survey
from mmu_pipeline.errors import BadInput
from mmu_pipeline.simulate.survey_files import forms

RAW = "raw"
"""As a form: what a survey itself releases, whatever that form is called."""
EVERY = "all"


def wanted_forms(names: Sequence[str], form: str, surveys: Mapping[str, Survey]) -> list[tuple[str, str]]:
    """Surveys and forms to write. `form` is a form's name, `raw` for the survey's own files, or `all`. Raises BadInput."""
    found: list[tuple[str, str]] = []
    for name in names or sorted(surveys):
        if name not in surveys:
            raise BadInput(f"unknown survey {name!r}", hint=f"known surveys: {', '.join(sorted(surveys))}")
        known = [one for survey, one in forms() if survey == name]
        raw = [one for one in known if one not in ("mmu_v1", "hats")]
        chosen = known if form == EVERY else raw if form == RAW else [one for one in known if one == form]
        if not chosen and names:
            raise BadInput(f"no files of {name} in the form {form!r} can be made", hint=f"forms: {', '.join(known)}")
        found += [(name, one) for one in chosen]
    return found


def read_positions(path: Path) -> pa.Table:
    """A list of positions: CSV with a header, or Parquet. Raises BadInput if it cannot be read."""
    try:
        return pq.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise BadInput("cannot read the list of positions", file=path, reason=str(error)) from error
