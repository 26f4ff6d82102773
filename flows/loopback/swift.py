"""A folder -> OpenStack Swift with its S3 interface: one account, one copy of each object, on loopback."""

from __future__ import annotations

import subprocess
from pathlib import Path
from secrets import token_hex
from shutil import which

from flows.loopback.processes import Service, answers, listens
from mmu_pipeline.errors import BadInput

ACCESS_KEY = "mmu:operator"
STORAGE = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
devices = {folder}
mount_check = false
log_level = WARNING
user = {user}
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""
PROXY = """[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
workers = 0
swift_dir = {folder}
log_level = WARNING
user = {user}
[pipeline:main]
pipeline = catch_errors healthcheck cache listing_formats bulk s3api tempauth slo copy proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:{memory}
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:s3api]
use = egg:swift#s3api
location = us-east-1
[filter:tempauth]
use = egg:swift#tempauth
user_mmu_operator = {secret} .admin
[filter:slo]
use = egg:swift#slo
[filter:copy]
use = egg:swift#copy
"""
"""Without memcached Swift asks its account and container servers anew for every request, which takes twice the time."""


def swift(folder: Path, programs: Path, ports: dict[str, int], secret: str, user: str) -> list[Service]:
    """The services, their files made if they are not there. `ports` of object, container, account, proxy and memory.

    Raises BadInput if the programs are not there.
    """
    memcached = which("memcached")
    if not (programs / "swift-proxy-server").exists() or memcached is None:
        raise BadInput("Swift or memcached is not installed", looked_in=programs, hint="make cluster installs both")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "disk").mkdir(exist_ok=True)
    if not (folder / "swift.conf").exists():
        (folder / "swift.conf").write_text(
            f"[swift-hash]\nswift_hash_path_suffix = {token_hex(8)}\n[storage-policy:0]\nname = one-copy\ndefault = yes\n"
        )
    place = ["-l", "127.0.0.1", "-p", str(ports["memory"])]
    services = [Service("s3-memory", [memcached, "-u", user, "-m", "64", *place], listens(ports["memory"]))]
    for kind in ("object", "container", "account"):
        if not (folder / f"{kind}.ring.gz").exists():
            for words in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{ports[kind]}/disk", "1"], ["rebalance"]):
                ring = [str(programs / "swift-ring-builder"), f"{kind}.builder", *words]
                subprocess.run(ring, cwd=folder, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        config = folder / f"{kind}-server.conf"
        config.write_text(STORAGE.format(kind=kind, port=ports[kind], folder=folder, user=user))
        ready = answers(f"http://127.0.0.1:{ports[kind]}/recon/version", lambda response: True)
        services.append(Service(f"s3-{kind}", [str(programs / f"swift-{kind}-server"), str(config)], ready))
    config = folder / "proxy-server.conf"
    config.touch(mode=0o600)
    config.write_text(PROXY.format(port=ports["proxy"], folder=folder, user=user, secret=secret, memory=ports["memory"]))
    ready = answers(f"http://127.0.0.1:{ports['proxy']}/healthcheck")
    return [*services, Service("s3-proxy", [str(programs / "swift-proxy-server"), str(config)], ready)]
