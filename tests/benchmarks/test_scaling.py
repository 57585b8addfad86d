import json
from pathlib import Path

import pytest
import scaling
from measured.runs import CommandError, settled_speed, train
from scaling import Point


def test_a_table_has_medians_and_ratios_within_rounds() -> None:
    speeds = {
        Point("ranks", "16 environments", "1 rank", ()): [100.0, 200.0, 300.0],
        Point("ranks", "16 environments", "2 ranks", (), 2): [150.0, 200.0, 600.0],
        Point("ranks", "64 environments", "1 rank", ()): [10.0],
        Point("ranks", "64 environments", "2 ranks", (), 2): [19.0],
        Point("one process", "steps/s", "defaults", ()): [1000.0],
        Point("one process", "steps/s", "larger", ()): [500.0],
    }
    assert scaling.table_of("ranks", speeds)[-2:] == [
        "| 16 environments | 200 (1.00) | 200 (1.50) |",
        "| 64 environments | 10 (1.00) | 19 (1.90) |",
    ]
    assert scaling.table_of("one process", speeds)[-2:] == [
        "| defaults | 1,000 (1.00) |",
        "| larger | 500 (0.50) |",
    ]


def test_what_is_planned_can_be_run() -> None:
    chosen = scaling._parser().parse_args(["--ranks", "1", "2", "4", "--num-envs", "8", "64"])
    points = scaling.plan(chosen)
    assert len(set(points)) == len(points)
    assert {point.ranks for point in points} == {1, 2, 4}
    first = next(point for point in points if point.section == "ranks")
    assert first.ranks == 1


def test_the_first_quarter_does_not_count(tmp_path: Path) -> None:
    rows = [(100, 50.0), (200, 51.0), (300, 52.0), (400, 53.0), (500, 54.0)]
    text = "\n".join(f"{steps},{seconds}" for steps, seconds in rows)
    (tmp_path / "metrics.csv").write_text(f"env_steps,wall_seconds\n{text}\n")
    assert settled_speed(tmp_path) == 100.0


def test_a_run_that_fails_is_named_with_its_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"^mine ended with 2: error: unknown algorithm"):
        train("mine", ["--algo", "dqn"], tmp_path)


@pytest.mark.slow
def test_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "scaling.json"
    small = ["--env", "CartPole-v1", "--num-envs", "16", "--steps", "16000", "--rounds", "1"]
    assert scaling.main([*small, "--output", str(output)]) == 0
    figures = json.loads(output.read_text())["steps/s"]
    assert all(point["rounds"][0] > 0 for point in figures)
    said = capsys.readouterr()
    assert "2 ranks" in said.out
    assert "round 1/1: 16 environments, 2 ranks: " in said.err
