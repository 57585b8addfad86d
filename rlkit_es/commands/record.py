"""``rlkit-es record``: a video of a trained policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rlkit_es.commands.trained import (
    Run,
    carry_out,
    check_at_least,
    check_seed,
    describe,
    load,
    output_beside,
    say_episode,
)
from rlkit_es.errors import UserError
from rlkit_es.runs.playing import make_env, play, playing_seed
from rlkit_es.runs.video import Video, frame_of, frames_per_second


def main(arguments: Sequence[str] | None = None) -> int:
    """Record as the command line says; returns the exit code."""
    return carry_out(record_run, "record", arguments)


def record_run(
    run: Run,
    /,
    output: Path | None = None,
    episodes: int = 1,
    seed: int | None = None,
    checkpoint: str = "last",
    max_steps: int | None = None,
    fps: int | None = None,
) -> None:
    """Write a video of whole episodes, with the most likely actions.

    No display is needed. --import MODULE imports a module of yours first.

    Args:
        run: A run directory, or a model file.
        output: MP4 file to write; None: video.mp4 in the run directory, or beside the file.
        episodes: How many.
        seed: Of the environments, as for `evaluate`; None: that of the evaluation at the end of training.
        checkpoint: Of a run directory: last, best, or environment steps.
        max_steps: Cut an episode after so many steps; None: when it ends.
        fps: Frames per second; None: the environment's own speed.
    """
    check_at_least(1, episodes=episodes, max_steps=max_steps, fps=fps)
    check_seed(seed)
    agent = load(run, checkpoint)
    path = output_beside(run, output, "video", ".mp4")
    if path.suffix.lower() != ".mp4":
        raise UserError(f"--output must end in .mp4, got {path}")
    with closing(make_env(agent.config, agent.policy.action, "rgb_array")) as env:
        print(describe(agent))
        with Video(path, fps or frames_per_second(env)) as video:
            for number, episode in enumerate(
                play(
                    env,
                    agent.predict,
                    episodes=episodes,
                    seed=playing_seed(agent.config, seed),
                    max_steps=max_steps,
                    on_frame=lambda: video.append(frame_of(env)),
                ),
                start=1,
            ):
                say_episode(number, episode)
    print(f"wrote {path}: {video.frames:,} frames")
