"""The options that every command shares, and what they open."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from vstore.database import Database, connect
from vstore.settings import Settings

Uri = Annotated[
    str, typer.Argument(metavar="URI", help="A folder, or s3://bucket/prefix.", show_default=False)
]
CollectionName = Annotated[
    str, typer.Argument(metavar="COLLECTION", help="The collection's name.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
EndpointUrl = Annotated[
    str | None,
    typer.Option("--endpoint-url", help="S3: the server, where it is not AWS.", show_default=False),
]
Region = Annotated[str | None, typer.Option("--region", help="S3: the region.", show_default=False)]
AddressingStyle = Annotated[
    str | None, typer.Option("--addressing-style", help="S3: path, virtual or auto.", show_default=False)
]
CREDENTIALS = (
    "S3 credentials come from boto3's usual chain (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, profiles, "
    "instance roles), never from the command line, where other users could read them."
)


def parse_filter(text: str | None) -> dict[str, Any] | None:
    """Return a filter that was given as JSON in the dict language.

    Raises:
        BadParameter (exit code 2): it is no JSON object.
    """
    if text is None:
        return None
    return read_object(text, "the filter", '{"year": {"$gte": 2020}}')


def read_object(text: str, name: str, example: str) -> dict[str, Any]:
    """Return a JSON object that was given as text.

    Raises:
        BadParameter (exit code 2): it is none; the message calls it `name` and shows the example.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{name} is no JSON ({error}): {text}") from error
    if not isinstance(value, dict):
        raise typer.BadParameter(f"{name} must be a JSON object such as {example}, not {text}")
    return value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a store is: what `vstore.connect` takes."""

    uri: str
    endpoint_url: str | None = None
    region: str | None = None
    addressing_style: str | None = None

    @property
    def is_s3(self) -> bool:
        """Whether the place is a bucket."""
        return self.uri.lower().startswith("s3://")

    @property
    def options(self) -> dict[str, Any]:
        """The options that were given; `connect` names one that the place does not have."""
        given = {
            "endpoint_url": self.endpoint_url,
            "region": self.region,
            "addressing_style": self.addressing_style,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def arguments(self) -> list[str]:
        """The same as command-line options, for another process."""
        return [
            part for name, value in self.options.items() for part in (f"--{name.replace('_', '-')}", value)
        ]

    def open(
        self,
        *,
        must_exist: bool = True,
        read_only: bool = False,
        settings: Settings | None = None,
        cache_dir: str | None = None,
    ) -> Database:
        """Connect.

        Args:
            must_exist: a folder that does not exist is an error, and not created.
            read_only: refuse writes.
            settings: how this process runs the store.
            cache_dir: a folder for the disk tier of the block cache.
        """
        options = self.options
        if must_exist and "://" not in self.uri:
            options["create"] = False
        return connect(self.uri, settings=settings, read_only=read_only, cache_dir=cache_dir, **options)
