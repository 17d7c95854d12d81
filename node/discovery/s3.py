"""Each host has an object in a bucket: PREFIX/ID.json. Too old an object is of a host that is gone.

`discovery.s3_url` is https://ENDPOINT/BUCKET/PREFIX; the credentials stand in a file as the AWS tools have it.
"""

from __future__ import annotations

import configparser
import io
import sys
from contextlib import suppress
from urllib.parse import urlsplit

from mesh.discovery import FOUND_MAX, Found
from node.config import Config
from node.discovery.board import ANSWER_S, ENTRY_BYTES_MAX, BoardError, fresh, is_entry, ttl_s

try:
    import minio
    import urllib3
    from minio.credentials.providers import AWSConfigProvider
except ImportError as error:
    raise BoardError(f'discovery.method = "s3" needs minio: {sys.prefix}/bin/pip install "mqnode[s3]"') from error

_Errors = (minio.error.MinioException, urllib3.exceptions.HTTPError, OSError, ValueError, configparser.Error)


def _cause(error: Exception) -> str:
    match error:
        case minio.error.S3Error():
            return f"{error.code}: {error.message}"  # not the number of the request: what is told anew is logged anew
        case configparser.Error():  # whose text quotes lines, the secret perhaps
            return "discovery.s3_credentials_file is not as the AWS tools have it: [default], and a line for each key"
    return str(error)


class S3:
    def __init__(self, config: Config) -> None:
        discovery = config.discovery
        url = urlsplit(discovery.s3_url)
        self._bucket, _, prefix = url.path.lstrip("/").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._ttl_s = ttl_s(config)
        self._own = ""
        self._client = minio.Minio(
            url.netloc,
            secure=url.scheme == "https",
            credentials=AWSConfigProvider(discovery.s3_credentials_file),
            region=discovery.s3_region,
            http_client=urllib3.PoolManager(timeout=ANSWER_S, retries=1),
        )

    def announce(self, own: Found) -> None:
        self._own = f"{self._prefix}{own.node_id}.json"
        content = own.to_json()
        try:
            self._client.put_object(
                self._bucket, self._own, io.BytesIO(content), len(content), content_type="application/json"
            )
        except _Errors as error:
            raise BoardError(f"bucket {self._bucket}: cannot be written: {_cause(error)}") from error

    def look(self) -> list[Found]:
        try:
            written_s = {
                each.object_name: each.last_modified.timestamp()
                for each, _ in zip(
                    self._client.list_objects(self._bucket, self._prefix), range(FOUND_MAX), strict=False
                )
                if is_entry(each.object_name.removeprefix(self._prefix)) and each.last_modified is not None
            }
            current = fresh(written_s, self._own, self._ttl_s)
            for name in written_s.keys() - current:
                self._client.remove_object(self._bucket, name)
            return [found for name in sorted(current) if (found := self._read(name)) is not None]
        except _Errors as error:
            raise BoardError(f"bucket {self._bucket}: cannot be read: {_cause(error)}") from error

    def _read(self, name: str) -> Found | None:
        answer = self._client.get_object(self._bucket, name)
        try:
            return Found.from_json(answer.read(ENTRY_BYTES_MAX))
        finally:
            answer.close()
            answer.release_conn()

    def withdraw(self, own: Found) -> None:
        with suppress(*_Errors):
            self._client.remove_object(self._bucket, self._own)
