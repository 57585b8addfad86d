from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.spaces import Dict
from torch import Tensor

from rlkit_es.envs.envpool_backend import EnvPoolVectorEnv
from rlkit_es.envs.gymnasium_backend import GymnasiumVectorEnv
from rlkit_es.envs.registry import choose_backend, make_vector_envs
from rlkit_es.envs.vector_env import Step, VectorEnv
from rlkit_es.errors import UserError

pytest.importorskip("envpool")
pytest.importorskip("shimmy")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the window system, where there is no display
    suite = pytest.importorskip("dm_control.suite")

slow = pytest.mark.slow
CHEETAH = "dm_control/cheetah-run-v0"
TASKS = [
    "cheetah-run",
    "finger-spin",
    "walker-walk",
    "humanoid-run",
    "humanoid_CMU-stand",
    "dog-stand",
    "hopper-hop",
    "cartpole-balance",
    "ball_in_cup-catch",
    "reacher-easy",
]
Leaves = dict[str, np.ndarray]


def make(task: str, backend: str, num_envs: int = 1) -> Any:
    (envs,) = make_vector_envs(f"dm_control/{task}-v0", num_envs, backend=backend, threads=1)
    assert isinstance(envs, EnvPoolVectorEnv if backend == "envpool" else GymnasiumVectorEnv)
    return envs


def random_action(envs: VectorEnv, generator: torch.Generator) -> Tensor:
    low, high = torch.tensor(envs.action.low), torch.tensor(envs.action.high)
    action = low + (high - low) * torch.rand(envs.num_envs, envs.action.size, generator=generator)
    return action.view(envs.num_envs, *envs.action.shape)


def play(envs: VectorEnv, steps: int) -> tuple[Tensor, list[Tensor], list[Step]]:
    generator = torch.Generator().manual_seed(0)
    first, actions, seen = envs.reset(range(envs.num_envs)), [], []
    for _ in range(steps):
        actions.append(random_action(envs, generator))
        envs.send(actions[-1])
        seen.append(envs.recv())
    return first, actions, seen


def leaves_of_envpool(envs: EnvPoolVectorEnv) -> dict[str, int]:
    """Name and size of what EnvPool's observations are made of; they have been reset."""
    keys = [envs._pool._state_keys[i] for i in envs._leaves]
    shapes = envs._pool.spec.state_array_spec
    return {key.removeprefix("obs:"): int(np.prod(shapes[key].shape, dtype=int)) for key in keys}


def leaves_of_dm_control(envs: GymnasiumVectorEnv) -> dict[str, int]:
    space = envs.env.single_observation_space
    assert isinstance(space, Dict)
    return {key: int(np.prod(leaf.shape, dtype=int)) for key, leaf in space.items()}


def split(observation: Tensor, sizes: dict[str, int]) -> Leaves:
    parts = observation.double().numpy().reshape(-1)
    return dict(zip(sizes, np.split(parts, np.cumsum(list(sizes.values()))[:-1]), strict=True))


@pytest.mark.parametrize(
    ("env_id", "own"),
    [
        (CHEETAH, "CheetahRun-v1"),
        ("dm_control/humanoid_CMU-run-v0", "HumanoidCMURun-v1"),
        ("dm_control/ball_in_cup-catch-v0", "BallInCupCatch-v1"),
    ],
)
def test_auto_takes_envpool_and_says_what_it_calls_the_task(env_id: str, own: str) -> None:
    backend, reason = choose_backend(env_id, "auto")
    assert backend == "envpool"
    assert own in reason


@pytest.mark.parametrize("backend", ["envpool", "gymnasium", "gymnasium-async"])
def test_what_was_asked_for_is_what_is_chosen(backend: str) -> None:
    assert choose_backend(CHEETAH, backend) == (backend, "as asked")


def test_tasks_that_envpool_lacks_go_to_gymnasium() -> None:
    assert choose_backend("dm_control/RodentTwoTouch-v0", "auto")[0] == "gymnasium"
    with pytest.raises(UserError, match="EnvPool does not have"):
        choose_backend("dm_control/RodentTwoTouch-v0", "envpool")


def test_the_choice_for_one_environment_does_not_depend_on_what_was_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choose_backend(CHEETAH, "gymnasium")  # shimmy registers its ids
    assert CHEETAH in gym.registry
    registered = choose_backend(CHEETAH, "auto", num_envs=1)
    monkeypatch.delitem(gym.registry, CHEETAH)
    assert choose_backend(CHEETAH, "auto", num_envs=1) == registered


@pytest.mark.parametrize("backend", ["gymnasium", "envpool"])
@pytest.mark.parametrize(
    ("wrong", "right"), [("cheeta-run", "cheetah-run"), ("humanoid-rnu", "humanoid-run"), ("", "")]
)
def test_an_unknown_task_names_the_closest(wrong: str, right: str, backend: str) -> None:
    with pytest.raises(UserError) as refused:
        choose_backend(f"dm_control/{wrong}-v0", backend)
    close = right if backend == "gymnasium" else "".join(word.capitalize() for word in right.split("-"))
    assert close in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("missing", ["shimmy", "dm_control", "dm_control.suite"])
@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async"])
def test_without_dm_control_it_says_what_to_install(
    missing: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=r"pip install 'rlkit_es\[dmc\]'") as refused:
        choose_backend(CHEETAH, backend)
    assert "\n" not in str(refused.value)


def test_envpool_needs_neither_dm_control_nor_shimmy(monkeypatch: pytest.MonkeyPatch) -> None:
    for missing in ("shimmy", "dm_control"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert choose_backend(CHEETAH, "auto")[0] == "envpool"
    envs = make("cheetah-run", "envpool")
    assert envs.reset([0]).shape == (1, 17)
    envs.close()


@pytest.mark.parametrize("task", TASKS)
def test_both_backends_agree_on_the_spaces(task: str) -> None:
    pool, plain = make(task, "envpool"), make(task, "gymnasium")
    assert pool.action == plain.action
    assert pool.action.bounded
    assert pool.reset([0]).shape == (1, pool.observation.size)
    assert plain.reset([0]).shape == (1, plain.observation.size)
    assert list(leaves_of_envpool(pool).items()) == list(leaves_of_dm_control(plain).items())
    assert pool.observation == plain.observation
    pool.close()


@slow
@pytest.mark.parametrize(("domain", "name"), suite.ALL_TASKS)
def test_both_backends_agree_on_the_spaces_of_every_task(domain: str, name: str) -> None:
    env_id = f"dm_control/{domain}-{name}-v0"
    if choose_backend(env_id, "auto")[0] == "envpool":
        pool = make(f"{domain}-{name}", "envpool")
        plain = suite.load(domain, name)
        pool.reset([0])
        expected = {
            key: int(np.prod(leaf.shape, dtype=int)) for key, leaf in plain.observation_spec().items()
        }
        assert list(leaves_of_envpool(pool).items()) == sorted(expected.items())
        assert pool.action.size == np.prod(plain.action_spec().shape)
        pool.close()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
@pytest.mark.parametrize("task", TASKS)
def test_observations_and_rewards_of_random_steps(task: str, backend: str) -> None:
    envs = make(task, backend)
    first, _, steps = play(envs, 200)
    assert first.shape == (1, envs.observation.size)
    assert first.dtype == torch.float32
    seen = torch.stack([step.observation for step in steps])
    rewards = torch.stack([step.reward for step in steps])
    assert torch.isfinite(seen).all()
    assert rewards.dtype == torch.float32
    assert (rewards >= 0).all()
    assert (rewards <= 1).all()
    for step in steps:
        assert step.valid.all()
        assert step.life_lost is None
        assert not (step.terminated | step.truncated).any()
    envs.close()


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
@pytest.mark.parametrize("task", ["cheetah-run", "reacher-easy"])
def test_seeds_decide_the_observations(task: str, backend: str) -> None:
    def observations(envs: VectorEnv) -> Tensor:
        first, _, steps = play(envs, 30)
        return torch.stack([first, *(step.observation for step in steps)])

    envs = make(task, backend, 3)
    seen = observations(envs)
    assert torch.equal(observations(envs), seen)
    assert torch.equal(observations(make(task, backend, 3)), seen)
    assert len(seen[0].unique(dim=0)) == 3


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
@pytest.mark.parametrize(
    "task", ["cartpole-balance", "ball_in_cup-catch", pytest.param("dog-stand", marks=slow)]
)
def test_an_episode_is_truncated_after_1000_steps_and_never_terminated(task: str, backend: str) -> None:
    envs = make(task, backend)
    _, _, steps = play(envs, 1003)
    assert [t for t, step in enumerate(steps) if step.truncated.any()] == [999]
    assert [t for t, step in enumerate(steps) if not step.valid.all()] == [1000]
    assert not any(step.terminated.any() for step in steps)
    envs.close()


# From what EnvPool's environment shows, the state of its simulation: then dm_control's, put there, must
# show the same, and must come to the same after the same action. A name that is out of order, a leaf
# with other contents, other physics or another frame skip would show.


def _restore_by_root(physics: Any, seen: Leaves, body: str, angles: str, height: Callable[[], float]) -> None:
    """Joints, and the free root as far as observations tell: not its place and heading on the floor."""
    qpos = physics.data.qpos
    qpos[:] = 0
    qpos[3] = 1
    qpos[7:] = seen[angles]
    physics.forward()
    vertical = seen["torso_vertical"] if "torso_vertical" in seen else seen["z_projection"][3:6]
    up = vertical @ physics.named.data.xmat[body].reshape(3, 3).T  # of the world, in the root's frame
    axis, cosine = np.cross(up, [0, 0, 1]), up[2]
    qpos[3:7] = np.r_[1 + cosine, axis] / np.linalg.norm(np.r_[1 + cosine, axis])
    physics.forward()
    told = seen["head_height"] if "head_height" in seen else seen["torso_pelvis_height"][:1]
    qpos[2] = told[0] - height()
    physics.forward()


def restore_humanoid(physics: Any, seen: Leaves) -> None:
    body = "torso" if hasattr(physics, "torso_upright") else "thorax"
    _restore_by_root(physics, seen, body, "joint_angles", physics.head_height)
    physics.data.qvel[:] = seen["velocity"]
    physics.forward()
    # The heading is that in which the limbs give the centre of mass the velocity that it has.
    root = seen["velocity"][:3]
    have, want = physics.center_of_mass_velocity() - root, seen["com_velocity"] - root
    turn = np.arctan2(want[1], want[0]) - np.arctan2(have[1], have[0])
    w, x, y, z = physics.data.qpos[3:7]
    c, s = np.cos(turn / 2), np.sin(turn / 2)
    physics.data.qpos[3:7] = c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w


def restore_dog(physics: Any, seen: Leaves) -> None:
    _restore_by_root(physics, seen, "torso", "joint_angles", lambda: physics.torso_pelvis_height()[0])
    physics.data.act[:] = seen["actuator_state"]

    def sensed(root: np.ndarray) -> np.ndarray:
        physics.data.qvel[:6], physics.data.qvel[6:] = root, seen["joint_velocites"]
        physics.forward()
        return physics.inertial_sensors()[3:]  # linear in the velocity

    offset = sensed(np.zeros(6))
    columns = np.stack([sensed(unit) - offset for unit in np.eye(6)], axis=1)
    sensed(np.linalg.solve(columns, seen["inertial_sensors"][3:] - offset))


def restore_walker(physics: Any, seen: Leaves) -> None:
    angles = np.arctan2(seen["orientations"][1::2], seen["orientations"][::2])
    torso, right, left = angles[0], angles[1:4], angles[4:]
    joints = np.r_[torso, -np.diff(np.r_[torso, right]), -np.diff(np.r_[torso, left])]
    physics.data.qpos[:] = np.r_[0, 0, (joints + np.pi) % (2 * np.pi) - np.pi]
    physics.data.qvel[:] = seen["velocity"]
    physics.forward()
    physics.data.qpos[0] = seen["height"][0] - physics.torso_height()


def restore_reacher(physics: Any, seen: Leaves) -> None:
    restore_plain(physics, seen)
    physics.forward()
    finger = physics.named.data.geom_xpos["finger", :2]
    physics.named.model.geom_pos["target", :2] = finger + seen["to_target"]


def restore_finger(physics: Any, seen: Leaves) -> None:
    physics.data.qpos[:] = np.r_[seen["position"][:2], 0]
    physics.data.qvel[:] = seen["velocity"]
    physics.forward()
    have, want = (np.arctan2(x, z) for x, z in (physics.tip_position(), seen["position"][2:]))
    physics.data.qpos[2] = have - want


def restore_cartpole(physics: Any, seen: Leaves) -> None:
    x, cosine, sine = seen["position"]
    physics.data.qpos[:] = x, np.arctan2(sine, cosine)
    physics.data.qvel[:] = seen["velocity"]


def restore_plain(physics: Any, seen: Leaves) -> None:
    """All of it, but for where along the floor."""
    physics.data.qpos[:] = 0
    physics.data.qpos[len(physics.data.qpos) - len(seen["position"]) :] = seen["position"]
    physics.data.qvel[:] = seen["velocity"]


RESTORE = {
    "finger": restore_finger,
    "walker": restore_walker,
    "humanoid": restore_humanoid,
    "humanoid_CMU": restore_humanoid,
    "dog": restore_dog,
    "cartpole": restore_cartpole,
    "reacher": restore_reacher,
}
# Known after a step only.
OF_FORCES = {"touch", "inertial_sensors", "foot_forces", "touch_sensors"}


def close(left: Any, right: np.ndarray) -> bool:
    return np.allclose(np.ravel(left), right, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_dm_control_put_where_envpool_is_shows_the_same_and_goes_the_same_way(task: str) -> None:
    domain, name = task.split("-")
    envs, simulator = make(task, "envpool"), suite.load(domain, name)
    physics = simulator.physics
    _, actions, steps = play(envs, 80)
    sizes = leaves_of_envpool(envs)
    envs.close()
    observations = [split(step.observation, sizes) for step in steps]
    same = []
    # Not from the reset: a humanoid at rest does not tell where it is heading.
    for t, (before, after) in enumerate(pairwise(observations), start=1):
        simulator.reset()
        RESTORE.get(domain, restore_plain)(physics, before)
        physics.forward()
        shown = simulator.task.get_observation(physics)
        for key in shown.keys() - OF_FORCES:
            assert close(shown[key], before[key]), (t, key)
        stepped = simulator.step(actions[t][0].double().numpy())
        reward = np.array([stepped.reward])
        same.append(
            close(reward, steps[t].reward.double().numpy())
            and all(close(leaf, after[key]) for key, leaf in stepped.observation.items())
        )
    # EnvPool has a MuJoCo of its own, in which some steps of fingers that touch, and of dogs, differ.
    assert np.mean(same) >= {"finger": 0.8, "dog": 0.5}.get(domain, 1.0)
