"""``rlkit-es play``: a trained policy in a window."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from rlkit_es.agent import Algorithm
from rlkit_es.commands.exit_code import EXIT_INTERRUPTED
from rlkit_es.commands.trained import Run, carry_out, check_at_least, check_seed, describe, load, say_episode
from rlkit_es.errors import UserError
from rlkit_es.runs.drawing import has_display
from rlkit_es.runs.interruption import Interrupted
from rlkit_es.runs.playing import make_env, play, playing_seed
from rlkit_es.runs.window import WindowClosed, watch


def main(arguments: Sequence[str] | None = None) -> int:
    """Play as the command line says; returns the exit code."""
    return carry_out(play_run, "play", arguments)


def play_run(
    run: Run,
    /,
    episodes: int = 10,
    seed: int | None = None,
    checkpoint: str = "last",
) -> None:
    """Show whole episodes in a window, with the most likely actions, until it is closed.

    Without a display, `rlkit-es record` makes a video. --import MODULE imports a module of yours first.

    Args:
        run: A run directory, or a model file.
        episodes: How many.
        seed: Of the environment; None: that of the evaluation at the end of training.
        checkpoint: Of a run directory: last, best, or environment steps.
    """
    check_at_least(1, episodes=episodes)
    check_seed(seed)
    if not has_display():
        raise UserError(f"there is no display to open a window on: make a video with rlkit-es record {run}")
    agent = load(run, checkpoint)
    print(describe(agent))
    try:
        _play(agent, episodes, playing_seed(agent.config, seed))
    except (WindowClosed, KeyboardInterrupt):
        pass
    except Interrupted as interrupted:
        if interrupted.exit_code != EXIT_INTERRUPTED:
            raise


def _play(agent: Algorithm, episodes: int, seed: int) -> None:
    with closing(make_env(agent.config, agent.policy.action, "human")) as env:
        played = play(
            env,
            agent.predict,
            episodes=episodes,
            seed=seed,
            as_in_evaluation=False,
            on_frame=watch(env),
        )
        for number, episode in enumerate(played, start=1):
            say_episode(number, episode)
