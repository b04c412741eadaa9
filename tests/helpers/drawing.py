"""How often generator-based tests draw."""

import functools
import os

from hypothesis import given, settings
from hypothesis import strategies as st


TIMES = 5 if os.environ.get("FUZZ_PROFILE") == "fuzz" else 1


def drawn(count: int, least: float = 0.6):
    """A test that draws what it needs from its argument `data`, so many times; five times as often by `make fuzz`.

    It returns `False` where what was drawn is refused, which may be so in the rest of all draws, beside `least`.
    """

    def decorate(test):
        seen = []

        def one(data):
            seen.append(test(data) is not False)

        one.__name__ = one.__qualname__ = test.__name__  # by which the draws are chosen
        run = settings(max_examples=count * TIMES)(given(data=st.data())(one))

        @functools.wraps(test, assigned=("__module__", "__name__", "__qualname__", "__doc__"), updated=())
        def whole():
            seen.clear()
            run()
            assert len(seen) >= count * TIMES
            assert sum(seen) >= least * len(seen), f"{len(seen) - sum(seen)} of {len(seen)} draws were refused"

        del whole.__wrapped__  # which asks for `data`
        whole.drawn = test
        return whole

    return decorate
