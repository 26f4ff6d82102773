"""Log records -> lines on stderr that name recipe, stage, survey and cell: text for people, JSON for machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal

from pythonjsonlogger.json import JsonFormatter

from mmu_pipeline.settings import settings
from mmu_pipeline.stages.build import Unit

LOGGER = logging.getLogger("mmu_pipeline")
TEXT = "%(asctime)s %(levelname)-7s %(message)s"
FIELDS = {"asctime": "time", "levelname": "level"}
_ABOUT: ContextVar[dict[str, Any]] = ContextVar("about", default={})  # noqa: B039  never changed in place
"""What the work of this thread is about."""


def log_to_stderr(style: Literal["text", "json"], level: int = logging.INFO) -> None:
    """Send this package's records to stderr, each on one line; called again it changes the style."""
    handler = logging.StreamHandler()
    json_lines = JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=FIELDS)
    handler.setFormatter(json_lines if style == "json" else logging.Formatter(TEXT))
    handler.addFilter(_add_context)
    LOGGER.handlers[:] = [handler]
    LOGGER.propagate = False
    LOGGER.setLevel(level)


@cache
def log_if_asked() -> None:
    """Log to stderr as MMU_LOG says, unless this process does so already. Raises BadInput for another word."""
    style = settings().log
    if style and not any(isinstance(handler, logging.StreamHandler) for handler in LOGGER.handlers):
        log_to_stderr(style)


@contextmanager
def logged(recipe: str, unit: Unit) -> Iterator[None]:
    """Let what is logged within the block, by whatever module, say which unit it is about."""
    log_if_asked()
    before = _ABOUT.set(facts_of(recipe, unit))
    try:
        yield
    finally:
        _ABOUT.reset(before)


def _add_context(record: logging.LogRecord) -> bool:
    record.__dict__.update({name: value for name, value in _ABOUT.get().items() if name not in record.__dict__})
    return True


def facts_of(recipe: str, unit: Unit) -> dict[str, Any]:
    """What a record says of the unit that it is about."""
    return {"recipe": recipe, "stage": unit.stage, "unit": unit.name, "survey": _survey(unit.stage, unit.name), "cell": unit.cell}


def _survey(stage: str, name: str) -> str | None:
    """The survey that a unit is about; later stages work on several."""
    return name.split("/")[0] if stage in ("scan", "objects") else None
