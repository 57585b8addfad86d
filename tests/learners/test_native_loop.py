"""The compiled loop: what it computes, and when what lies on disk is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlkit_es.errors import CompilationError
from rlkit_es.learners import native_loop as module
from rlkit_es.learners.compilation import missing_compiler
from rlkit_es.learners.native_loop import native_loop

needs_compiler = pytest.mark.skipif(missing_compiler() is not None, reason="no C++ compiler")
LIMIT = 20.0


def step(going: Tensor, total: Tensor, data: Tensor, index: Tensor, real: Tensor) -> list[Tensor]:
    """Add up the real samples of the rows, until there is more than LIMIT."""
    total = total + (data[index] * real).sum()
    return [total < LIMIT, total]


def example(rows: int = 4, samples: int = 6) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor]:
    data = torch.arange(float(samples))
    index = torch.arange(rows * 3).reshape(rows, 3) % samples
    real = torch.ones(rows, 3)
    real[-1, -1] = 0
    return [torch.tensor(True), torch.tensor(0.0)], [data], index, real


def make(cache: Path, monkeypatch: pytest.MonkeyPatch, step: Callable[..., Sequence[Tensor]] = step) -> float:
    """The total after all rows, by a loop that was compiled, or found in ``cache``."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    state, inputs, index, real = example()
    loop = native_loop(step, state, inputs, index, real)
    _, _, total = loop(torch.tensor(0), torch.tensor(len(index)), *state, *inputs, index, real)
    return float(total)


def expected() -> float:
    state, inputs, index, real = example()
    for row in range(len(index)):
        if state[0]:
            state = step(*state, *inputs, index[row], real[row])
    return float(state[1])


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the compiled example."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        assert make(cache, patch) == expected()
    return cache


def compiled_in(cache: Path) -> list[Path]:
    return sorted((cache / "rlkit_es").glob("*"))


def never(*_: object) -> None:
    raise AssertionError("compiled again")


@needs_compiler
def test_rows_follow_each_other_until_one_stops(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(filled))
    monkeypatch.setattr(module, "_compile", never)
    state, inputs, index, real = example()
    loop = native_loop(step, state, inputs, index, real)
    for first, count in ((0, 2), (1, 4), (0, 4), (3, 4), (2, 2)):
        at, (going, total) = first, state
        while at < count and going:
            going, total = step(going, total, *inputs, index[at], real[at])
            at += 1
        got = loop(torch.tensor(first), torch.tensor(count), *state, *inputs, index, real)
        assert [tensor.tolist() for tensor in got] == [at, going.tolist(), total.tolist()]


@needs_compiler
def test_what_lies_on_disk_is_not_compiled_again(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compiled_in(filled)
    assert len(before) == 1  # nothing temporary is left
    monkeypatch.setattr(module, "_compile", never)
    assert make(filled, monkeypatch) == expected()
    assert compiled_in(filled) == before


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no package"], ids=["empty", "cut off"])
def test_what_is_damaged_is_compiled_again(
    filled: Path, damage: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compiled_in(filled)[0]
    damaged = tmp_path / "rlkit_es" / whole.name
    damaged.parent.mkdir()
    damaged.write_bytes(damage)
    monkeypatch.setattr(module, "_compile", lambda loop, example, path: path.write_bytes(whole.read_bytes()))
    assert make(tmp_path, monkeypatch) == expected()
    assert damaged.read_bytes() == whole.read_bytes()


def places(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Where a loop is looked for, without compiling it."""
    asked: list[Path] = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(module, "_traced", lambda step, arguments: torch.nn.Identity())
    monkeypatch.setattr(module, "_compile", lambda loop, example, path: asked.append(path))
    monkeypatch.setattr(module, "_load", lambda path: None)

    def place(
        step: Callable[..., Sequence[Tensor]] = step, rows: int = 4, samples: int = 6, wide: bool = False
    ) -> Path:
        state, inputs, index, real = example(rows, samples)
        native_loop(step, state, inputs, index, real.double() if wide else real)
        return asked[-1]

    return place


def one_more(going: Tensor, total: Tensor, data: Tensor, index: Tensor, real: Tensor) -> list[Tensor]:
    going, total = step(going, total, data, index, real)
    return [going, total + 1]


def test_whatever_changes_the_code_has_a_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = places(tmp_path, monkeypatch)
    assert place() == place()
    changed = [place(), place(one_more), place(rows=5), place(samples=7), place(wide=True)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_processor", lambda: "another")
        changed.append(place())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "another")
        changed.append(place())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: 64)
        changed.append(place())
    assert len(set(changed)) == len(changed)
    assert {path.parent for path in changed} == {tmp_path / "rlkit_es"}


def test_what_cannot_be_compiled_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decides(going: Tensor, total: Tensor, data: Tensor, index: Tensor, real: Tensor) -> list[Tensor]:
        return [going, total if float(data.sum()) > 0 else -total]  # by a value: no graph

    with pytest.raises(CompilationError, match=r"could not be compiled .*--compile off"):
        make(tmp_path, monkeypatch, decides)
    assert compiled_in(tmp_path) == []
