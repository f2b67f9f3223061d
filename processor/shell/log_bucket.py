"""The log files in a bucket, as trails of one account or of an organization lay them out.

    [PREFIX/]AWSLogs/[O-ID/]ACCOUNT/CloudTrail/REGION/YYYY/MM/DD/ACCOUNT_CloudTrail_REGION_YYYYMMDDTHHmmZ_UNIQUE.json.gz

(CloudTrail User Guide, log file location). The day is that of the delivery: events of a day's last minutes lie in the next one's
folder. Folders are walked down to the regions; only the days that are asked for are listed.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable
from datetime import date
from typing import Any

from processor.core.notifications import LogObject
from processor.shell.files import SourceError, why_left_out

LISTS_MAX = 16
DEPTH_MAX = 8
"""Folders between a bucket's root and a region's: two or three before AWSLogs, five behind it."""

_URL = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")
_REGION = re.compile(r"(?:.*/)?CloudTrail/[a-z]{2}(?:-[a-z]+)+-\d/")
_ACCOUNT = re.compile(r"(?:.*/)?AWSLogs/(?:o-[a-z0-9]+/)?\d{12}/$")
_TIME = re.compile(r"_(\d{8}T\d{4}Z)_[^/_]*$")


def read_url(url: str) -> tuple[str, str]:
    """Bucket and prefix of s3://BUCKET/PREFIX, the prefix empty or with its slash. Raises SourceError for another text."""
    found = _URL.fullmatch(url)
    if found is None:
        raise SourceError(f"{url}: write it as s3://BUCKET or s3://BUCKET/PREFIX")
    prefix = found[2] or ""
    return found[1], prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def order_of(log: LogObject) -> tuple[str, str]:
    """Files of all accounts and regions by the time in their names, as the events came."""
    found = _TIME.search(log.key)
    return (found[1] if found else "", log.key)


class LogBucket:
    """One bucket below a prefix. Its methods raise what the client's calls raise."""

    def __init__(self, client: Any, bucket: str, prefix: str) -> None:
        self._client = client
        self.bucket = bucket
        self.prefix = prefix
        self._lists = asyncio.Semaphore(LISTS_MAX)

    async def find_regions(self) -> list[str]:
        """The folders of all accounts' regions below the prefix, or the one that the prefix lies in."""
        within = _REGION.match(self.prefix)
        if within is not None:
            return [within[0]]
        found: list[str] = []
        level = [self.prefix]
        for _ in range(DEPTH_MAX):
            below = await asyncio.gather(*(self._list_folders(folder) for folder in level))
            level = []
            for folder in (each for folders in below for each in folders):
                if _REGION.fullmatch(folder):
                    found.append(folder)
                elif _is_way(folder):
                    level.append(folder)
        return sorted(found)

    async def list_day(self, regions: Iterable[str], day: date) -> list[LogObject]:
        """A day's log files of some regions, in the order of the events."""
        folders = [f"{region}{day:%Y/%m/%d}/" for region in regions]
        # A prefix may lie within a region, down to a part of a day.
        asked = [max(folder, self.prefix, key=len) for folder in folders if _share_path(folder, self.prefix)]
        listed = await asyncio.gather(*(self._list_files(folder) for folder in asked))
        return sorted((log for logs in listed for log in logs if why_left_out(log.key) is None), key=order_of)

    async def list_digests(self, folders: Iterable[str], day: date) -> list[str]:
        """A day's digest files of some regions' digest folders, by name."""
        listed = await asyncio.gather(*(self._list_files(f"{folder}{day:%Y/%m/%d}/") for folder in folders))
        return sorted(log.key for logs in listed for log in logs if "_CloudTrail-Digest_" in log.key)

    async def _list_folders(self, prefix: str) -> list[str]:
        return [
            str(each["Prefix"])
            async for page in self._list_pages(prefix, Delimiter="/")
            for each in page.get("CommonPrefixes", ())
        ]

    async def _list_files(self, prefix: str) -> list[LogObject]:
        return [
            LogObject(self.bucket, str(each["Key"]), str(each["ETag"]).strip('"'), int(each["Size"]))
            async for page in self._list_pages(prefix)
            for each in page.get("Contents", ())
        ]

    async def _list_pages(self, prefix: str, **more: str) -> AsyncIterator[dict[str, Any]]:
        token: dict[str, str] = {}
        while True:
            async with self._lists:
                page = await self._client.list_objects_v2(Bucket=self.bucket, Prefix=prefix, **more, **token)
            yield page
            if not page.get("NextContinuationToken"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}


def _share_path(folder: str, prefix: str) -> bool:
    return folder.startswith(prefix) or prefix.startswith(folder)


def _is_way(folder: str) -> bool:
    """Whether regions of a trail may lie below a folder: an account's other logs are no way."""
    above, _, name = folder[:-1].rpartition("/")
    return not _ACCOUNT.fullmatch(f"{above}/") or name == "CloudTrail"
