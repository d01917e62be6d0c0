"""The notebook of the assignment, from its first cell to its last."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "assignment.ipynb"
# One short trial instead of a search: that a search ends well is what `test_the_main_job` holds.
SMALLER = """
from pathlib import Path
file = Path("study.toml")
text = file.read_text().replace("epochs = 8", "epochs = 1").replace("0.985", "0.01")
_ = file.write_text(text.replace("[study]\\n", "[study]\\nfinalists = 1\\n"))
"""


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What each cell of code shows, by its last line."""
    place = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    notebook.cells.insert(2, nbformat.v4.new_code_cell(SMALLER))
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(place)}}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(
            "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        )
        patch.setenv("PYTHONPATH", str(ROOT))
        client.execute()
    return {
        cell.source.splitlines()[-1]: "".join(map(_shown, cell.outputs))
        for cell in notebook.cells
        if cell.cell_type == "code"
    }


def _shown(output: nbformat.NotebookNode) -> str:
    data = output.get("data", {})
    return str(output.get("text") or data.get("text/html") or data.get("text/plain"))


def test_a_running_study_is_a_table_in_its_cell(cells: dict[str, str]) -> None:
    assert re.search(r"target 1.00 %: met", cells["study.launch()"])


def test_networks_and_funnels_are_tables(cells: dict[str, str]) -> None:
    assert "accepted" in cells["study.estimate()"]
    assert "receptive field" in cells["check(study.architecture(), study.config.rules)"]


def test_the_bundle_is_proved_and_its_report_shown(cells: dict[str, str]) -> None:
    assert "✗" not in cells["!c1c4-search verify {bundle}"]
    assert "✓ accuracy" in cells["!c1c4-search verify {bundle}"]
    assert "exports/study/report.html" in cells['IFrame(bundle / "report.html", 900, 700)']
