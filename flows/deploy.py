"""A file of deployments -> deployments on the Prefect server in PREFECT_API_URL, and the work pool that they name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import MissingFlowError, ObjectAlreadyExists, ObjectNotFound
from prefect.flows import load_flow_from_entrypoint
from prefect.settings import get_current_settings

from mmu_pipeline.errors import BadInput, PipelineError
from mmu_pipeline.redaction import public_url


def deployments_file() -> Path:
    """The shipped prefect.yaml: beside this package in a checkout, inside it once installed."""
    here = Path(__file__).parent
    return next(path for path in (here / "prefect.yaml", here.parent / "prefect.yaml") if path.is_file())


def deploy(root: str, cluster: str, recipe: str, pool: str, file: Path | None = None) -> list[str]:
    """Apply all deployments of a file, with these values for its placeholders. Gives their names, `flow/deployment`.

    The work pool, of processes, is made if it is not there. Raises BadInput if no server is named, it does not answer, or the
    file is not one of deployments; PipelineError if the server does not take one.
    """
    url = get_current_settings().api.url
    if url is None:
        raise BadInput("no Prefect server is named", hint="set PREFECT_API_URL, for example to http://127.0.0.1:4200/api")
    path = file or deployments_file()
    names = _names(path)
    with _server(url) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    values = {"MMU_ROOT": root, "MMU_CLUSTER": cluster, "MMU_RECIPE": recipe, "MMU_WORK_POOL": pool}
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(path)]
    ran = subprocess.run(command, env=os.environ | values, capture_output=True, text=True, check=False)  # noqa: S603
    with _server(url) as client:
        missing = [name for name in names if not _is_there(client, name)]
    if ran.returncode or missing:
        raise PipelineError("the server did not take all deployments", url=url, missing=", ".join(missing) or None,
                            said=(ran.stdout + ran.stderr)[-2000:].strip())  # fmt: skip
    return names


def _names(path: Path) -> list[str]:
    """flow/deployment of each deployment in a file. Raises BadInput."""
    try:
        entries = yaml.safe_load(path.read_text())["deployments"]
        return [f"{load_flow_from_entrypoint(entry['entrypoint']).name}/{entry['name']}" for entry in entries]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ImportError, AttributeError, MissingFlowError) as error:
        raise BadInput("not a file of deployments", file=path, reason=f"{type(error).__name__}: {error}",
                       hint="start from the prefect.yaml of this package") from error  # fmt: skip


@contextmanager
def _server(url: str) -> Iterator[SyncPrefectClient]:
    try:
        with get_client(sync_client=True) as client:
            yield client
    except httpx.TransportError as error:
        raise BadInput("no Prefect server answers", url=public_url(url), reason=str(error),
                       hint="start it, or correct PREFECT_API_URL") from error  # fmt: skip


def _is_there(client: SyncPrefectClient, name: str) -> bool:
    try:
        client.read_deployment_by_name(name)
    except ObjectNotFound:
        return False
    return True
