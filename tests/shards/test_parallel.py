import threading
from itertools import count, islice

import pytest

from plm_composer.errors import UserError
from plm_composer.shards.parallel import ordered_map


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_order_and_maps_chain(threads):
    results = ordered_map(str, ordered_map(abs, range(-50, 0), threads), threads)
    assert list(results) == [str(i) for i in range(50, 0, -1)]


def test_tasks_run_side_by_side():
    both = threading.Barrier(2, timeout=60)
    assert sorted(ordered_map(lambda _: both.wait(), range(2), 2)) == [0, 1]


def test_bounded_number_of_tasks_under_way():
    taken = []

    def tasks():
        for i in count():
            taken.append(i)
            yield i

    assert list(islice(ordered_map(abs, tasks(), 2), 10)) == list(range(10))
    assert len(taken) < 20


@pytest.mark.parametrize("threads", [1, 2])
def test_errors_of_functions_and_tasks_reach_the_caller_and_leave_no_thread(threads):
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError):
        list(ordered_map((1).__floordiv__, [1, 0, 1, 1], threads))
    with pytest.raises(ZeroDivisionError):
        list(ordered_map(abs, (1 // i for i in (1, 0)), threads))
    assert threading.active_count() == before


@pytest.mark.parametrize("threads", [1, 2])
def test_too_little_memory_is_a_clear_error(threads):
    def fail(_):
        raise MemoryError

    with pytest.raises(UserError, match="out of memory; try again with fewer --processes"):
        list(ordered_map(fail, [1], threads))
