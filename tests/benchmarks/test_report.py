"""The page of results: scores, comparisons and what is said to be missing."""

import csv
import dataclasses

import learning
import numpy as np
import pytest
import report
from grid_examples import make_run
from grids import figures, scores, sections
from grids.records import read_committed, write_committed
from grids.scores import Published, best_published, env_name, find_scale, read_published, under_protocol
from grids.sections import Measurement
from grids.suites import SUITES, Suite, Variant, in_version_5, parse_variant, plain, select

from rlkit_es import UserError
from rlkit_es.run import parse

PUBLISHED = read_published()


def measurement(*variants: str, envs=("Hopper-v4", "Walker2d-v4"), seeds=3, runs=None) -> Measurement:
    pairs = SUITES["mujoco"].pairs
    suite = Suite(plain(*variants), tuple(envs), seeds, 1_000_000, pairs=pairs)
    if runs is None:
        runs = [
            make_run(env, name, seed, final=1000.0 * (place + 1) + seed)
            for env in envs
            for place, name in enumerate(variants)
            for seed in range(seeds)
        ]
    return Measurement("small", suite, runs, PUBLISHED)


@pytest.mark.parametrize(
    ("env", "mean"),
    [
        *(("HalfCheetah-v4", 5783.9), ("Hopper-v4", 3372), ("Walker2d-v5", 4502), ("Ant-v4", 3554)),
        *(("Humanoid-v4", 1726), ("Reacher-v4", -4.1)),
    ],
)
def test_the_best_published_score_within_a_budget_was_not_tuned_for_its_environment(env, mean):
    assert best_published(PUBLISHED, env, 1_000_000).mean == mean


def test_an_environment_nobody_published_has_no_scale():
    assert best_published(PUBLISHED, "Pusher-v4", 1_000_000) is None
    assert find_scale("Pusher-v4", PUBLISHED, 1_000_000) is None
    assert find_scale("ALE/Tetris-v5", PUBLISHED, 1_000_000) is None


@pytest.mark.parametrize(
    "env", [env for name in ("mujoco", "dm_control", "atari") for env in SUITES[name].envs]
)
def test_every_environment_of_the_suites_has_a_scale(env):
    for env_id in {env, *in_version_5(Suite((), (env,), 1, 1)).envs}:
        scale = find_scale(env_id, PUBLISHED, 1_000_000)
        assert scale.score(scale.zero) == 0
        assert scale.score(scale.one) == 1
        assert scale.one > scale.zero


def test_environments_are_named_as_the_published_scores_name_them():
    assert env_name("HalfCheetah-v5") == "HalfCheetah"
    assert env_name("ALE/BeamRider-v5") == "BeamRider"
    assert env_name("dm_control/dog-run-v0") == "dm_control/dog-run-v0"


def test_ours_are_measured_by_the_rule_of_what_they_stand_beside():
    runs = [
        make_run(seed=0, final=30.0, evaluations=(10.0, 90.0), training=5.0),
        make_run(seed=1, final=50.0, evaluations=(20.0, 10.0, 80.0), training=7.0),
    ]
    # Of the mean over seeds (15, 50, 40), not the mean of each seed's best.
    assert under_protocol("max over training of the mean test return", runs).mean == 50.0
    assert under_protocol("best model, 10 evaluation episodes", runs) == (50.0, 3.0)
    assert under_protocol("one model, about 150", runs).mean == 50.0
    assert under_protocol("mean of last episodes, 3 seeds", runs).mean == 6.0
    assert under_protocol("3 seeds", runs).mean == 40.0
    assert under_protocol("3 seeds", runs).std == pytest.approx(200**0.5)


def test_a_maximum_over_training_is_over_what_all_seeds_were_evaluated_at():
    often = make_run(seed=0, final=1.0, evaluations=(9.0, 1.0, 9.0, 2.0, 9.0), every=10_000)
    seldom = make_run(seed=1, final=1.0, evaluations=(3.0, 4.0), every=20_500)  # an iteration later
    never = make_run(seed=2, final=1.0, evaluations=())
    rule = "max over training"
    assert under_protocol(rule, [often, seldom]) == (3.0, pytest.approx(2.0**0.5))
    assert under_protocol(rule, [often, make_run(seed=3, evaluations=(50.0, 4.0), every=25_000)]).mean != 50.0
    for none_in_common in ([often, never], [never]):
        assert np.isnan(under_protocol(rule, none_in_common).mean)
    lines = sections.beside_published(measurement("ppo", envs=["Hopper-v4"], runs=[never]))
    assert any(line.endswith("| max over training | - |") for line in lines)
    assert any(line.endswith("| final evaluation | 1.0 |") for line in lines)


def test_aggregates_and_improvements_are_over_what_all_variants_were_run_on():
    measured = measurement("ppo", "sd_ppo")
    lines = "\n".join(sections.aggregates(measured))
    assert lines.startswith("Over Hopper-v4, Walker2d-v4:")
    assert "| `sd_ppo` |" in lines
    (line,) = [x for x in sections.improvements(measured, [("sd_ppo", "ppo")]) if "over" in x]
    assert line == "| `sd_ppo` over `ppo` | 1.00 (1.00 to 1.00) | 2 |"
    single = measurement("ppo", "sd_ppo", runs=[r for r in measured.runs if r.seed == 0])
    assert "(" not in "".join(x for x in sections.improvements(single, [("sd_ppo", "ppo")]) if "over" in x)
    assert "(" not in "".join(x for x in sections.aggregates(single) if "| `" in x)
    partly = measurement(
        "ppo", "sd_ppo", runs=[r for r in measured.runs if r.key[:2] != ("Hopper-v4", "sd_ppo")]
    )
    assert partly.complete_variants == ["ppo"]
    assert sections.improvements(partly, [("sd_ppo", "ppo")])[-1].endswith("| 1 |")
    assert sections.improvements(partly, [("espo", "ppo")]) == []


def test_profiles_fall_from_one_to_zero():
    for profile in sections.profiles(measurement("ppo", "sd_ppo")).values():
        assert profile.fraction[0] == 1
        assert profile.fraction[-1] == 0
        assert (np.diff(profile.fraction) <= 0).all()
        assert (profile.low <= profile.fraction).all()
        assert (profile.fraction <= profile.high).all()


def test_the_best_mean_of_an_environment_is_bold():
    lines = sections.overview(measurement("ppo", "sd_ppo"))
    assert "| Hopper-v4 | 1,001 ± 1.0 (3) | **2,001 ± 1.0 (3)** |" in lines


def test_changes_have_a_line_each_with_what_was_run():
    measured = measurement("ppo", "espo")
    runs = [r for r in measured.runs if r.env == "Hopper-v4" or r.variant == "ppo"]
    lines = sections.changes(measurement("ppo", "espo", "trpo", runs=runs))
    assert lines[0] == "|  | Hopper-v4 | Walker2d-v4 |"
    assert lines[2:] == [
        "| `ppo` | 1,001 ± 1.0 (3) | 1,001 ± 1.0 (3) |",
        "| `espo` | 2,001 ± 1.0 (3) |  |",
    ]


def test_changes_and_environments_without_any_run_are_named():
    measured = measurement("ppo", "espo")
    assert sections.never_run(measured) == []
    runs = [r for r in measured.runs if r.env == "Hopper-v4"]
    some = measurement("ppo", "espo", "trpo", runs=runs)
    assert sections.never_run(some) == ["", "Not run: `trpo`, Walker2d-v4."]


def test_updates_are_shown_of_pairs_or_of_all_variants():
    measured = measurement("ppo", "sd_ppo", "spo")
    assert not any("| spo |" in line for line in sections.updates(measured))
    suite = dataclasses.replace(measured.suite, updates_of_all=True)
    lines = sections.updates(dataclasses.replace(measured, suite=suite))
    assert sum("| spo | 1 / 2 |" in line for line in lines) == 2


def test_a_single_seed_has_no_deviation():
    lines = sections.overview(measurement("ppo", seeds=1))
    assert "| Hopper-v4 | 1,000 (1) |" in lines


def test_what_has_too_few_seeds_is_not_compared():
    measured = measurement("ppo", "espo")
    few = measurement("ppo", "espo", runs=[r for r in measured.runs if r.variant == "ppo" or r.seed < 2])
    assert sections.improvements(measured, [("espo", "ppo")])
    assert sections.improvements(few, [("espo", "ppo")]) == []
    assert few.complete_variants == ["ppo"]
    assert "| Hopper-v4 | **1,001 ± 1.0 (3)** | 2,000 ± 0.7 (2) |" in sections.overview(few)


def test_of_too_few_seeds_there_is_a_table_and_no_comparison(tmp_path):
    measured = measurement("ppo", "espo")
    few = measurement("ppo", "espo", runs=[r for r in measured.runs if r.seed < 2])
    assert sections.profiles(few) == {}
    lines = report._section(few, tmp_path)
    assert "| Hopper-v4 | 1,000 ± 0.7 (2) | 2,000 ± 0.7 (2) |" in lines
    assert "### Over the suite" not in lines
    assert "### Over the suite" in report._section(measured, tmp_path)


def test_what_was_not_run_is_named():
    measured = measurement("ppo", "espo")
    assert sections.not_run(measured) == []
    some = measurement("ppo", "espo", runs=[r for r in measured.runs if r.env == "Hopper-v4" and r.seed < 2])
    assert sections.not_run(some) == [
        "- Hopper-v4: `ppo` (2 of 3 seeds), `espo` (2 of 3 seeds)",
        "- Walker2d-v4: nothing",
    ]


def test_every_published_score_stands_beside_ours():
    lines = sections.beside_published(measurement("ppo"))
    hopper = [line for line in lines if line.startswith("| Hopper-v4 | tianshou: ppo | 1M |")]
    assert hopper == ["| Hopper-v4 | tianshou: ppo | 1M | 2,609 ± 701 | max over training | 1,001 ± 1.0 |"]


def test_a_variant_has_one_colour_wherever_it_was_run():
    drawn = {}
    measured = measurement("ppo", "trpo", "espo")
    runs = [r for r in measured.runs if (r.env, r.variant) != ("Walker2d-v4", "trpo")]
    variants = ["ppo", "trpo", "espo"]
    for env, found in measurement(*variants, runs=runs).by_env.items():
        axes = figures._new_figure(4, 3).add_subplot()
        lines = figures._draw_curves(axes, found, variants)
        drawn[env] = {name: line.get_color() for name, line in lines.items()}
    assert drawn["Walker2d-v4"].keys() == {"ppo", "espo"}
    assert drawn["Walker2d-v4"].items() <= drawn["Hopper-v4"].items()
    assert len(set(drawn["Hopper-v4"].values())) == 3


def test_the_page_is_written_from_what_is_committed(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LEARNING", tmp_path / "learning")
    runs = list(measurement("ppo", "sd_ppo", "espo").runs)
    write_committed(runs, tmp_path / "learning" / "mujoco")
    write_committed(runs, tmp_path / "learning" / "ablation")
    assert report.main(["--docs", str(tmp_path / "docs")]) == 0
    page = (tmp_path / "docs" / "results.md").read_text()
    for part in ("## MuJoCo", "### What dropout changes", "### Beside published scores", "### Not run"):
        assert part in page
    assert "- Swimmer-v4: nothing" in page
    ablations = page.split("## Ablations: one change at a time")[1]
    for part in (
        "`sd_ppo-at_trial`",
        "HalfCheetah-v4, Humanoid-v4.",
        "### What each change does to an update",
    ):
        assert part in ablations
    assert page.split("## Atari")[1].strip().startswith("The suite has not been run. Outside it: [Pong]")
    for name in ("mujoco-curves.png", "mujoco-profiles.png"):
        assert (tmp_path / "docs" / "results" / name).stat().st_size > 1000
        assert f"(results/{name})" in page
    with (tmp_path / "docs" / "results" / "mujoco.csv").open(newline="") as stream:
        rows = {(row["env"], row["variant"]): row for row in csv.DictReader(stream)}
    assert rows["Hopper-v4", "sd_ppo"]["mean"] == "2001.00"
    assert rows["Hopper-v4", "sd_ppo"]["max_over_training"] == "2001.00"


def test_the_committed_page_is_what_the_committed_curves_say(tmp_path):
    assert report.main(["--docs", str(tmp_path)]) == 0
    assert (report.DOCS / "results.md").read_text() == (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("name", SUITES)
def test_what_is_committed_of_a_suite_is_what_the_suite_runs_today(name, tmp_path):
    suite = SUITES[name]
    variants = {variant.name: variant for variant in suite.variants}
    one_of_each = {(run.env, run.variant): run for run in read_committed(report.LEARNING / name)}
    for run in one_of_each.values():  # other seeds have the same settings, or could not be averaged
        alone = dataclasses.replace(suite, variants=(variants[run.variant],), envs=(run.env,), seeds=1)
        (cell,) = learning.make_cells(alone, tmp_path)
        assert dict(run.config) == learning.experiment(parse(cell.arguments)), run.key


def test_a_part_of_a_suite_is_chosen_by_patterns():
    suite = SUITES["ablation"]
    chosen = select(suite, ["espo-critic*", "sd_trpo"], ["Hop*"])
    assert chosen.variants[0].name == "sd_trpo"
    assert all(v.name.startswith("espo-critic") for v in chosen.variants[1:])
    assert len(chosen.variants) == 4
    assert chosen.envs == ("Hopper-v4",)
    with pytest.raises(UserError, match=r"no variant 'espo-critics' in this suite; did you mean espo-critic"):
        select(suite, ["espo-critics"], [])


def test_a_variant_is_a_name_a_recipe_and_arguments():
    assert parse_variant("slow=espo --learning-rate 1e-4") == Variant(
        "slow", "espo", ("--learning-rate", "1e-4")
    )
    for text in ("slow", "slow=", "=espo", "a b=espo", "slow=--learning-rate 1"):
        with pytest.raises(UserError, match="--variant must be"):
            parse_variant(text)


def test_published_rows_have_positive_budgets_and_sources():
    assert all(isinstance(row, Published) and row.env_steps > 0 and row.source for row in PUBLISHED)
    assert scores.RANDOM_FILE.exists()
