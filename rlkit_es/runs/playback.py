"""Episodes of a trained policy where they can be seen: in a video, or in a window.

Only Gymnasium draws, so its environments are used whatever training used.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import gymnasium as gym
import numpy as np

from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.registry import choose_backend
from rlkit_es.envs.spaces import action_spec, flattener, observation_size
from rlkit_es.envs.supervised import SupervisedEnv
from rlkit_es.envs.vector_env import env_seeds
from rlkit_es.errors import UserError
from rlkit_es.runs.files import TEMPORARY, writing
from rlkit_es.training.checkpoint import require_imported_environment
from rlkit_es.training.config import Config
from rlkit_es.training.episodes import Episode
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.types import ActionSpec

RenderMode = Literal["rgb_array", "human"]
Predict = Callable[[np.ndarray], np.ndarray]
"""Raw observations (N, O) to actions that the environment takes."""

_MOST_ENVS = 16  # that an evaluation spreads its episodes over
_USUAL_FPS = 30.0

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


class WindowClosed(BaseException):  # no error, and nothing may take it for one
    """The window that an environment draws into was closed."""


def make_env(config: Config, action: ActionSpec, render_mode: RenderMode) -> SupervisedEnv:
    """The environment of ``config``, drawn; what that takes without a display is set up before.

    Args:
        config: of a file: it may not have a module imported.
        action: of the policy.
        render_mode: of Gymnasium.

    Raises:
        UserError: it cannot be made, cannot be drawn or is not the one that the policy is for.
    """
    require_imported_environment(config)
    _require_gymnasium(config.env)
    _prepare_drawing(config.env)
    try:
        env = SupervisedEnv(functools.partial(_make, config.env, render_mode), 0)
    except UserError:
        raise
    except Exception as error:  # whatever the environment does when it is made
        raise UserError(f"cannot make {config.env} to draw it: {_reason(error)}") from error
    try:
        if env.render_mode != render_mode:
            modes = ", ".join(map(str, env.metadata.get("render_modes", []))) or "none"
            raise UserError(f"{config.env} cannot be drawn as {render_mode}; its render modes: {modes}")
        if (found := action_spec(env.action_space)) != action:
            raise UserError(
                f"{config.env} is not the environment that the policy is for: it takes {found}, not {action}"
            )
    except BaseException:
        env.close()
        raise
    return env


def play(
    env: SupervisedEnv,
    predict: Predict,
    *,
    episodes: int,
    seed: int,
    as_in_evaluation: bool = True,
    max_steps: int | None = None,
    on_frame: Callable[[], None] = lambda: None,
) -> Iterator[Episode]:
    """Whole episodes, one after the other, each as soon as it has ended.

    Args:
        env: of `make_env`.
        predict: the policy.
        episodes: how many, at least 1.
        seed: as of `evaluate_policy`.
        as_in_evaluation: the same episodes as in an evaluation on the Gymnasium backend, each of its
            environments in turn; False: all those of its first, which is never made anew.
        max_steps: that an episode is cut after; None: when it ends.
        on_frame: called where there is something new to see: after every reset and step.

    Raises:
        UserError: the environment failed, or has other observations than the policy.
    """
    environments = min(episodes, _MOST_ENVS) if as_in_evaluation else 1
    step = _stepper(env, predict, environments)
    for number, env_seed in enumerate(env_seeds(seed, environments)):
        for episode in range(number, episodes, environments):  # its share
            observation, _ = env.reset(seed=env_seed if episode == number else None)
            on_frame()
            total, length, ended = 0.0, 0, False
            while not ended and (max_steps is None or length < max_steps):
                observation, reward, ended = step(observation)
                total += reward
                length += 1
                on_frame()
            yield Episode(number, total, length)


def playing_seed(config: Config, seed: int | None) -> int:
    """``seed``, or that of the evaluation at the end of training."""
    return derive_seeds(config.seed).evaluation if seed is None else seed


def frame_of(env: SupervisedEnv) -> np.ndarray:
    """What there is to see now, (H, W, 3) uint8, each side even, which video needs.

    Raises:
        UserError: the environment cannot draw itself.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the window system, before the error that it leads to
            frame: Any = env.render()
    except Exception as error:  # whatever its renderer does
        raise UserError(f"the environment cannot be drawn: {_reason(error)}") from error
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
        raise UserError("the environment cannot be drawn: its render() gives no (height, width, 3) of uint8")
    height, width = frame.shape[:2]
    return frame[: height - height % 2, : width - width % 2]


def frames_per_second(env: SupervisedEnv) -> float:
    """Of the environment at its own speed, as far as it says so."""
    fps = env.metadata.get("render_fps")
    usable = isinstance(fps, int | float) and math.isfinite(fps) and fps > 0
    return float(fps) if usable else _USUAL_FPS  # type: ignore[arg-type]


class Video:
    """An MP4 file that is there once the block is left, and not at all where that was by an error.

    Args:
        path: of the file; its directory exists.
        fps: frames per second.

    Raises:
        UserError: a package is missing, or the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path = path
        self.frames = 0
        # imageio goes by the suffix.
        self._temporary = path.with_name(f".{path.stem}.{os.getpid()}{TEMPORARY}.mp4")
        get_writer = _video_writer()
        with writing(path):
            if path.is_dir():
                raise IsADirectoryError(None, "it is a directory")
            self._temporary.touch()
        self._writer = get_writer(
            self._temporary,
            format="FFMPEG",
            fps=fps,
            macro_block_size=1,  # no scaling: the frames stay as they are
            ffmpeg_log_level="error",
        )

    def __enter__(self) -> Self:
        return self

    def append(self, frame: np.ndarray) -> None:
        """Write one more frame (H, W, 3) uint8, of the same size as the others.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self._writer.append_data(frame)
        except (OSError, ValueError) as error:  # ValueError: of another size
            raise UserError(f"cannot write {self.path}: {_one_line(error)}") from error
        self.frames += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with (
                writing(self.path),
                contextlib.nullcontext() if kind is None else contextlib.suppress(Exception),
            ):
                self._writer.close()
                if kind is None:
                    self._temporary.replace(self.path)
        finally:
            self._temporary.unlink(missing_ok=True)


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


def _require_gymnasium(env_id: str) -> None:
    try:
        choose_backend(env_id, "gymnasium")
    except UserError as error:
        if env_id in envpool_ids():
            raise UserError(
                f"{env_id} is of EnvPool alone, which cannot draw: what is to be seen must be in "
                "Gymnasium too"
            ) from error
        raise


def _make(env_id: str, render_mode: RenderMode) -> gym.Env[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old versions: the run was trained with that one
        return gym.make(env_id, render_mode=render_mode)


def _prepare_drawing(env_id: str) -> None:
    """Before the environment is made: MuJoCo reads the choice when it is imported."""
    if has_display():
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    entry_point = _entry_point(env_id)
    if entry_point.startswith("gymnasium.envs."):
        if ".mujoco" in entry_point:
            choose_gl()
        return
    with contextlib.suppress(UserError):  # it may well do without
        choose_gl()


def _entry_point(env_id: str) -> str:
    try:
        return str(gym.spec(env_id.rpartition(":")[2]).entry_point)
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


def _stepper(
    env: SupervisedEnv, predict: Predict, environments: int
) -> Callable[[Any], tuple[Any, float, bool]]:
    """From an observation to the next one, the reward and whether the episode has ended."""
    flatten = flattener(env.observation_space, 1)
    observation_size(env.observation_space)  # refuses what is not supported
    dtype = env.action_space.dtype

    def step(observation: Any) -> tuple[Any, float, bool]:
        row = np.asarray(flatten(observation), dtype=np.float32)
        # As many rows as an evaluation has: a product of matrices of another size rounds otherwise.
        action = predict(np.repeat(row, environments, axis=0)).astype(dtype, copy=False)[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        return observation, float(np.float32(reward)), bool(terminated or truncated)

    return step


def _video_writer() -> Callable[..., Any]:
    try:
        importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
        writer: Callable[..., Any] = importlib.import_module("imageio.v2").get_writer
    except (ImportError, RuntimeError) as error:
        raise UserError("video needs imageio with ffmpeg: pip install 'rlkit_es[video]'") from error
    return writer


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


def _reason(error: BaseException) -> str:
    gl = os.environ.get("MUJOCO_GL")
    return _one_line(error) + (f" (MUJOCO_GL is {gl})" if gl else "")


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
