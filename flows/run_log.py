"""Records of this package -> the log of a flow run as the web page shows it, and stderr where MMU_LOG asks for them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

from mmu_pipeline.log import LOGGER, log_if_asked


@contextmanager
def run_log() -> Iterator[None]:
    """Send what any thread of this process logs within the block to the log of the flow run too, from Prefect's level on."""
    log_if_asked()
    number, level, before = flow_run.get_id(), get_run_logger().getEffectiveLevel(), LOGGER.level
    handler = APILogHandler(level)

    def of_this_run(record: logging.LogRecord) -> bool:
        record.flow_run_id = number  # threads of an embedded cluster know of no run
        return True

    handler.addFilter(of_this_run)
    LOGGER.addHandler(handler)
    if before == logging.NOTSET:
        LOGGER.setLevel(level)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(before)
