"""What a run tells while it goes on: metrics for a scraper, log records with their context, a journal, and its page."""

from __future__ import annotations

import io
import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from mmu_pipeline.errors import BadInput
from mmu_pipeline.journal import ROWS_OF_A_BATCH, Journal
from mmu_pipeline.log import LOGGER, log_to_stderr, logged
from mmu_pipeline.outcome_log import log_stage
from mmu_pipeline.progress import Tally
from mmu_pipeline.receipt import Receipt
from mmu_pipeline.report.run import STATES, busy_share, worst_states, write_run_page
from mmu_pipeline.stages.build import Outcome, Unit
from mmu_pipeline.stages.publish import Published
from mmu_pipeline.storage import Root
from mmu_pipeline.tables import duration
from mmu_pipeline.watch import watching


def outcome(number: int, stage: str = "scan", status: str = "done", **facts: object) -> Outcome:
    unit = Unit(stage, f"hsc/{number}", number)
    reason = "truncated <file>" if status == "set_aside" else ""
    receipt = Receipt(stage, unit.name, "f", rows_in=12, rows_out=10, outputs={"a": 100}, reason=reason,
                      status="set_aside" if status == "set_aside" else "done", started=1.7e9 + number, seconds=0.5,
                      worker=f"host/{number % 3}/1")  # fmt: skip
    return Outcome(unit, status, receipt, **facts)  # type: ignore[arg-type]


RUN = [*(outcome(n) for n in range(6)), outcome(6, status="reused"), outcome(7, status="set_aside", attempts=3)]
STAGES = (Tally("scan", 8, done=6, reused=1, set_aside=1, rows=70, bytes=700, seconds=7.0), Tally("shards", 0))
PUBLISHED = Published(
    "0123456789ab", "/root/shards/x", 70, False, ({"stage": "scan", "unit": "hsc/7", "reason": "truncated <file>"},)
)


def free_port() -> int:
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_metrics_can_be_scraped_while_the_run_goes_on_and_not_after() -> None:
    port = free_port()
    with watching("pair", Journal(), quiet=True, metrics=str(port)) as watch:
        watch.show(Tally("scan", 8, running=2))
        for found in RUN:
            watch.note(found)
        page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read().decode()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    of_scan = (("recipe", "pair"), ("stage", "scan"))
    assert samples["mmu_units_planned", *of_scan] == 8
    assert samples["mmu_units_running", *of_scan] == 2
    assert {status: samples["mmu_units_total", *of_scan, ("status", status)] for status in ("done", "reused", "set_aside")} == {
        "done": 6, "reused": 1, "set_aside": 1,
    }  # fmt: skip
    assert samples["mmu_rows_total", *of_scan] == 70
    assert samples["mmu_bytes_total", *of_scan] == 700
    assert samples["mmu_unit_seconds_count", *of_scan] == 7, "what was reused took no time"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:99999", "not.an.address.invalid:9464"])
def test_an_address_that_cannot_be_taken_is_bad_input(address: str) -> None:
    with pytest.raises(BadInput, match="address"), watching("pair", Journal(), quiet=True, metrics=address):
        pass


@pytest.fixture
def stderr_log() -> Iterator[io.StringIO]:
    """What the JSON log writes."""
    log_to_stderr("json", logging.DEBUG)
    stream = io.StringIO()
    handler = LOGGER.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    LOGGER.handlers.clear()
    LOGGER.setLevel(logging.NOTSET)
    LOGGER.propagate = True


def test_json_log_names_recipe_survey_cell_and_stage(stderr_log: io.StringIO) -> None:
    with watching("pair", Journal(), quiet=True) as watch:
        for found in RUN:
            watch.note(found)
    log_stage("pair", STAGES[0])
    lines = [json.loads(line) for line in stderr_log.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["DEBUG"] * 7 + ["WARNING", "INFO"]
    aside = lines[7]
    wanted = {"recipe": "pair", "stage": "scan", "survey": "hsc", "cell": 7, "unit": "hsc/7", "attempts": 3}
    assert {key: aside[key] for key in wanted} == wanted
    assert aside["reason"] == "truncated <file>"
    assert (lines[8]["units"], lines[8]["set_aside"], lines[8]["seconds"]) == (8, 1, 7.0)


def test_whatever_is_logged_in_a_unit_says_which_it_is(stderr_log: io.StringIO) -> None:
    with logged("pair", Unit("scan", "hsc/1104", 1104)):
        logging.getLogger("mmu_pipeline.remote").warning("tried again")
    logging.getLogger("mmu_pipeline.remote").warning("of no unit")
    inside, after = (json.loads(line) for line in stderr_log.getvalue().splitlines())
    wanted = {"recipe": "pair", "stage": "scan", "survey": "hsc", "cell": 1104, "unit": "hsc/1104", "message": "tried again"}
    assert {key: inside[key] for key in wanted} == wanted
    assert "unit" not in after


def test_journal_keeps_every_unit_in_little_memory() -> None:
    journal, many = Journal(), 3 * ROWS_OF_A_BATCH + 5
    for number in range(many):
        journal.add(outcome(number))
    table = journal.table()
    assert table["unit"].to_pylist() == [f"hsc/{number}" for number in range(many)]
    assert table["worker"].to_pylist() == [f"host/{number % 3}/1" for number in range(many)]
    assert table.nbytes / many < 120
    assert journal.table().equals(table), "asking twice gives the same"


def test_page_of_a_run_says_what_happened_and_stays_when_nothing_ran(tmp_path: Path) -> None:
    root, journal = Root(str(tmp_path)), Journal()
    for found in RUN:
        journal.add(found)
    url = write_run_page(root, "pair", PUBLISHED, journal.table(), STAGES, 7.5)
    page = Path(url).read_text()
    assert "truncated &lt;file&gt;" in page, "reasons are escaped"
    (again,) = re.findall(r"<h2>Run again</h2>.*?</table>", page, re.DOTALL)
    assert re.findall(r"</code> (\S+)</td><td class=\"n\">(\d)</td><td>([a-z ]+)<", again) == [("hsc/7", "3", "set aside")]
    assert page.count("<svg") == 3, "timeline, throughput, sky"
    for text in ("Run of pair", "host/0/1", "1 reused from earlier runs", "took 7.5 s"):
        assert text in page
    assert "http://" not in page.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"
    assert len(pq.read_table(tmp_path / "reports/pair/0123456789ab/units.parquet")) == 8
    idle = Journal()
    for found in (outcome(1, status="reused"), outcome(7, status="set_aside")):  # the latter is tried again by every run
        idle.add(found)
    assert write_run_page(root, "pair", replace(PUBLISHED, reused=True), idle.table(), STAGES, 0.1) == url
    assert Path(url).read_text() == page


UNITS_OF_CELLS = st.lists(
    st.tuples(st.integers(0, 3000), st.sampled_from([1, 4, 64]), st.sampled_from(list(STATES))), max_size=20
)


@given(UNITS_OF_CELLS)
def test_each_cell_of_the_map_has_the_worst_state_of_the_units_that_cover_it(found: list[tuple[int, int, str]]) -> None:
    journal, wanted = Journal(), np.full(3072, -1)
    journal.add(Outcome(Unit("keys", "pair/two-0"), "set_aside", Receipt("keys", "pair/two-0", "f")))
    for cell, cells, state in found:
        journal.add(Outcome(Unit("match", f"pair/{cell}", cell, cells=cells), state, Receipt("match", f"pair/{cell}", "f")))  # type: ignore[arg-type]
        covered = slice(cell, cell + cells)
        wanted[covered] = np.maximum(wanted[covered], list(STATES).index(state))
    single = [cell for cell, cells, _ in found if cells == 1]
    if single:
        wanted[~np.isin(np.arange(3072), single)] = -1
    np.testing.assert_array_equal(worst_states(journal.table()), wanted)


@given(
    st.lists(st.tuples(st.floats(0, 90), st.floats(0.01, 30), st.integers(0, 2)), min_size=1, max_size=20),
    st.integers(1, 40),
)
def test_busy_share_is_the_integral_of_the_intervals(intervals: list[tuple[float, float, int]], moments: int) -> None:
    start, seconds, lane = (np.array(column) for column in zip(*intervals, strict=True))
    edges = np.linspace(0, 100, moments + 1)
    stop = np.minimum(start + seconds, 100.0)
    share = busy_share(start, stop, lane, edges, 3)
    width = edges[1] - edges[0]
    for number in range(3):
        mine = lane == number
        covered = np.clip(np.minimum(stop[mine, None], edges[1:]) - np.maximum(start[mine, None], edges[:-1]), 0, None)
        np.testing.assert_allclose(share[number], covered.sum(axis=0) / width, atol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.51, "7.5 s"), (42, "42 s"), (425, "7 min 5 s"), (12000, "3 h 20 min"), (187200, "2 d 4 h")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text
