# A user of a volume who never stops: the oracle of agro_oracle.py at work in a thread, and how long
# it had to wait when something happened to the cluster.
#
# Two figures per event: the stall (the longest time without any completed I/O, which is what the bars
# of docs/performance.md are about) and the longest single request. Every read is checked, every error
# fails the test.
import os
import threading
import time

from agro_oracle import Oracle
from agro_testlib import MIB

# The bars are for a quiet machine; tests share theirs. Measured values are printed either way.
SLACK = float(os.environ.get("AGRO_STALL_SLACK", "2"))


class Load:
    """`connections` users of `volume` at `client`, from start() to stop(), with `depth` requests under way.
    They think for `think` seconds now and then, so that the machine is not theirs alone."""

    def __init__(self, seed, client, volume, size=64 * MIB, connections=2, depth=8, think=0.0):
        self.client, self.volume = client, volume
        self.oracle = Oracle(seed, size, depth=depth)
        self.connections, self.think = connections, think
        self.handles = []
        self.failure = None
        self.thread = None
        self.ending = False
        self.may_die = False

    def start(self):
        self.handles, _ = self.client.attach(self.volume, count=self.connections)
        return self.go_on()

    def go_on(self):
        self.ending, self.failure = False, None
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        return self

    def _work(self):
        try:
            thinking = (lambda _seconds: time.sleep(self.think)) if self.think else None
            self.oracle.run(self.handles, stop=lambda: self.ending, may_die=lambda: self.may_die, tick=thinking)
        except BaseException as error:  # noqa: B036: shown in the test's own thread
            self.failure = error

    def check(self):
        """Fails the test with what failed the load."""
        if self.failure is not None:
            raise AssertionError(f"the load failed: {self.failure}") from self.failure
        assert self.thread.is_alive() or self.ending or self.may_die, "the load ended by itself"

    def pause(self, timeout=60.0):
        """Waits for what is under way; the connections stay."""
        self.ending = True
        self.thread.join(timeout)
        assert not self.thread.is_alive(), f"requests still under way after {timeout} s"
        self.check()

    def verify(self):
        """Everything reads as it was last written."""
        self.pause()
        self.oracle.check(self.handles[0], crashed=False)
        return self

    def stop(self):
        """Verifies, and closes the connections in the clean way."""
        self.verify()
        for handle in self.handles:
            handle.shutdown()
        self.handles = []

    def abandon(self):
        """Stops work without waiting for what is under way, which may have happened or not. Returns the old
        connections: while they are held nothing tells the server that its user has gone."""
        self.ending = self.oracle.dead = True
        self.thread.join(30)
        assert not self.thread.is_alive(), "the load does not end"
        old, self.handles = self.handles, []
        return old

    def take_over(self, client, handles):
        """Goes on at another client, through connections that were checked."""
        self.client = client
        self.handles = handles + [client.connect(self.volume) for _ in range(self.connections - len(handles))]
        return self.go_on()

    # --- measuring ---

    def begin(self):
        """From here on waits count for the next end()."""
        self.check()
        self.oracle.longest_gap = self.oracle.longest_request = 0.0
        self.oracle.gaps = []
        self.oracle.begun = self.begun = time.monotonic()
        self.count = self.oracle.write_count

    def watch(self, seconds):
        """Lets it work for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            time.sleep(min(0.05, max(0.0, end - time.monotonic())))

    def end(self, what, bar=None):
        """Prints what the user saw since begin(), and fails when the stall is beyond `bar` x SLACK."""
        self.check()
        stall = max(self.oracle.longest_gap, time.monotonic() - max(self.oracle.last_completion, self.begun))
        request = max(self.oracle.longest_request, stall)
        limit = "" if bar is None else f", bar {bar} s"
        print(f"RESULT {what}: stall {stall:.3f} s{limit}; longest request {request:.3f} s; "
              f"{self.oracle.write_count - self.count} writes in {time.monotonic() - self.begun:.1f} s; "
              f"gaps (when, how long) {self.oracle.gaps[:8]}", flush=True)
        assert self.oracle.write_count > self.count or (bar is None), f"{what}: not one write"
        if bar is not None:
            assert stall <= bar * SLACK, f"{what}: no I/O completed for {stall:.3f} s; the bar is {bar} s (x {SLACK})"
        return stall

    def measure(self, what, seconds, action=None, bar=None):
        """begin(), the action half a second later, end() after `seconds` in all."""
        self.begin()
        self.watch(0.5)
        if action is not None:
            action()
        self.watch(seconds - 0.5)
        return self.end(what, bar)
