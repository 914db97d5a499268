"""Start and stop a real S3 server (Ceph RadosGW over one monitor and one OSD) on free loopback ports.

Debian and Ubuntu have it: apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path

from s3_server import ACCESS_KEY, HOST, SECRET_KEY, S3Server, die_with_parent, free_ports

BINARIES = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
INSTALL = "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"
START_LIMIT_S = 120.0
STORE_BYTES = 4 << 30
"""The OSD keeps objects in memory and takes at most this much of it."""

# Without `ms client mode` radosgw waits for a secure monitor and gives up after a minute; without
# tcp_nodelay every answer takes 44 ms; the paxos intervals are a second each by default.
CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:{host}:{mon2}/0,v1:{host}:{mon1}/0]
mon initial members = a
public addr = {host}
cluster addr = {host}
auth cluster required = none
auth service required = none
auth client required = none
auth supported = none
cephx sign messages = false
ms cluster mode = crc
ms service mode = crc
ms client mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
ms mon client mode = crc
run dir = {here}
admin socket = {here}/$name.asok
pid file = {here}/$name.pid
log file = {here}/$name.log
crash dir = {here}
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data avail crit = 1
mon data avail warn = 2
mon osd nearfull ratio = .96
mon osd backfillfull ratio = .965
mon osd full ratio = .97
osd failsafe full ratio = .98
[mon]
paxos propose interval = 0.05
paxos min wait = 0.01
mon data = {here}/mon
[osd]
osd data = {here}/osd
osd objectstore = memstore
memstore device bytes = {store_bytes}
osd crush initial weight = 1
osd class update on start = false
osd memory target = 939524096
osd op num shards = 2
osd op num threads per shard = 2
[client.rgw.a]
keyring = /dev/null
rgw data = {here}/rgw
rgw frontends = beast endpoint={host}:{port} tcp_nodelay=1
rgw thread pool size = 64
rgw run sync thread = false
rgw enable usage log = false
rgw enable ops log = false
rgw dynamic resharding = false
rgw override bucket index max shards = 1
[client.admin]
keyring = /dev/null
"""


def missing_binary() -> str | None:
    """Return the first program that is not installed, or None where all are."""
    return next((name for name in BINARIES if shutil.which(name) is None), None)


class CephServer(S3Server):
    """A Ceph RadosGW of three processes, with its data in memory and a temporary directory."""

    def __init__(self) -> None:
        super().__init__()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def _launch(self) -> None:
        lacking = missing_binary()
        if lacking is not None:
            raise FileNotFoundError(f"{lacking} is not installed; run: {INSTALL}")
        here = Path(tempfile.mkdtemp(prefix="c", dir=self._directory))
        port, mon2, mon1 = free_ports(3)
        self.endpoint_url = f"http://{HOST}:{port}"
        fsid, osd = str(uuid.uuid4()), str(uuid.uuid4())
        self._config = here / "ceph.conf"
        self._config.write_text(
            CONFIG.format(
                fsid=fsid, host=HOST, port=port, mon1=mon1, mon2=mon2, here=here, store_bytes=STORE_BYTES
            )
        )
        addresses, monmap = f"[v2:{HOST}:{mon2},v1:{HOST}:{mon1}]", str(here / "monmap")
        self._call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", addresses, monmap)
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap)
        self._spawn("ceph-mon", "-i", "a", "-f")
        self._until("the monitor", lambda: self._call("ceph", "mon", "stat", check=False))
        (here / "osd").mkdir()
        self._call("ceph", "osd", "new", osd)
        self._call("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd, "--no-mon-config")
        self._spawn("ceph-osd", "-i", "0", "-f")
        self._until("the OSD", lambda: "1 up" in self._call("ceph", "osd", "stat", check=False))
        self._spawn("radosgw", "-n", "client.rgw.a", "-f")
        self._call(
            "radosgw-admin", "-n", "client.rgw.a", "user", "create", "--uid", "test",
            "--display-name", "test", "--max-buckets", "0",
            "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY,
        )  # fmt: skip

    def _wait(self) -> None:
        self._until("the S3 port", self._answers)

    def _answers(self) -> str:
        self._client().list_buckets()
        return "yes"

    def _call(self, program: str, *arguments: str, check: bool = True) -> str:
        command = [program, "-c", str(self._config), *arguments]
        if program == "ceph":
            command[1:1] = ["--connect-timeout", "5"]
        done = subprocess.run(
            command, cwd=self._config.parent, capture_output=True, text=True, timeout=90, check=False
        )
        if done.returncode and check:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
        return "" if done.returncode else done.stdout or "done"

    def _spawn(self, program: str, *arguments: str) -> None:
        with open(self._config.parent / f"{program}.out", "ab") as log:
            self._processes[program] = subprocess.Popen(
                [program, "-c", str(self._config), *arguments],
                cwd=self._config.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _until(self, what: str, ready) -> None:
        """Return when `ready()` says something."""
        limit, last = time.monotonic() + START_LIMIT_S, ""
        while time.monotonic() < limit:
            ended = [name for name, one in self._processes.items() if one.poll() is not None]
            if ended:
                last = f"{ended[0]} ended: {self._log(ended[0])}"
                break
            try:
                if ready():
                    return
            except Exception as error:
                last = repr(error)
            threading.Event().wait(0.1)
        raise RuntimeError(f"Ceph did not start, {what} does not answer: {last}")

    def _log(self, program: str) -> str:
        return (self._config.parent / f"{program}.out").read_text(errors="replace")[-2000:]

    def _end(self) -> None:
        # From the gateway down to the monitor: each logs complaints for as long as what it needs is gone.
        for process in reversed(self._processes.values()):
            process.kill()
            process.wait(10)
        self._processes.clear()


if __name__ == "__main__":
    CephServer().serve_until_told()
