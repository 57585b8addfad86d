import pytest
import seeds
from seeds import Outcome


def test_a_row_shows_medians_and_what_is_gained_within_each_round() -> None:
    rounds = [
        [Outcome(1000, 40, 80), Outcome(1200, 50, 60)],
        [Outcome(2000, 20, 80), Outcome(1600, 25, 64)],
        [Outcome(1500, 30, 80), Outcome(1500, 30, 80)],
    ]
    cells = [cell.strip() for cell in seeds.row_of("espo", rounds).strip("|").split("|")]
    assert cells == [
        "espo",
        "1,500, 30, 80",
        "1,500, 30, 64",
        "1.00 (0.80 to 1.20), 0.80 (0.80 to 1.00), 1.25 (1.00 to 1.33)",
    ]


@pytest.mark.slow
def test_both_ways_train_the_same_steps(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--algos", "ppo", "--env", "CartPole-v1", "--seeds", "2", "--jobs", "2", "--steps", "100"]
    assert seeds.main([*words, "--rounds", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("| ppo | ")
    assert lines[-1].count("|") == lines[-2].count("|") == 5


@pytest.mark.parametrize("words", [["--algos", "dqn", "--steps", "10"], ["--seeds", "0"]])
def test_a_mistake_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = seeds.main([*words, "--rounds", "1"])
    except SystemExit as ended:
        code = ended.code  # type: ignore[assignment]
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert error.startswith("error: ")
    assert "\n" not in error
