"""The `mmu build` command stopped, killed, started twice, bereft of its Prefect server: the bytes of an undisturbed run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest

from tests.faults import Process, build_command, drive, prepared, published_bytes, started, wait_for

pytestmark = pytest.mark.slow


def reached(root: Path, stage: str) -> bool:
    return any((root / "receipts" / stage).rglob("*.json"))


def family(process: Process) -> list[psutil.Process]:
    return psutil.Process(process.popen.pid).children(recursive=True)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_takes_all_it_started_with_it_and_the_next_goes_on(
    sent: signal.Signals, sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """SIGTERM comes from a batch system before time is up; kill -9 gives no chance to tidy up."""
    with started(*build_command(sky, tmp_path, "--cluster", "local:2")) as process:
        wait_for(lambda: reached(tmp_path, "scan"))
        members = family(process)
        assert any("uvicorn" in " ".join(member.cmdline()) for member in members)
        process.popen.send_signal(sent)
        ended = process.popen.wait(timeout=30)
        assert ended == (128 + signal.SIGTERM if sent == signal.SIGTERM else -signal.SIGKILL)
        assert psutil.wait_procs(members, timeout=20)[1] == []
    assert not (tmp_path / "shards" / "pair" / "LATEST").exists()
    drive(prepared(sky, tmp_path))
    assert published_bytes(tmp_path) == undisturbed


def test_of_two_operators_who_start_the_same_recipe_one_builds_and_the_other_is_told(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    commands = [build_command(sky, tmp_path, "--cluster", "local:2") for _ in range(2)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    ends = [(process.communicate(timeout=240)[1], process.returncode) for process in running]
    assert sorted(code for _, code in ends) == [0, 2], ends
    assert "another run writes" in next(said for said, code in ends if code == 2)
    assert published_bytes(tmp_path) == undisturbed


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_prefect_server_killed_and_started_again_in_mid_run_loses_nothing(
    sky: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Its database is a file that the new server opens again; the run goes on, or ends and is run again."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    server = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    api = {**os.environ, **home, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}

    def is_up() -> bool:
        try:
            with urlopen(f"{api['PREFECT_API_URL']}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    command = build_command(sky, tmp_path / "root", "--cluster", "local:2")
    with started(*server, env=home) as first:
        wait_for(is_up)
        run = subprocess.Popen(command, env=api, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: reached(tmp_path / "root", "objects") or run.poll() is not None)
        first.kill()
    time.sleep(3)
    with started(*server, env=home):
        wait_for(is_up)
        said = run.communicate(timeout=600)[1]  # some minutes of it may be Prefect's client, waiting
        if run.returncode != 0:
            assert subprocess.run(command, env=api, check=False, timeout=240).returncode == 0, said
    assert published_bytes(tmp_path / "root") == undisturbed
