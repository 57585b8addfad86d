from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread

from rlkit_es import cli, run
from rlkit_es.errors import UserError
from rlkit_es.runs.plots import _smooth, align, plot_diagnostics, plot_learning_curve
from rlkit_es.runs.run_records import RunRecord, find_runs, group_seeds, read_run
from rlkit_es.training.evaluate import Evaluation

SMALL = [
    *("--env", "CartPole-v1", "--num-envs", "2", "--rollout-steps", "16", "--minibatch-size", "16"),
    *("--hidden-sizes", "8", "--total-steps", "180", "--eval-episodes", "0", "--compile", "off"),
]
ESPO, ESPO_AGAIN, TRPO = "deep/espo-0", "deep/espo-1", "trpo-0"
Groups = Mapping[str, Sequence[RunRecord]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with three real runs: two seeds of espo and one of trpo."""
    root = tmp_path_factory.mktemp("runs")
    for name, algo, seed in ((ESPO, "espo", 0), (ESPO_AGAIN, "espo", 1), (TRPO, "trpo", 0)):
        named = ["--algo", algo, "--seed", str(seed), "--run-dir", str(root / name)]
        assert run.main([*named, *SMALL]) == 0
    return root


def variant(original: Path, directory: Path, without: Sequence[str] = (), **settings: Any) -> Path:
    """What `plot` reads of the run, with other settings and without some columns."""
    directory.mkdir(parents=True)
    described = json.loads((original / "config.json").read_text())
    described["config"].update(settings)
    (directory / "config.json").write_text(json.dumps(described))
    with (original / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [name for name in rows[0] if name not in without]
    with (directory / "metrics.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, kept, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return directory


def record(steps: Sequence[float], **columns: Sequence[float]) -> RunRecord:
    metrics = {name: np.array(values, float) for name, values in {"env_steps": steps, **columns}.items()}
    return RunRecord(Path("run"), {"algo": "espo", "env": "Toy"}, metrics)


def figure_of(groups: Groups, monkeypatch: pytest.MonkeyPatch, smooth: int = 1) -> Figure:
    """The figure that would have been written."""
    figures: list[Figure] = []
    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        plot_diagnostics(groups, Path("unused.png"), smooth=smooth)
    (figure,) = figures
    return figure


def panel(figure: Figure, title: str) -> Any:
    (axes,) = (axes for axes in figure.axes if title in axes.get_title())
    return axes


def lines(axes: Any) -> list[Any]:
    """Those with data; the others make the legend."""
    return [line for line in axes.get_lines() if len(line.get_xdata())]


# The command.


def test_runs_become_a_picture_and_stay_as_they_are(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    assert cli.main(["plot", str(runs)]) == 0
    assert {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()} == before
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        *("espo CartPole-v1: 2 runs", "trpo CartPole-v1: 1 run", "wrote diagnostics.png")
    ]
    assert captured.err == ""
    written = Path("diagnostics.png").read_bytes()
    assert written.startswith(b"\x89PNG\r\n\x1a\n")
    assert 20_000 < len(written) < 3_000_000
    picture = imread("diagnostics.png")
    assert 1000 <= min(picture.shape[:2]) <= max(picture.shape[:2]) <= 5000
    assert picture.std() > 0


def test_the_suffix_decides_the_format_and_old_runs_lack_columns(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking = ("ratio_min", "ratio_max", "ratio_bias", "surrogate_variance_bound", "entropy")
    old = variant(runs / ESPO, tmp_path / "old", without=lacking, seed=2)
    arguments = [str(old), str(runs / ESPO), "--output", "figure.pdf", "--smooth", "1"]
    assert cli.main(["plot", *arguments]) == 0
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF-")
    assert capsys.readouterr().out.splitlines() == ["espo CartPole-v1: 2 runs", "wrote figure.pdf"]


def test_what_is_said_to_be_written_is_there(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if cli.main(["plot", str(runs / TRPO), "--output", "figure"]) == 0:
        assert Path(capsys.readouterr().out.splitlines()[-1].removeprefix("wrote ")).exists()
    else:
        assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name at least one run directory"),
        ("nowhere", "no run in nowhere"),
        ("empty", "no run in empty"),
        ("{trpo} empty", "no run in empty"),
        ("{trpo}/metrics.csv", "no run in "),
        ("{trpo} --smooth 0", "smooth must be a whole number of at least 1, got 0"),
        ("{trpo} --smooth -3", "smooth must be a whole number of at least 1, got -3"),
        ("{trpo} --output no/such/figure.png", "cannot write no/such/figure.png"),
        ("{trpo} --output figure.xyz", "cannot write figure.xyz"),
        ("{trpo} --output .", "--output must be the name of a file"),
        ("{trpo} --output directory.png", "cannot write directory.png"),
    ],
)
def test_bad_input_is_one_error_line_and_exit_code_2(
    runs: Path, arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for directory in ("empty/deep", "directory.png"):
        Path(directory).mkdir(parents=True)
    assert cli.main(["plot", *arguments.format(trpo=runs / TRPO).split()]) == 2
    assert message in the_error(capsys)
    assert not [path for path in Path().rglob("*") if path.is_file()]


def the_error(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert line.startswith("error: ")
    assert captured.out == ""
    return line


BAD_METRICS = {
    "empty": b"",
    "blank lines": b"\n\n\n",
    "binary": bytes(range(256)) * 4,
    "another text": b"hello\nworld\n",
    "words": b"env_steps,entropy\nmany,much\n",
    "no end of the line": b"x" * 200_000 + b"\ny\n",
    "header alone": b"env_steps,entropy\n",
    "half a header": b"env_st",
    "no steps": b"entropy,kept_fraction\n0.5,1\n",
}


@pytest.mark.parametrize("content", BAD_METRICS)
def test_metrics_that_cannot_be_read_are_one_error_line(
    runs: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = variant(runs / ESPO, Path("broken"))
    (broken / "metrics.csv").write_bytes(BAD_METRICS[content])
    assert cli.main(["plot", str(runs), "broken"]) == 2
    assert "run broken " in the_error(capsys)
    assert not Path("diagnostics.png").exists()


BAD_SETTINGS = {
    "empty": b"",
    "cut": b'{"config": {"algo": "es',
    "binary": b"\xff\xfe\x00",
    "nothing in it": b"{}",
    "no mapping": b"[]",
    "null": b"null",
    "a number": b"3",
    "settings that are no mapping": b'{"config": ["espo"]}',
    "no settings": b'{"config": null}',
}


@pytest.mark.parametrize("content", BAD_SETTINGS)
def test_settings_that_cannot_be_read_are_one_error_line(
    runs: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = variant(runs / ESPO, Path("broken"))
    (broken / "config.json").write_bytes(BAD_SETTINGS[content])
    assert cli.main(["plot", str(runs), "broken"]) == 2
    assert "run broken cannot be read" in the_error(capsys)


def test_missing_settings_are_one_error_line(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (variant(runs / ESPO, Path("broken")) / "config.json").unlink()
    assert cli.main(["plot", "broken"]) == 2
    assert "run broken cannot be read" in the_error(capsys)


# Which runs.


def test_runs_are_found_at_any_depth_and_in_the_order_named(runs: Path) -> None:
    assert [r.directory for r in find_runs([runs])] == [runs / ESPO, runs / ESPO_AGAIN, runs / TRPO]
    named = [runs / TRPO, runs / "deep"]
    assert [r.directory for r in find_runs(named)] == [runs / TRPO, runs / ESPO, runs / ESPO_AGAIN]


@pytest.mark.parametrize(
    "spellings",
    [
        ["runs/espo", "runs/espo"],
        ["runs/espo", "runs/espo/"],
        ["runs/espo", "./runs/espo"],
        ["runs", "runs/espo"],
        ["runs/espo", "runs"],
        ["runs/espo", "{here}/runs/espo"],
        ["runs/espo", "runs/../runs/espo"],
        ["runs/espo", "link"],
    ],
    ids=str,
)
def test_a_run_named_twice_counts_once(runs: Path, tmp_path: Path, spellings: list[str]) -> None:
    variant(runs / ESPO, Path("runs/espo"))
    os.symlink("runs/espo", "link")
    (found,) = find_runs([Path(spelling.format(here=tmp_path)) for spelling in spellings])
    assert found.directory.samefile("runs/espo")


def test_a_run_is_read_back_as_it_was_logged(runs: Path) -> None:
    found = read_run(runs / TRPO)
    with (runs / TRPO / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) >= 3
    assert list(found.metrics) == list(rows[0])
    for name, column in found.metrics.items():
        assert column.tolist() == [float(row[name]) for row in rows]
    assert found.settings == json.loads((runs / TRPO / "config.json").read_text())["config"]
    assert (found.settings["algo"], found.experiment["env"]) == ("trpo", "CartPole-v1")


def test_a_half_written_last_row_is_ignored_wherever_it_breaks_off(runs: Path, tmp_path: Path) -> None:
    whole, directory = read_run(runs / ESPO), variant(runs / ESPO, tmp_path / "running")
    content = (runs / ESPO / "metrics.csv").read_bytes()
    end = len(content.rstrip(b"\r\n"))
    begin = content.rindex(b"\n", 0, end) + 1
    broken = []
    for cut in range(begin, end):
        (directory / "metrics.csv").write_bytes(content[:cut])
        try:
            metrics = read_run(directory).metrics
        except UserError:
            broken.append(content[begin:cut])
            continue
        if any(column.tolist() != whole.metrics[name][:-1].tolist() for name, column in metrics.items()):
            broken.append(content[begin:cut])
    assert broken == []


# Which belong together.


def test_runs_that_differ_by_circumstances_are_one_group(runs: Path, tmp_path: Path) -> None:
    circumstances = {
        "seed": 5,
        "run_dir": "elsewhere",
        "device": "cuda",
        "torch_threads": 8,
        "env_threads": 3,
        "env_groups": 1,
        "compile": "on",
        "eval_episodes": 100,
    }
    copies = [variant(runs / ESPO, tmp_path / name, **{name: v}) for name, v in circumstances.items()]
    groups = group_seeds(find_runs([runs, *copies]))
    assert {label: len(members) for label, members in groups.items()} == {
        "espo CartPole-v1": 2 + len(copies),
        "trpo CartPole-v1": 1,
    }


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("deviation_threshold", 0.25, 0.1),
        ("hidden_sizes", [8], [64, 64]),
        ("critic_epochs", 10, None),
        ("total_steps", 180, 1_000_000),
        ("mask", None, "ratio_below"),
        ("normalize_rewards", True, False),
        ("backend", "auto", "gymnasium"),
    ],
)
def test_a_label_names_the_setting_in_which_experiments_differ_and_no_other(
    runs: Path, tmp_path: Path, name: str, one: Any, other: Any
) -> None:
    mine = variant(runs / ESPO, tmp_path / "one", **{name: one})
    theirs = variant(runs / ESPO, tmp_path / "other", **{name: other, "seed": 4})
    groups = group_seeds(find_runs([mine, theirs, runs / TRPO]))
    assert list(groups) == [
        *(f"espo CartPole-v1 {name}={value}" for value in (one, other)),
        "trpo CartPole-v1",
    ]


def test_other_environments_and_algorithms_need_no_setting_to_tell_them_apart(
    runs: Path, tmp_path: Path
) -> None:
    elsewhere = variant(runs / ESPO, tmp_path / "elsewhere", env="Acrobot-v1", gamma=0.9)
    assert list(group_seeds(find_runs([runs, elsewhere]))) == [
        *("espo CartPole-v1", "trpo CartPole-v1", "espo Acrobot-v1")
    ]


def test_grouping_loses_no_run_and_mixes_no_experiments(runs: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    choices = {"gamma": (0.9, 0.99), "mask": (None, "keep_all"), "seed": (0, 1, 2), "algo": ("espo", "ppo")}
    copies = [
        variant(
            runs / ESPO,
            tmp_path / str(i),
            **{name: values[generator.integers(len(values))] for name, values in choices.items()},
        )
        for i in range(25)
    ]
    groups = group_seeds(find_runs(copies))
    assert sorted(r.directory for members in groups.values() for r in members) == sorted(copies)
    for members in groups.values():
        assert all(r.experiment == members[0].experiment for r in members)
    firsts = [members[0].experiment for members in groups.values()]
    assert all(a != b for i, a in enumerate(firsts) for b in firsts[:i])


@pytest.mark.parametrize("name", ["constraint", "gamma"])
def test_no_run_is_lost_where_an_older_version_lacks_a_setting(runs: Path, tmp_path: Path, name: str) -> None:
    old = variant(runs / ESPO, tmp_path / "old")
    described = json.loads((old / "config.json").read_text())
    del described["config"][name]
    (old / "config.json").write_text(json.dumps(described))
    groups = group_seeds(find_runs([old, runs / ESPO]))
    assert sum(len(members) for members in groups.values()) == 2


def test_no_run_is_lost_where_another_version_has_a_setting_that_is_none(runs: Path, tmp_path: Path) -> None:
    other = variant(runs / ESPO, tmp_path / "other", of_another_version=None)
    groups = group_seeds(find_runs([other, runs / ESPO]))
    assert {label: len(members) for label, members in groups.items()} == {
        "espo CartPole-v1 of_another_version=None": 1,
        "espo CartPole-v1 of_another_version=unknown": 1,
    }


# The figure.


def test_every_panel_says_what_it_shows(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = group_seeds(find_runs([runs]))
    figure = figure_of(groups, monkeypatch)
    assert len(figure.axes) == 9
    for axes in figure.axes:
        assert axes.get_title()
        assert axes.get_xlabel() == "environment steps"
        assert {to_hex(line.get_color()) for line in lines(axes)} == {to_hex("C0"), to_hex("C1")}
        assert all(np.isfinite(line.get_ydata()).all() for line in lines(axes))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("espo CartPole-v1, 2 seeds", "trpo CartPole-v1, 1 seed")
    ]
    for title, count in (("ratio range", 2), ("variance", 3)):
        axes = panel(figure, title)
        assert axes.get_yscale() == "log"
        assert len(axes.get_legend().get_texts()) == count
        assert len({line.get_linestyle() for line in lines(axes)}) == count


def test_a_line_is_the_mean_of_its_seeds_and_the_band_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [record([10, 20, 40], entropy=[1, 2, 4]), record([5, 30], entropy=[1.5, 9.0])]
    axes = panel(figure_of({"espo": seeds}, monkeypatch), "entropy")
    (line,) = lines(axes)
    steps, values = line.get_data()
    assert (steps[0], steps[-1]) == (10, 30)
    first, second = 0.1 * steps, 1.5 + 0.3 * (steps - 5)
    np.testing.assert_allclose(values, (first + second) / 2)
    (band,) = axes.collections
    corners = band.get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(min(first[0], second[0]))
    assert corners[:, 1].max() == pytest.approx(max(first[-1], second[-1]))


def test_one_seed_has_no_band(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = figure_of({"espo": [record([10, 20], entropy=[1, 2])]}, monkeypatch)
    assert not panel(figure, "entropy").collections


def test_the_moving_mean_is_what_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    one = record([10, 20, 30], entropy=[1, 3, 8])
    (line,) = lines(panel(figure_of({"espo": [one]}, monkeypatch, smooth=2), "entropy"))
    steps, values = line.get_data()
    np.testing.assert_allclose(values, np.interp(steps, [10, 20, 30], [1, 2, 5.5]))


def test_columns_that_a_run_lacks_are_left_out_and_the_rest_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = record([10, 20], entropy=[1, 2]), record([10, 20], entropy=[3, 4], kept_fraction=[1, 0.5])
    figure = figure_of({"old": [old], "new": [new], "both": [old, new]}, monkeypatch)
    assert len(lines(panel(figure, "entropy"))) == 3
    kept = lines(panel(figure, "kept"))
    assert [line.get_ydata()[-1] for line in kept] == [0.5, 0.5]


def test_what_cannot_be_drawn_is_left_out_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    nothing = record(
        [10, 20],
        episode_return_mean=[np.nan, np.nan],
        surrogate_variance_bound=[np.inf, np.inf],
        approx_kl=[0, 0],
        entropy=[1, 2],
    )
    plot_diagnostics({"espo": [nothing]}, tmp_path / "figure.png", smooth=3)
    assert imread(tmp_path / "figure.png").std() > 0
    assert [str(w.message) for w in recwarn if issubclass(w.category, UserWarning)] == []


@pytest.mark.parametrize("evaluated", [True, False])
def test_the_learning_curve_has_the_returns_and_the_evaluation(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, evaluated: bool
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
    columns = read_run(runs / ESPO).metrics
    history = [
        {name: column[i] for name, column in columns.items()} for i in range(len(columns["iteration"]))
    ]
    evaluation = Evaluation(env_steps=180, returns=(10.0, 20.0), lengths=(10, 20)) if evaluated else None
    plot_learning_curve(history, evaluation, tmp_path / "curve.png")
    (axes,) = figures[0].axes
    curve = axes.get_lines()[0]
    np.testing.assert_array_equal(curve.get_xdata(), columns["env_steps"])
    np.testing.assert_array_equal(curve.get_ydata(), columns["episode_return_mean"])
    marks = [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.get_lines()[1:]]
    assert ((180, 15.0) in marks) == evaluated
    assert len(axes.get_legend().get_texts()) == 1 + evaluated


# The arithmetic.


def curves_of_lines(
    generator: np.random.Generator, count: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[tuple[float, float]]]:
    """Straight lines over random steps, all of which pass 300 to 700."""
    slopes = [(float(a), float(b)) for a, b in generator.normal(size=(count, 2))]
    steps = [
        np.sort(np.concatenate([generator.uniform(0, 1000, generator.integers(1, 30)), [200, 300, 700, 800]]))
        for _ in range(count)
    ]
    return [(x, a * x + b) for x, (a, b) in zip(steps, slopes, strict=True)], slopes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 5])
def test_aligned_curves_cover_the_steps_that_all_have_reached_and_stay_on_their_lines(
    seed: int, count: int
) -> None:
    curves, slopes = curves_of_lines(np.random.default_rng(seed), count)
    steps, values = align(curves)
    assert values.shape == (count, len(steps))
    assert steps[0] == max(x[0] for x, _ in curves)
    assert steps[-1] == min(x[-1] for x, _ in curves)
    assert (np.diff(steps) > 0).all()
    for row, (a, b) in zip(values, slopes, strict=True):
        np.testing.assert_allclose(row, a * steps + b, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out_and_interpolated_over(seed: int, hole: float) -> None:
    generator = np.random.default_rng(seed)
    curves, slopes = curves_of_lines(generator, 3)
    for x, y in curves:
        holes = generator.random(len(y)) < 0.3
        holes[[0, -1]] = True
        y[holes & ~np.isin(x, (300, 700))] = hole
    kept = [x[np.isfinite(y)] for x, y in curves]
    steps, values = align(curves)
    assert (steps[0], steps[-1]) == (max(x[0] for x in kept), min(x[-1] for x in kept))
    for row, (a, b) in zip(values, slopes, strict=True):
        np.testing.assert_allclose(row, a * steps + b, atol=1e-9)


@pytest.mark.parametrize(
    "curves",
    [
        [([1, 2], [5, 6]), ([3, 4], [7, 8])],
        [([1, 2], [5, 6]), ([1, 2], [np.nan, np.nan])],
        [([1, 2], [5, np.nan]), ([1, 2], [np.nan, 6])],
        [([], [])],
    ],
    ids=["apart", "nothing finite", "finite parts apart", "no steps"],
)
def test_curves_without_a_common_step_align_to_nothing(curves: list[tuple[list[float], list[float]]]) -> None:
    steps, values = align([(np.array(x, float), np.array(y, float)) for x, y in curves])
    assert steps.shape == (0,)
    assert values.shape == (len(curves), 0)


def test_curves_that_share_one_step_align_there() -> None:
    steps, values = align([(np.array([1.0, 2.0]), np.array([5.0, 6.0])), (np.array([2.0]), np.array([9.0]))])
    assert set(steps) == {2}
    assert set(values[0]) == {6}
    assert set(values[1]) == {9}


def moving_mean(values: np.ndarray, window: int) -> list[float]:
    """By its definition."""
    means = []
    for i in range(len(values)):
        seen = [x for x in values[max(0, i + 1 - window) : i + 1] if np.isfinite(x)]
        means.append(sum(seen) / len(seen) if seen else np.nan)
    return means


@pytest.mark.parametrize("window", [1, 2, 3, 10, 29, 30, 31, 10**12])
@pytest.mark.parametrize("holes", [0.0, 0.3, 0.9, 1.0])
def test_the_moving_mean_is_that_of_its_definition(window: int, holes: float) -> None:
    generator = np.random.default_rng(int(window + 1000 * holes))
    for length in (0, 1, 2, 30):
        values = 1 + generator.normal(size=length)
        values[generator.random(length) < holes] = generator.choice([np.nan, np.inf, -np.inf])
        before = values.copy()
        np.testing.assert_allclose(_smooth(values, window), moving_mean(values, window), atol=1e-12)
        np.testing.assert_array_equal(values, before)


def test_the_moving_mean_forgets_a_spike_once_it_has_passed() -> None:
    # A diverging policy has ratios of this size for an iteration.
    values = np.array([1.0, 1e20, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(_smooth(values, 2), moving_mean(values, 2))
