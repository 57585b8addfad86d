"""What the site is made from: generated pages, links, and commands that readers will type."""

from __future__ import annotations

import dataclasses
import inspect
import re
import shlex
from pathlib import Path

import pytest
import torch
from idea_figure import DEFAULTS, draw, moved, stopping_distance, surrogate_curves
from repository_links import to_repository
from settings_page import settings_page

import rlkit_es
from rlkit_es import run
from rlkit_es.commands.settings import grouped_meanings
from rlkit_es.learners.recipes import RECIPES
from rlkit_es.learners.slots import SLOTS
from rlkit_es.training.config import Config
from rlkit_es.training.other_names import ABSENT, OTHER_NAMES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
WEB = "https://example.org/repository"


def commands(page: Path) -> list[str]:
    """Lines that train, without placeholders for what the reader has."""
    joined = page.read_text().replace("\\\n", " ")
    found = re.findall(r"^ *python -m rlkit_es\.run (.*)$", joined, re.MULTILINE)
    return [c for c in found if not re.search(r"--resume|--import|--help|<|\b[A-Z]{3,}\b(?!/)", c)]


def meanings() -> dict[str, str]:
    """By field."""
    return {name: meaning for group in grouped_meanings().values() for name, meaning in group.items()}


def test_every_setting_is_on_the_page_with_what_the_source_says() -> None:
    page, _ = settings_page().split("## Whose defaults differ")
    for name, meaning in meanings().items():
        (line,) = re.findall(rf"^\| `--{name.replace('_', '-')}[ ,`].*$", page, re.MULTILINE)
        shown = line.replace("\\|", "|").replace("&lt;", "<")
        assert meaning in shown


def test_own_defaults_of_recipes_and_environments_are_on_the_page() -> None:
    page = settings_page()
    for name, recipe in RECIPES.items():
        assert (f"| `--algo {name}` |" in page) == bool(recipe.defaults)
    assert "`--log-std-init 0.0`" in page
    assert "`--no-normalize-rewards`" in page


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.stem)
def test_every_training_command_of_a_page_is_understood(page: Path) -> None:
    for command in commands(page):
        run.parse(shlex.split(command, comments=True))


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        ("[a](../CONTRIBUTING.md)", f"[a]({WEB}/blob/HEAD/CONTRIBUTING.md)"),
        ("[a](../CONTRIBUTING.md#style)", f"[a]({WEB}/blob/HEAD/CONTRIBUTING.md#style)"),
        ("[a](../benchmarks/)", f"[a]({WEB}/tree/HEAD/benchmarks)"),
        ("[a](results/)", f"[a]({WEB}/tree/HEAD/docs/results)"),
        *(
            (same, same)
            for same in ("[a](idea.md)", "![a](idea.png)", "[a](#b)", "[a](https://b.c/d)", "[a](no.md)")
        ),
    ],
)
def test_links_out_of_the_docs_lead_to_the_repository(link: str, expected: str) -> None:
    assert to_repository(f"see {link}.", "index.md", ROOT, WEB) == f"see {expected}."


def test_without_an_address_the_text_of_such_links_is_left() -> None:
    assert to_repository("see [a](../../README.md).", "algorithms/ppo.md", ROOT, None) == "see a."


def test_every_page_is_in_the_menu_once() -> None:
    menu = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(page.relative_to(DOCS).as_posix() for page in PAGES)


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    shown = set(re.findall(r"^::: rlkit_es\.(\w+)$", (DOCS / "api.md").read_text(), re.MULTILINE))
    assert shown == {name for name in rlkit_es.__all__ if not name.startswith("_")}


def test_the_start_page_works_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DOCS / "index.md").read_text().replace("40000", "1024").replace("10_000", "1_024")
    (command,) = re.findall(r"^python -m rlkit_es\.run (--algo ppo .*)$", text, re.MULTILINE)
    assert run.main(shlex.split(command)) == 0
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(program, "docs/index.md", "exec"), {"__name__": "__main__"})
    assert Path("espo.safetensors").exists()


def test_the_figure_draws_what_the_core_computes(tmp_path: Path) -> None:
    ratio = torch.tensor([0.5, 1.0, 1.5])
    assert surrogate_curves(ratio, 1.0)["clip"].tolist() == pytest.approx([0.5, 1, 1.2])
    distances = torch.linspace(0, 1, 201)
    stop = stopping_distance(distances)
    before, at = (float((moved(d).ratio - 1).abs().mean()) for d in (stop - 0.005, stop))
    assert before < DEFAULTS.deviation_threshold <= at
    draw(tmp_path / "idea.png")
    assert (tmp_path / "idea.png").stat().st_size > 10_000


def rows(heading: str) -> list[list[str]]:
    """Cells of the first table under a heading of the page for newcomers."""
    part = (DOCS / "coming-from.md").read_text().split(f"## {heading}")[1].split("\n## ")[0]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1:]]


def named(cell: str) -> set[str]:
    return set(re.findall(r"`(\w+)`", cell))


# By the page's revisions: neither is installed with the extra ``peers``.
_CLEANRL = """
env_id total_timesteps num_envs num_steps num_minibatches update_epochs learning_rate anneal_lr gamma
gae_lambda clip_coef vf_coef ent_coef max_grad_norm norm_adv target_kl clip_vloss Agent seed cuda track
"""
_RSL_RL = """
VecEnv max_iterations num_steps_per_env num_mini_batches num_learning_epochs learning_rate schedule gamma
lam clip_param value_loss_coef entropy_coef max_grad_norm normalize_advantage_per_mini_batch desired_kl PPO
actor_hidden_dims critic_hidden_dims activation init_noise_std empirical_normalization use_clipped_value_loss
device log_dir rnd_cfg symmetry_cfg
"""


def test_what_is_said_of_another_name_is_what_the_page_says() -> None:
    compared = 0
    for ours, *theirs in rows("Hyperparameters"):
        for name in set().union(*map(named, theirs)) & OTHER_NAMES.keys():
            here = OTHER_NAMES[name].partition(",")[0]
            assert here in named(ours) or name == "policy_kwargs", name
            compared += 1
    assert compared > 20


def test_what_has_no_counterpart_says_so_and_nothing_else_does() -> None:
    missing = [theirs for ours, *theirs in rows("Hyperparameters") if not named(ours)]
    names = set().union(*(named(cell) for theirs in missing for cell in theirs))
    assert names - {"none"} == ABSENT.keys() & names
    assert len(names) > 5
    assert not ABSENT.keys() & OTHER_NAMES.keys()


def test_our_column_of_the_equivalents_has_settings_alone() -> None:
    ours = {field.name for field in dataclasses.fields(Config)} | {*SLOTS["stop"]} | {*RECIPES}
    assert set().union(*(named(cells[0]) for cells in rows("Hyperparameters"))) <= ours


def test_the_other_columns_name_what_the_libraries_have() -> None:
    sb3 = pytest.importorskip("stable_baselines3")
    tianshou = pytest.importorskip("tianshou")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.policies import ActorCriticPolicy
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.trainer import OnPolicyTrainerParams

    def arguments(*functions: object) -> set[str]:
        return {name for f in functions for name in inspect.signature(f).parameters}

    theirs = (
        arguments(sb3.PPO, sb3.PPO.learn, make_vec_env, ActorCriticPolicy)
        | {"make_vec_env", "learn", "VecNormalize", "pi", "vf"},  # the last two are keys of net_arch
        arguments(
            tianshou.algorithm.PPO, ProbabilisticActorPolicy, AdamOptimizerFactory, OnPolicyTrainerParams
        )
        | {"VectorEnvNormObs", "lr_scheduler"},
        set(_CLEANRL.split()),
        set(_RSL_RL.split()),
    )
    for cells in rows("Hyperparameters"):
        for cell, known in zip(cells[1:], theirs, strict=True):
            assert named(cell) <= known
