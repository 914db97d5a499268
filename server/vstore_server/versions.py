"""The methods about a collection beside its rows: fields, snapshots, tags, fusions, garbage and damage."""

from __future__ import annotations

import dataclasses

from vstore_server.codec import Message
from vstore_server.errors import PermissionRefused
from vstore_server.messages import Reader, schema_message, snapshots_message
from vstore_server.methods import Call
from vstore_server.requests import Requests, written


class VersionMethods(Requests):
    """A part of the service."""

    def _add_field(self, reader: Reader, call: Call) -> Message:
        opened, name, kind = self._writing(reader, call), reader.text("name"), reader.text("type")
        reader.done()
        collection = opened()
        version = collection.add_field(name, kind)
        return written(collection, version=version, schema=schema_message(collection.schema))

    def _drop_field(self, reader: Reader, call: Call) -> Message:
        opened, name = self._writing(reader, call), reader.text("name")
        reader.done()
        collection = opened()
        version = collection.drop_field(name)
        return written(collection, version=version, schema=schema_message(collection.schema))

    def _snapshots(self, reader: Reader, call: Call) -> Message:
        name = self._name(reader, call)
        reader.done()
        return snapshots_message(self.database.snapshots(name))

    def _tag(self, reader: Reader, call: Call) -> Message:
        opened, tag = self._writing(reader, call), reader.text("tag")
        reader.done()
        collection = opened()
        version = collection.tag(tag, call.report)
        return written(collection, result=version)

    def _untag(self, reader: Reader, call: Call) -> Message:
        opened, tag = self._writing(reader, call), reader.text("tag")
        reader.done()
        collection = opened()
        collection.untag(tag)
        return {}

    def _restore(self, reader: Reader, call: Call) -> Message:
        opened, at = self._writing(reader, call), reader.at("at", required=True)
        reader.done()
        collection = opened()
        version = collection.restore(at)
        return written(collection, version=version)

    def _list_fusions(self, reader: Reader, call: Call) -> Message:
        opened = self._reading(reader, call)
        reader.done()
        return {"names": opened().fusions()}

    def _get_fusion(self, reader: Reader, call: Call) -> Message:
        opened, name = self._reading(reader, call), reader.text("name")
        reader.done()
        return {"data": opened().fusion_bytes(name)}

    def _put_fusion(self, reader: Reader, call: Call) -> Message:
        opened, name, data = self._writing(reader, call), reader.text("name"), reader.data("data")
        reader.done()
        opened().put_fusion_bytes(name, data)
        return {}

    def _delete_fusion(self, reader: Reader, call: Call) -> Message:
        opened, name = self._writing(reader, call), reader.text("name")
        reader.done()
        opened().delete_fusion(name)
        return {}

    def _collect(self, reader: Reader, call: Call) -> Message:
        name, dry_run = self._name(reader, call), reader.flag("dry_run", False)
        reader.done()
        found = self.database.collect_garbage(name, dry_run=dry_run)
        return {key: list(value) for key, value in dataclasses.asdict(found).items()}

    def _verify(self, reader: Reader, call: Call) -> Message:
        name: str | None = reader.text("collection", None)
        reader.done()
        if name is not None:
            call.caller.check_collection(name)
        elif not call.caller.sees_all:
            raise PermissionRefused("this token does not reach every collection; name the one to verify")

        def report(done: int, total: int) -> None:
            call.check()
            call.report(done, total)

        found = self.database.verify(name, progress=report)
        return {"result": found.ok, "report": dataclasses.asdict(found)}
