"""What the command lines of the benchmarks share."""

import json
from pathlib import Path

import pytest
from command_line import Parser
from machine import save

COMMITTED = Path("results/committed.json")


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        ([], COMMITTED),
        (["--seeds", "3"], COMMITTED),
        (["--seeds", "1"], None),
        (["--output", "mine.json"], Path("mine.json")),
        (["--seeds", "1", "--output", "mine.json"], Path("mine.json")),
    ],
)
def test_only_a_whole_measurement_replaces_what_is_committed(arguments, output):
    parser = Parser()
    parser.add_argument("--seeds", type=int, default=3)
    assert parser.parse_measurement(arguments, COMMITTED).output == output


def test_what_is_saved_says_where_it_was_measured(tmp_path):
    save(None, {"results": 1})
    save(tmp_path / "results.json", {"results": 1})
    saved = json.loads((tmp_path / "results.json").read_text())
    assert list(saved) == ["machine", "git revision", "results"]
