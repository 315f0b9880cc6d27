#!/usr/bin/python3
# The oracle itself: it must accept what a crash may leave, and refuse what it may not.
# Method: a device in memory, whose contents are put together by hand from a history of writes.
#
# Usage: oracle_test.py [BIN_DIR, not used]
from agro_testlib import skip

try:
    import nbd  # noqa: F401
except ImportError:
    skip("python3-libnbd is not installed for /usr/bin/python3")
from agro_oracle import BIG, Oracle, Write

SIZE = 4 << 20


class MemoryDevice:
    def __init__(self):
        self.bytes = bytearray(SIZE)

    def pread(self, size, offset):
        return self.bytes[offset:offset + size]

    def put(self, oracle, index, number):
        self.bytes[index * BIG:(index + 1) * BIG] = oracle.big.content(index, number)


def issued(oracle, index, sent_at, acked_at, zero=False):
    write = Write(sent_at, zero)
    write.acked_at = acked_at
    oracle.big.history[index].append(write)
    oracle.dirty.add((oracle.big, index))


def history():
    """Unit 0: writes 1 (flushed), 3, 5. Unit 1: writes 7 (acknowledged at 8), 9 (never). Unit 2:
    write 11, sent after the acknowledgment of 7."""
    oracle, device = Oracle(1, SIZE), MemoryDevice()
    issued(oracle, 0, 1, 2)
    oracle._durable(oracle.big, (0,), 1)
    issued(oracle, 0, 3, 4)
    issued(oracle, 0, 5, 6)
    issued(oracle, 1, 7, 8)
    issued(oracle, 1, 9, None)
    issued(oracle, 2, 11, None)
    issued(oracle, 3, 10, None, zero=True)
    return oracle, device


def verdict(units, damage=None, crashed=True):
    """What check() says of a device with `units`: {index: write number}; '' when nothing."""
    oracle, device = history()
    for index, number in units.items():
        device.put(oracle, index, number)
    if damage is not None:
        damage(device.bytes)
    try:
        oracle.check(device, crashed)
        return ""
    except AssertionError as error:
        return str(error)


def main():
    def flip(at):
        def change(data):
            data[at] ^= 1
        return change

    for units in ({0: 1}, {0: 3}, {0: 5}, {0: 5, 1: 7}, {0: 5, 1: 9}, {0: 5, 1: 7, 2: 11}, {0: 5, 1: 9, 2: 11}):
        assert verdict(units) == "", (units, verdict(units))
    for units, word in (({}, "write 0; legal are"),            # the flushed write is missing
                        ({0: 4}, "write 4; legal are"),        # nobody wrote that
                        ({0: 3, 1: 7}, "which survived"),      # 5 was acknowledged before 7 was sent
                        ({0: 5, 2: 11}, "which survived")):    # so was 7 before 11
        assert word in verdict(units), (units, verdict(units))
    good = {0: 5, 1: 9, 2: 11}
    assert "garbage" in verdict(good, flip(BIG - 1))
    assert "belongs to" in verdict(good, flip(0)) or "garbage" in verdict(good, flip(0))
    assert "garbage" in verdict(good, flip(10 * BIG + 5))  # where nobody wrote
    assert "write 0" in verdict(good, lambda data: data.__setitem__(slice(0, BIG), bytes(BIG)))

    def swap(data):
        data[0:BIG], data[BIG:2 * BIG] = data[BIG:2 * BIG], data[0:BIG]
    assert "belongs to" in verdict(good, swap)
    assert "acknowledged" in verdict({0: 3, 1: 9, 2: 11}, crashed=False)
    assert verdict(good, crashed=False) == "", verdict(good, crashed=False)

    # Reading makes nothing durable: what was not flushed may still be lost afterwards.
    oracle, device = history()
    for index, number in good.items():
        device.put(oracle, index, number)
    oracle.check(device, crashed=False)
    device.put(oracle, 0, 1)
    for index in (1, 2):
        device.bytes[index * BIG:(index + 1) * BIG] = bytes(BIG)
    oracle.check(device)

    # After a crash, what was read is the only legal content.
    oracle, device = history()
    device.put(oracle, 0, 3)
    oracle.check(device)
    device.put(oracle, 0, 5)
    try:
        oracle.check(device)
    except AssertionError:
        return
    raise AssertionError("a write came back from the dead")


if __name__ == "__main__":
    main()
