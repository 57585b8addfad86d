"""What a GPU is told to do, told to the CPU: nothing here needs a GPU."""

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from recordings import as_a_gpu_would
from torch.utils._python_dispatch import TorchDispatchMode
from update_examples import ADAM, make_batch, make_config_for, make_learner, make_policy

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


class AsksNothing(TorchDispatchMode):
    """Refuses what a recording cannot hold: asking for a value, shapes that depend on one, host data."""

    REFUSED: ClassVar = {
        torch.ops.aten._local_scalar_dense.default,
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.lift_fresh.default,
        torch.ops.aten.is_nonzero.default,
        torch.ops.aten.equal.default,
    }

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in self.REFUSED, func
        if func is torch.ops.aten.index.Tensor:
            assert all(index is None or index.dtype != torch.bool for index in args[1]), func
        return func(*args, **(kwargs or {}))


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
    steps = []

    def watched(step: Any) -> PythonLoop:
        def asking_nothing(*given: Any) -> Any:
            steps.append(step.__name__)
            with AsksNothing():
                return step(*given)

        return PythonLoop(asking_nothing, watch=False)

    learner.loop_by(watched)
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
    taken: list[int] = []

    def step(state: Any, inputs: Any, row: torch.Tensor, real: torch.Tensor) -> Any:
        taken.append(int(row[0]))
        return (state[0] + row[0],)

    index, real = torch.arange(6).view(6, 1), torch.ones(6, 1, dtype=torch.bool)
    loop = recorded(step)
    begun = (torch.tensor(100),)
    for first, count in ((0, 6), (2, 5), (4, 4)):
        taken.clear()
        at, after = loop(begun, (), index, real, first, count)
        assert at == count
        assert taken[-(count - first) or len(taken) :] == list(range(first, count))
        assert int(after[0]) == 100 + sum(range(first, count))
    assert int(begun[0]) == 100


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


def test_a_gpu_records_and_a_cpu_compiles() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert recorder(cpu) is None
    assert recorder(torch.device("mps")) is None
    assert isinstance(fast_loop(lambda *_: None, cpu), CompiledLoop)
    assert isinstance(fast_loop(lambda *_: None, cuda), RecordedLoop)
