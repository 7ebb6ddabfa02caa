#!/usr/bin/env python3
"""Runs docs/tour.ipynb from top to bottom, and with --output writes it with what it showed.

scripts/run_notebook.py [--output=docs/tour.ipynb]
"""

from pathlib import Path

from absl import flags

from pcejax import cli
from pcejax.errors import UserError

_OUTPUT = flags.DEFINE_string("output", None, "Where to write the notebook with its outputs.")
_LIMIT = 600  # seconds of a cell

ROOT = Path(__file__).parents[1]


def main() -> None:
    import nbclient
    import nbformat

    notebook = nbformat.read(ROOT / "docs" / "tour.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=_LIMIT, resources={"metadata": {"path": str(ROOT)}}, record_timing=False
    )
    client.on_cell_executed = lambda cell, cell_index, execute_reply: print(
        f"cell {cell_index + 1} of {len(notebook.cells)}", flush=True
    )
    try:
        client.execute()
    except nbclient.exceptions.CellExecutionError as error:
        raise UserError(f"docs/tour.ipynb: {error}") from error
    if _OUTPUT.value:
        nbformat.write(notebook, _OUTPUT.value)


if __name__ == "__main__":
    cli.run(main)
