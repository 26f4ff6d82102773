"""The papers that a survey asks to be cited, as its YAML names them -> BibTeX, without titles, which a YAML does not hold."""

from __future__ import annotations

import re
from collections.abc import Iterator

PAPER = re.compile(
    r"(?:(?P<authors>.*?) )?(?P<year>(?:19|20)\d\d), "
    r"(?:arXiv:(?P<eprint>[\d.]+)|(?P<journal>[A-Za-z&]+) (?P<volume>\d+), (?P<pages>\w+)|(?P<howpublished>.+))"
)


def bibtex(citation: str) -> dict[str, str]:
    """BibTeX key -> entry, of papers as in `Aihara et al. 2022, PASJ 74, 247; 2018, PASJ 70, S4`: no author is that before.

    What is not of this form becomes a note of its own.
    """
    return dict(_entries(citation))


def _entries(citation: str) -> Iterator[tuple[str, str]]:
    authors = ""
    for text in filter(None, (part.strip() for part in citation.split(";"))):
        paper = PAPER.fullmatch(text)
        if paper is None:
            yield _key(text), f"@misc{{{_key(text)},\n  note = {{{_escaped(text)}}}\n}}"
            continue
        authors = paper["authors"] or authors
        found = {name: value for name, value in paper.groupdict().items() if value and name != "authors"}
        key = _key(_authors(authors)[0], *found.values())
        if paper["eprint"]:
            found["archiveprefix"] = "arXiv"
        lines = {"author": " and ".join(_authors(authors))} | {name: _escaped(value) for name, value in found.items()}
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in lines.items())
        yield key, f"@{'article' if paper['journal'] else 'misc'}{{{key},\n{body}\n}}"


def _authors(text: str) -> list[str]:
    """`Gaia Collaboration, Vallenari et al.` -> names as BibTeX takes them; those of several words in braces, as they are."""
    names = [name for name in re.split(r", | & ", text.removesuffix(" et al.")) if name]
    found = [f"{{{_escaped(name)}}}" if " " in name else _escaped(name) for name in names]
    return [*found, "others"] if text.endswith(" et al.") else found


def _key(*words: str) -> str:
    return "_".join(re.sub(r"[^A-Za-z0-9]", "", word) for word in words)[:80]


def _escaped(text: str) -> str:
    return re.sub(r"([&%#_$])", r"\\\1", text)
