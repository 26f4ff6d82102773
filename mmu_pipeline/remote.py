"""A URL -> its filesystem, opened with time-outs and retries; a transfer -> its result, tried again while a fault may pass."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec
from aiohttp import ClientConnectorError, ClientError, ClientResponseError, ClientTimeout
from botocore.exceptions import ConnectionError as S3ConnectionError
from botocore.exceptions import HTTPClientError, NoCredentialsError, PartialCredentialsError
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol
from httpx import HTTPError, Response
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, stop_after_delay, wait_random_exponential
from tenacity.stop import stop_all

from mmu_pipeline.errors import BadInput, Unreachable
from mmu_pipeline.redaction import public_url, without_secrets
from mmu_pipeline.settings import settings

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 20.0
FEWEST_ATTEMPTS = 3
S3_ATTEMPTS = 8
"""Of one request, with random, growing pauses: a part of an upload cannot be tried again from outside."""
BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP answers that may be others in a moment (RFC 9110, RFC 6585)."""
FAULTS = (OSError, TimeoutError, ClientError, HTTPClientError, S3ConnectionError, HTTPError)
"""What is raised where a transfer fails; the last by `hf://`."""
log = logging.getLogger(__name__)


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a URL, and the path there. Some ask their server for it: Unreachable if it does not answer.

    Raises BadInput for a kind of URL that is not allowed, or that needs a package which is not installed.
    """
    check_scheme(url)
    try:
        fs, path = retried(lambda: url_to_fs(url, **_options(get_protocol(url))), url)
    except ImportError as error:
        raise BadInput("this kind of URL needs a package that is not installed", url=public_url(url), reason=str(error),
                       hint="for hf:// install mmu-pipeline[hf]") from error  # fmt: skip
    return fs, path


def check_scheme(url: str) -> None:
    """Raise BadInput unless a URL is of an allowed kind; one inside another, `zip://a::https://b`, never is."""
    allowed = settings().schemes
    if "::" in url or get_protocol(url) not in allowed:
        raise BadInput("this kind of URL is not allowed", url=public_url(url), allowed=", ".join(allowed),
                       hint="the setting MMU_SCHEMES says which are")  # fmt: skip


def _options(protocol: str) -> dict[str, Any]:
    """How fsspec opens a kind of URL."""
    known = settings()
    if protocol == "s3":
        retries = {"mode": "standard", "max_attempts": S3_ATTEMPTS if known.retry_for_s else 1}
        connections = {"max_pool_connections": known.host.connections, "read_timeout": known.idle_timeout_s}
        return {"config_kwargs": {"retries": retries, **connections}}
    if protocol in ("http", "https"):
        timeout = ClientTimeout(total=None, sock_connect=known.idle_timeout_s, sock_read=known.idle_timeout_s)
        return {"client_kwargs": {"timeout": timeout}}
    return {}


def retried(action: Callable[[], T], url: str, answers: tuple[type[Exception], ...] = ()) -> T:
    """The result of a transfer, tried again with growing, random pauses for as long as the settings say.

    Raises Unreachable, and BadInput where credentials are missing; errors of the kinds `answers` are what the server has to
    say, and pass unchanged.
    """

    def say(state: RetryCallState) -> None:
        reason = "" if state.outcome is None else _reason(state.outcome.exception(), url)
        log.warning("%s: %s; trying again in %.1f s", public_url(url), reason, state.upcoming_sleep)

    try:
        return Retrying(
            retry=retry_if_exception(lambda error: may_pass(error) and not isinstance(error, answers)),
            stop=stop_all(stop_after_delay(settings().retry_for_s), stop_after_attempt(FEWEST_ATTEMPTS)),
            wait=wait_random_exponential(min(FIRST_WAIT_S, settings().retry_for_s), max=LONGEST_WAIT_S),
            before_sleep=say,
            reraise=True,
        )(action)
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise BadInput("no credentials for this store", url=public_url(url), reason=str(error),
                       hint="put them where botocore looks: AWS_ACCESS_KEY_ID and its secret, ~/.aws") from error  # fmt: skip
    except FAULTS as error:
        if _is_full(error) or isinstance(error, answers):
            raise
        raise Unreachable(f"cannot be read: {_reason(error, url)}", file=public_url(url)) from error


def may_pass(error: BaseException) -> bool:
    """Whether a failed transfer may succeed when tried again."""
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError | NotADirectoryError) or _is_full(error):
        return False
    if isinstance(error, ClientResponseError):
        return error.status in BUSY
    if isinstance(error, HTTPError) and isinstance(answer := getattr(error, "response", None), Response):
        return answer.status_code in BUSY
    if isinstance(error, ClientConnectorError):
        return getattr(error.os_error, "errno", None) != socket.EAI_NONAME
    return isinstance(error, (*FAULTS, Unreachable))


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _reason(error: BaseException | None, url: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "not found"
    what = error.message if isinstance(error, ClientResponseError) else str(error)
    return without_secrets(f"{type(error).__name__}: {what}".replace(url, public_url(url)))
