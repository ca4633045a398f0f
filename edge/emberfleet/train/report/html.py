"""Pieces of HTML: text from anywhere is escaped once, on its way in."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import NewType

Html = NewType("Html", str)
"""Markup made by this package. Everything else is text and goes through `text`."""


def text(value: object) -> Html:
    """Any value as text, with ``& < > " '`` escaped: safe between tags and inside quotes."""
    return Html(html.escape(str(value), quote=True))


def join(parts: Iterable[Html]) -> Html:
    """Pieces one after another."""
    return Html("".join(parts))


def element(tag: str, *content: Html, **attributes: object) -> Html:
    """``<tag name="value">content</tag>``; a trailing ``_`` of a name goes, others become ``-``."""
    return Html(f"<{tag}{_attributes(attributes)}>{join(content)}</{tag}>")


def empty(tag: str, **attributes: object) -> Html:
    """``<tag name="value"/>``."""
    return Html(f"<{tag}{_attributes(attributes)}/>")


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers_from: int = 1) -> Html:
    """A table of text; columns from `numbers_from` on are aligned to the right."""
    heads = [element("th", text(name), **_aligned(i >= numbers_from)) for i, name in enumerate(head)]
    body = [
        element("tr", *(element("td", text(v), **_aligned(i >= numbers_from)) for i, v in enumerate(row)))
        for row in rows
    ]
    inner = element("table", element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", inner, class_="scroll")


def settings(values: Mapping[str, object]) -> Html:
    """Names and values side by side, in two columns where there is room."""
    pairs = [
        element("div", element("dt", text(name)), element("dd", text(value)))
        for name, value in values.items()
    ]
    return element("dl", *pairs, class_="settings")


def paragraph(words: str, quiet: bool = False) -> Html:
    """One paragraph of text; quiet ones are smaller and grey."""
    return element("p", text(words), **({"class_": "quiet"} if quiet else {}))


def _aligned(number: bool) -> dict[str, object]:
    return {"class_": "number"} if number else {}


def _attributes(values: Mapping[str, object]) -> str:
    return "".join(f' {name.rstrip("_").replace("_", "-")}="{text(v)}"' for name, v in values.items())
