# What the tests with real processes share: processes that end with the test, a standalone server,
# its metrics, and libnbd connections.
#
# Invariants: every process started here is ended by its id, also when the test fails or is killed;
# files lie in a directory of the test's own, removed at the end.
import atexit
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_processes = []
_cleanups = []


def skip(reason):
    """Ends the test as skipped (SKIP_RETURN_CODE 77)."""
    print(f"skipped: {reason}", flush=True)
    sys.exit(77)


def need_tools(*names):
    for name in names:
        if shutil.which(name) is None:
            skip(f"{name} is not installed")


def step(text):
    print(f"--- [{time.strftime('%H:%M:%S')}] {text}", flush=True)


def wait_for(what, condition, timeout=10.0, interval=0.02):
    """Polls until condition() is true and returns it. Fails with `what` at the deadline."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(interval)


class Process:
    """A child with its standard error in a file, killed with the test at the latest."""

    def __init__(self, args, log_path, env=None):
        self.args = [str(arg) for arg in args]
        self.log_path = log_path
        with open(log_path, "ab") as log:
            self.popen = subprocess.Popen(
                self.args, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env,
                preexec_fn=lambda: _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
        _processes.append(self)

    @property
    def pid(self):
        return self.popen.pid

    def alive(self):
        return self.popen.poll() is None

    def log(self):
        with open(self.log_path, errors="replace") as log:
            return log.read()

    def terminate(self, timeout=20.0):
        """SIGTERM, and the exit status. A process that does not end in time fails the test."""
        if self.alive():
            self.popen.send_signal(signal.SIGTERM)
        return self.wait(timeout)

    def wait(self, timeout=20.0):
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.args} (pid {self.pid}) did not end within {timeout} s")

    def kill(self):
        """kill -9."""
        if self.alive():
            self.popen.kill()
        return self.popen.wait()


class Standalone(Process):
    """`agro standalone` on `data_dir`, ready when the constructor returns."""

    def __init__(self, bin_dir, data_dir, *options, ready_timeout=20.0):
        self.data_dir = str(data_dir)
        args = [os.path.join(bin_dir, "agro"), "standalone", "--data-dir", self.data_dir, *options]
        super().__init__(args, self.data_dir.rstrip("/") + ".log")
        wait_for(f"{self.args} is ready", lambda: self._ready(), ready_timeout)

    def _ready(self):
        if not self.alive():
            raise AssertionError(f"{self.args} ended at once: {self.log()[-2000:]}")
        try:
            return "agro_space_size_bytes" in self.metrics_text()
        except OSError:
            return False

    @property
    def nbd_socket(self):
        return os.path.join(self.data_dir, "nbd.sock")

    def uri(self, volume):
        return f"nbd+unix:///{volume}?socket={self.nbd_socket}"

    def connect(self, volume):
        return connect(self.nbd_socket, volume)

    def metrics_text(self):
        return http_get(os.path.join(self.data_dir, "metrics.sock"))

    def metrics(self):
        return parse_metrics(self.metrics_text())

    def metric(self, name):
        """The sum over all labels; 0 when there is none yet."""
        return sum(value for key, value in self.metrics().items() if key.split("{")[0] == name)

    def stop(self, timeout=30.0):
        """A clean stop: fails when the exit status is not 0."""
        status = self.terminate(timeout)
        assert status == 0, f"agro ended with {status}: {self.log()[-2000:]}"


def http_get(socket_path, path="/metrics"):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(socket_path)
        stream.sendall(f"GET {path} HTTP/1.1\r\nHost: agro\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := stream.recv(65536):
            answer += part
    return answer.decode()


def parse_metrics(text):
    metrics = {}
    for line in text.splitlines():
        if line.startswith("agro_"):
            key, _, value = line.rpartition(" ")
            metrics[key] = float(value)
    return metrics


def connect(socket_path, volume):
    import nbd  # /usr/bin/python3's; imported late so that others need it not
    handle = nbd.NBD()
    handle.set_export_name(volume)
    handle.connect_unix(socket_path)
    return handle


def run(args, timeout=120, check=True, **more):
    """Runs a command to its end and returns its CompletedProcess, with output as text."""
    done = subprocess.run([str(arg) for arg in args], stdin=subprocess.DEVNULL, text=True,
                          capture_output=True, timeout=timeout, **more)
    if check and done.returncode != 0:
        raise AssertionError(f"{args} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def at_exit(call):
    """Runs `call` after all processes are gone, also on failure; the last one first."""
    _cleanups.append(call)


def scratch_dir(where=None):
    """A directory of our own (short, for sockets), removed at the end unless AGRO_TEST_KEEP is set."""
    path = tempfile.mkdtemp(prefix="agro-", dir=where or os.environ.get("AGRO_TEST_DIR"))
    if "AGRO_TEST_KEEP" not in os.environ:
        at_exit(lambda: shutil.rmtree(path, ignore_errors=True))
    return path


def _clean_up():
    for process in _processes:
        process.kill()
    for call in reversed(_cleanups):
        call()


def _show_logs(kind, value, trace):
    sys.__excepthook__(kind, value, trace)
    for process in _processes[-3:]:
        lines = [each for each in process.log().splitlines() if not each.startswith("  ")][-15:]
        print(f"=== {' '.join(process.args)} (pid {process.pid}):", *lines, sep="\n  ", file=sys.stderr)


def _on_signal(number, _frame):
    sys.exit(128 + number)


atexit.register(_clean_up)
sys.excepthook = _show_logs
for _number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(_number, _on_signal)
