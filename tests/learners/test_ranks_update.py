from __future__ import annotations

from typing import Any

import pytest
import torch
from rank_examples import CASES, Case, Outcome, batch_of, by_two, dealt_as_by_two, normalized, outcome

from rlkit_es.learners import adam_learner, critic_fit

Both = list[dict[str, Any]]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return by_two(tmp_path_factory.mktemp("ranks"))


def of(both: Both, case: object) -> list[Outcome]:
    return [Outcome(*results[str(case)]) for results in both]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_make_the_updates_of_one_process_with_the_same_data(
    both: Both, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (adam_learner, critic_fit):
        monkeypatch.setattr(module, "shuffled", dealt_as_by_two)
    alone, (first, second) = outcome(case), of(both, case)
    assert torch.equal(first.parameters, second.parameters)  # to the bit, or they would drift apart
    assert first.metrics == second.metrics
    assert first.shift == second.shift
    assert (first.parameters - alone.parameters).abs().max() < 1e-6
    for name, value in alone.metrics.items():
        assert first.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
    for name, value in alone.shift.items():
        assert first.shift[name] == pytest.approx(value, rel=1e-3, abs=1e-6)


def test_the_cases_stop_drop_and_lack_samples(both: Both) -> None:
    metrics = {str(case): of(both, case)[0].metrics for case in CASES}
    stopped = [m for case, m in metrics.items() if case.startswith("espo deviation")]
    assert all(m["stopped"] == 1 for m in stopped)
    assert any(0 < m["kept_fraction"] < 1 for m in metrics.values())
    assert any(not batch_of(case).valid.chunk(2)[1].any() for case in CASES)


def test_a_fraction_of_the_states_is_drawn_by_each_rank(both: Both) -> None:
    first, second = of(both, "fisher_fraction")
    assert torch.equal(first.parameters, second.parameters)
    assert 0.001 < first.shift["approx_kl"] < 0.03


def test_normalisers_count_what_every_rank_sees(both: Both) -> None:
    for name, value in normalized().items():
        first, second = (results["normalized"][name] for results in both)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, value, rtol=1e-5, atol=1e-6)


def test_what_ranks_tell_each_other(both: Both) -> None:
    for results in both:
        assert results["ragged"].tolist() == [0, 1, 0, 1, 2, 3, 4]
        assert results["everyones"] == [{"rank": 0}, {"rank": 1}]
        assert results["from_first"] == 0
