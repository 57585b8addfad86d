from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import rlkit_es
from rlkit_es import run
from rlkit_es.errors import CheckpointError, UserError
from rlkit_es.learners import registration

PAGE = (Path(rlkit_es.__file__).parents[1] / "docs" / "extending.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
QUICK = {"num_envs": 4, "rollout_steps": 32, "epochs": 2, "compile": "off"}


pytestmark = pytest.mark.usefixtures("nothing_stays_registered")


def same(a: rlkit_es.Algorithm, b: rlkit_es.Algorithm) -> bool:
    held = b.policy.state_dict()
    return all(torch.equal(x, held[name]) for name, x in a.policy.state_dict().items())


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: re.findall(r"(?:def|class) (\w+)", p)[0])
def test_every_program_of_the_page_runs(program: str) -> None:
    exec(compile(program, "docs/extending.md", "exec"), {"__name__": "__main__"})


def test_the_program_that_leaves_a_run_runs_again(monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = (program for program in PROGRAMS if "run_dir" in program)
    for second in range(2):
        monkeypatch.setattr(time, "strftime", lambda form, second=second: f"{form}{second}")
        test_every_program_of_the_page_runs(program.replace("learn(50_000", "learn(4_096"))
    assert len([*Path("runs").iterdir()]) == 2


def test_the_page_shows_every_kind_of_extension() -> None:
    assert len(PROGRAMS) == 7
    for kind in registration._TABLES:
        assert f'register("{kind}")' in PAGE


def test_the_command_line_finds_what_a_module_registers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path.cwd())
    Path("my_ideas.py").write_text(PROGRAMS[0].split("agent =")[0])
    options = [
        "--algo",
        "ppo",
        "--mask",
        "positive_advantage",
        "--env",
        "CartPole-v1",
        "--total-steps",
        "256",
    ]
    quick = ["--num-envs", "4", "--rollout-steps", "32", "--run-dir", "out", "--eval-episodes", "0"]
    assert run.main([*options, *quick]) == 2
    assert "got 'positive_advantage'" in capsys.readouterr().err
    assert run.main(["--import", "my_ideas", *options, *quick]) == 0
    assert "run directory: out" in capsys.readouterr().out


def test_a_missing_module_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.py").write_text("raise ValueError('not\\ntoday')")
    for module, reason in (("no_such_module", "No module named 'no_such_module'"), ("broken", "not")):
        assert run.main(["--import", module, "--algo", "ppo"]) == 2
        assert capsys.readouterr().err == f"error: cannot import {module!r}: {reason}\n"


@pytest.mark.parametrize("algo", ["ppo", "trpo", "espo"])
def test_a_copy_of_a_built_in_function_learns_bitwise_the_same(algo: str) -> None:
    @rlkit_es.register("surrogate")
    def my_ratio(stats, advantage):  # type: ignore[no-untyped-def]
        return stats.ratio * advantage

    @rlkit_es.register("network")
    def my_mlp(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return registration.NETWORKS["mlp"](sizes, activation, output_gain, generator)

    settings = {**QUICK, "epochs": 10} if algo == "trpo" else QUICK
    agents = [
        {"ppo": rlkit_es.PPO, "trpo": rlkit_es.TRPO, "espo": rlkit_es.ESPO}[algo](
            "Pendulum-v1", surrogate=surrogate, network=network, **settings
        ).learn(512)
        for surrogate, network in (("ratio", "mlp"), ("my_ratio", "my_mlp"))
    ]
    assert same(*agents)


def test_own_functions_are_compiled_with_the_update() -> None:
    @rlkit_es.register("mask")
    def close_by(stats, advantage, dropout_threshold, share=0.5):  # type: ignore[no-untyped-def]
        return (stats.ratio - 1).abs() < share * dropout_threshold

    settings = {"mask": "close_by", "dropout_threshold": 0.002, **QUICK}
    eager, compiled = (
        rlkit_es.PPO("Pendulum-v1", **{**settings, "compile": mode}).learn(384) for mode in ("off", "on")
    )
    assert 0 < compiled.metrics["kept_fraction"] < 1
    assert compiled.metrics["kept_fraction"] == pytest.approx(eager.metrics["kept_fraction"], abs=0.02)


def test_settings_reach_own_functions() -> None:
    seen = []

    @rlkit_es.register("stop")
    def curious(stats, valid, max_kl, deviation_threshold, own=3, gamma=0.5, log_std_rate=1):  # type: ignore[no-untyped-def]
        seen.append((max_kl, deviation_threshold, own, gamma, log_std_rate))
        return torch.zeros((), dtype=torch.bool)

    rlkit_es.PPO("Pendulum-v1", stop="curious", max_kl=0.7, deviation_threshold=0.9, **QUICK).learn(128)
    assert set(seen) == {(0.7, 0.9, 3, 0.5, 1)}  # of the update alone


def test_settings_reach_a_constraint_too() -> None:
    seen = []

    @rlkit_es.register("constraint")
    def curious(stats, clip_range, own=3):  # type: ignore[no-untyped-def]
        seen.append((clip_range, own))
        return stats.kl

    rlkit_es.PPO("Pendulum-v1", constraint="curious", clip_range=0.3, **QUICK).learn(128)
    assert set(seen) == {(0.3, 3)}


def test_schedules_reach_own_functions_of_every_slot_and_kind_of_step() -> None:
    seen: dict[str, set[float]] = {}

    def note(slot: str, limit: Any) -> None:
        seen.setdefault(slot, set()).add(round(float(limit), 6))

    @rlkit_es.register("surrogate")
    def noted_surrogate(stats, advantage, max_kl):  # type: ignore[no-untyped-def]
        note("surrogate", max_kl)
        return stats.ratio * advantage

    @rlkit_es.register("mask")
    def noted_mask(stats, advantage, max_kl):  # type: ignore[no-untyped-def]
        note("mask", max_kl)
        return stats.ratio < 100

    @rlkit_es.register("stop")
    def noted_stop(stats, valid, deviation_threshold):  # type: ignore[no-untyped-def]
        note("stop", deviation_threshold)
        return (stats.ratio - 1).abs().mean() >= deviation_threshold

    @rlkit_es.register("constraint")
    def noted_constraint(stats, deviation_threshold):  # type: ignore[no-untyped-def]
        note("constraint", deviation_threshold)
        return stats.kl * deviation_threshold

    slots = {"surrogate": "noted_surrogate", "mask": "noted_mask", "mask_at": "trial"}
    small = {"num_envs": 4, "rollout_steps": 32, "max_kl_schedule": "linear"}
    rlkit_es.TRPO("Pendulum-v1", **slots, max_kl=0.08, **small).learn(256)
    slots = {"stop": "noted_stop", "constraint": "noted_constraint"}
    linear = {"deviation_threshold": 0.6, "deviation_threshold_schedule": "linear"}
    rlkit_es.PPO("Pendulum-v1", **slots, **linear, **QUICK).learn(256)
    assert seen == {
        "surrogate": {0.08, 0.04},
        "mask": {0.08, 0.04},
        "stop": {0.6, 0.3},
        "constraint": {0.6, 0.3},
    }


def test_a_network_is_fixed_by_the_seed_alone() -> None:
    @rlkit_es.register("network")
    def plain(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(sizes[0], sizes[-1])

    agents = []
    for seed in (3, 3, 4):
        torch.rand(len(agents) + 1)  # somebody else draws
        before = torch.random.get_rng_state()
        agents.append(rlkit_es.TRPO("Pendulum-v1", network="plain", seed=seed, num_envs=4, compile="off"))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert same(agents[0], agents[1])
    assert not same(agents[0], agents[2])


@pytest.mark.parametrize(
    ("kind", "function", "message"),
    [
        ("masks", lambda: None, "unknown kind 'masks'; did you mean mask?"),
        ("mask", lambda stats, advantage: advantage > 0, "needs a name: write it as a function"),
    ],
)
def test_what_cannot_be_registered_is_refused(kind: str, function: object, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        rlkit_es.register(kind)(function)


def test_names_and_arguments_are_checked_when_registering() -> None:
    def clip(stats, advantage):  # type: ignore[no-untyped-def]
        return advantage

    def lonely(stats):  # type: ignore[no-untyped-def]
        return stats.ratio

    def demanding(stats, advantage, clip_range, sharpness):  # type: ignore[no-untyped-def]
        return advantage

    def by_name(stats, *, advantage):  # type: ignore[no-untyped-def]
        return advantage > 0

    def setting_by_name(stats, advantage, *, clip_range):  # type: ignore[no-untyped-def]
        return advantage > clip_range

    with pytest.raises(UserError, match="mask by_name must take stats, advantage by position"):
        rlkit_es.register("mask")(by_name)
    rlkit_es.register("mask")(setting_by_name)
    with pytest.raises(UserError, match="surrogate clip comes with the library: choose another name"):
        rlkit_es.register("surrogate")(clip)
    with pytest.raises(UserError, match="mask lonely must take stats, advantage"):
        rlkit_es.register("mask")(lonely)
    with pytest.raises(UserError, match="takes 'sharpness', which is no setting: give it a default value"):
        rlkit_es.register("surrogate")(demanding)
    rlkit_es.register("constraint")(lonely)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [(7, r"must turn \(2, 3\) into \(2, 1\), and gives \(2, 7\)"), (None, r"\(2, 1\): mat1 and mat2")],
)
def test_a_network_of_the_wrong_size_is_refused(outputs: int | None, message: str) -> None:
    @rlkit_es.register("network")
    def wrong(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(sizes[0] if outputs else 9, outputs or 1)

    with pytest.raises(UserError, match=message):
        rlkit_es.PPO("Pendulum-v1", network="wrong", num_envs=4)


def test_a_model_with_something_unregistered_says_what_to_do() -> None:
    @rlkit_es.register("network")
    def gone(sizes, activation, output_gain, generator):  # type: ignore[no-untyped-def]
        return torch.nn.Linear(sizes[0], sizes[-1])

    path = rlkit_es.PPO("Pendulum-v1", network="gone", **QUICK).learn(128).save("model")
    assert rlkit_es.load(path).predict([0.0, 0.0, 0.0]).shape == (1,)
    del registration.NETWORKS["gone"]
    with pytest.raises(CheckpointError, match=r"network .* got 'gone'; .*registered first: --import"):
        rlkit_es.load(path)
