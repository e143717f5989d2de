"""Starts `choral` processes without the seconds in which Python reads the same modules again.

A program: it reads all modules once, then forks a process for each line of JSON on stdin, and says
on stdout which process it is and how it ended. Each is a process of its own, in a session of its
own, that anybody may kill or stop; it runs the very command line, from its first line on. With
`afresh` it is a new Python, as from a shell.
"""

import json
import multiprocessing
import os
import selectors
import signal
import sys
import traceback
from multiprocessing import forkserver

MODULES = (
    "choral.cli.app",
    "choral.client.agent",
    "choral.client.settings",
    "choral.client.work",
    "choral.coordinator.actor",
    "choral.coordinator.server",
    "choral.telemetry.result",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
)


def main():
    """Fork until stdin ends; then kill what still runs."""
    forkserver.set_forkserver_preload(["choral.client.work", "choral.tasks.numpy"])
    forkserver.ensure_running()
    for module in MODULES:
        __import__(module)
    reading, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    say(ready=True)
    chosen = selectors.DefaultSelector()
    chosen.register(reading, selectors.EVENT_READ)
    chosen.register(sys.stdin.fileno(), selectors.EVENT_READ)
    asked, alive = b"", {forkserver._forkserver._forkserver_pid}
    while True:
        for key, _ in chosen.select():
            found = os.read(key.fd, 1 << 16)
            if key.fd == reading:
                bury(alive)
            elif not found:
                for pid in alive:
                    os.kill(pid, signal.SIGKILL)
                return
            else:
                *lines, asked = (asked + found).split(b"\n")
                for line in lines:
                    alive.add(begin(json.loads(line)))


def say(**body):
    """Write a line."""
    os.write(1, json.dumps(body).encode() + b"\n")


def bury(alive):
    """Say which processes have ended."""
    for pid in tuple(alive):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            alive.discard(pid)
            say(ended=pid, code=os.waitstatus_to_exitcode(status))


def begin(wish):
    """Fork a process; return its id here, and never there."""
    pid = os.fork()
    if pid:
        say(begun=pid, name=wish["name"])
        return pid
    code = 1
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log = os.open(wish["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, standard in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours, standard)
        os.chdir(wish["folder"])
        os.environ.clear()
        os.environ.update(wish["environment"])
        if wish["afresh"]:
            program = [sys.executable, "-m", "choral", *wish["arguments"]]
            os.execve(sys.executable, program, wish["environment"])  # noqa: S606
        sys.argv = ["choral", *wish["arguments"]]
        sys.path.insert(0, wish["folder"])
        # What it spawns is forked, too, by a process that has read the modules.
        forkserver._forkserver.ensure_running = lambda: None
        of = multiprocessing.get_context
        multiprocessing.get_context = lambda name=None: of(
            "forkserver" if name == "spawn" else name
        )
        from choral.cli import main as choral

        code = 0
        choral()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
