"""Prefect flows and deployments: the only place that imports prefect. Defaults here make a flow run alone, calling nobody."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from platformdirs import user_cache_path

QUIET_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
EMBEDDED_DEFAULTS = {
    "PREFECT_HOME": str(user_cache_path("mmu_pipeline") / "prefect"),
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "60",
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # Ctrl-C ends the server too: without this the flow tries for a minute to tell it that it was interrupted.
    "PREFECT_CLIENT_MAX_RETRIES": "1",
}
"""Where no server is named: one of our own on loopback for the time of the flow, with its records in a folder of its own."""


def _server_is_named() -> bool:
    """Whether the environment or Prefect's active profile names a server: known before prefect is imported and reads it once."""
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        known = tomllib.loads(Path(os.environ.get("PREFECT_PROFILES_PATH", home / "profiles.toml")).read_text())
    except FileNotFoundError:
        known = {}
    active = os.environ.get("PREFECT_PROFILE", known.get("active", ""))
    return "PREFECT_API_URL" in os.environ or "PREFECT_API_URL" in known.get("profiles", {}).get(active, {})


_embedded = not _server_is_named()
for _name, _value in (QUIET_DEFAULTS | EMBEDDED_DEFAULTS if _embedded else QUIET_DEFAULTS).items():
    os.environ.setdefault(_name, _value)

if _embedded:
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
