"""A word -> a Dask client: threads or processes of this machine, a scheduler's address, or a cluster started from a profile."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import dask
import yaml
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as Key

import mmu_pipeline
from mmu_pipeline import words
from mmu_pipeline.cluster import Patience
from mmu_pipeline.errors import BadInput
from mmu_pipeline.storage import digest

OF_SCHEDULER = {
    # A death is charged to every task that waits on the dead worker: hold few there, charge at once, find the guilty one later.
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.scheduler.allowed-failures": 0,
}
"""What a scheduler should be started with. One that was not runs the tasks of a dead worker again unseen, four times."""
CONFIG = {
    **OF_SCHEDULER,
    "distributed.comm.timeouts.connect": "5s",
    # Its profiler asks for the frames of all threads 100 times a second, which can lock CPython 3.11 up for good before 3.11.9
    # (python/cpython#106883): no thread runs again, no signal is heard.
    "distributed.worker.profile.enabled": False,
    # A local cluster that gives up on a dead worker in 15 s has none left when a loaded machine starts new ones slower than that.
    "distributed.deploy.lost-worker-timeout": "1 hour",
    # Most of what waits is not with the scheduler yet: two tasks a thread are. By Dask's measure, workers for what takes five
    # seconds, tasks of less than half of that would never make a cluster grow.
    "distributed.adaptive.target-duration": "100ms",
    "distributed.adaptive.wait-count": 60,  # seconds: what is given back between two stages stands at the end of the queue again
}
STARTED_BY = {
    "slurm": ("dask_jobqueue", "SLURMCluster", "dask-jobqueue"),
    "pbs": ("dask_jobqueue", "PBSCluster", "dask-jobqueue"),
    "lsf": ("dask_jobqueue", "LSFCluster", "dask-jobqueue"),
    "kubernetes": ("dask_kubernetes.operator", "KubeCluster", "dask-kubernetes"),
    "gateway": ("dask_gateway", "GatewayCluster", "dask-gateway"),
}
"""Kind of profile -> module and class that start such a cluster, and the package that has them."""
LEAST_MEMORY = 500_000_000
"""Bytes. The libraries of a worker take some 350 MB; one that holds four fifths of its limit takes no more work."""


class Workers(BaseModel):
    """How many workers a cluster has: it grows with the work that waits, and shrinks without."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    at_least: int = Key(default=0, ge=0)
    at_most: int = Key(ge=1)

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_both(cls, given: Any) -> Any:
        return {"at_least": given, "at_most": given} if isinstance(given, int) else given


class Profile(BaseModel):
    """A cluster that a batch system or an operator starts for one run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workers: Workers
    cluster: dict[str, Any] = {}
    """Options of the class that starts it, as its own documentation names them."""


@contextmanager
def open_client(spec: str) -> Iterator[Client]:
    """A client of the cluster that a word names; what is started for it ends with the block.

    `local` runs in threads of this process, `local:N` in N processes with one thread each, `local:N:4GiB` with so much memory
    each; both listen on loopback only. `tcp://` and `tls://` are addresses of schedulers; certificates come from the Dask
    configuration (`distributed.comm.tls`). `slurm:profile.yaml` and its like start a cluster.

    Raises BadInput for another word, for an address where no scheduler answers, for a profile that cannot be used, and for
    workers that run another version of this code.
    """
    words.cluster(spec)
    kind, _, rest = spec.partition(":")
    with dask.config.set(CONFIG):
        if kind == "local":
            processes, _, memory = rest.partition(":")
            place = _local_cluster(int(processes or 0), _memory(memory))
        elif kind in STARTED_BY:
            place = _started(kind, Path(rest))
        else:
            place = nullcontext(spec)
        with place as cluster, _connect(cluster) as client:
            if kind != "local":
                _check_versions(client)
            yield client


def patience_at(spec: str, seconds: float) -> Patience:
    """How long a run waits on a cluster without any outcome, and without any worker: as long, where they come from a queue."""
    return Patience(without_worker=seconds if spec.partition(":")[0] in STARTED_BY else 120.0, without_outcome=seconds)


def _memory(text: str) -> int | str:
    if not text:
        return "auto"
    try:
        size = int(parse_bytes(text))
    except ValueError as error:
        raise BadInput(f"not an amount of memory: {text!r}", hint="for example local:4:4GiB") from error
    if size < LEAST_MEMORY:
        raise BadInput(f"too little memory for a worker: {text}", least=f"{LEAST_MEMORY // 10**6}MB", hint="2GiB or more")
    return size


def _local_cluster(processes: int, memory: int | str) -> SpecCluster:
    place = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    if processes:
        place |= {"protocol": "tcp://", "host": "127.0.0.1"}
        options = {**place, "nthreads": 1, "silence_logs": logging.CRITICAL, "memory_limit": memory}
        worker = {"cls": Nanny, "options": options}
    else:
        place |= {"protocol": "inproc://"}
        worker = {"cls": Worker, "options": {**place, "nthreads": CPU_COUNT, "memory_limit": 0}}
    scheduler = {"cls": Scheduler, "options": place}
    with _leaving_interrupts_to_us():
        return SpecCluster(
            workers=dict.fromkeys(range(processes or 1), worker), scheduler=scheduler, silence_logs=logging.CRITICAL
        )


def read_profile(path: Path) -> Profile:
    """The profile in a YAML file. Raises BadInput."""
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError) as error:
        raise BadInput("the profile of the cluster cannot be read", file=path, reason=str(error)) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"the profile of the cluster is wrong: {first['msg']}", file=path, key=".".join(map(str, first["loc"])),
                       hint="it has `workers` and `cluster`: see docs/cluster.md") from error  # fmt: skip


def _started(kind: str, path: Path) -> Any:
    """A cluster of a kind that grows and shrinks as its profile says."""
    profile = read_profile(path)
    module, name, package = STARTED_BY[kind]
    try:
        start = getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise BadInput(f"{kind} wants {package}, which is not installed", hint=f"pip install {package}") from error
    try:
        cluster = start(**profile.cluster)
    except (TypeError, ValueError) as error:
        raise BadInput(f"{name} does not take the options of the profile", file=path, reason=str(error)) from error
    if profile.workers.at_least == profile.workers.at_most:
        cluster.scale(profile.workers.at_most)
    else:
        cluster.adapt(minimum=profile.workers.at_least, maximum=profile.workers.at_most)
    return cluster


@contextmanager
def _leaving_interrupts_to_us() -> Iterator[None]:
    """Processes that start within the block ignore Ctrl-C: this one hears it too, and ends them in order."""
    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _connect(place: str | SpecCluster) -> Client:
    try:
        return Client(place, timeout="5s", set_as_default=False)
    except (RuntimeError, TypeError) as error:  # what Dask says where a tls:// address finds no certificate configured
        raise BadInput("this cluster wants TLS, and Dask is not configured for it", cluster=place, reason=str(error),
                       hint="set distributed.comm.tls: see docs/cluster.md") from error  # fmt: skip
    except OSError as error:
        raise BadInput(
            "no Dask scheduler answers", cluster=place, reason=str(error), hint="start one, or build with --cluster local"
        ) from error


@cache
def _code() -> str:
    """The version of this package and a digest of its modules, which differ where one version is met in two states."""
    modules = sorted(Path(mmu_pipeline.__file__).parent.rglob("*.py"))
    return f"{mmu_pipeline.__version__}, code {digest(b''.join(module.read_bytes() for module in modules))[:8]}"


def _check_versions(client: Client) -> None:
    try:
        found: dict[str, str] = client.run(_code)
    except (ModuleNotFoundError, AttributeError) as error:
        raise BadInput("the workers lack this package, or have another version", cluster=client.scheduler.address,
                       reason=str(error), hint="install one version on both") from error  # fmt: skip
    for worker, code in found.items():
        if code != _code():
            raise BadInput(
                "a worker runs another mmu_pipeline", worker=worker, its=code, this=_code(), hint="install one version on both"
            )
