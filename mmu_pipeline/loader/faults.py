"""A broken sample -> an error; or a count, as long as there are few."""

from __future__ import annotations

from threading import Lock

from mmu_pipeline.errors import BrokenArtefact


class Faults:
    """Broken samples that are passed over, up to a number. By default none: the first one is raised."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self.found: list[BrokenArtefact] = []
        """What was wrong with each sample that was passed over, in the order of reading."""
        self._lock = Lock()

    def note(self, error: BrokenArtefact) -> None:
        """Count a broken sample. Raises its error if it is one too many."""
        with self._lock:
            self.found.append(error)
            if len(self.found) > self.most:
                if self.most == 0:
                    raise error
                raise BrokenArtefact(
                    f"more than {self.most} broken samples: {error.what}", hint=error.hint, **error.where
                ) from error
