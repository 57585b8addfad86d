"""Peers side by side: the rule, the file that goes on, the table, and that every contender trains."""

import dataclasses
import os

import contenders
import peers
import pytest
from contenders import CONTENDERS, Contender, equal, processes
from contenders.race import Race, Result, Watch
from contenders.records import Record, append, read
from contenders.summary import summarize

from rlkit_es.training.config import Config

RACE = Race("Hopper-v4", seed=0, threshold=100.0, total_steps=4096, limit_seconds=60.0)
RECORD = Record(
    contender="ppo",
    env="Hopper-v4",
    seed=0,
    threshold=2000.0,
    total_steps=1_000_000,
    limit_seconds=600,
    jobs=1,
    reached=True,
    seconds=40.0,
    cpu_seconds=50.0,
    env_steps=300_000,
    best_return=2001.0,
    date="2026-01-01",
    revision="abc",
    machine={"CPU": "a kind", "torch": "2.13"},
)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_the_threshold_is_reached_by_the_mean_of_at_least_ten_episodes(clock):
    watch = Watch(RACE, clock)
    assert not watch.iteration_ended(100, [500.0] * 9)
    clock.now += 5
    assert not watch.iteration_ended(200, [50.0, 130.0] * 5)
    clock.now += 5
    assert watch.iteration_ended(300, [70.0, 130.0] * 5)
    result = watch.result
    assert dataclasses.replace(result, cpu_seconds=0.0) == Result(True, 10.0, 0.0, 300, 100.0)
    clock.now += 5
    assert watch.iteration_ended(400, [999.0] * 10)
    assert watch.result == result


def test_a_race_ends_at_its_steps_and_after_its_seconds(clock):
    watch = Watch(RACE, clock)
    assert not watch.iteration_ended(4095, [])
    assert watch.iteration_ended(4096, [99.0] * 10)
    assert (watch.result.reached, watch.result.best_return) == (False, 99.0)

    watch = Watch(RACE, clock)
    clock.now += 60.5
    assert watch.iteration_ended(10, [200.0] * 10)
    assert (watch.result.reached, watch.result.seconds) == (False, 60.5)

    watch = Watch(RACE, clock)
    with pytest.raises(RuntimeError, match="before the race was over"):
        _ = watch.result
    assert watch.iteration_ended(5000, [])
    assert watch.result.best_return is None


# What processes of their own run in these tests.


def reaches(race: Race, watch: Watch) -> None:
    watch.iteration_ended(10 * (race.seed + 1), [race.threshold] * 10)


def raises(race: Race, watch: Watch) -> None:
    raise ValueError("no such thing\nand more")


def dies(race: Race, watch: Watch) -> None:
    os._exit(3)


@pytest.fixture
def measure(tmp_path, monkeypatch):
    for function in (reaches, raises, dies):
        name = function.__name__
        monkeypatch.setitem(CONTENDERS, name, Contender(f"the one that {name}", f"test_peers:{name}"))
    monkeypatch.setitem(peers.THRESHOLDS, "Toy-v0", 7.0)

    def call(*arguments: str) -> int:
        return peers.main(["--envs", "Toy-v0", "--output", str(tmp_path / "out"), *arguments])

    return call


def test_a_measurement_goes_on_stores_each_run_and_reports_crashes(measure, tmp_path, capsys):
    stored = tmp_path / "out" / "runs.jsonl"
    before = [
        dataclasses.replace(RECORD, contender=contender, env="Toy-v0", threshold=7.0, seed=seed, jobs=3)
        for contender, seed in (("reaches", 0), ("raises", 0), ("dies", 1))
    ]
    for record in before:
        append(stored, record)
    chosen = ("--contenders", "reaches", "raises", "dies", "--jobs", "3")
    assert measure(*chosen, "--seeds", "2") == 1
    said = capsys.readouterr()
    assert sorted(said.err.splitlines()) == [
        "error: dies Toy-v0 seed 0 crashed: its process ended with exit code 3",
        "error: raises Toy-v0 seed 1 crashed: ValueError: no such thing",
    ]
    assert "/3 reaches Toy-v0 seed 1: 7 reached after" in said.out
    *same, new = read(stored)
    assert same == before
    assert (new.key, new.env_steps, new.reached, new.jobs) == (("reaches", "Toy-v0", 1), 20, True, 3)
    assert "torch" in new.machine
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "| the one that reaches | 2 of 2 |" in summary

    # Nothing is left to run.
    assert measure("--contenders", "reaches", "--jobs", "3", "--seeds", "2") == 0
    (tmp_path / "out" / "summary.md").unlink()
    assert measure("--report-only") == 0
    assert "reached after" not in capsys.readouterr().out
    assert len(read(stored)) == 4
    assert (tmp_path / "out" / "summary.md").read_text() == summary

    assert measure("--contenders", "reaches", "--total-steps", "99", "--jobs", "2") == 2
    assert capsys.readouterr().err == (
        "error: what is there was run with another total_steps, jobs: choose another --output\n"
    )


def test_a_seed_of_everything_comes_before_the_next_and_contenders_take_turns():
    arguments = ["--envs", "Hopper-v4", "Walker2d-v4", "--contenders", "ppo", "sb3-ppo-zoo", "--seeds", "2"]
    options = peers._parser().parse_args(arguments)
    runs = peers.plan_runs(options, {("ppo", "Hopper-v4", 0)})
    assert [(run.race.seed, run.race.env[0], run.key) for run in runs] == [
        (0, "H", "sb3-ppo-zoo"),
        (0, "W", "ppo"),
        (0, "W", "sb3-ppo-zoo"),
        (1, "H", "ppo"),
        (1, "H", "sb3-ppo-zoo"),
        (1, "W", "ppo"),
        (1, "W", "sb3-ppo-zoo"),
    ]
    assert runs[1].race == Race("Walker2d-v4", 0, 2500.0, 1_000_000, 600)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--envs", "Ant-v4"), "argument --envs: invalid choice: 'Ant-v4'"),
        (("--contenders", "sb3"), "argument --contenders: invalid choice: 'sb3'"),
        (("--seeds", "0"), "argument --seeds: must be a whole number of at least 1"),
        (("--limit-seconds", "x"), "argument --limit-seconds: must be a whole number of at least 1"),
        (("--report-only",), "no finished run in --output"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments, message, tmp_path, capsys):
    try:
        code = peers.main([*arguments, "--output", str(tmp_path)])
    except SystemExit as refusal:
        code = refusal.code
    assert code == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert not said.out


def test_a_library_that_is_missing_is_named_before_anything_runs(measure, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(CONTENDERS, "tianshou-ppo-equal", Contender("-", "-:-", ("no_such_package",)))
    assert measure("--contenders", "reaches", "tianshou-ppo-equal") == 2
    assert capsys.readouterr().err == "error: no_such_package missing: pip install 'rlkit_es[peers]'\n"
    assert not (tmp_path / "out").exists()
    assert contenders.missing_packages([CONTENDERS["ppo"], CONTENDERS["reaches"]]) == []


def test_a_line_that_is_no_record_is_named(tmp_path, capsys):
    path = tmp_path / "runs.jsonl"
    append(path, RECORD)
    with path.open("a") as file:
        file.write('{"contender": "pp')
    assert peers.main(["--report-only", "--output", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "error: line 2 of runs.jsonl is no record of a run: remove it\n"


def test_runs_that_did_not_reach_it_count_as_infinite():
    def runs(contender: str, *seconds: float | None) -> list[Record]:
        return [
            dataclasses.replace(
                RECORD,
                contender=contender,
                seed=seed,
                reached=value is not None,
                seconds=600.0 if value is None else value,
                best_return=None if value is None else 2001.0,
            )
            for seed, value in enumerate(seconds)
        ]

    records = [
        *runs("sb3-ppo-zoo", None, None, 100.0),
        *runs("ppo", 40.0, 30.0, 50.0),
        *runs("trpo", 90.0, 60.0, 80.0),
        *runs("sb3-ppo-equal", 100.0, None, 60.0),
        *runs("sb3-trpo-zoo", None),
        *runs("removed-since", 1.0),
    ]
    summary = summarize(records)
    limit = "not within 1,000,000 steps and 600 s"
    assert "## Hopper-v4, a return of 2,000" in summary
    rows = [line for line in summary.splitlines() if line.startswith(("| sb3", "| rlkit"))]
    assert rows == [
        "| rlkit_es ppo | 3 of 3 | 40 (30 - 50) | 300,000 | 50 | 1.00 | 2,001 |",
        "| rlkit_es trpo | 3 of 3 | 80 (60 - 90) | 300,000 | 50 | 2.00 | 2,001 |",
        f"| sb3-ppo (zoo) | 1 of 3; 2 {limit} | > limit (100 - > limit) | > limit | > limit | - | 2,001 |",
        f"| sb3-ppo (equal) | 2 of 3; 1 {limit} | 100 (60 - > limit) | 300,000 | 50 | 2.50 | 2,001 |",
        f"| sb3-trpo (zoo) | 0 of 1; 1 {limit} | > limit | > limit | > limit | - | - |",
    ]
    assert "- CPU: a kind\n- torch: 2.13\n" in summary
    assert "removed" not in summary


def _skip_without(key: str) -> None:
    for package in contenders.missing_packages([CONTENDERS[key]]):
        pytest.skip(f"{package} is not installed")


# Of these, the next test sees an iteration or two.
SLOW = ("sb3-ppo-zoo", "tianshou-ppo-example", "cleanrl-ppo")


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow) if key in SLOW else key for key in CONTENDERS]
)
def test_every_contender_trains_to_its_last_step(key):
    _skip_without(key)
    result = processes.race_once(CONTENDERS[key], dataclasses.replace(RACE, threshold=1e9))
    assert not result.reached
    # Ours does not count what a reset leaves of its 2048 rows.
    assert 4096 <= result.env_steps < 4096 + 2048
    assert result.seconds > 0
    assert 0 < result.best_return < 300


@pytest.mark.parametrize(
    "key", ["ppo", "ppo-equal", "trpo-equal", "sb3-ppo-zoo", "tianshou-ppo-example", "cleanrl-ppo"]
)
def test_every_kind_of_contender_stops_at_the_threshold(key):
    _skip_without(key)
    result = processes.race_once(CONTENDERS[key], dataclasses.replace(RACE, threshold=0.0, total_steps=8192))
    assert result.reached
    assert result.env_steps < 4096


def test_equal_settings_are_our_defaults_but_for_what_others_cannot_be_set_to():
    config, ours = equal.ppo_config(RACE), Config.for_algorithm("ppo", env=RACE.env)
    assert set(config.rates(config.learning_rate)) == {ours.learning_rate}
    changed = {name for name, value in vars(ours).items() if getattr(config, name) != value}
    horizon = {"num_envs", "rollout_steps", "horizon_growth", "gae_lambda"}
    assert changed == horizon | {"critic_learning_rate", "recompute_advantages"}
    config, ours = equal.trpo_config(RACE), Config.for_algorithm("trpo", env=RACE.env)
    changed = {name for name, value in vars(ours).items() if getattr(config, name) != value}
    assert changed == horizon | {"max_kl", "max_kl_schedule"}


def test_equal_settings_arrive_in_stable_baselines3():
    _skip_without("sb3-ppo-equal")
    from contenders import sb3

    config = equal.ppo_config(RACE)
    model = sb3.make_equal_ppo(RACE)
    assert (model.n_envs, model.n_steps) == (config.num_envs, config.rollout_steps)
    assert (model.batch_size, model.n_epochs) == (config.minibatch_size, config.epochs)
    assert (model.gamma, model.gae_lambda) == (config.gamma, config.gae_lambda)
    assert model.clip_range(1.0) == config.clip_range
    assert (model.vf_coef, model.ent_coef) == (config.value_coefficient, config.entropy_coefficient)
    assert (model.max_grad_norm, model.normalize_advantage) == (config.max_grad_norm, True)
    assert [model.lr_schedule(remaining) for remaining in (1.0, 0.5)] == [
        *(config.learning_rate, config.learning_rate / 2),
    ]
    assert model.policy.log_std.tolist() == [config.log_std_init] * 3
    assert str(model.policy.mlp_extractor.policy_net) == str(model.policy.mlp_extractor.value_net)
    assert [tuple(p.shape) for p in model.policy.mlp_extractor.policy_net.parameters()][::2] == [
        (64, 11),
        (64, 64),
    ]
    assert "Tanh" in str(model.policy.mlp_extractor.policy_net)
    assert model.policy.optimizer.param_groups[0]["eps"] == config.adam_epsilon
    envs = model.get_vec_normalize_env()
    assert (envs.norm_obs, envs.norm_reward, envs.clip_obs, envs.clip_reward) == (True, True, 10.0, 10.0)
    envs.close()

    config = equal.trpo_config(RACE)
    model = sb3.make_equal_trpo(RACE)
    assert (model.n_envs, model.n_steps) == (config.num_envs, config.rollout_steps)
    assert (model.batch_size, model.n_critic_updates) == (config.minibatch_size, config.critic_epochs)
    assert (model.target_kl, model.cg_max_steps) == (config.max_kl / 3, config.cg_iterations)  # a mean over 3
    assert model.cg_damping == config.cg_damping
    assert model.line_search_max_iter == config.line_search_steps
    assert model.line_search_shrinking_factor == config.line_search_shrink
    assert (model.sub_sampling_factor, model.lr_schedule(1.0)) == (1, config.learning_rate)
    assert model.policy.log_std.tolist() == [config.log_std_init] * 3
    model.get_env().close()


def test_the_zoos_settings_arrive():
    _skip_without("sb3-trpo-zoo")
    from contenders import sb3, zoo
    from torch import nn

    model = sb3.make_zoo_model(sb3.PPO, zoo.ZOO_PPO["Hopper-v4"], RACE)
    assert (model.n_envs, model.n_steps, model.batch_size, model.n_epochs) == (1, 512, 32, 5)
    assert (model.learning_rate, model.gamma, model.policy.log_std.tolist()) == (9.80828e-05, 0.999, [-2] * 3)
    assert isinstance(model.policy.mlp_extractor.policy_net[1], nn.ReLU)
    assert model.get_vec_normalize_env().gamma == 0.999
    model.get_env().close()
    model = sb3.make_zoo_model(sb3.TRPO, zoo.ZOO_TRPO["HalfCheetah-v4"], RACE)
    assert (model.n_envs, model.n_steps, model.batch_size, model.target_kl) == (2, 1024, 128, 0.04)
    assert (model.cg_max_steps, model.n_critic_updates) == (25, 20)
    model.get_env().close()
    assert peers.THRESHOLDS.keys() == zoo.ZOO_PPO.keys() == zoo.ZOO_TRPO.keys()


def test_equal_settings_arrive_in_tianshou():
    _skip_without("tianshou-ppo-equal")
    from contenders import tianshou_

    config = equal.ppo_config(RACE)
    settings = tianshou_.equal_settings(RACE)
    assert (settings.num_envs, settings.batch_size) == (config.num_envs, config.batch_size)
    assert (settings.minibatch_size, settings.epochs) == (config.minibatch_size, config.epochs)
    envs = tianshou_.make_envs(settings, RACE)
    algorithm = tianshou_.make_algorithm(settings, RACE, envs)
    assert len(envs) == config.num_envs
    assert (algorithm.gamma, algorithm.gae_lambda) == (config.gamma, config.gae_lambda)
    assert algorithm.eps_clip == config.clip_range
    assert (algorithm.vf_coef, algorithm.ent_coef, algorithm.optim._max_grad_norm) == (0.5, 0.0, 0.5)
    assert (algorithm.return_scaling, algorithm.value_clip) == (True, False)
    assert (algorithm.advantage_normalization, algorithm.recompute_adv) == (True, config.recompute_advantages)
    assert algorithm.policy.actor.sigma_param.flatten().tolist() == [config.log_std_init] * 3
    assert "Tanh" in str(algorithm.policy.actor)
    group = algorithm.optim._optim.param_groups[0]
    assert (group["lr"], group["eps"]) == (config.learning_rate, config.adam_epsilon)
    (schedule,) = algorithm.lr_schedulers
    assert schedule.lr_lambdas[0](1) == 0.5  # 2 updates in 4096 steps
    envs.close()
