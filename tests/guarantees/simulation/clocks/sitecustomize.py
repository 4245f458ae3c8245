"""Python imports this at its start where it is on the path: the process then lives TEST_CLOCK_SKEW_SECONDS ahead."""

from __future__ import annotations

import os
import time
from datetime import timedelta

import gateway.clock

skew_seconds = float(os.environ["TEST_CLOCK_SKEW_SECONDS"])
true_time, true_time_ns, true_now = time.time, time.time_ns, gateway.clock.now

time.time = lambda: true_time() + skew_seconds
time.time_ns = lambda: true_time_ns() + int(skew_seconds * 1e9)
gateway.clock.now = lambda: true_now() + timedelta(seconds=skew_seconds)
