from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio.v2
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict
from toy_envs import Spaces

from rlkit_es.envs.envpool_backend import envpool_ids
from rlkit_es.envs.supervised import FailedEnvironmentError, SupervisedEnv
from rlkit_es.errors import UserError
from rlkit_es.runs import playback
from rlkit_es.runs.playback import Video, WindowClosed, choose_gl, frame_of, make_env, play, playing_seed
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import evaluate_policy
from rlkit_es.training.seeds import derive_seeds
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import ActionSpec

PUSHED = ActionSpec(size=1, low=(-1.0,), high=(1.0,), shape=(1,))


class Painted(gym.Env):
    """A red square of 5 x 7 on the first frame, bluer with every step; 4 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012
    observation_space = Box(-1, 1, (1,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def __init__(self, render_mode: str | None = None, paint: Callable[[int], Any] | None = None) -> None:
        self.render_mode = render_mode
        self.paint = paint

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.t += 1
        return np.zeros(1, np.float32), 0.1, self.t == 4, False, {}

    def render(self) -> Any:
        if self.paint is not None:
            return self.paint(self.t)
        return np.full((5, 7, 3), (200, 0, 50 * self.t), np.uint8)


LEAVES = Dict({"hand": Box(-1, 1, (2, 2)), "eye": Box(-9, 9, (3,), np.float64)})
TOYS = {
    "ToyPainted-v0": (Painted, {}),
    "ToyDict-v0": (Spaces, {"observation_space": LEAVES, "action_space": Box(-1, 1, (2,))}),
}


@pytest.fixture(scope="module", autouse=True)
def _registered() -> Iterator[None]:
    for env_id, (entry_point, settings) in TOYS.items():
        gym.register(env_id, entry_point, kwargs=settings, disable_env_checker=True)
    yield
    for env_id in TOYS:
        del gym.registry[env_id]


@pytest.fixture(autouse=True)
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    """No display, and nothing chosen; what is set meanwhile is undone."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM", "SDL_VIDEODRIVER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "platform", "linux")


def configure(env: str, **settings: Any) -> Config:
    small = {"num_envs": 2, "rollout_steps": 16, "minibatch_size": 16, "compile": "off", "hidden_sizes": (8,)}
    return Config.for_algorithm("ppo", **{**small, "env": env, "backend": "gymnasium", **settings})


def predictor(trainer: Trainer) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def predict(observation: np.ndarray) -> np.ndarray:
        policy = trainer.policy
        return policy.env_action(policy.act(torch.from_numpy(observation), None)).numpy()

    return predict


def supervised(env_id: str, **settings: Any) -> SupervisedEnv:
    return SupervisedEnv(functools.partial(gym.make, env_id, **settings), 0)


def zeros(observation: np.ndarray) -> np.ndarray:
    return np.zeros((len(observation), 1), np.float32)


# Episodes.


@pytest.mark.parametrize(
    ("env_id", "episodes"), [("CartPole-v1", 1), ("Pendulum-v1", 3), ("ToyDict-v0", 2), ("ToyBadge-v0", 37)]
)
def test_episodes_are_those_of_an_evaluation(env_id: str, episodes: int) -> None:
    trainer = Trainer(configure(env_id))
    trainer.train(64)
    trainer.close()
    evaluation = evaluate_policy(trainer.policy, trainer.config, episodes=episodes)
    with closing(supervised(env_id)) as env:
        seed = playing_seed(trainer.config, None)
        played = list(play(env, predictor(trainer), episodes=episodes, seed=seed))
    expected = zip(evaluation.returns, evaluation.lengths, strict=True)
    assert sorted((e.episode_return, e.length) for e in played) == sorted(expected)


def test_the_seed_is_that_of_the_evaluation_unless_one_is_given() -> None:
    config = configure("CartPole-v1", seed=5)
    assert playing_seed(config, None) == derive_seeds(5).evaluation
    assert playing_seed(config, 0) == 0


def test_episodes_come_as_they_end_with_a_frame_for_every_state() -> None:
    frames: list[int] = []
    with closing(supervised("ToyPainted-v0")) as env:
        played = play(env, zeros, episodes=3, seed=0, on_frame=lambda: frames.append(env.unwrapped.t))  # type: ignore[attr-defined]
        assert frames == []
        for number in range(3):
            episode = next(played)
            assert episode.length == 4
            assert episode.episode_return == pytest.approx(0.4)
            assert frames == [0, 1, 2, 3, 4] * (number + 1)
        assert list(played) == []


def test_an_episode_may_be_cut() -> None:
    with closing(supervised("ToyPainted-v0")) as env:
        assert [e.length for e in play(env, zeros, episodes=2, seed=0, max_steps=3)] == [3, 3]
        assert [e.length for e in play(env, zeros, episodes=2, seed=0, max_steps=9)] == [4, 4]


@pytest.mark.parametrize(("as_in_evaluation", "times"), [(True, 3), (False, 1)])
def test_a_window_stays_open(as_in_evaluation: bool, times: int) -> None:
    made = []

    def make() -> gym.Env:
        made.append(gym.make("ToyPainted-v0"))
        return made[-1]

    with closing(SupervisedEnv(make, 0)) as env:
        played = play(env, zeros, episodes=3, seed=0, as_in_evaluation=as_in_evaluation)
        assert len(list(played)) == 3
    assert len(made) == times


def test_an_environment_that_fails_says_so_in_one_line() -> None:
    with closing(supervised("ToyWalk-v0")) as env, pytest.raises(FailedEnvironmentError, match="Assertion"):
        list(play(env, lambda x: 9 + zeros(x), episodes=1, seed=0))


# Making the environment.


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("HalfCheeta-v4", "unknown environment 'HalfCheeta-v4'; did you mean HalfCheetah-v4"),
        ("no_such_module:Walk-v0", "is of a module that this file may not import"),
        ("ToyWalk-v0", "cannot make ToyWalk-v0 to draw it: "),
        ("CartPole-v1", "CartPole-v1 is not the environment that the policy is for: it takes ActionSpec"),
    ],
)
def test_what_cannot_be_played_is_an_error_of_one_line(env_id: str, message: str) -> None:
    with pytest.raises(UserError) as refused:
        make_env(configure(env_id), PUSHED, "rgb_array")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.skipif(not envpool_ids(), reason="EnvPool is not installed")
def test_what_only_envpool_has_is_refused() -> None:
    (only, *_) = (name for name in envpool_ids() if name not in gym.registry)
    with pytest.raises(UserError, match="is of EnvPool alone, which cannot draw"):
        make_env(configure(only), PUSHED, "rgb_array")


def test_render_modes_that_an_environment_lacks_are_an_error_of_one_line() -> None:
    make_env(configure("ToyPainted-v0"), PUSHED, "rgb_array").close()
    gym.register("ToyPlain-v0", lambda render_mode: Painted(), disable_env_checker=True)
    try:
        with pytest.raises(UserError, match="cannot be drawn as rgb_array; its render modes: rgb_array"):
            make_env(configure("ToyPlain-v0"), PUSHED, "rgb_array")
    finally:
        del gym.registry["ToyPlain-v0"]


def explode(_: int) -> Any:
    raise RuntimeError("no paint\nat all")


@pytest.mark.parametrize(
    ("paint", "message"),
    [
        (lambda _: None, r"its render\(\) gives no \(height, width, 3\) of uint8"),
        (lambda _: np.zeros((4, 4), np.uint8), "gives no"),
        (lambda _: np.zeros((4, 4, 3)), "gives no"),
        (explode, "^the environment cannot be drawn: no paint$"),
    ],
)
def test_an_environment_that_draws_no_picture_is_refused(paint: Callable[[int], Any], message: str) -> None:
    with closing(supervised("ToyPainted-v0", paint=paint)) as env:
        env.reset(seed=0)
        with pytest.raises(UserError, match=message):
            frame_of(env)


def test_frames_have_even_sides_and_their_own_rate() -> None:
    with closing(make_env(configure("ToyPainted-v0"), PUSHED, "rgb_array")) as env:
        env.reset(seed=0)
        assert frame_of(env).shape == (4, 6, 3)
        assert playback.frames_per_second(env) == 12
    with closing(supervised("ToyWalk-v0")) as env:
        assert playback.frames_per_second(env) == 30


# Video.


def test_a_video_has_every_frame() -> None:
    with Video(Path("v.mp4"), 12.5) as video:
        for number in range(30):
            video.append(np.full((32, 48, 3), (8 * number, 0, 0), np.uint8))
            assert not Path("v.mp4").exists()
    assert video.frames == 30
    assert [path.name for path in Path().iterdir()] == ["v.mp4"]
    with closing(imageio.v2.get_reader("v.mp4")) as reader:
        described = reader.get_meta_data()
        pictures = list(reader.iter_data())
    assert (described["size"], described["fps"]) == ((48, 32), 12.5)
    reds = [picture[..., 0].mean() for picture in pictures]
    np.testing.assert_allclose(reds, 8 * np.arange(30), atol=12)


def record(path: Path, *frames: np.ndarray | type[BaseException]) -> None:
    """A video of the frames, up to where an error is in the place of one."""
    with Video(path, 30) as video:
        for frame in frames:
            if not isinstance(frame, np.ndarray):
                raise frame
            video.append(frame)


SQUARE, WIDE = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 48, 3), np.uint8)


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt, WindowClosed])
def test_half_a_video_is_none(error: type[BaseException]) -> None:
    Path("v.mp4").write_text("from before")
    with pytest.raises(error):
        record(Path("v.mp4"), SQUARE, error)
    assert [path.name for path in Path().iterdir()] == ["v.mp4"]
    assert Path("v.mp4").read_text() == "from before"


def test_a_frame_of_another_size_is_an_error_of_one_line() -> None:
    with pytest.raises(UserError, match=r"^cannot write v\.mp4: "):
        record(Path("v.mp4"), SQUARE, WIDE)
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("path", ["no/such/v.mp4", "directory.mp4"])
def test_where_nothing_can_be_written_is_an_error_of_one_line(path: str) -> None:
    Path("directory.mp4").mkdir()
    with pytest.raises(UserError, match=f"^cannot write {path}: "):
        Video(Path(path), 30)
    assert [found.name for found in Path().iterdir()] == ["directory.mp4"]


@pytest.mark.parametrize("missing", ["imageio.v2", "imageio_ffmpeg"])
def test_what_is_missing_for_video_is_named(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(
        UserError, match=r"^video needs imageio with ffmpeg: pip install 'rlkit_es\[video\]'$"
    ):
        Video(Path("v.mp4"), 30)
    assert list(Path().iterdir()) == []


# Without a display.


def probing(monkeypatch: pytest.MonkeyPatch, *working: str) -> list[str]:
    """Have these backends work, and no display; the list has those that were tried."""
    tried: list[str] = []

    def succeeds(program: str, variables: dict[str, str]) -> bool:
        tried.append(variables.get("MUJOCO_GL", "display"))
        assert variables.get("PYOPENGL_PLATFORM", "display") == tried[-1]
        return tried[-1] in working

    playback._display_works.cache_clear()
    monkeypatch.setattr(playback, "_succeeds", succeeds)
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
    assert not playback.has_display()
    monkeypatch.setenv(name, ":7")
    assert playback.has_display()
    choose_gl()
    assert tried == ["display"]
    assert "MUJOCO_GL" not in os.environ


def test_a_display_that_is_gone_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch, "egl")
    monkeypatch.setenv("DISPLAY", ":7")
    assert not playback.has_display()
    choose_gl()
    assert tried == ["display", "egl"]


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems_have_a_display(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probing(monkeypatch)
    monkeypatch.setattr(sys, "platform", platform)
    assert playback.has_display()
    assert tried == []


@pytest.mark.parametrize(
    ("program", "expected"),
    [("pass", True), ("import os; os.abort()", False), ("raise SystemExit(1)", False), ("x=x", False)],
)
def test_a_driver_that_crashes_is_none(
    program: str, expected: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    assert playback._succeeds(program, {}) is expected
    assert capfd.readouterr() == ("", "")


def test_a_driver_that_hangs_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playback, "_PROBE_SECONDS", 0.5)
    assert not playback._succeeds("import time; time.sleep(60)", {})


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
