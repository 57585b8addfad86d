"""``rlkit-es export``: a trained policy for use without this library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rlkit_es._version import __version__
from rlkit_es.commands.trained import Run, carry_out, describe, load, output_beside
from rlkit_es.runs.export import SUFFIXES, export_policy
from rlkit_es.runs.faithfulness import CHECKED


def main(arguments: Sequence[str] | None = None) -> int:
    """Export as the command line says; returns the exit code."""
    return carry_out(export_run, "export", arguments)


def export_run(
    run: Run,
    /,
    format: Literal["onnx", "torchscript"],
    output: Path | None = None,
    checkpoint: str = "last",
) -> None:
    """Write the policy as one file: raw observations in, what the environment takes out.

    Normalisation, network and the bounds of the actions are all in it; it takes a batch of any size and
    chooses the most likely actions. --import MODULE imports a module of yours first.

    Args:
        run: A run directory, or a model file.
        format: onnx, for onnxruntime and what else reads it, or torchscript, for torch.jit.load and C++.
        output: Where to write; None: policy.onnx or policy.pt in the run directory, or beside the file.
        checkpoint: Of a run directory: last, best, or environment steps.
    """
    agent = load(run, checkpoint)
    path = output_beside(run, output, "policy", SUFFIXES[format])
    metadata = {
        "env": agent.config.env,
        "algo": agent.config.algo,
        "env_steps": str(agent.env_steps),
        "rlkit_es": __version__,
    }
    difference = export_policy(agent.policy, agent.spaces.observation, path, format, metadata)
    if difference is None:
        print("not checked: pip install 'rlkit_es[export]' for onnxruntime")
    else:
        print(f"largest difference from torch over {CHECKED:,} observations: {difference:.2g}")
    print(f"{describe(agent)}: wrote {path}")
