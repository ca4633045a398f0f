from __future__ import annotations

from xml.etree import ElementTree

from benchmarks.engine.chart import LONGEST, draw
from tests.benchmarks.engine.side_by_side import value

SVG = "{http://www.w3.org/2000/svg}"


def drawn() -> ElementTree.Element:
    return ElementTree.fromstring(draw(value()["rows"]))


def bars() -> dict[str, list[ElementTree.Element]]:
    """By what the pointer shows over them."""
    found: dict[str, list[ElementTree.Element]] = {}
    for rect in drawn().iter(f"{SVG}rect"):
        title = rect.find(f"{SVG}title")
        if title is not None:
            found.setdefault(str(title.text), []).append(rect)
    return found


def test_a_bar_is_as_long_as_its_ratio() -> None:
    one, two = (
        float(bars()[f"infer sq32, {peer}: {ms} ms, ours 20 ms"][0].attrib["width"])
        for peer, ms in (("LiteRT", 20), ("torch channels_last", 40))
    )
    assert abs(two - 2 * one) < 0.2


def test_a_ratio_beyond_the_picture_is_cut_and_marked() -> None:
    rows = value()["rows"]
    rows[0] |= {"ratio": 150.5, "peer_ms": 3010.0}
    rows[1] |= {"ratio": LONGEST}
    picture = ElementTree.fromstring(draw(rows))
    assert "\u25b8 150" in {str(text.text) for text in picture.iter(f"{SVG}text")}
    widths = {
        str(title.text): rect.attrib["width"]
        for rect in picture.iter(f"{SVG}rect")
        if (title := rect.find(f"{SVG}title")) is not None
    }
    longest = max(map(float, widths.values()))
    assert float(widths["train small, torch channels_last: 3010 ms, ours 20 ms"]) == longest


def test_there_is_a_bar_for_every_row() -> None:
    assert sum(len(found) for found in bars().values()) == len(value()["rows"])


def test_a_bar_tells_who_is_faster_and_which_peer_rounds() -> None:
    kinds = {title: found[0].attrib["class"] for title, found in bars().items()}
    assert kinds["infer sq32, ONNX Runtime: 10 ms, ours 20 ms"] == "behind"
    assert kinds["infer sq32, LiteRT: 20 ms, ours 20 ms"] == "ahead"
    assert kinds["train small, torch bf16 channels_last: 50 ms, ours 20 ms"] == "ahead half"


def test_nothing_is_drawn_beyond_the_picture() -> None:
    picture = drawn()
    _, _, width, height = (float(number) for number in picture.attrib["viewBox"].split())
    for rect in picture.iter(f"{SVG}rect"):
        place = {key: float(rect.attrib.get(key, 0)) for key in ("x", "y", "width", "height")}
        assert place["x"] + place["width"] <= width
        assert place["y"] + place["height"] <= height
