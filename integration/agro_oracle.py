# An oracle of a block device over NBD: knows which contents are legal after a crash at any instant.
#
# The device is cut into units (4 KiB, and 512 bytes in a region of their own). Every write puts its
# own number into each unit that it covers; no two requests under way touch the same unit, so each
# unit has one order of writes. Legal after a crash: the last write of a unit that was flushed, or
# any write to it issued later; and the whole is a prefix: whatever was acknowledged before the
# newest survivor was sent is there too.
import errno
import random
import select
import struct
import time

import nbd

BIG, SMALL = 4096, 512
LOST = {errno.ENOTCONN, errno.EPIPE, errno.ECONNRESET, errno.ESHUTDOWN}


class Write:
    """A numbered write, or a trim or zero (which leaves zeros)."""
    __slots__ = ("number", "zero", "acked_at")

    def __init__(self, number, zero):
        self.number, self.zero, self.acked_at = number, zero, None


class Region:
    """`count` units of `unit` bytes from byte `offset`."""

    def __init__(self, offset, unit, count):
        self.offset, self.unit, self.count = offset, unit, count
        # Writes per unit since the last one known to be durable (which is the first); none: zeros.
        self.history = [[Write(0, True)] for _ in range(count)]
        self.busy = bytearray(count)

    def content(self, index, number):
        return struct.pack("<QQ", self.offset + index * self.unit, number) * (self.unit // 16)


class Oracle:
    """Shape: the device is all zeros at first, and nobody else writes to it."""

    def __init__(self, seed, size, small_size=2 << 20, depth=24):
        self.random = random.Random(seed)
        self.big = Region(0, BIG, (size - small_size) // BIG)
        self.small = Region(size - small_size, SMALL, small_size // SMALL)
        self.dirty = set()  # (region, index) of units with more than one legal write
        self.depth = depth
        self.bulk = False  # write much, so that checkpoints and the cleaner have work
        self.run_number = 0
        self.failure = None  # of a completion; libnbd swallows exceptions there
        self.clock = 0  # counts sends and acknowledgments
        self.flush_count = self.write_count = 0
        self.longest_gap = self.longest_request = 0.0  # seconds, with requests under way
        self.gaps = []  # (end of the gap since the run began, its length), of those over 0.25 s

    # --- writing ---

    def run(self, handles, seconds=None, stop=lambda: False, may_die=lambda: False, tick=None):
        """Writes and reads through all handles for `seconds` or until stop(); then waits for what is under
        way. Ends early when the server dies, which is an error unless may_die()."""
        self.handles, self.may_die = handles, may_die
        self.run_number += 1  # completions of an earlier run, of handles being freed, are void
        self.under_way = 0
        self.dead = False
        self.begun = self.last_completion = time.monotonic()
        poll = select.poll()
        while not self.dead:
            if self.failure is not None:
                raise AssertionError(self.failure)
            now = time.monotonic()
            ending = (seconds is not None and now > self.begun + seconds) or stop()
            if ending and self.under_way == 0:
                return
            if tick is not None:
                tick(now - self.begun)
            while not ending and not self.dead and self.under_way < self.depth:
                self._send(self.random.choice(handles))
            self._turn(poll)

    def _turn(self, poll):
        try:
            for handle in self.handles:
                direction = handle.aio_get_direction()
                poll.register(handle.aio_get_fd(), (select.POLLIN if direction & 1 else 0) |
                              (select.POLLOUT if direction & 2 else 0))
            ready = dict(poll.poll(50))
            for handle in self.handles:
                events = ready.get(handle.aio_get_fd(), 0)
                if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                    handle.aio_notify_read()
                elif events & select.POLLOUT:
                    handle.aio_notify_write()
        except nbd.Error as error:
            self._lost(error)
        if any(handle.aio_is_dead() or handle.aio_is_closed() for handle in self.handles):
            self._lost("the server hung up")

    def _lost(self, why):
        if not self.may_die():
            raise AssertionError(f"lost the connection: {why}")
        self.dead = True

    def _send(self, handle):
        kind = self.random.random()
        try:
            if kind < 0.04:
                self._flush(handle)
            elif kind > 0.9:
                self._read_some(handle)
            elif kind < 0.07:
                self._change(handle, "zero" if kind < 0.055 else "trim")
            else:
                self._change(handle, "fua" if kind < 0.09 else "write")
        except nbd.Error as error:
            self._lost(error)

    def _pick(self, aligned):
        """A run of units that nothing under way touches, or None."""
        region = self.small if not aligned and self.random.random() < 0.2 else self.big
        longest = 12 if region is self.small else 4
        if self.random.random() < (0.5 if self.bulk else 0.05):
            longest = 256 if self.bulk else 64
        first = self.random.randrange(region.count)
        count = min(self.random.randint(1, longest), region.count - first)
        return None if any(region.busy[first:first + count]) else (region, first, count)

    def _change(self, handle, kind):
        picked = self._pick(aligned=kind in ("zero", "trim"))
        if picked is None:
            return
        region, first, count = picked
        self.clock += 1
        write = Write(self.clock, kind in ("zero", "trim"))
        offset, size = region.offset + first * region.unit, count * region.unit
        for index in range(first, first + count):
            region.history[index].append(write)
            self.dirty.add((region, index))
        region.busy[first:first + count] = b"\1" * count

        def done():
            self.clock += 1
            write.acked_at = self.clock
            region.busy[first:first + count] = bytes(count)
            self.write_count += 1
            if kind == "fua":
                self._durable(region, range(first, first + count), write.number)

        flags = nbd.CMD_FLAG_FUA if kind == "fua" else 0
        completion = self._completion(kind, done)
        if kind == "zero":
            handle.aio_zero(size, offset, completion=completion)
        elif kind == "trim":
            handle.aio_trim(size, offset, completion=completion)
        else:
            data = b"".join(region.content(index, write.number) for index in range(first, first + count))
            buffer = nbd.Buffer.from_bytearray(bytearray(data))
            handle.aio_pwrite(buffer, offset, completion=completion, flags=flags)
        self.under_way += 1

    def _read_some(self, handle):
        """What nothing under way touches must read as its last write."""
        picked = self._pick(aligned=False)
        if picked is None:
            return
        region, first, count = picked
        region.busy[first:first + count] = b"\1" * count
        buffer = nbd.Buffer(count * region.unit)

        def done():
            region.busy[first:first + count] = bytes(count)
            data = buffer.to_bytearray()
            for index in range(first, first + count):
                last = region.history[index][-1]
                wanted = bytes(region.unit) if last.zero else region.content(index, last.number)
                at = (index - first) * region.unit
                if data[at:at + region.unit] != wanted and self.failure is None:
                    self.failure = (f"byte {region.offset + index * region.unit} does not read as write "
                                    f"{last.number}: {data[at:at + 16].hex()}")

        handle.aio_pread(buffer, region.offset + first * region.unit, completion=self._completion("read", done))
        self.under_way += 1

    def _flush(self, handle):
        sent_at = self.clock

        def done():
            self.flush_count += 1
            for region, index in list(self.dirty):
                acked = [w.number for w in region.history[index]
                         if w.acked_at is not None and w.acked_at <= sent_at]
                if acked:
                    self._durable(region, (index,), acked[-1])

        handle.aio_flush(completion=self._completion("flush", done))
        self.under_way += 1

    def _durable(self, region, indices, number):
        """Writes before `number` cannot come back any more."""
        for index in indices:
            history = region.history[index]
            if history[0].number < number:
                region.history[index] = [w for w in history if w.number >= number]
            if len(region.history[index]) == 1:
                self.dirty.discard((region, index))

    def _completion(self, kind, done):
        sent, run_number = time.monotonic(), self.run_number

        def completion(problem):
            if run_number != self.run_number:
                return 1
            number = problem.value if hasattr(problem, "value") else problem
            self.under_way -= 1
            if number != 0:
                # The connection was lost with this under way: it may have happened or not.
                if number in LOST and self.may_die():
                    self.dead = True
                    return 1
                self.failure = f"{kind}: error {number} ({errno.errorcode.get(number)})"
                return 1
            now = time.monotonic()
            gap = now - max(self.last_completion, self.begun)
            self.longest_gap = max(self.longest_gap, gap)
            if gap > 0.25:
                self.gaps.append((round(now - self.begun, 2), round(gap, 2)))
            self.longest_request = max(self.longest_request, now - sent)
            self.last_completion = now
            done()
            return 1
        return completion

    # --- checking ---

    def check(self, handle, crashed=True):
        """Reads everything and compares. After a crash, what was read is what counts from now on (the
        recovered state is durable). Without one each unit must hold its last write, flushed or not."""
        found = []  # (region, index, candidates)
        for region in (self.big, self.small):
            found += self._read(handle, region)
        newest = max((candidates[0].number for _, _, candidates in found), default=0)
        for region, index, candidates in found:
            history = region.history[index]
            least = history[-1].number if not crashed else max(
                (w.number for w in history if w.acked_at is not None and w.acked_at < newest),
                default=history[0].number)
            if candidates[-1].number < least:
                self._wrong(region, index, f"write {candidates[-1].number} but {least} was acknowledged before "
                            f"write {newest} was sent, which survived")
        if not crashed:
            return
        for region, index, candidates in found:
            kept = candidates[-1]
            region.history[index] = [Write(kept.number, kept.zero)]
            region.history[index][0].acked_at = kept.number
            region.busy[index] = 0
        self.dirty.clear()

    def _read(self, handle, region):
        found = []
        size = region.count * region.unit
        for begin in range(0, size, 1 << 20):
            data = handle.pread(min(1 << 20, size - begin), region.offset + begin)
            for at in range(0, len(data), region.unit):
                index = (begin + at) // region.unit
                found.append((region, index, self._explain(region, index, data[at:at + region.unit])))
        return found

    def _explain(self, region, index, unit):
        """The writes of which `unit` may be the outcome."""
        history = region.history[index]
        where, number = struct.unpack_from("<QQ", unit)
        if where == number == 0 and not any(unit):
            candidates = [w for w in history if w.zero]
        else:
            if unit != struct.pack("<QQ", where, number) * (region.unit // 16):
                self._wrong(region, index, f"garbage: {unit[:64].hex()}...")
            if where != region.offset + index * region.unit:
                self._wrong(region, index, f"what belongs to byte {where}, write {number}")
            candidates = [w for w in history if w.number == number and not w.zero]
        if not candidates:
            self._wrong(region, index, f"write {number}; legal are {[(w.number, w.zero) for w in history]}")
        return candidates

    @staticmethod
    def _wrong(region, index, what):
        raise AssertionError(f"byte {region.offset + index * region.unit} holds {what}")

    def summary(self):
        return f"{self.write_count} writes, {self.flush_count} flushes"
