"""Several seeds updated together are what each is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from update_examples import BOX, DISCRETE, make_batch, make_config_for, make_policy, parameters_of

from rlkit_es.errors import NonFiniteError, UserError
from rlkit_es.learners import slots
from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.learner import Learner, make_learner
from rlkit_es.learners.lockstep import Lockstep
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.learners.requests import Requests, Turn, carried_out
from rlkit_es.types import ActionSpec, Batch, PolicyStats

SEEDS = 3
RATE = 3e-3
Metrics = list[dict[str, float]]


class Seed:
    """One seed's policy, which makes two updates on batches that the seed alone has."""

    def __init__(
        self, algo: str, config: UpdateConfig, seed: int, action: ActionSpec = BOX, **settings: Any
    ) -> None:
        self.policy = make_policy(action, seed)
        self.learner: Learner = make_learner(
            algo, self.policy, config, torch.Generator().manual_seed(seed), **settings
        )
        # Other counts of valid samples, and so of minibatches.
        self.batches = [self.batch(seed, update) for update in range(2)]

    def batch(self, seed: int, update: int) -> Batch:
        return make_batch(self.policy, seed=10 * update + seed, valid=(0.9, 0.5, 0.7)[seed])

    def updates(self, first_iteration: int = 1) -> Requests[Metrics]:
        metrics = []
        for iteration, batch in enumerate(self.batches, start=first_iteration):
            yield Turn(iteration)
            metrics.append((yield from self.learner.updating(batch, RATE, 1.0)))
        return metrics

    @property
    def state(self) -> dict[str, Tensor]:
        return {"parameters": parameters_of(self.policy), **self.learner.state_tensors()}


def seeds_of(algo: str, action: ActionSpec = BOX, compiled: bool = False, **changes: Any) -> list[Seed]:
    settings = {"watch_stop": changes.pop("watch_stop", True)}
    config = make_config_for(algo, **changes)
    seeds = [Seed(algo, config, seed, action, **settings) for seed in range(SEEDS)]
    if compiled:
        for seed in seeds:
            seed.learner.compile()
    return seeds


def require_equal_to_alone(together: list[Seed], alone: list[Seed]) -> list[Metrics]:
    """Both are fresh, and alike; returns the metrics of each seed."""
    metrics = Lockstep([seed.updates() for seed in together]).run()
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        expected = carried_out(other.updates())
        for row, row_alone in zip(metrics[number], expected, strict=True):
            assert row == pytest.approx(row_alone, rel=1e-4, abs=1e-5)
            for count in ("policy_steps", "critic_steps"):
                assert row[count] == row_alone[count]
        for name, value in one.state.items():
            torch.testing.assert_close(value, other.state[name], rtol=1e-5, atol=1e-5)
    return [metrics[number] for number in range(len(together))]


@pytest.mark.parametrize("watch_stop", [True, False])
@pytest.mark.parametrize("algo", RECIPES)
def test_every_recipe_updates_each_seed_as_if_it_were_alone(algo: str, watch_stop: bool) -> None:
    both = (seeds_of(algo, watch_stop=watch_stop) for _ in range(2))
    require_equal_to_alone(*both)


@pytest.mark.parametrize("algo", ["sd_ppo", "trpo"])
def test_with_discrete_actions_too(algo: str) -> None:
    require_equal_to_alone(*(seeds_of(algo, DISCRETE) for _ in range(2)))


@pytest.mark.parametrize("stop_when", ["after", "before"])
@pytest.mark.parametrize("critic_epochs", [None, 2, 5])
@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_seeds_stop_each_where_it_would_stop_alone(
    stop_when: str, critic_epochs: int | None, statistic: str
) -> None:
    changes = {
        "stop_when": stop_when,
        "critic_epochs": critic_epochs,
        "epochs": 4,
        "deviation_threshold": 0.1,
        "deviation_statistic": statistic,
    }
    metrics = require_equal_to_alone(*(seeds_of("espo", **changes) for _ in range(2)))
    steps = {row["policy_steps"] for of_seed in metrics for row in of_seed}
    assert len(steps) > 2  # or nothing was shown
    assert any(row["stopped"] for of_seed in metrics for row in of_seed)


@pytest.mark.parametrize(
    "changes",
    [
        {"mask_at": "trial"},
        {"mask_value": True},
        {"advantage_normalization": "batch"},
        {"common_gradient": 0.1},
    ],
    ids=str,
)
def test_minibatches_of_each_kind(changes: dict[str, Any]) -> None:
    require_equal_to_alone(*(seeds_of("sd_espo", **changes) for _ in range(2)))


@pytest.mark.skipif(missing_compiler() is not None, reason="no C++ compiler")
def test_compiled() -> None:
    changes = {"critic_epochs": None, "epochs": 3, "deviation_threshold": 0.1, "common_gradient": 0.1}
    require_equal_to_alone(seeds_of("espo", compiled=True, **changes), seeds_of("espo", **changes))


@pytest.mark.parametrize("algo", ["sd_espo", "trpo"])
def test_a_seed_is_the_same_to_the_bit_whoever_is_there(algo: str) -> None:
    changes = {"deviation_threshold": 0.04} if algo == "sd_espo" else {}
    once, again = (seeds_of(algo, **changes) for _ in range(2))
    Lockstep([seed.updates() for seed in once]).run()
    # The second is an iteration ahead, and the third has ended already.
    absent: Requests[Metrics] = (request for request in ())  # type: ignore[assignment]
    Lockstep([again[0].updates(), again[1].updates(2), absent]).run()
    for one, other in zip(once[:2], again[:2], strict=True):
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())


def test_a_seed_that_fails_leaves_the_others_as_they_would_be() -> None:
    well, ill = (seeds_of("ppo") for _ in range(2))
    ill[1].batches[0].advantage.fill_(torch.nan)
    Lockstep([seed.updates() for seed in well]).run()
    lockstep = Lockstep([seed.updates() for seed in ill])
    assert list(lockstep.run()) == [0, 2]
    assert list(lockstep.failures) == [1]
    assert isinstance(lockstep.failures[1], NonFiniteError)
    for number in (0, 2):
        assert torch.equal(parameters_of(well[number].policy), parameters_of(ill[number].policy))


def test_a_function_that_cannot_be_vmapped_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def branching(stats: PolicyStats, advantage: Tensor) -> Tensor:
        return advantage > 0 if stats.kl.sum() > 0 else advantage < 1

    monkeypatch.setitem(slots.MASKS, "right_only", branching)
    with pytest.raises(UserError, match=r"cannot be vmapped over seeds .*one by one$"):
        Lockstep([seed.updates() for seed in seeds_of("sd_ppo", mask="right_only")]).run()
