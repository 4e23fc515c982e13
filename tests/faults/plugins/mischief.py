"""Methods that go wrong by every door that a process has."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from sdbench import Method, register


class Toy(Method):
    """Cross-entropy and, in every step, some mischief."""

    def before_epoch(self, epoch, epochs):
        self.epoch = epoch

    def criterion(self, output, batch, progress):
        self.mischief()
        return {"ce": F.cross_entropy(output.logits.float(), batch.labels)}

    def mischief(self):
        pass


@register("bad_init")
class Init(Toy):
    """Its constructor is broken."""

    def __init__(self):
        super().__init__()
        raise ZeroDivisionError("no such constant")


@register("bad_late")
class Late(Toy):
    """Fails in its second epoch."""

    def mischief(self):
        if self.epoch == 1:
            raise LookupError("lost in epoch 1")


@register("bad_exit_0")
class ExitZero(Toy):
    """Ends its process as if all were well."""

    def mischief(self):
        print("the last thing it said")
        os._exit(0)


@register("bad_exit_3")
class ExitThree(Toy):
    """Ends its process with a code."""

    def mischief(self):
        print("the last thing it said")
        os._exit(3)


@register("bad_sys_exit")
class SysExit(Toy):
    """Asks Python to leave."""

    def mischief(self):
        sys.exit("leaving")


@register("bad_exit_after_epoch")
class ExitAfterEpoch(Toy):
    """The same, in a hook."""

    def after_epoch(self, network):
        raise SystemExit(5)


@register("bad_interrupt")
class Interrupt(Toy):
    """Pretends to be a Ctrl-C."""

    def mischief(self):
        raise KeyboardInterrupt("not from a keyboard")


@register("bad_segfault")
class Segfault(Toy):
    """Reads where nothing is."""

    def mischief(self):
        ctypes.string_at(8)


@register("bad_recursion")
class Recursion(Toy):
    """Never comes to the bottom."""

    def mischief(self):
        self.mischief()


@register("bad_message")
class Message(Toy):
    """Its error has two megabytes, commas and half a character."""

    def mischief(self):
        raise RuntimeError("1, " * 700_000 + "\udcff")


@register("bad_leak")
class Leak(Toy):
    """Keeps all it makes, under a limit such as a batch system sets."""

    def setup(self, task, network):
        self.kept = []
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + 2**29
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def mischief(self):
        self.kept += [torch.ones(2**24) for _ in range(4)]


@register("bad_gigabyte")
class Gigabyte(Toy):
    """Prints a gigabyte, and then fails."""

    def mischief(self):
        block = b"x" * 2**20
        for _ in range(1024):
            os.write(1, block)
        raise ValueError("said enough")


@register("bad_drips")
class Drips(Toy):
    """Prints letter by letter, and then dies: what it said last has to be in its log."""

    def mischief(self):
        for letter in "a long way, letter by letter, to the end of it" * 4:
            os.write(1, letter.encode())
            time.sleep(0.0005)
        os.kill(os.getpid(), signal.SIGABRT)


@register("odd_children")
class Children(Toy):
    """Leaves processes behind that hold all it held; its own work is sound."""

    def after_epoch(self, network):
        if os.fork() == 0:
            time.sleep(3600)
            os._exit(0)
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], close_fds=False)


@register("odd_escapee")
class Escapee(Toy):
    """Leaves one in a session of its own."""

    def after_epoch(self, network):
        if os.fork() == 0:
            os.setsid()
            time.sleep(20)
            os._exit(0)


@register("odd_streams")
class Streams(Toy):
    """Closes what it was given to read and to print on."""

    def setup(self, task, network):
        sys.stdin.close()
        sys.stdout.close()
        sys.stderr.close()


@register("odd_descriptors")
class Descriptors(Toy):
    """The same, below Python."""

    def setup(self, task, network):
        for number in range(3):
            os.close(number)


@register("odd_threads")
class Threads(Toy):
    """Starts threads that never end."""

    def setup(self, task, network):
        for _ in range(3):
            threading.Thread(target=time.sleep, args=(3600,)).start()


@register("odd_process")
class Process(Toy):
    """Changes whatever a process has: folder, rights of new files, handlers, niceness."""

    def setup(self, task, network):
        os.chdir("/")
        os.umask(0o777)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


@register("odd_clock")
class Clock(Toy):
    """The clock is set back by a year while it trains."""

    def setup(self, task, network):
        from sdbench import environment

        environment.now = lambda: "2025-01-01T00:00:00.000+00:00"
        true = time.time
        time.time = lambda: true() - 365 * 86400
