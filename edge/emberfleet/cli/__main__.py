"""`python -m emberfleet.cli`: the command line from a bare checkout."""

from emberfleet.cli.main import app

app(prog_name="emberfleet")
