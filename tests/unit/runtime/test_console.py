"""Output of a rank that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL = Path("/dev/full")
"""Each write to it fails as on a full disk."""
PROGRAM = """
import sys
from tqdm import tqdm
from dskd_ds.runtime.console import outlive_console
if sys.argv[1] == "lenient":
    outlive_console()
for _ in tqdm(range(3), mininterval=0, miniters=1):
    print("a line", file=sys.stderr, flush=True)
    print("a line", flush=True)
    tqdm.write("a line")
open(sys.argv[2], "w").write("the end")
"""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(("mode", "is_reached"), [("lenient", True), ("as it is", False)])
def test_a_rank_outlives_a_full_disk(tmp_path: Path, mode: str, is_reached: bool) -> None:
    end = tmp_path / "end"
    with FULL.open("w") as full:
        code = subprocess.run(
            [sys.executable, "-c", PROGRAM, mode, str(end)], stdout=full, stderr=full, check=False
        ).returncode
    assert end.exists() == is_reached
    assert (code == 0) == is_reached
