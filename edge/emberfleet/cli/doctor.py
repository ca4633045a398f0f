"""`emberfleet doctor`: what works on this machine and what to install for what does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from emberfleet.cli.output import JsonOption, console, print_json

if TYPE_CHECKING:
    from emberfleet.runtime.doctor import Diagnosis, Finding

MARKS = {
    "works": "[green]✓ works[/]",
    "missing": "[yellow]– missing[/]",
    "broken": "[red]✗ broken[/]",
}


def doctor(json: JsonOption = False) -> None:
    """Say what works on this machine and what to install for what does not.

    Ends with code 1 only when a part that everything needs does not work.
    """
    from emberfleet.runtime.doctor import diagnose

    if json:
        diagnosis = diagnose()
        print_json(
            {
                "base_works": diagnosis.base_works,
                "emberfleet": diagnosis.emberfleet,
                "python": diagnosis.python,
                "machine": diagnosis.machine,
                "findings": diagnosis.findings,
            }
        )
    else:
        with console(stderr=True).status("Trying each part of Emberfleet on this machine"):
            diagnosis = diagnose()
        show(diagnosis)
    if not diagnosis.base_works:
        raise typer.Exit(1)


def show(diagnosis: Diagnosis) -> None:
    """Write a table of the findings and, below it, what mends each thing that does not work."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    out = console()
    out.print(f"[bold]Emberfleet {escape(diagnosis.emberfleet)}[/] on {escape(diagnosis.machine)}")
    out.print(f"Python {escape(diagnosis.python)}", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("Part", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Found", overflow="fold")
    for finding in diagnosis.findings:
        table.add_row(finding.name, MARKS[finding.status.value], escape(finding.found))
    out.print(table)
    faults = [finding for finding in diagnosis.findings if finding.remedy]
    if not faults:
        out.print("Everything works.")
        return
    out.print("[bold]To mend[/]")
    for remedy, mended in _by_remedy(faults).items():
        names = ", ".join(dict.fromkeys(finding.name for finding in mended))
        purposes = "; ".join(dict.fromkeys(finding.needed_for for finding in mended))
        out.print(f"  {escape(names)}, for {escape(purposes)}:", soft_wrap=True)
        out.print(f"    [cyan]{escape(remedy)}[/]", soft_wrap=True)
    required = [finding.name for finding in faults if finding.required]
    if required:
        out.print(f"\n[red]Emberfleet cannot run here before this is mended: {', '.join(required)}.[/]")
    else:
        out.print("\nThe base works; each of these is optional.")


def _by_remedy(faults: list[Finding]) -> dict[str, list[Finding]]:
    """The faults each remedy mends, in the order found."""
    grouped: dict[str, list[Finding]] = {}
    for finding in faults:
        grouped.setdefault(finding.remedy or "", []).append(finding)
    return grouped
