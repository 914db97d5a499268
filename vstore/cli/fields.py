"""`vstore add-field` and `drop-field`: other attributes for the rows of a collection."""

from __future__ import annotations

from typing import Annotated

import typer

from vstore.cli.connection import AddressingStyle, AsJson, CollectionName, EndpointUrl, Place, Region, Uri
from vstore.cli.output import print_json
from vstore.ingest.schema import check_field
from vstore.types import FIELD_TYPES


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(epilog="Example: vstore add-field ./data photos year int")(add_field)
    app.command(epilog="Example: vstore drop-field ./data photos year")(drop_field)


FieldName = Annotated[str, typer.Argument(metavar="FIELD", help="The field's name.", show_default=False)]
TypeName = Annotated[
    str, typer.Argument(metavar="TYPE", help=f"One of {', '.join(FIELD_TYPES)}.", show_default=False)
]


def add_field(
    uri: Uri,
    collection: CollectionName,
    field: FieldName,
    type: TypeName,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Add a field to a collection: null in every row there is, and nothing is rewritten."""
    kind = check_field(field, type)
    with Place(uri, endpoint_url, region, addressing_style).open() as db:
        version = db.collection(collection).add_field(field, kind)
    if as_json:
        print_json({"collection": collection, "field": field, "type": kind, "version": version})
    else:
        print(f"{collection}: field {field} of type {kind} is there from version {version} on")


def drop_field(
    uri: Uri,
    collection: CollectionName,
    field: FieldName,
    endpoint_url: EndpointUrl = None,
    region: Region = None,
    addressing_style: AddressingStyle = None,
    as_json: AsJson = False,
) -> None:
    """Drop a field of a collection with all its values; earlier versions and tags still have it."""
    with Place(uri, endpoint_url, region, addressing_style).open() as db:
        version = db.collection(collection).drop_field(field)
    if as_json:
        print_json({"collection": collection, "field": field, "version": version})
    else:
        print(f"{collection}: field {field} is gone from version {version} on")
