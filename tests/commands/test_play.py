from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import small_runs

from rlkit_es import cli
from rlkit_es.runs import window as windows


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_runs.train(tmp_path_factory.mktemp("cartpole") / "run", *small_runs.CARTPOLE)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that SDL draws into memory, in place of a display."""
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("rlkit_es.commands.play.has_display", lambda: True)
    return pygame


def on_frame(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> list[int]:
    """Have ``act`` called when that frame is shown; the list has the frames that were."""
    frames: list[int] = []
    check = windows._stop_when_closed

    def count(env: windows.SupervisedEnv) -> None:
        frames.append(len(frames))
        if len(frames) == number:
            act()
        check(env)

    monkeypatch.setattr(windows, "_stop_when_closed", count)
    return frames


def test_without_a_display_record_is_named(cartpole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert small_runs.the_error(f"play {cartpole}", capsys) == (
        f"there is no display to open a window on: make a video with rlkit-es record {cartpole}"
    )


def test_episodes_are_shown_at_their_own_speed(
    cartpole: Path, window: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    slept: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: 0.01 * len(slept), sleep=slept.append)
    monkeypatch.setattr(windows, "time", clock)
    frames = on_frame(monkeypatch, 0, lambda: None)
    assert cli.main(["play", str(cartpole), "--episodes", "2", "--seed", "3"]) == 0
    captured = capsys.readouterr()
    first, *episodes = captured.out.splitlines()
    assert captured.err == ""
    assert first.startswith("CartPole-v1 espo at ")
    assert [line.split(":")[0] for line in episodes] == ["episode 1", "episode 2"]
    steps = [int(line.split()[-2]) for line in episodes]
    assert len(frames) == len(slept) == sum(steps) + 2
    assert min(slept) >= 0
    assert max(slept) > 0
    assert cli.main(["evaluate", str(cartpole), "--episodes", "1", "--seed", "3"]) == 0
    assert f": {steps[0]:.1f} +- 0.0 over" in capsys.readouterr().out


@pytest.mark.parametrize("how", ["closed", "Escape", "Ctrl-C"])
def test_it_ends_quietly(
    cartpole: Path,
    window: Any,
    how: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ways: dict[str, Callable[[], object]] = {
        "closed": lambda: window.event.post(window.event.Event(window.QUIT)),
        "Escape": lambda: window.event.post(window.event.Event(window.KEYDOWN, key=window.K_ESCAPE)),
        "Ctrl-C": lambda: signal.raise_signal(signal.SIGINT),
    }
    frames = on_frame(monkeypatch, 4, ways[how])
    assert cli.main(["play", str(cartpole)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert len(captured.out.splitlines()) == 1
    assert len(frames) == 4
    assert not window.display.get_init()


def test_another_key_changes_nothing(
    cartpole: Path, window: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_frame(monkeypatch, 2, lambda: window.event.post(window.event.Event(window.KEYDOWN, key=window.K_a)))
    assert cli.main(["play", str(cartpole), "--episodes", "1"]) == 0
    assert "episode 1: " in capsys.readouterr().out


def test_a_request_to_end_is_told_apart_from_ctrl_c(
    cartpole: Path, window: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_frame(monkeypatch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert cli.main(["play", str(cartpole)]) == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"


class Glfw:
    """Keeps the callbacks that it is given."""

    KEY_ESCAPE = 256

    def set_window_close_callback(self, window: object, callback: Callable[..., None]) -> None:
        self.close = callback

    def set_key_callback(self, window: object, callback: Callable[..., None]) -> None:
        self.key = callback


def test_the_viewer_of_mujoco_is_left_before_it_draws_into_a_closed_window(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glfw, keys = Glfw(), []
    monkeypatch.setitem(sys.modules, "glfw", glfw)
    monkeypatch.delitem(sys.modules, "pygame", raising=False)
    viewer = SimpleNamespace(window="w", _key_callback=lambda *arguments: keys.append(arguments))
    env: Any = SimpleNamespace(unwrapped=SimpleNamespace(mujoco_renderer=SimpleNamespace(viewer=viewer)))
    for _ in range(2):
        windows._stop_when_closed(env)
    with pytest.raises(windows.WindowClosed):
        glfw.close("w")
    with pytest.raises(windows.WindowClosed):
        glfw.key("w", 256, 9, 1, 0)
    glfw.key("w", 32, 65, 0, 0)
    assert keys == [("w", 32, 65, 0, 0)]
    windows._stop_when_closed(SimpleNamespace(unwrapped=object()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("nowhere", "cannot read nowhere: No such file or directory"),
        ("{run} --checkpoint 77", "no checkpoint 77 in "),
        ("{run} --episodes 0", "--episodes must be a whole number of at least 1, got 0"),
        ("{run} --seed -1", "--seed must be a whole number of at least 0, got -1"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    cartpole: Path,
    arguments: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("rlkit_es.commands.play.has_display", lambda: True)
    assert message in small_runs.the_error(f"play {arguments.format(run=cartpole)}", capsys)
