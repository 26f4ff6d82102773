"""URLs and texts -> the same without passwords, tokens and signatures: fit for logs, receipts, manifests and errors."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit, urlunsplit

URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
NAMED = re.compile(
    r"(?i)\b((?:[a-z0-9]+[-_]){0,4}(?:signature|credential|token|api[-_]?key|secret[-_a-z]*|auth[-_]string|cookie|password|"
    r"passwd|pwd|sig|authorization)\b['\"]?\s*[=:]\s*['\"]?)(?:(?:bearer|basic|token)\s+)?[^\s'\"&,;)}]+"
)
BARE = re.compile(
    r"(?i)\b(?:hf_[a-z0-9]{16,}|gh[a-z]_[a-z0-9]{16,}|github_pat_\w{16,}|"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)|(?<=\bbearer )[\w.~+/=-]{8,}"
)
"""What is a secret by its looks: tokens of Hugging Face and GitHub, AWS key ids, JSON web tokens, bearer tokens."""
VARIABLE = re.compile(r"(?i)secret|token|password|passwd|api_?key|auth_string|connection_url")
"""Names of environment variables whose values are secrets."""
SHORTEST = 8
"""A value of fewer characters is no secret, and would blot out ordinary words."""
HIDDEN = "***"


def public_url(url: str) -> str:
    """A URL without user, password, query and fragment. What stands before the @ of `github://` is owner and repository."""
    parts = urlsplit(url)
    place = parts.netloc if parts.scheme == "github" else parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, place, parts.path, "", "")) if parts.scheme else url


def without_secrets(text: str) -> str:
    """A text whose URLs are public and whose tokens, passwords and signatures are hidden.

    Hidden are also the values of this process's environment variables that have such a name.
    """
    for name, value in os.environ.items():
        if len(value) >= SHORTEST and value in text and VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    text = URL.sub(lambda found: _public(found[0]), text)
    return BARE.sub(HIDDEN, NAMED.sub(rf"\1{HIDDEN}", text))


def _public(url: str) -> str:
    try:
        return public_url(url)
    except ValueError:  # such as brackets that are no IPv6 address: a message about a wrong URL
        return url.split("?")[0].split("#")[0].rpartition("@")[2]
