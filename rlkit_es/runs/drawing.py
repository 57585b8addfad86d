"""Drawing without a display: by EGL or OSMesa, whichever works here."""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
import tempfile

import gymnasium as gym

from rlkit_es.envs.ids import is_atari, is_dm_control, split_module
from rlkit_es.errors import UserError, first_line

# Draws a frame as Gymnasium will.
_PROBE_GL = """
import mujoco
from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><geom size='1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
viewer = OffScreenViewer(model, data, 32, 32)
assert viewer.render("rgb_array").any()
viewer.close()
"""
# A name of a display may be left over from another session.
_PROBE_DISPLAY = "import sys, glfw; sys.exit(not (glfw.init() and glfw.get_primary_monitor()))"
_PROBE_SECONDS = 60
_NO_GL = (
    "MuJoCo cannot draw without a display here: install EGL (on Debian and Ubuntu: apt install libegl1) or "
    "OSMesa (apt install libosmesa6)"
)


def has_display() -> bool:
    """Whether a window can be opened."""
    if sys.platform != "linux":
        return True
    named = os.environ.get("DISPLAY"), os.environ.get("WAYLAND_DISPLAY")
    return any(named) and _display_works(*named)


def choose_gl() -> None:
    """Have MuJoCo draw by what works without a display: EGL, else OSMesa, each tried in a process of its own.

    Nothing is changed where there is a display, or where MUJOCO_GL says what to use.

    Raises:
        UserError: neither works; the message says what to install.
    """
    if has_display() or os.environ.get("MUJOCO_GL"):
        return
    for backend in ("egl", "osmesa"):
        chosen = {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
        if _succeeds(_PROBE_GL, chosen):
            os.environ |= chosen
            return
    raise UserError(_NO_GL)


def prepare_drawing(env_id: str) -> None:
    """Before the environment is made: MuJoCo reads the choice when it is imported."""
    if has_display():
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if is_atari(env_id):
        return
    entry_point = _entry_point(env_id)
    if is_dm_control(env_id) or entry_point.startswith("gymnasium.envs.mujoco"):
        choose_gl()
        return
    if entry_point.startswith("gymnasium.envs."):
        return
    with contextlib.suppress(UserError):  # it may well do without
        choose_gl()


def _entry_point(env_id: str) -> str:
    try:
        return str(gym.spec(split_module(env_id)[1]).entry_point)
    except gym.error.Error:
        return ""


@functools.cache
def _display_works(*_: str | None) -> bool:
    """Whether that of the surroundings, whose names are the arguments, does."""
    return _succeeds(_PROBE_DISPLAY, {})


def _succeeds(program: str, variables: dict[str, str]) -> bool:
    """Whether it does in a process of its own, which a bad driver may end."""
    with tempfile.TemporaryDirectory() as directory:  # MuJoCo leaves its log in the current one
        try:
            done = subprocess.run(
                [sys.executable, "-c", program],
                env={**os.environ, **variables},
                cwd=directory,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
    return done.returncode == 0


def reason(error: BaseException) -> str:
    """Why something was not drawn, in one line that names the choice that was made."""
    gl = os.environ.get("MUJOCO_GL")
    return first_line(error) + (f" (MUJOCO_GL is {gl})" if gl else "")
