"""``engine.json`` as tables in Markdown, and the place in the README where they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.engine.job import INFER, INT8, TRAIN
from benchmarks.engine.peers import PEERS
from benchmarks.engine.works import WORKS
from emberfleet.core.errors import ConfigError

BEGIN, END = "<!-- engine: begin -->", "<!-- engine: end -->"
PICTURE = "![How many times as fast as each peer, as bars: the ratios of the tables below](engine.svg)"
TITLES: Mapping[str, str] = {TRAIN: "one training step, float32", INFER: "one inference"}

Row = Mapping[str, Any]


def render(value: Mapping[str, Any]) -> str:
    """All tables of a side-by-side run.

    Raises:
        ConfigError: the rows have no peers, or are those of a quick run.
    """
    rows = [row for row in value["rows"] if row["peer"]]
    if value.get("quick", False) or not rows:
        raise ConfigError("engine.json holds no side-by-side run: run 'make bench-peers' first")
    parts = [_about(value, rows), PICTURE]
    for kind, precision in PEERS:
        parts += _compared(rows, kind, precision)
    parts += _skipped(value["skipped"])
    memory = value.get("memory", {})
    parts += _table(
        "peak memory, one int8 inference, process", memory.get("processes", ()),
        {"network": lambda row: row["net"], "MiB": lambda row: f"{row['peak_mib']:.1f}"},
        lambda row: row["process"] + (f" ({row['backend']})" if "auto" in row["process"] else ""),
    )  # fmt: skip
    parts += _table(
        "arena of training, 1 thread", memory.get("arenas", ()),
        {
            "batch": lambda row: str(row["batch"]),
            "arena MiB": lambda row: _mib(row["arena_bytes"]),
            "bound MiB": lambda row: _mib(row["bound_bytes"]),
            "ratio": lambda row: f"{row['ratio']:.3f}",
        },
        lambda row: row["work"],
    )  # fmt: skip
    parts += _table(
        "first inference, OpenCL", value.get("startup", ()),
        {
            "precision": lambda row: row["precision"],
            "kernels": lambda row: row["cache"],
            "s after import": lambda row: f"{row['after_import_s']:.2f}",
            "s of the process": lambda row: f"{row['process_s']:.2f}",
        },
        lambda row: row["net"],
    )  # fmt: skip
    return "\n\n".join(parts)


def insert(text: str, tables: str) -> str:
    """The README with the tables between its two marks.

    Raises:
        ConfigError: the marks are not there, once each and in order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ConfigError(f"the README lacks the marks {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{tables}\n\n{END}{after}"


def _about(value: Mapping[str, Any], rows: Sequence[Row]) -> str:
    machine = value["machine"]
    days = sorted({row["date"][:10] for row in rows})
    own = ("numpy", "pyopencl", "pocl-binary-distribution")
    versions = {name: machine["versions"][name] for name in own if name in machine["versions"]}
    libraries = ", ".join(f"{name} {found}" for name, found in {**versions, **value["versions"]}.items())
    quiet = "quiet" if all(row["quiet"] for row in rows) else "**not quiet: figures are rough**"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {quiet}, {machine['system']}, "
        f"Python {machine['python']}, {libraries}; {' and '.join(days)}."
    )


def _compared(rows: Sequence[Row], kind: str, precision: str) -> list[str]:
    """Milliseconds and ratios, and under them the memory of the same processes."""
    works = [name for name, work in WORKS.items() if (work.kind, work.precision) == (kind, precision)]
    peers = [peer.name for peer in PEERS[kind, precision]]
    kept = [row for row in rows if row["work"] in works]
    kept.sort(key=lambda row: (works.index(row["work"]), row["backend"] != "opencl", row["threads"]))
    lines: dict[tuple[str, int, str], dict[str, Row]] = {}
    for row in kept:
        lines.setdefault((row["work"], row["threads"], row["backend"]), {})[row["peer"]] = row
    if not lines:
        return []
    title = TITLES[kind] + {INT8: ", int8"}.get(precision, ", float32" if kind == INFER else "")
    speed = [
        (
            _name(work, backend), str(threads), _spread(next(iter(found.values()))),
            *(f"{_figure(found[peer]['peer_ms'])} ({found[peer]['ratio']:.2f})" if peer in found else ""
              for peer in peers),
        )
        for (work, threads, backend), found in lines.items()
    ]  # fmt: skip
    memory = [
        (
            _name(work, backend), f"{next(iter(found.values()))['ours_rss_mib']:.0f}",
            *(f"{found[peer]['peer_rss_mib']:.0f}" if peer in found else "" for peer in peers),
        )
        for (work, threads, backend), found in lines.items()
        if threads == 1
    ]  # fmt: skip
    speed_head = (title, "threads", "ours ms", *(f"{peer} ms (ratio)" for peer in peers))
    found = [_markdown(speed_head, speed)]
    if memory:
        found.append(_markdown(("peak MiB of the process, 1 thread", "ours", *peers), memory))
    return found


def _name(work: str, backend: str) -> str:
    return work if backend == "opencl" else f"{work}, ours on {backend}"


def _spread(row: Row) -> str:
    middle, low, high = (_figure(row[key]) for key in ("ours_ms", "ours_low_ms", "ours_high_ms"))
    return f"{middle} ({low}-{high})"


def _figure(value: float) -> str:
    """Three digits, and no power of ten."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _skipped(entries: Sequence[Row]) -> list[str]:
    lines = [f"- {row['peer']}, {row['work']}, threads {row['threads']}: {row['reason']}" for row in entries]
    return ["Not timed:\n\n" + "\n".join(lines)] if lines else []


def _table(
    title: str, rows: Sequence[Row], columns: Mapping[str, Callable[[Row], str]], name: Callable[[Row], str]
) -> list[str]:
    kept = [row for row in rows if "skipped" not in row]
    if not kept:
        return []
    body = [(name(row), *(cell(row) for cell in columns.values())) for row in kept]
    return [_markdown((title, *columns), body)]


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rule = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *body))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f}"
