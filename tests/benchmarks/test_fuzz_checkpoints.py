"""The fuzzer of checkpoints: a short run, and that it sees what it is there to see."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import fuzz_checkpoints
import pytest
from fuzz_checkpoints import DIED, NO_END, SEALED, UNSEALED, Attempt, Jail, Mutant, judge, make_bases, mutate

from rlkit_es.errors import CheckpointError, UserError

CALM = Mutant("calm", b"", sealed=True)
KINDS = [kind.__name__ for kind in (*UNSEALED, *SEALED)]


def misbehave(path: Path) -> str:
    """What the file asks for."""
    wish = path.read_bytes().decode()
    if wish == "crash":
        os._exit(3)
    if wish == "stay":
        time.sleep(60)
    if wish == "other error":
        raise KeyError("config")
    if wish == "lines":
        raise CheckpointError("two\nlines")
    if wish == "long message":
        raise UserError("x" * 100_000)
    if wish == "write":
        Path("../../new").write_text("new")
    if wish == "change":
        Path("../x").write_text("changed")
    if wish == "remove":
        Path("../../x").unlink()
    if wish == "read":
        Path("/etc/hostname").read_bytes()
    if wish == "run":
        subprocess.run(["true"], check=True)
    if wish == "import":
        import this  # noqa: F401
    if wish == "memory":
        bytes(2 * fuzz_checkpoints.MEMORY_MB * 2**20)
    if wish == "some memory":
        bytearray(os.urandom(1)) * (100 * 2**20)
    return wish


@pytest.fixture(scope="module")
def jail() -> Iterator[Jail]:
    with Jail(misbehave, b"nothing", seconds=2) as jail:
        yield jail


@pytest.mark.parametrize(
    ("wish", "complaint"),
    [
        ("other error", "KeyError: 'config'"),
        ("lines", "a message of 2 lines"),
        ("long message", "a message of 100,000 characters"),
        ("write", "deep/new"),
        ("change", "deep/er/x"),
        ("remove", "deep/x"),
        ("read", "open /etc/hostname"),
        ("run", "subprocess.Popen"),
        ("import", "import this"),
        ("memory", "MemoryError"),
        ("crash", f"{DIED}: exit code 3"),
        ("stay", f"{NO_END}: in 2 s"),
    ],
)
def test_what_must_not_be_is_seen_and_said(jail: Jail, wish: str, complaint: str) -> None:
    said = judge(jail.attempt(wish.encode()), CALM, set())
    assert any(complaint in each for each in said)
    assert judge(jail.attempt(b"nothing"), CALM, set()) == []


def test_memory_is_measured_for_each_file(jail: Jail) -> None:
    assert jail.attempt(b"some memory").megabytes > 90
    assert jail.attempt(b"nothing").megabytes < 10


def test_what_loads_as_something_else_under_the_saved_checksum_is_damage_unnoticed() -> None:
    unsealed = Mutant("flipped_bits", b"", sealed=False)
    assert judge(Attempt("loaded", loaded="a"), unsealed, {"a"}) == []
    assert "checksum" in judge(Attempt("loaded", loaded="b"), unsealed, {"a"})[0]
    assert judge(Attempt("loaded", loaded="b"), CALM, {"a"}) == []


def test_mutations_are_a_function_of_seed_and_index_and_every_kind_has_its_turn() -> None:
    bases, again = make_bases(), make_bases()
    mutants = [mutate(bases, 1, index) for index in range(len(KINDS))]
    assert [mutant.kind for mutant in mutants] == KINDS
    assert [mutate(again, 1, index) for index in range(len(KINDS))] == mutants
    assert mutate(bases, 2, 0) != mutants[0]


def test_several_hundred_mutations_are_refused_or_load_and_predict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fuzz.json"
    assert fuzz_checkpoints.main(["--mutations", "200", "--output", str(output)]) == 0
    report = json.loads(output.read_text())
    assert report["mutations"] == sum(report["outcomes"].values()) == 200
    assert set(report["outcomes"]) <= {"loaded", "CheckpointError", "UserError"}
    assert set(report["outcomes by kind"]) == {*KINDS}
    assert report["outcomes"]["loaded"] > 10
    assert report["violations"] == 0
    assert report["memory"]["MB more than before"] < fuzz_checkpoints.MEMORY_MB
    assert "200 of 200: 0 violations" in capsys.readouterr().out


def test_a_violation_is_counted_named_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz_checkpoints, "load_and_predict", misbehave_at_all)
    output = tmp_path / "fuzz.json"
    arguments = ["--mutations", "2", "--first", "5", "--seed", "7", "--output", str(output)]
    assert fuzz_checkpoints.main(arguments) == 1
    report = json.loads(output.read_text())
    assert report["outcomes"] == {"KeyError": 2}
    assert [each["index"] for each in report["examples of violations"]] == [5, 6]
    assert "--seed 7 --first 5" in capsys.readouterr().out


def misbehave_at_all(path: Path) -> str:
    """Loads the first file, and no other."""
    if getattr(misbehave_at_all, "before", False):
        raise KeyError("state")
    misbehave_at_all.before = True  # type: ignore[attr-defined]
    return "loaded"
