"""A window that an environment draws into: its speed, and its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.runs.video import frames_per_second


class WindowClosed(BaseException):  # no error, and nothing may take it for one
    """The window that an environment draws into was closed."""


def watch(env: SupervisedEnv) -> Callable[[], None]:
    """For `play` in a window: what keeps the environment at its own speed until the window is closed.

    Returns:
        a function that raises `WindowClosed` once the user has closed the window, or pressed Escape.
    """
    seconds = 1 / frames_per_second(env)
    due = time.monotonic()

    def watch() -> None:
        nonlocal due
        _stop_when_closed(env)
        now = time.monotonic()
        due = max(due + seconds, now)
        time.sleep(due - now)

    return watch


def _stop_when_closed(env: SupervisedEnv) -> None:
    pygame: Any = sys.modules.get("pygame")  # what most environments draw with; none of them looks
    if pygame is not None and pygame.display.get_init():
        keys = pygame.event.get(pygame.KEYDOWN)
        if pygame.event.get(pygame.QUIT) or any(key.key == pygame.K_ESCAPE for key in keys):
            raise WindowClosed
    viewer = getattr(getattr(env.unwrapped, "mujoco_renderer", None), "viewer", None)
    if hasattr(viewer, "window") and not hasattr(viewer, "raises_when_closed"):
        _have_it_raise_when_closed(viewer)


def _have_it_raise_when_closed(viewer: Any) -> None:
    """Gymnasium's viewer draws on into a window that is gone, which ends the process."""
    glfw: Any = sys.modules["glfw"]  # which hands exceptions of callbacks to its caller

    def closed(_: Any) -> None:
        raise WindowClosed

    def key(window: Any, key: int, scancode: int, action: int, modifiers: int) -> None:
        if key == glfw.KEY_ESCAPE:
            raise WindowClosed
        viewer._key_callback(window, key, scancode, action, modifiers)

    glfw.set_window_close_callback(viewer.window, closed)
    glfw.set_key_callback(viewer.window, key)
    viewer.raises_when_closed = True
