"""The write-ahead log: one object a record, numbered without holes, each put create-only.

The number is the lock. Whoever creates object `seq` has decided what the seq-th write is, so two
writers can never both believe that they wrote it, and a put whose answer was lost is settled by
putting something else under the same number: either that succeeds, and the lost put can never land
any more, or it finds out what did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from vstore.catalog.layout import log_key, number_of
from vstore.errors import CorruptData, ObjectExists, WriterFenced
from vstore.format.log_record import DeleteBatch, LogRecord, UpsertBatch, decode_log_record, encode_log_record
from vstore.storage.base import ByteRange, ObjectStore

READ_BYTES = 64 << 20
"""Replay fetches about this many bytes of records in one parallel round."""
READ_RECORDS = 256


def replay(store: ObjectStore, prefix: str, from_seq: int) -> Iterator[LogRecord]:
    """Yield the records from number `from_seq` to the log's end, in order.

    One listing, then parallel reads: two rounds for a log of any usual length.

    Raises:
        CorruptData: a record is damaged, or a number is missing before the last.
        ObjectNotFound: a record went away meanwhile (garbage collection).
    """
    found = []
    for info in store.list(prefix):
        seq = number_of(info.key[len(prefix) :])
        if seq is not None and seq >= from_seq:
            found.append((seq, info.size_bytes))
    found.sort()
    for place, (seq, _) in enumerate(found):
        if seq != from_seq + place:
            raise CorruptData(
                f"{store.url}: log record {log_key(prefix, from_seq + place)!r} is missing, yet record {seq} "
                "exists: writes between them are lost; restore the log from a backup"
            )
    at = 0
    while at < len(found):
        end, n_bytes = at, 0
        while end < len(found) and end - at < READ_RECORDS and (end == at or n_bytes < READ_BYTES):
            n_bytes += found[end][1]
            end += 1
        keys = [log_key(prefix, seq) for seq, _ in found[at:end]]
        for key, data in zip(keys, store.get_many([ByteRange(key) for key in keys]), strict=True):
            yield decode_log_record(data, f"{store.url}: {key}")
        at = end


class WriteAheadLog:
    """The tail of one collection's log, for the writer that holds `epoch`. Not thread-safe.

    A put is pending from before it is sent until `confirm`: after an error or an interrupt in
    between, `settle` finds out what became of it.

    Args:
        store: where the records go.
        prefix: their names' beginning, ending in "/".
        epoch: the writer's epoch.
        seq: the number of the next record.
        new_id: returns an id that no other call returns.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, *, epoch: int, seq: int, new_id: Callable[[], str]
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._epoch = epoch
        self._seq = seq
        self._new_id = new_id
        self._pending: list[LogRecord] = []

    @property
    def seq(self) -> int:
        """The number of the next record."""
        return self._seq

    @property
    def unsettled(self) -> bool:
        """Whether a put may or may not have landed; `settle` before the next `append`."""
        return bool(self._pending)

    def append(self, batches: Sequence[UpsertBatch | DeleteBatch]) -> LogRecord:
        """Write one record; it is durable on return, and pending until `confirm`.

        Raises:
            WriterFenced: another writer has taken the log over; nothing was written.
            StorageError: the put failed or its answer was lost; `settle` finds out which.
        """
        if self._pending:
            raise RuntimeError("append before settle: the fate of the last record is unknown")
        record = LogRecord(self._seq, self._epoch, self._new_id(), "write", tuple(batches))
        self._put(record)
        return record

    def check(self) -> None:
        """Raise WriterFenced where another writer has taken the log over; nothing may be unsettled."""
        if self._store.head(self._key) is not None:
            raise self._fenced(self._read())

    def confirm(self) -> None:
        """Move past the record that was written: it is in the view now. An interrupt in here does no harm."""
        if self._pending:
            self._seq = self._pending[0].seq + 1
            self._pending.clear()

    def settle(self) -> LogRecord | None:
        """Return the record that holds the next number where a put's fate was unknown, else None.

        It puts an empty record there; where the lost put landed first, that one is returned.
        `confirm` follows when the record is applied.

        Raises: as `append`.
        """
        if self._pending and self._pending[0].seq < self._seq:
            # `confirm` was interrupted.
            self._pending.clear()
        if not self._pending:
            return None
        empty = next((record for record in self._pending if not record.batches), None)
        if empty is None:
            empty = LogRecord(self._seq, self._epoch, self._new_id(), "write", ())
        return self._put(empty)

    def fence(self) -> list[LogRecord]:
        """End the log of every older writer: return what they wrote past `seq`, then the fence record.

        From its return on, an older writer's next put finds its number taken and fails.

        Raises:
            WriterFenced: a newer writer was faster.
        """
        met = []
        while True:
            record = LogRecord(self._seq, self._epoch, self._new_id(), "fence", ())
            try:
                self._store.put_if_absent(self._key, encode_log_record(record))
                there = record
            except ObjectExists:
                there = self._read()
                if there.epoch > self._epoch:
                    raise self._fenced(there) from None
            met.append(there)
            self._seq += 1
            if there.write_id == record.write_id:
                return met

    @property
    def _key(self) -> str:
        return log_key(self._prefix, self._seq)

    def _put(self, record: LogRecord) -> LogRecord:
        """Put a record at the tail; return the one of this writer's that the number holds now."""
        data = encode_log_record(record)
        if all(record is not mine for mine in self._pending):
            self._pending.append(record)
        try:
            self._store.put_if_absent(self._key, data)
        except ObjectExists:
            there = self._read()
            for mine in self._pending:
                if mine.write_id == there.write_id:
                    return mine
            raise self._fenced(there) from None
        return record

    def _read(self) -> LogRecord:
        return decode_log_record(self._store.get(self._key), f"{self._store.url}: {self._key}")

    def _fenced(self, there: LogRecord) -> WriterFenced:
        return WriterFenced(
            f"{self._store.url}: log record {self._key!r} was written by a writer of epoch {there.epoch}; "
            f"this one has epoch {self._epoch} and has lost the collection: reopen it to write again "
            "(that fences the other)"
        )
