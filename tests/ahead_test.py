import threading
import time

import pytest

from pcejax.ahead import ahead


def test_items_come_in_order_one_ahead_and_from_another_thread():
    made = []

    def items():
        for index in range(5):
            made.append((index, threading.current_thread() is threading.main_thread()))
            yield index

    for index, item in enumerate(coming := ahead(items())):
        assert item == index
        if index == 0:
            next_one = next(coming)
            break
    assert next_one == 1
    assert len(made) <= 3
    assert [*coming] == [2, 3, 4]
    assert not any(main for _, main in made)


def test_what_goes_wrong_is_raised_where_the_item_is_asked_for():
    def items():
        yield 1
        raise ValueError("no second item")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="no second item"):
        next(coming)


def test_closing_waits_for_the_item_that_is_being_made():
    begun, done = threading.Event(), []

    def items():
        yield 1
        begun.set()
        time.sleep(0.05)
        done.append(2)
        yield 2

    coming = ahead(items())
    assert next(coming) == 1
    begun.wait()
    coming.close()
    assert done == [2]
