"""Computes the golden values of the tiny world: a dictionary, a run, gradients and replies.

    python -m tests.processes.golden_worker FOLDER > tests/processes/golden.json

FOLDER must not exist. Only instructions that every x86-64 CPU has are used. `test_golden.py` runs
this and compares. Record again only if a result is meant to change, and say why in the commit.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "HF_HUB_OFFLINE": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "DNNL_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "PRESCOTT",
    "NPY_DISABLE_CPU_FEATURES": (
        "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"
    ),
}
"""Without these variables, other types of CPU add in another order."""


def main(folder: Path) -> None:
    """Compute all values and print them as one JSON object."""
    # Not at the top: the first process lacks the variables of PINNED and only starts a second one.
    import torch
    import transformers

    from tests.conftest import spec_tree, write_model, write_text, write_wordnet

    torch.set_num_threads(1)
    import tomli_w

    folder.mkdir()
    write_text(folder)
    write_wordnet(folder / "wordnet")
    write_model(folder / "teacher", folder, num_layers=4, seed=0)
    spec_file = folder / "golden.toml"
    spec_file.write_text(tomli_w.dumps(spec_tree(folder)))
    tools = Path(sys.executable)
    run([str(tools.with_name("dskd")), "senses", "build", str(spec_file)])
    run([str(tools.with_name("dskd")), "train", str(spec_file)])
    print(
        json.dumps(
            {
                "made_with": {"torch": torch.__version__, "transformers": transformers.__version__},
                "dictionary": file_digest(folder / "senses" / "senses.safetensors"),
                "index": file_digest(folder / "senses" / "index" / "graph.bin"),
                "steps": steps(folder / "run" / "metrics.jsonl"),
                "gradients": gradients(folder),
                "replies": replies(spec_file),
            },
            indent=1,
        )
    )


def run(argv: list[str]) -> None:
    """Run a command with its output on stderr. Raises CalledProcessError if it fails."""
    subprocess.run(argv, check=True, stdout=sys.stderr)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def steps(metrics: Path) -> list[dict[str, str]]:
    """Return the exact losses and metrics of each step, as hexadecimal floats."""
    exact = (
        "loss",
        "loss_ce",
        "loss_kd",
        "loss_sense",
        "grad_norm",
        "sense_pull_distance",
        "teacher_mass",
        "topk_overlap",
    )
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [{key: float(record[key]).hex() for key in exact} for record in records]


def gradients(folder: Path) -> dict[str, dict[str, str]]:
    """Return digest and norm of each parameter's gradient in a step on two ZeRO-3 ranks."""
    import torch

    case = {
        "model": str(folder / "teacher"),
        "teacher": None,
        "frozen": "nothing",
        "compiled": False,
        "run_dir": None,
        "out": str(folder / "gradients.pt"),
    }
    cases = folder / "cases.json"
    cases.write_text(json.dumps([case]))
    run(
        [
            str(Path(sys.executable).with_name("torchrun")),
            "--standalone",
            "--nproc_per_node",
            "2",
            "-m",
            "tests.processes.parity_worker",
            "--cases",
            str(cases),
        ]
    )
    found: dict[str, Any] = torch.load(case["out"], weights_only=True)
    return {
        name: {
            "digest": hashlib.sha256(gradient.float().numpy().tobytes()).hexdigest(),
            "norm": float(gradient.norm()).hex(),
        }
        for name, gradient in sorted(found.items())
    }


def replies(spec_file: Path) -> dict[str, dict[str, str]]:
    """Return a digest of the teacher's reply frames for each signal and hidden format."""
    import numpy as np
    import torch

    from dskd_ds.link import codec
    from dskd_ds.link.messages import Reply, Wanted
    from dskd_ds.models.frozen import load_frozen
    from dskd_ds.models.named import NamedModel
    from dskd_ds.spec import load_spec
    from dskd_ds.teacher.answer import answer

    teacher = load_frozen(NamedModel.of_teacher(load_spec(spec_file).teacher), torch.device("cpu"))
    ids = np.random.default_rng(0).integers(1, teacher.vocab_size, (2, 32)).astype(np.int32)
    everywhere, some, nowhere = (
        np.arange(0, 64, stride, dtype=np.int32)[:stop]
        for stride, stop in ((1, 63), (5, 63), (1, 0))
    )
    asked = {
        "topk": (everywhere, nowhere, some),
        "exact": (some, nowhere, everywhere),
        "sampled": (some, everywhere, some),
        "hidden": (some, nowhere, some),
    }
    found = {}
    for signal, (top_k, draw, hidden) in asked.items():
        for hidden_format in ("bfloat16", "float8"):
            wanted = Wanted(
                top_k=16,
                temperatures=(2.0, 1.0),
                num_draws=50,
                draw_temperature=1.0,
                draw_seed=3,
                hidden_format=hidden_format,
            )  # type: ignore[arg-type]
            arrays = answer(
                teacher,
                {
                    "input_ids": ids,
                    "position_ids": np.tile(np.arange(32, dtype=np.int32), (2, 1)),
                    "top_k_positions": top_k,
                    "draw_positions": draw,
                    "hidden_positions": hidden,
                    "layer_positions": nowhere,
                    "targets": np.zeros((0, 0), np.int32),
                    "sample_keys": np.zeros((0, 2), np.int64),
                },
                wanted,
            )
            frames = codec.encode(Reply(request_id=7, forward_seconds=0.5), arrays)
            logits = float(arrays["top_k_logits"].astype(np.float64).sum())
            found[f"{signal}, {hidden_format}"] = {
                "digest": hashlib.sha256(b"".join(frames)).hexdigest(),
                "top_k_logits": logits.hex(),
            }
    return found


if __name__ == "__main__":
    if os.environ.get("ATEN_CPU_CAPABILITY") != PINNED["ATEN_CPU_CAPABILITY"]:
        os.execve(
            sys.executable,
            [sys.executable, "-m", "tests.processes.golden_worker", *sys.argv[1:]],
            dict(os.environ)
            | PINNED
            | {"DSKD_HOME": f"{sys.argv[1]}.home", "HF_DATASETS_CACHE": f"{sys.argv[1]}.datasets"},
        )
    main(Path(sys.argv[1]))
