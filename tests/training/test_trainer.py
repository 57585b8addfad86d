from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import toy_envs  # noqa: F401  # registers its ids

from rlkit_es.errors import NonFiniteError, UserError
from rlkit_es.learners.compilation import WORTH_COMPILING_STEPS, missing_compiler
from rlkit_es.learners.estimates import Estimator
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.learners.requests import Requests
from rlkit_es.models.actor_critic import ActorCritic
from rlkit_es.runs.experiment import History
from rlkit_es.training.batches import Prepared, prepare_batch
from rlkit_es.training.callbacks import Callback, Hooks
from rlkit_es.training.config import Config
from rlkit_es.training.evaluate import Evaluation, evaluate_policy
from rlkit_es.training.memory import memory_errors_said
from rlkit_es.training.threads import threads
from rlkit_es.training.trainer import Trainer
from rlkit_es.types import Batch

SPEED = ("wall_seconds", "steps_per_second")


def small(algo: str = "ppo", **settings: object) -> Config:
    defaults = {"env": "ToyWalk-v0", "num_envs": 4, "rollout_steps": 16, "minibatch_size": 16}
    passes = {"critic_epochs": 2} if RECIPES[algo].step == "natural" else {"epochs": 2}
    return Config.for_algorithm(algo, **{**defaults, **passes, "compile": "off", **settings})


def trained(config: Config, steps: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    trainer, history = Trainer(config), History()
    trainer.train(steps, Hooks([history]))
    trainer.close()
    metrics = [{k: v for k, v in m.items() if k not in SPEED} for m in history.metrics]
    return metrics, trainer.policy.state_dict()


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize("settings", [{}, {"hidden_sizes": (256, 256)}, {"env": "HalfCheetah-v4"}])
def test_a_seed_begins_alike_whatever_threads_torch_has(settings: dict[str, Any]) -> None:
    parameters = []
    for number in (1, 2, 4):
        with threads(number):
            trainer = Trainer(small(**settings))
            assert torch.get_num_threads() == number
        parameters.append(trainer.policy.state_dict())
        trainer.close()
    for name, value in parameters[0].items():
        assert all(torch.equal(value, other[name]) for other in parameters), name


@pytest.mark.parametrize("algo", ["ppo", "trpo"])
def test_the_discount_is_on_its_way_to_that_at_the_end(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def prepare(*arguments: Any, gamma: float, **settings: Any) -> Prepared:
        seen.append(gamma)
        return prepare_batch(*arguments, gamma=gamma, **settings)

    monkeypatch.setattr("rlkit_es.training.trainer.prepare_batch", prepare)
    metrics, _ = trained(small(algo, gamma=0.9, horizon_growth=5.0), steps=256)
    assert [row["gamma"] for row in metrics] == seen
    begun = [0, *(row["env_steps"] for row in metrics)][: len(metrics)]
    assert [1 / (1 - gamma) for gamma in seen] == pytest.approx([10 + 40 * steps / 256 for steps in begun])


def test_an_evaluation_has_the_threads_that_are_set_and_leaves_those_that_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = set()

    def act(policy: ActorCritic, *arguments: Any) -> torch.Tensor:
        seen.add(torch.get_num_threads())
        return original(policy, *arguments)

    original = ActorCritic.act
    monkeypatch.setattr(ActorCritic, "act", act)
    trainer = Trainer(small(torch_threads=6))
    before = torch.get_num_threads()
    trainer.evaluate(episodes=2)
    trainer.close()
    assert (seen, torch.get_num_threads()) == ({3}, before)


@pytest.mark.parametrize(
    ("algo", "env", "backend"),
    [
        ("ppo", "HalfCheetah-v4", "envpool"),
        ("sd_espo", "CartPole-v1", "envpool"),
        ("espo", "Pendulum-v1", "gymnasium"),
        ("sd_ppo", "CartPole-v1", "gymnasium"),
        ("sd_trpo", "CartPole-v1", "envpool"),
    ],
)
def test_one_seed_fixes_everything(algo: str, env: str, backend: str) -> None:
    if backend == "envpool":
        pytest.importorskip("envpool")
    config = small(algo, env=env, backend=backend, num_envs=5, rollout_steps=32, seed=3)
    (metrics, parameters), (again, parameters_again) = (trained(config, 480) for _ in range(2))
    assert len(metrics) >= 3
    for row, row_again in zip(metrics, again, strict=True):
        assert row.keys() == row_again.keys()
        assert [k for k in row if not same(row[k], row_again[k])] == []
    assert all(torch.equal(x, parameters_again[name]) for name, x in parameters.items())
    other, other_parameters = trained(dataclasses.replace(config, seed=4), 480)
    assert other[0]["policy_loss"] != metrics[0]["policy_loss"]
    assert not any(
        torch.equal(x, other_parameters[name]) for name, x in parameters.items() if "weight" in name
    )


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize("env", ["ToyWalk-v0", "CartPole-v1", "Pendulum-v1"])
def test_metrics_are_finite_and_steps_add_up(algo: str, env: str) -> None:
    trainer, history = Trainer(small(algo, env=env)), History()
    trainer.train(300, Hooks([history]))
    assert [m["iteration"] for m in history.metrics] == list(range(1, len(history.metrics) + 1))
    steps = [m["env_steps"] for m in history.metrics]
    assert steps[-1] == trainer.progress.env_steps >= 300 > steps[-2]
    assert all(0 < b - a <= 64 for a, b in zip([0, *steps], steps, strict=False))
    for metrics in history.metrics:
        unknown_yet = {"episode_return_mean", "episode_length_mean"} if env == "Pendulum-v1" else set()
        assert {k for k, v in metrics.items() if not math.isfinite(v)} <= unknown_yet
        assert 0 < metrics["kept_fraction"] <= 1
        if RECIPES[algo].step == "natural":
            assert metrics["policy_steps"] + metrics["line_search_failed"] == 1
            assert 1 <= metrics["line_search_trials"] <= trainer.config.line_search_steps
        else:
            assert metrics["policy_steps"] >= 1
            assert metrics["stopped"] in (0, 1)
        assert metrics["critic_steps"] >= 1


def test_training_again_goes_on_with_the_schedule_run_anew() -> None:
    trainer, history = Trainer(small(learning_rate=1e-3)), History()
    trainer.train(150, Hooks([history]))
    first = len(history.metrics)
    steps = trainer.progress.env_steps
    trainer.train(150, Hooks([history]))
    assert trainer.progress.env_steps >= steps + 150
    assert history.metrics[first]["iteration"] == first + 1
    rates = [m["learning_rate"] for m in history.metrics]
    assert rates[0] == rates[first] == 1e-3
    assert sorted(rates[:first], reverse=True) == rates[:first]
    assert 0 < rates[first - 1] < 1e-3


def test_a_constant_learning_rate() -> None:
    trainer, history = Trainer(small(learning_rate_schedule="constant")), History()
    trainer.train(200, Hooks([history]))
    assert {m["learning_rate"] for m in history.metrics} == {3e-4}


def test_an_adaptive_learning_rate_moves_within_its_bounds() -> None:
    trainer, history = Trainer(small("ppo_adaptive", env="CartPole-v1")), History()
    trainer.train(400, Hooks([history]))
    rates = [m["learning_rate"] for m in history.metrics]
    assert len(set(rates)) > 1
    assert all(0.99e-5 <= rate <= 1.01e-2 for rate in rates)


@pytest.mark.parametrize("schedule", ["linear", "constant"])
@pytest.mark.parametrize("algo", ["espo", "trpo"])
def test_the_learner_is_told_how_much_of_training_is_left(
    algo: str, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, history = Trainer(small(algo, learning_rate_schedule=schedule)), History()
    updating, told = trainer.learner.updating, []

    def listening(
        batch: Batch, learning_rate: float, remaining: float, estimator: Estimator
    ) -> Requests[dict[str, float]]:
        told.append((learning_rate, remaining))
        return updating(batch, learning_rate, remaining, estimator)

    monkeypatch.setattr(trainer.learner, "updating", listening)
    trainer.train(200, Hooks([history]))
    first = len(told)
    trainer.train(100, Hooks([history]))
    begins = [0.0, *(m["env_steps"] for m in history.metrics[:-1])]
    second = begins[first]
    expected = [1 - steps / 200 for steps in begins[:first]]
    expected += [1 - (steps - second) / 100 for steps in begins[first:]]
    assert [remaining for _, remaining in told] == pytest.approx(expected)
    assert told[0][1] == told[first][1] == 1
    full_rate = trainer.config.learning_rate
    for learning_rate, remaining in told:
        assert 0 < remaining <= 1
        assert learning_rate == pytest.approx(full_rate * (remaining if schedule == "linear" else 1))


@pytest.mark.parametrize("epochs", [1, 2])
def test_advantages_are_recomputed_from_the_second_epoch_on(epochs: int) -> None:
    passes = {"epochs": epochs, "critic_epochs": epochs}
    (once, parameters), (anew, others) = (
        trained(small(recompute_advantages=recompute, **passes), 32) for recompute in (False, True)
    )
    assert len(once) == 1
    assert (once[0]["policy_loss"] == anew[0]["policy_loss"]) is (epochs == 1)
    assert all(torch.equal(x, others[name]) for name, x in parameters.items()) is (epochs == 1)


def test_an_evaluation_sees_the_metrics_of_its_own_iteration() -> None:
    seen: list[float] = []

    class Watches(Callback):
        def on_evaluation(self, trainer: Trainer, evaluation: Evaluation) -> None:
            seen.append(trainer.metrics["env_steps"] - evaluation.env_steps)

    Trainer(small(eval_every=50, eval_episodes=1)).train(200, Hooks(callbacks=[Watches()]))
    assert len(seen) >= 3
    assert set(seen) == {0}


@pytest.mark.skipif(missing_compiler() is not None, reason=f"nothing to compile with: {missing_compiler()}")
def test_what_was_compiled_once_is_said_to_be_so_in_later_stages() -> None:
    trainer = Trainer(small(compile="auto"))
    assert not trainer.compiles(trainer.config)[0] or trainer.config.total_steps >= WORTH_COMPILING_STEPS
    trainer.progress.env_steps = WORTH_COMPILING_STEPS
    trainer.begin_stage(100)
    assert trainer.compiles(trainer.config)[0]


def test_a_shrinking_threshold_stops_sooner_from_the_second_iteration_on() -> None:
    settings = {"env": "CartPole-v1", "learning_rate": 3e-3, "learning_rate_schedule": "constant"}
    constant, shrinking = (
        trained(
            small(
                "espo", **settings, epochs=20, deviation_threshold=0.2, deviation_threshold_schedule=schedule
            ),
            600,
        )[0]
        for schedule in ("constant", "linear")
    )
    assert shrinking[0] == pytest.approx(constant[0], rel=0, abs=0, nan_ok=True)
    half = len(shrinking) // 2
    assert sum(m["policy_steps"] for m in shrinking[half:]) < sum(m["policy_steps"] for m in constant[half:])


def test_one_threshold_parts_the_samples_in_the_mask_and_in_the_diagnostics() -> None:
    settings = {"env": "CartPole-v1", "learning_rate": 3e-3, "learning_rate_schedule": "constant"}
    for threshold in (0.01, 0.5, math.inf):
        rows, _ = trained(small("sd_ppo", **settings, dropout_threshold=threshold), 200)
        for row in rows:
            outside = max(row["ratio_max"] - 1, 1 - row["ratio_min"]) >= threshold
            within, everything = row["surrogate_variance_within"], row["surrogate_variance"]
            assert outside or within == everything
            assert within <= row["surrogate_variance_bound"] * (1 + 1e-5)
            assert row["kept_fraction"] < 1 or threshold > 0.01
    assert row["kept_fraction"] == 1
    assert math.isinf(row["surrogate_variance_bound"])


@pytest.mark.parametrize("env", ["ToyWalk-v0", "CartPole-v1", "ToyBadge-v0"])
def test_the_normaliser_counts_the_steps_and_nothing_else(env: str) -> None:
    trainer = Trainer(small(env=env))
    for _ in range(3):
        trainer.train(64)
        assert int(trainer.policy.normalizer.seen) == trainer.progress.env_steps
    rows = trainer.progress.iteration * trainer.config.batch_size
    if env == "ToyWalk-v0":
        assert trainer.progress.env_steps < rows


def test_the_normaliser_holds_the_statistics_of_the_valid_rows() -> None:
    config = small()
    trainer, twin = Trainer(config), Trainer(config)
    rollout = twin.begin_segment().collect(twin.policy)
    trainer.train(1)
    assert not rollout.valid.all()
    rows = rollout.observation[rollout.valid]
    normalizer = trainer.policy.normalizer
    torch.testing.assert_close(normalizer.mean, rows.mean(0))
    torch.testing.assert_close(normalizer.variance, rows.var(0, correction=0))


def test_the_reward_scaler_counts_the_steps_and_nothing_else() -> None:
    trainer = Trainer(small())
    trainer.train(200)
    assert int(trainer.reward_scaler.seen) == trainer.progress.env_steps


@pytest.mark.parametrize("deterministic", [True, False])
def test_evaluation_leaves_the_policy_and_training_as_they_are(deterministic: bool) -> None:
    trainer, undisturbed = Trainer(small()), Trainer(small())
    trainer.train(100)
    undisturbed.train(100)
    before = {name: x.clone() for name, x in trainer.policy.state_dict().items()}
    evaluate_policy(trainer.policy, trainer.config, trainer.spaces, episodes=7, deterministic=deterministic)
    assert all(torch.equal(x, before[name]) for name, x in trainer.policy.state_dict().items())
    trainer.train(100)
    undisturbed.train(100)
    for name, x in undisturbed.policy.state_dict().items():
        assert torch.equal(x, trainer.policy.state_dict()[name])


@pytest.mark.parametrize("algo", RECIPES)
@pytest.mark.parametrize("rollout_steps", [1, 2])
def test_rollouts_with_little_or_nothing_to_learn_from(algo: str, rollout_steps: int) -> None:
    # Episodes of one step under next-step autoreset: every second row of every environment is a reset.
    config = small(algo, env="ToyOneStep-v0", num_envs=2, rollout_steps=rollout_steps, minibatch_size=2)
    trainer = Trainer(config)
    trainer.train(8)
    assert trainer.progress.env_steps == 8
    assert all(x.isfinite().all() for x in trainer.policy.parameters())


def test_environments_in_processes_train_the_same_policy() -> None:
    settings = {"env": "CartPole-v1", "num_envs": 2, "env_groups": 1}
    metrics, parameters = trained(small(**settings, backend="gymnasium"), 64)
    metrics_async, parameters_async = trained(small(**settings, backend="gymnasium-async"), 64)
    assert metrics_async == metrics
    assert all(torch.equal(x, parameters_async[name]) for name, x in parameters.items())


def test_one_environment_and_minibatches_of_one() -> None:
    trainer = Trainer(small(env="CartPole-v1", num_envs=1, rollout_steps=8, minibatch_size=1))
    trainer.train(64)
    assert all(x.isfinite().all() for x in trainer.policy.parameters())


def test_a_non_finite_environment_names_the_iteration_and_itself() -> None:
    trainer = Trainer(small(env="ToyNaN-v0"))
    with pytest.raises(NonFiniteError, match=r"iteration 1: environment 0 .*observation") as raised:
        trainer.train(100)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("device", ["cuda:99", "no such device", "meta", "xla"])
def test_an_unusable_device_is_refused_with_the_way_out(device: str) -> None:
    with pytest.raises(UserError, match=r"device .*--device cpu") as refused:
        Trainer(small(device=device))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_networks_that_do_not_fit_into_memory_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"does not fit into memory: lower .*hidden_sizes$"):
        Trainer(small(hidden_sizes=(1_000_000, 1_000_000)))


def test_of_several_seeds_it_is_said_that_several_do_not_fit() -> None:
    with pytest.raises(UserError, match=r"^3 seeds do not fit into memory"), memory_errors_said(3):
        Trainer(small(hidden_sizes=(1_000_000, 1_000_000)))


def test_auto_is_the_cpu() -> None:
    assert Trainer(small()).device == torch.device("cpu")


def test_training_sets_the_threads_and_nothing_else_does() -> None:
    before = torch.get_num_threads()
    try:
        trainer = Trainer(small(torch_threads=2))
        assert torch.get_num_threads() == before
        trainer.train(1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
