"""Which environments run: every id of the suites below is trained on for a moment and evaluated.

    python benchmarks/environments.py [--only atari dm_control] [--missing] [--output DIRECTORY]

An id has run if two updates of PPO on it gave finite numbers. Each is given its time in a process that
another one replaces if it dies or hangs. The table goes to benchmarks/results/environments/; rows of
ids that are not run stay.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from command_line import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USER_ERROR, Parser
from machine import REPOSITORY, describe_machine, git_revision

RESULTS = REPOSITORY / "benchmarks" / "results" / "environments"
SECONDS = 180  # for one id

_SMALL = {"num_envs": 4, "rollout_steps": 16, "minibatch_size": 32, "epochs": 2, "critic_epochs": 2}
_STEPS = 2 * 4 * 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line names and write the table; returns the exit code."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=sorted(SUITES), help="suites; all where left out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="directory of the table")
    parser.add_argument("--missing", action="store_true", help="only ids that have not run yet")
    options = parser.parse_args(arguments)
    table = options.output / "environments.json"
    known = json.loads(table.read_text())["rows"] if table.exists() else []
    rows = {row["env"]: row for row in known}
    tester = Tester(_train)
    try:
        for suite in options.only or SUITES:
            for env in SUITES[suite]():
                if options.missing and env in rows and not rows[env]["error"]:
                    continue
                rows[env] = {"suite": suite, "env": env, **tester.test(env)}
                print(_line(rows[env]), flush=True)
                _write(options.output, list(rows.values()))
    except KeyboardInterrupt:
        print("interrupted; --missing goes on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except ImportError as error:
        print(f"error: {error}: pip install 'rlkit_es[envpool,atari,dmc]'", file=sys.stderr)
        return EXIT_USER_ERROR
    finally:
        tester.stop()
    return EXIT_FAILED if any(row["error"] for row in rows.values()) else 0


def _write(directory: Path, rows: Sequence[dict[str, Any]]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    header = {"date": time.strftime("%Y-%m-%d"), "git revision": git_revision(), **describe_machine()}
    result = {"header": header, "rows": rows}
    (directory / "environments.json").write_text(json.dumps(result, indent=1) + "\n")
    (directory / "environments.md").write_text(to_markdown(result))


class Tester:
    """Hands ids, one by one, to a process that is replaced when it dies or takes too long.

    Args:
        work: what that process does with an id; returns what is known of it.
    """

    def __init__(self, work: Callable[[str], dict[str, Any]]) -> None:
        self._work = work
        self._process: multiprocessing.process.BaseProcess | None = None

    def test(self, env: str) -> dict[str, Any]:
        """What ``work`` returned, with ``error`` None, or what went wrong."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._connection, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._work), daemon=True)
            self._process.start()
            other.close()
        try:
            self._connection.send(env)
            if self._connection.poll(SECONDS):
                answer: dict[str, Any] = self._connection.recv()
                return answer
            error = f"not done after {SECONDS} s"
        except (EOFError, OSError):
            self._process.join()
            error = f"the process died with exit code {self._process.exitcode}"
        self.stop()
        return {"error": error}

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def to_markdown(result: dict[str, Any]) -> str:
    """One table for each suite, and at the top how many ids ran."""
    rows = result["rows"]
    ran = sum(not row["error"] for row in rows)
    lines = [f"{ran} of {len(rows)} ids ran. " + ", ".join(f"{k}: {v}" for k, v in result["header"].items())]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        lines += ["", f"## {suite}", "", "| id | backend | observation | action | |", "|---|---|---|---|---|"]
        lines += [_line(row) for row in rows if row["suite"] == suite]
    return "\n".join(lines) + "\n"


def _line(row: dict[str, Any]) -> str:
    what = [str(row.get(name, "")) for name in ("backend", "observation", "action")]
    return f"| `{row['env']}` | {' | '.join(what)} | {row['error'] or 'ran'} |"


def _serve(connection: Connection, work: Callable[[str], dict[str, Any]]) -> None:
    warnings.simplefilter("ignore")
    while True:
        try:
            env = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            answer = {**work(env), "error": None}
        except Exception as error:  # whatever the environment does
            answer = {"error": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]}
        connection.send(answer)


def _train(env: str) -> dict[str, Any]:
    from rlkit_es import PPO
    from rlkit_es.envs.registry import choose_backend

    agent = PPO(env, **_SMALL, compile="off", torch_threads=1, precision="float32")
    try:
        agent.learn(_STEPS)
        odd = [
            name
            for name in ("policy_loss", "value_loss", "entropy")
            if not math.isfinite(agent.metrics[name])
        ]
        if odd:
            raise ArithmeticError(f"{odd[0]} is not finite")
        action = agent.spaces.action
        return {
            "backend": choose_backend(env, "auto", agent.config.num_envs)[0],
            "observation": " x ".join(map(str, agent.spaces.observation.shape)),
            "action": f"one of {action.size}" if action.discrete else str(action.size),
        }
    finally:
        agent.close()


def _gymnasium(*modules: str) -> list[str]:
    import gymnasium as gym

    entries = {env: str(spec.entry_point) for env, spec in gym.registry.items()}
    return [env for env, entry in entries.items() if any(f"envs.{module}" in entry for module in modules)]


def _mujoco() -> list[str]:
    return [env for env in _gymnasium("mujoco") if env.endswith(("-v4", "-v5"))]


def _toys() -> list[str]:
    from rlkit_es.envs.envpool_backend import envpool_ids

    known = {*envpool_ids()}
    return [env for env in _gymnasium("box2d", "classic_control") if env in known or not env.endswith("-v0")]


def _atari() -> list[str]:
    import gymnasium as gym

    from rlkit_es.envs.ale_backend import register_ale
    from rlkit_es.envs.ids import is_atari

    register_ale()
    return [env for env in gym.registry if is_atari(env)]


def _dm_control() -> list[str]:
    from dm_control import suite

    return [f"dm_control/{domain}-{task}-v0" for domain, task in suite.ALL_TASKS]


def _envpool(pattern: str) -> list[str]:
    from rlkit_es.envs.envpool_backend import envpool_ids

    return sorted(env for env in envpool_ids() if re.match(pattern, env))


SUITES: dict[str, Callable[[], list[str]]] = {
    "mujoco": _mujoco,
    "box2d and classic control": _toys,
    "dm_control": _dm_control,
    "atari": _atari,
    "playground": lambda: _envpool(r"MuJoCoPlayground/"),
    "robotics": lambda: _envpool(r"(Fetch|Franka|Adroit)\w*-v|HandReach|HandManipulate(Block|Egg|Pen)-v"),
}


if __name__ == "__main__":
    sys.exit(main())
