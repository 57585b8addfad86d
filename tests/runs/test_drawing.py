from __future__ import annotations

import os
import sys
from contextlib import closing

import pytest
from painted import PUSHED, configure, headless, registered, supervised  # noqa: F401

from rlkit_es.errors import UserError
from rlkit_es.runs import drawing
from rlkit_es.runs.drawing import choose_gl
from rlkit_es.runs.playing import make_env
from rlkit_es.runs.video import frame_of
from rlkit_es.types import ActionSpec


def probing(monkeypatch: pytest.MonkeyPatch, *working: str) -> list[str]:
    """Have these backends work, and no display; the list has those that were tried."""
    tried: list[str] = []

    def succeeds(program: str, variables: dict[str, str]) -> bool:
        tried.append(variables.get("MUJOCO_GL", "display"))
        assert variables.get("PYOPENGL_PLATFORM", "display") == tried[-1]
        return tried[-1] in working

    drawing._display_works.cache_clear()
    monkeypatch.setattr(drawing, "_succeeds", succeeds)
    return tried


@pytest.mark.parametrize(
    ("working", "tried", "chosen"),
    [
        (["egl"], ["egl"], "egl"),
        (["egl", "osmesa"], ["egl"], "egl"),
        (["osmesa"], ["egl", "osmesa"], "osmesa"),
    ],
)
def test_what_works_is_chosen(
    working: list[str], tried: list[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = probing(monkeypatch, *working)
    choose_gl()
    assert found == tried
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == chosen


def test_what_to_install_is_said_where_nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    probing(monkeypatch)
    with pytest.raises(UserError, match=r"libegl1.*libosmesa6") as refused:
        make_env(configure("HalfCheetah-v4"), PUSHED, "rgb_array")
    assert "\n" not in str(refused.value)
    assert "MUJOCO_GL" not in os.environ


def test_a_choice_of_the_users_own_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch)
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    choose_gl()
    assert tried == []
    assert os.environ["MUJOCO_GL"] == "osmesa"
    assert "PYOPENGL_PLATFORM" not in os.environ


@pytest.mark.parametrize("name", ["DISPLAY", "WAYLAND_DISPLAY"])
def test_a_display_that_works_is_used(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch, "display")
    assert not drawing.has_display()
    monkeypatch.setenv(name, ":7")
    assert drawing.has_display()
    choose_gl()
    assert tried == ["display"]
    assert "MUJOCO_GL" not in os.environ


def test_a_display_that_is_gone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch, "egl")
    monkeypatch.setenv("DISPLAY", ":7")
    assert not drawing.has_display()
    choose_gl()
    assert tried == ["display", "egl"]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_have_a_display(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch)
    monkeypatch.setattr(sys, "platform", platform)
    assert drawing.has_display()
    assert tried == []


@pytest.mark.parametrize(
    ("program", "expected"),
    [("pass", True), ("import os; os.abort()", False), ("raise SystemExit(1)", False), ("x=x", False)],
)
def test_a_driver_that_crashes_is_none(
    program: str, expected: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert drawing._succeeds(program, {}) is expected
    assert capfd.readouterr() == ("", "")


def test_a_driver_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_PROBE_SECONDS", 0.5)
    assert not drawing._succeeds("import time; time.sleep(60)", {})


def test_classic_control_needs_no_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    tried = probing(monkeypatch)
    discrete = ActionSpec(size=2, discrete=True)
    with closing(make_env(configure("CartPole-v1"), discrete, "rgb_array")) as env:
        env.reset(seed=0)
        assert frame_of(env).shape == (400, 600, 3)
    assert tried == []
    assert os.environ["SDL_VIDEODRIVER"] == "dummy"


def test_a_missing_pygame_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pygame", None)
    with closing(make_env(configure("CartPole-v1"), ActionSpec(2, discrete=True), "rgb_array")) as env:
        env.reset(seed=0)
        with pytest.raises(UserError, match=r"^the environment cannot be drawn: pygame is not installed"):
            frame_of(env)


def test_an_environment_of_ones_own_is_made_without_gl(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch)
    make_env(configure("ToyPainted-v0"), PUSHED, "rgb_array").close()
    assert tried == ["egl", "osmesa"]  # it might have needed one
