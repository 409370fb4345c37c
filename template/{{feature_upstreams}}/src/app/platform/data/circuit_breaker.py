"""The circuit breaker of an upstream: while it fails, it is not called.

Closed: attempts pass, until too many of the last ones have failed. Open: none passes, for the reset
time. Half-open: a few attempts pass as probes; if all succeed, the circuit closes, and the first
failure opens it again.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "half_open", "open"]


class CircuitBreaker:
    """A circuit breaker over the last ``window`` attempts.

    ``threshold``: the share of them that has to fail. ``reset``: seconds. ``on_change`` is called
    with each new state.
    """

    def __init__(
        self,
        window: int,
        threshold: float,
        reset: float,
        probes: int,
        on_change: Callable[[State], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_failures = math.ceil(window * threshold)
        self._reset = reset
        self._probes = probes
        self._on_change = on_change
        self._clock = clock
        self._outcomes: deque[bool] = deque(maxlen=window)  # True: failed
        self._state: State = "closed"
        self._generation = 0  # attempts that began in an earlier state say nothing about this one
        self._half_open_at = 0.0
        self._probing = 0
        self._succeeded = 0

    @property
    def state(self) -> State:
        if self._state == "open" and self._clock() >= self._half_open_at:
            self._change("half_open")
        return self._state

    @property
    def remaining(self) -> float:
        """Seconds until an open circuit lets probes through."""
        return max(0.0, self._half_open_at - self._clock()) if self._state == "open" else 0.0

    def allows(self) -> bool:
        """Whether an attempt would pass now."""
        state = self.state
        if state == "half_open":
            return self._probing + self._succeeded < self._probes
        return state == "closed"

    def acquire(self) -> int | None:
        """A permit for one attempt, to be given back to ``record``; ``None`` if it may not pass."""
        if not self.allows():
            return None
        self._probing += self._state == "half_open"
        return self._generation

    def record(self, permit: int, failed: bool | None) -> None:
        """Record an attempt; ``None`` for one that says nothing, such as a cancelled one."""
        if permit != self._generation:
            return
        if self._state == "half_open":
            self._probing -= 1
            if failed:
                self._change("open")
            elif failed is False:
                self._succeeded += 1
                if self._succeeded >= self._probes:
                    self._change("closed")
        elif failed is not None:
            self._outcomes.append(failed)
            if failed and sum(self._outcomes) >= self._max_failures:
                self._change("open")

    def _change(self, state: State) -> None:
        self._state = state
        self._generation += 1
        self._outcomes.clear()
        self._probing = self._succeeded = 0
        if state == "open":
            self._half_open_at = self._clock() + self._reset
        self._on_change(state)
