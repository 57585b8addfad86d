"""What cannot have an effect is refused in one line that says what has."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from update_examples import (
    ADAM,
    NATURAL,
    make_config_for,
    make_policy,
    parameters_of,
    update_defaults,
)

from rlkit_es.errors import UserError
from rlkit_es.learners.config import UpdateConfig
from rlkit_es.learners.learner import make_learner
from rlkit_es.learners.recipes import fill_slots, find_recipe
from rlkit_es.learners.slots import CONSTRAINTS, MASKS, STOPS

DEFAULTS = {field.name: field.default for field in dataclasses.fields(UpdateConfig)}
SCHEDULE = "deviation_threshold_schedule"
ONLY_ADAM: dict[str, Any] = {
    "epochs": 3,
    "stop_when": "before",
    "entropy_coefficient": 0.01,
    "log_std_learning_rate": 1e-3,
    "recompute_advantages": True,
    "common_gradient": 0.1,
    SCHEDULE: "linear",
}
ONLY_NATURAL: dict[str, Any] = {
    "max_kl_schedule": "linear",
    "cg_iterations": 3,
    "cg_damping": 0.2,
    "line_search_steps": 3,
    "line_search_shrink": 0.5,
    "fisher_fraction": 0.5,
}
ONLY_CONSTRAINED: dict[str, Any] = {
    "constraint_limit": 0.2,
    "dual_learning_rate": 0.0,
    "initial_penalty": 0.0,
}

SOME_STOPS = [name for name in STOPS if name != "never"]
SOME_MASKS = [name for name in MASKS if name != "keep_all"]

# (recipe, settings, what the message names first, what it offers)
REFUSED = [
    *((algo, {"stop": stop}, f"stop {stop}", "stop never") for algo in NATURAL for stop in SOME_STOPS),
    *(
        (algo, {"constraint": name}, f"constraint {name}", "max_kl")
        for algo in NATURAL
        for name in CONSTRAINTS
    ),
    *(
        (algo, {"mask": mask, "mask_at": "current"}, f"mask {mask}", "mask_at trial")
        for algo in NATURAL
        for mask in SOME_MASKS
    ),
    ("sd_trpo", {"mask_at": "current"}, "mask kl_within", "mask_at trial"),
    *(
        (algo, {"learning_rate_schedule": "adaptive_kl"}, "learning_rate_schedule adaptive_kl", "linear")
        for algo in NATURAL
    ),
    *((algo, {"critic_epochs": None}, "critic_epochs None", "number of epochs") for algo in NATURAL),
    *((algo, {"max_kl": math.inf}, "max_kl inf", "0.1") for algo in NATURAL),
    *((algo, {name: value}, name, "max_kl") for algo in NATURAL for name, value in ONLY_ADAM.items()),
    *((algo, {name: value}, name, "epochs") for algo in ADAM for name, value in ONLY_NATURAL.items()),
    *(
        (algo, {name: value}, name, "constraint")
        for algo in ("ppo", "sd_espo", "spo", "ppo_adaptive", "trpo")
        for name, value in ONLY_CONSTRAINED.items()
    ),
    *((algo, {"mask_at": "trial"}, "mask_at trial", "--mask") for algo in ("ppo", "espo", "spo")),
    *((algo, {"mask_value": True}, "mask_value", "--mask") for algo in ("ppo", "espo", "trpo")),
    *((algo, {SCHEDULE: "linear"}, SCHEDULE, "ratio_deviation") for algo in ("ppo", "sd_ppo", "r2vpo")),
    *(
        ("r2vpo", {"constraint": "none", name: value}, name, "constraint")
        for name, value in ONLY_CONSTRAINED.items()
    ),
]


def config_for(algo: str, changes: dict[str, Any]) -> UpdateConfig:
    return UpdateConfig(**(update_defaults(algo) | changes))


@pytest.mark.parametrize(("algo", "changes", "named", "offered"), REFUSED)
def test_what_cannot_apply_is_refused_in_one_line_that_says_what_does(
    algo: str, changes: dict[str, Any], named: str, offered: str
) -> None:
    with pytest.raises(UserError) as caught:
        fill_slots(find_recipe(algo), config_for(algo, changes))
    message = str(caught.value)
    assert message.startswith(f"{named} ")
    assert offered in message.removeprefix(named)
    assert "\n" not in message


@pytest.mark.parametrize(("algo", "changes", "named", "offered"), REFUSED[::4])
def test_no_learner_is_made_and_the_policy_is_left_alone(
    algo: str, changes: dict[str, Any], named: str, offered: str
) -> None:
    policy = make_policy()
    before = parameters_of(policy)
    with pytest.raises(UserError, match=rf"^{named} "):
        make_learner(algo, policy, config_for(algo, changes), torch.Generator())
    assert torch.equal(parameters_of(policy), before)
    assert all(parameter.requires_grad for parameter in policy.parameters())


@pytest.mark.parametrize("algo", [*ADAM, *NATURAL])
def test_every_default_applies_also_where_it_is_written_out(algo: str) -> None:
    defaults = update_defaults(algo)
    for name, value in (DEFAULTS | defaults).items():
        fill_slots(find_recipe(algo), UpdateConfig(**(defaults | {name: value})))


ACCEPTED = [
    *((algo, {name: value}) for algo in ("espo", "sd_espo") for name, value in ONLY_ADAM.items()),
    *((algo, {name: value}) for algo in ADAM for name, value in ONLY_ADAM.items() if name != SCHEDULE),
    *((algo, {name: value}) for algo in NATURAL for name, value in ONLY_NATURAL.items()),
    *(("r2vpo", {name: value}) for name, value in ONLY_CONSTRAINED.items()),
    *(("ppo", {"constraint": "kl", name: value}) for name, value in ONLY_CONSTRAINED.items()),
    *((algo, {"stop": s, "mask": "kl_below", "mask_at": "trial"}) for algo in ADAM for s in STOPS),
    *((algo, {"mask": mask, "mask_at": "trial"}) for algo in (*ADAM, *NATURAL) for mask in SOME_MASKS),
    *((algo, {"mask": mask, "mask_value": True}) for algo in ADAM for mask in SOME_MASKS),
    *((algo, {"mask": "keep_all", "mask_at": "trial"}) for algo in NATURAL),
    *((algo, {"stop": "never", "constraint": "none"}) for algo in NATURAL),
    *((algo, {"mask": "keep_all", "mask_at": "current"}) for algo in NATURAL),
    *((algo, {"learning_rate_schedule": "constant"}) for algo in NATURAL),
    ("sd_trpo", {"mask_value": True}),
    *((algo, {"critic_epochs": 1, "advantage_normalization": "none"}) for algo in NATURAL),
    *((algo, {"critic_epochs": None, "learning_rate_schedule": "adaptive_kl"}) for algo in ADAM),
]


@pytest.mark.parametrize(("algo", "changes"), ACCEPTED)
def test_what_applies_is_accepted(algo: str, changes: dict[str, Any]) -> None:
    slots = fill_slots(find_recipe(algo), config_for(algo, changes))
    assert slots.step == find_recipe(algo).step


@pytest.mark.parametrize("algo", [*ADAM, *NATURAL])
def test_the_learner_of_a_recipe_carries_out_its_kind_of_step(algo: str) -> None:
    policy, config = make_policy(), make_config_for(algo)
    learner = make_learner(algo, policy, config, torch.Generator(), watch_stop=False)
    kind = {"adam": "AdamLearner", "natural": "NaturalLearner"}[find_recipe(algo).step]
    assert type(learner).__name__ == kind


def test_an_unknown_recipe_has_no_learner() -> None:
    with pytest.raises(UserError, match="did you mean"):
        make_learner("tpro", make_policy(), UpdateConfig(), torch.Generator())
