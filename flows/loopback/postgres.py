"""A folder -> a PostgreSQL server with one database, which only this machine reaches, and only by a password."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

from flows.loopback.processes import Service
from mmu_pipeline.errors import BadInput
from mmu_pipeline.storage import digest

INSTALLED = "/usr/lib/postgresql/*/bin"
"""Where Debian keeps its programs."""


def postgres(folder: Path, port: int, password: str) -> tuple[Service, str]:
    """The service, its files made if they are not there; and the URL by which Prefect reaches it.

    PostgreSQL refuses to run as root: started by root it runs as the user `postgres`, with its files in /var/tmp, which that
    user can reach. Raises BadInput if it is not installed.
    """
    programs = _programs()
    root = os.geteuid() == 0
    user = "postgres" if root else None
    data = data_folder(folder)
    if not (data / "PG_VERSION").exists():
        data.mkdir(parents=True, exist_ok=True)
        if user:
            shutil.chown(data, user)
        command = [str(programs / "initdb"), "-D", str(data), "-U", "prefect", "-A", "scram-sha-256", "-E", "UTF8", "--locale=C"]
        with NamedTemporaryFile("w", prefix="mmu-", dir=data.parent) as secret:
            secret.write(password)
            secret.flush()
            if user:
                shutil.chown(secret.name, user)
            command.append(f"--pwfile={secret.name}")
            made = subprocess.run(command, text=True, capture_output=True, user=user, cwd="/", check=False)  # noqa: S603
        if made.returncode:
            raise BadInput("PostgreSQL cannot make its files", folder=data, said=made.stderr[-800:])
    command = [str(programs / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", str(port), "-k", ""]
    look = [str(programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]

    def answers() -> bool:
        return subprocess.run(look, check=False).returncode == 0  # noqa: S603

    service = Service("postgres", command, answers, user=user, stop_by=signal.SIGINT)
    return service, f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/postgres"


def data_folder(folder: Path) -> Path:
    """Where the database of a cluster's folder lies."""
    if os.geteuid() != 0:
        return folder / "postgres"
    return Path("/var/tmp") / f"mmu-postgres-{digest(str(folder).encode())[:8]}"  # noqa: S108  a fixed place, made for its user alone


def _programs() -> Path:
    found = sorted(Path("/").glob(f"{INSTALLED[1:]}/initdb"))
    known = found[-1] if found else shutil.which("initdb")
    if known is None:
        raise BadInput("PostgreSQL is not installed", hint="apt-get install postgresql")
    return Path(known).resolve().parent
