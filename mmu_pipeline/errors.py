"""What can go wrong, as types: who must act decides the class, the message says where and what to do next."""

from __future__ import annotations

from typing import Any

from mmu_pipeline.redaction import without_secrets


class PipelineError(Exception):
    """Base of all errors raised on purpose. `where` names file, cell, survey, column, value; `hint` the next step.

    Secrets in its texts are hidden, wherever they came from.
    """

    exit_code = 1

    def __init__(self, what: str, *, hint: str = "", **where: Any) -> None:
        self.what, self.hint = without_secrets(what), without_secrets(hint)
        self.where = {name: _clean(value) for name, value in where.items() if value is not None}
        super().__init__(self.what)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.hint, self.where)

    def __str__(self) -> str:
        lines = [self.what, *(f"  {name}: {value}" for name, value in self.where.items())]
        return "\n".join([*lines, f"  to do: {self.hint}"] if self.hint else lines)


def _clean(value: Any) -> Any:
    """A value as it is, or where its text holds a secret the text without it."""
    clean = without_secrets(text := str(value))
    return value if clean == text else clean


def _rebuild(kind: type[PipelineError], what: str, hint: str, where: dict[str, Any]) -> PipelineError:
    return kind(what, hint=hint, **where)


class BadInput(PipelineError):
    """A catalog file, a recipe or an option is wrong: nothing was started. The user corrects it."""

    exit_code = 2


class BrokenSource(PipelineError):
    """A source file is corrupt, truncated or not as its survey declares: its unit is set aside, the rest goes on."""


class Unreachable(PipelineError):
    """A transfer failed in a way that may pass (time-out, 5xx, reset, short body): retried, then set aside."""


class SourceChanged(PipelineError):
    """A source file is no longer what was listed: its unit is set aside rather than mixed of two versions; run again."""


class BrokenArtefact(PipelineError):
    """Something this pipeline wrote does not agree with its own record: checksum, offset, count or schema."""
