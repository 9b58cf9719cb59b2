import os
from itertools import count, islice

import pytest

from plm_composer.errors import UserError
from plm_composer.shards.parallel import ordered_pool


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_in_order_and_maps_chain(processes):
    with ordered_pool(processes) as ordered_map:
        assert list(ordered_map(str, ordered_map(abs, range(-50, 0)))) == [str(i) for i in range(50, 0, -1)]


def test_bounded_number_of_tasks_under_way():
    taken = []

    def tasks():
        for i in count():
            taken.append(i)
            yield i

    with ordered_pool(2) as ordered_map:
        assert list(islice(ordered_map(abs, tasks()), 10)) == list(range(10))
    assert len(taken) < 20


def test_errors_of_workers_and_tasks_reach_the_caller():
    with pytest.raises(ZeroDivisionError), ordered_pool(2) as ordered_map:
        list(ordered_map((1).__floordiv__, [1, 0]))


def test_a_dead_worker_is_a_clear_error():
    with pytest.raises(UserError, match="a worker process died"), ordered_pool(2) as ordered_map:
        list(ordered_map(os._exit, [1]))
