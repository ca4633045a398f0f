"""One HTML file that carries all it shows: no script, no request to anywhere.

The page follows the reader's light or dark theme, fits a phone and prints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from emberfleet.train.report.html import Html, element, empty, join, text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Content security policy of every page: a browser refuses whatever the file does not carry."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number to see first."""

    name: str
    value: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and what stands under it."""

    title: str
    content: Sequence[Html]
    lead: str = ""


def render_page(title: str, lead: str, figures: Sequence[Figure], sections: Sequence[Section]) -> str:
    """The whole document: heading, a row of figures, sections in order."""
    tiles = [
        element(
            "div", element("span", text(f.name)), element("b", text(f.value)), element("small", text(f.note))
        )
        for f in figures
    ]
    body = [
        element("header", element("h1", text(title)), element("p", text(lead))),
        *([element("div", *tiles, class_="figures")] if tiles else []),
        *(_section(section) for section in sections),
    ]
    head = [
        empty("meta", charset="utf-8"),
        empty("meta", http_equiv="Content-Security-Policy", content=POLICY),
        empty("meta", name="viewport", content="width=device-width, initial-scale=1"),
        empty("meta", name="color-scheme", content="light dark"),
        element("title", text(title)),
        element("style", Html(_style())),
    ]
    document = element("html", element("head", *head), element("body", element("main", *body)), lang="en")
    return f"<!DOCTYPE html>\n{document}\n"


def columns(*parts: Html) -> Html:
    """Pieces side by side where there is room, else below each other."""
    return element("div", *(element("div", part) for part in parts), class_="columns")


def titled(title: str, part: Html) -> Html:
    """A piece with a small heading of its own."""
    return join([element("h3", text(title)), part])


def _section(section: Section) -> Html:
    lead = [element("p", text(section.lead), class_="quiet")] if section.lead else []
    return element("section", element("h2", text(section.title)), *lead, *section.content)


def _style() -> str:
    return (resources.files("emberfleet.train.report") / "page.css").read_text("utf-8")
