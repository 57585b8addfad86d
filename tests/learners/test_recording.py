"""What a GPU is told to do, told to the CPU: nothing here needs a GPU."""

import contextlib
import copy
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from recordings import AsksNothing, as_a_gpu_would
from update_examples import ADAM, make_batch, make_config_for, make_learner, make_policy, watched_steps

from rlkit_es.errors import CompilationError
from rlkit_es.learners.learner import make_learner as make_any_learner
from rlkit_es.learners.loops import CompiledLoop, PythonLoop, RecordedLoop, fast_loop
from rlkit_es.learners.recording import Recorded, recorder

RATE = 3e-3


def recorded(step: Any) -> RecordedLoop:
    return RecordedLoop(step, as_a_gpu_would)


SETTINGS: list[dict[str, Any]] = [
    {"critic_epochs": None},
    {"critic_epochs": 5},
    {"learning_rate_schedule": "adaptive_kl", "max_kl": 0.01},
    {"deviation_threshold_schedule": "linear", "deviation_threshold": 0.1},
    {"mask_at": "trial", "dropout_threshold": 0.02},
    {"deviation_statistic": "median", "deviation_threshold": 0.05},
    {"stop_when": "before", "deviation_threshold": 0.05},
    {"common_gradient": 0.1},
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((algo, {}) for algo in ADAM),
    *(("sd_espo", settings) for settings in SETTINGS),
]


@pytest.mark.parametrize(("algo", "settings"), CASES)
def test_a_recorded_update_is_the_eager_one_bitwise(algo: str, settings: dict[str, Any]) -> None:
    config = make_config_for(algo, **settings)
    first = make_policy()
    eager, replayed = (make_learner(algo, config, copy.deepcopy(first), watch_stop=False) for _ in range(2))
    replayed.loop_by(recorded)
    for seed in range(3):  # recorded at the first, and replayed on other data
        batch = make_batch(first, seed=seed)
        assert eager.update(batch, RATE, 0.5) == replayed.update(batch, RATE, 0.5)
        for one, other in zip(eager.state, replayed.state, strict=True):
            assert torch.equal(one, other)


def test_what_a_recording_cannot_hold_is_noticed() -> None:
    x = torch.ones(3)
    asking: list[Callable[[], Any]] = [
        lambda: float(x.sum()),
        lambda: bool((x > 0).any()),
        lambda: x[x > 0],
        lambda: torch.tensor([1.0]),
        lambda: x.new_tensor([1.0]),
        lambda: x.nonzero(),
    ]
    for ask in asking:
        with pytest.raises(AssertionError), AsksNothing():
            ask()


@pytest.mark.parametrize(("algo", "settings"), CASES)
def test_no_step_asks_the_host_for_anything(algo: str, settings: dict[str, Any]) -> None:
    policy = make_policy()
    learner = make_learner(algo, make_config_for(algo, **settings), policy, watch_stop=False)
    steps = watched_steps(learner)
    learner.update(make_batch(policy), RATE)
    assert "joint" in steps


def test_the_steps_of_the_critic_of_a_natural_step_ask_nothing_either() -> None:
    policy = make_policy()
    learner = make_any_learner("trpo", policy, make_config_for("trpo"), torch.Generator())
    step: Any = learner.critic._step
    plain, asked = step.critic_only, []

    def asking_nothing(*given: Any) -> Any:
        asked.append(1)
        with AsksNothing():
            return plain(*given)

    learner.critic._loop = PythonLoop(asking_nothing, watch=False)
    learner.update(make_batch(policy), RATE)
    assert asked


def test_a_loop_begins_where_it_is_told_and_ends_there() -> None:
    def step(state: Any, inputs: Any, row: torch.Tensor, real: torch.Tensor) -> Any:
        return (10 * state[0] + row[0],)  # a digit for each row, in their order

    index, real = torch.arange(6).view(6, 1), torch.ones(6, 1, dtype=torch.bool)
    loop = recorded(step)
    begun = (torch.tensor(7),)
    for first, count, taken in ((0, 6, 7012345), (2, 5, 7234), (4, 4, 7)):
        at, after = loop(begun, (), index, real, first, count)
        assert at == count
        assert int(after[0]) == taken
    assert int(begun[0]) == 7


def test_a_recorded_function_keeps_apart_shapes_and_results() -> None:
    offset = torch.tensor(1.0)
    function = Recorded(lambda x, y: (x + y + offset, x), as_a_gpu_would)
    first, _ = function(torch.zeros(2), torch.ones(2))
    other, _ = function(torch.zeros(3), torch.ones(3))
    second, given = function(torch.full((2,), 5.0), torch.ones(2))
    assert first.tolist() == [2.0, 2.0]
    assert other.tolist() == [2.0, 2.0, 2.0]
    assert second.tolist() == [7.0, 7.0]
    given.zero_()
    assert function(torch.full((2,), 5.0), torch.ones(2))[1].tolist() == [5.0, 5.0]


def test_a_recording_knows_nothing_of_python() -> None:
    # Or what is held against it here would not find what a GPU would get wrong.
    weight = [torch.tensor(2.0)]
    function = Recorded(lambda x: (x * weight[0],), as_a_gpu_would)
    assert function(torch.ones(1))[0].item() == 2.0
    weight[0].fill_(3.0)  # in its place: seen
    assert function(torch.ones(1))[0].item() == 3.0
    weight[0] = torch.tensor(4.0)  # in another: not seen
    assert function(torch.ones(1))[0].item() == 3.0


class FakeCuda:
    """Streams and graphs that only say where they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.captured_on: list[Any] = []
        self.warmed_up_on: list[Any] = []
        for name in ("Stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, self._stream)
        monkeypatch.setattr(torch.cuda, "stream", self._on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=lambda: None))
        monkeypatch.setattr(torch.cuda, "graph", self._capture)

    def _stream(self, device: Any) -> Any:
        return SimpleNamespace(device=device, wait_stream=lambda other: None)

    @contextlib.contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        self.warmed_up_on.append(stream.device)
        yield

    @contextlib.contextmanager
    def _capture(self, graph: Any, stream: Any) -> Iterator[None]:
        self.captured_on.append(stream.device)
        try:
            yield
        finally:
            if sys.exc_info()[0] is not None:
                raise RuntimeError("the capture ended badly")


def test_a_graph_is_recorded_on_the_device_that_it_runs_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fake, device = FakeCuda(monkeypatch), torch.device("cuda:1")
    record = recorder(device)
    assert record is not None
    assert record(lambda: 5)() == 5
    assert fake.warmed_up_on == fake.captured_on == [device]


def test_what_cannot_be_recorded_runs_as_it_is_unless_a_recording_is_required(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    FakeCuda(monkeypatch)
    calls = []

    def run() -> int:
        calls.append(1)
        if len(calls) == 4:  # after the warm-up
            raise RuntimeError("operation not permitted when stream is capturing")
        return len(calls)

    said = r"cannot be a CUDA graph \(operation not permitted .*capturing\); use --compile off"
    for required in (True, False):
        calls.clear()
        record = recorder(torch.device("cuda"), required=required)
        assert record is not None
        if required:
            with pytest.raises(CompilationError, match=said):
                record(run)
        else:
            with pytest.warns(RuntimeWarning, match=f"{said}, or leave it"):
                replay = record(run)
            assert [replay(), replay()] == [5, 6]


def test_a_gpu_records_and_a_cpu_compiles() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert recorder(cpu) is None
    assert recorder(torch.device("mps")) is None
    assert isinstance(fast_loop(lambda *_: None, cpu), CompiledLoop)
    assert isinstance(fast_loop(lambda *_: None, cuda), RecordedLoop)
