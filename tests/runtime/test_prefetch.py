"""What is made ahead comes in order, and ends as its maker does."""

import threading

import pytest

from uss_bench.runtime.prefetch import ahead


def test_items_come_in_order_each_made_by_another_thread_before_it_is_asked_for():
    made, makers = [], set()

    def make():
        for number in range(4):
            made.append(number)
            makers.add(threading.get_ident())
            yield number

    items = ahead(make())
    assert next(items) == 0
    assert [*items] == [1, 2, 3] and made == [0, 1, 2, 3]
    assert len(makers) == 1 and threading.get_ident() not in makers
    assert list(ahead(iter(()))) == []


def test_the_next_is_made_while_one_is_worked_on():
    second = threading.Event()

    def make():
        yield 0
        second.set()
        yield 1

    items = ahead(make())
    next(items)
    assert second.wait(10)


def test_an_error_comes_in_its_place():
    def make():
        yield 0
        raise FloatingPointError("step 1")

    items = ahead(make())
    assert next(items) == 0
    with pytest.raises(FloatingPointError, match="step 1"):
        next(items)


def test_a_consumer_may_leave_early():
    """Its thread ends with it."""
    before = threading.active_count()
    items = ahead(iter(range(10)))
    next(items)
    assert threading.active_count() > before
    items.close()
    assert threading.active_count() == before
