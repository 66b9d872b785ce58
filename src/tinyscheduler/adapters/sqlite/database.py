"""Who may open the database, and how?  Connections, versions, and errors in words.

A writer creates what is missing and keeps one connection.  A reader leaves the folder as
it is, to the byte (an ``-shm`` excepted), and connects afresh for each question.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from enum import Enum, auto

from tinyscheduler.adapters.sqlite.schema import APPLICATION_ID, MIGRATIONS
from tinyscheduler.crash import durable_step
from tinyscheduler.errors import BusyError, StoreError, TinySchedulerError
from tinyscheduler.values import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeVar

    Answer = TypeVar("Answer")


BUSY_TIMEOUT_S = 5.0
_LOG_LIMIT_BYTES = 16 * 1024 * 1024
_READ_TRIES = 3
# Each commit is forced to the disk (sqlite.org/pragma.html#pragma_synchronous).
_DURABLY = "PRAGMA synchronous = FULL"
_MAX_UNFINISHED = 1000

_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_DAMAGED = {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT}
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class Access(Enum):
    """What a database is opened for."""

    READ = auto()  # looking only; a missing database reads as an empty one
    WRITE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Marks:
    """What tells one moment of the file from another.  ``has_log``: a writer is or was there."""

    device: int
    inode: int
    size: int
    changed_ns: int
    has_log: bool


class Database:
    """One SQLite file, for one thread.  Raises StoreError, or BusyError while it is locked.

    ``migrations`` and ``busy_timeout_s`` are parameters for the sake of tests.
    """

    def __init__(
        self,
        path: str,
        access: Access = Access.WRITE,
        *,
        migrations: Sequence[Sequence[str]] = MIGRATIONS,
        busy_timeout_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        self.path = os.path.abspath(path)
        self._access = access
        self._migrations = migrations
        self._busy_timeout_s = busy_timeout_s
        self._connection: sqlite3.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._log: tuple[tuple[int, int] | None, ...] = ()

    def __del__(self) -> None:
        """Close what nobody closed: a process that leaves at once would leave the log lying."""
        connection = getattr(self, "_connection", None)
        if connection is not None and not self.is_torn():
            with suppress(sqlite3.Error):
                connection.close()

    def close(self) -> None:
        """Close the connection, if there is one; the next question opens it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with self._explained():
                connection.close()

    def is_torn(self) -> bool:
        """Whether the log of the open database was removed or replaced under it.

        What others write then goes by this connection, and closing it would write what it
        knows over theirs: nothing but another process may open the database again, since
        SQLite keeps the log's index for all connections of a process.
        """
        if self._connection is None or _identity(self.path) != self._opened:
            return False  # the whole of it was replaced, which the next question notices
        known = zip(self._log, self._find_log(), strict=True)
        return any(before not in (None, now) for before, now in known)

    def _find_log(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_identity(self.path + suffix) for suffix in ("-wal", "-shm"))

    def read(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Answer a question at one moment of the database.

        ``question`` only selects and returns; it may be asked again from the start, so
        it must raise nothing of its own.
        """
        with self._explained():
            if self._access is Access.READ:
                return self._read_aside(question)
            return _at_one_moment(self._writer(), question)

    def keep_copy(self, label: str) -> str:
        """Copy the database as it is, next to it, and return the copy's path.

        To be called within `writing`: then nothing is committed between copy and change.
        """
        with self._explained():
            return self._keep_copy(label)

    @contextmanager
    def writing(self, *, durably: bool = True) -> Iterator[sqlite3.Connection]:
        """Begin a transaction that holds the write lock; leaving without commit undoes it.

        Not ``durably``, a power failure may undo the commit as long as no durable one
        has followed, but never that one without this.
        """
        with self._explained():
            connection = self._writer()
            try:
                if not durably:
                    connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute("BEGIN IMMEDIATE")
                # Whoever held the lock that we waited for may have converted everything.
                self._refuse_strangers(connection)
                yield connection
            finally:
                if connection.in_transaction:
                    self._undo(connection)
                if not durably and self._connection is connection:
                    self._restore_durability(connection)

    def _restore_durability(self, connection: sqlite3.Connection) -> None:
        try:
            connection.execute(_DURABLY)
        except sqlite3.Error:
            # Never to be used again as if nothing had been.
            self._connection = None
            connection.close()
            raise

    def _undo(self, connection: sqlite3.Connection) -> None:
        try:
            connection.rollback()
        except sqlite3.Error:
            # Dropping the connection undoes the transaction as well, whatever ails the
            # disk; the error that led here says more than this one.
            self._connection = None
            with suppress(sqlite3.Error):
                connection.close()

    def _writer(self) -> sqlite3.Connection:
        if self._access is Access.READ:
            raise AssertionError("a database opened for looking was asked to change")
        identity = _identity(self.path)
        # A database that was removed or replaced must not be written to any longer: what
        # would be stored there, nobody would ever see.  And one that a newer program has
        # converted since is not ours to write to: opening it anew says so.
        if self._connection is not None and (
            identity != self._opened or _version(self._connection) != len(self._migrations)
        ):
            self.close()
        if self._connection is None:
            if identity is None:
                self._create()
            elif os.stat(self.path).st_nlink > 1:
                _sweep_unfinished(self.path)  # whoever created it died before it could
            # Looked at first in a way that cannot change it: it may be of a newer version.
            version = self._read_aside(_version)
            connection = self._connect("mode=rw")
            try:
                self._prepare(connection, version)
            except BaseException:
                connection.close()
                raise
            _version(connection)  # the first question makes the log
            self._connection, self._opened = connection, _identity(self.path)
            self._log = self._find_log()
        return self._connection

    def _connect(self, how: str) -> sqlite3.Connection:
        # In a URI these three characters would end the path.
        path = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        connection = sqlite3.connect(
            f"file://{path}?{how}", uri=True, timeout=self._busy_timeout_s, isolation_level=None
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _prepare(self, connection: sqlite3.Connection, version: int) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise StoreError(
                f"{self.path} cannot be used: SQLite finds no shared memory on this file system",
                hint="keep the state folder on a local disk",
            )
        connection.execute(_DURABLY)
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT_BYTES}")
        if version < len(self._migrations):
            self._migrate(connection)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Somebody else may have been first; the lock is ours only now.
            version = _version(connection)
            if version < len(self._migrations):
                self._keep_copy(f"v{version}")
                _apply(connection, self._migrations, since=version)
                with durable_step("database.migrate"):
                    connection.commit()
        finally:
            if connection.in_transaction:
                self._undo(connection)

    def _keep_copy(self, label: str) -> str:
        """Copy the database, whole and durably, next to it, and return the copy's path."""
        unfinished = _claim_name(self.path)
        try:
            with (
                # Not the connection that holds the write lock: SQLite would call it busy
                # with itself, for ever.  Nobody else can write meanwhile.
                closing(self._connect("mode=ro")) as original,
                closing(sqlite3.connect(unfinished, isolation_level=None)) as copy,
            ):
                original.backup(copy)
                # One file that needs no other beside it.
                copy.execute("PRAGMA journal_mode = DELETE")
            # As old as its copy: a database has no clock, and its file knows the time.
            taken = datetime.fromtimestamp(os.stat(unfinished).st_mtime, tz=UTC)
            kept = f"{self.path}.{label}-{taken:%Y%m%dT%H%M%SZ}"
            while os.path.lexists(kept):
                # Of the same second: what was there before must not be lost for what is there now.
                taken += timedelta(seconds=1)
                kept = f"{self.path}.{label}-{taken:%Y%m%dT%H%M%SZ}"
            with durable_step("database.copy"):
                _sync(unfinished)
                os.replace(unfinished, kept)
                _sync_folder(self.path)
        finally:
            _sweep_unfinished(self.path)
        return kept

    def _create(self) -> None:
        """Make an empty queue under another name, whole, and then give it its own.

        So nobody ever opens half a database, however many create it at once.
        """
        os.makedirs(os.path.dirname(self.path), mode=0o700, exist_ok=True)
        unfinished = _claim_name(self.path)
        try:
            self._build(unfinished)
            with durable_step("database.create"):
                os.link(unfinished, self.path)
                _sync_folder(self.path)
        except (sqlite3.Error, FileExistsError, FileNotFoundError):
            # Whoever was first has swept ours away, or is about to.
            if _identity(self.path) is None:
                raise
        finally:
            for suffix in ("", "-journal", "-wal", "-shm"):
                with suppress(FileNotFoundError):
                    os.unlink(unfinished + suffix)
        _sweep_unfinished(self.path)

    def _build(self, path: str) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute(_DURABLY)
            connection.execute("BEGIN")
            _apply(connection, self._migrations, since=0)
            connection.commit()
            connection.execute("PRAGMA journal_mode = WAL")

    def _read_aside(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        """Ask over a connection of its own that changes nothing in the folder.

        ``immutable=1`` promises SQLite that nobody writes, which is true as long as no
        log lies beside the file; so whether that stayed true is checked afterwards.
        """
        for _ in range(_READ_TRIES):
            before = _marks(self.path)
            if before is None:
                return self._ask_nobody(question)
            if before.has_log:
                break
            try:
                answer = self._ask(question, "immutable=1")
            except (sqlite3.Error, TinySchedulerError):
                if _marks(self.path) == before:
                    raise
            else:
                if _marks(self.path) == before:
                    return answer
        try:
            return self._ask(question, "mode=ro")
        except sqlite3.OperationalError as error:
            if _kind_of(error) not in _DISK | _REFUSED:
                raise
            return self._ask_beside_empty_log(question, error)

    def _ask_beside_empty_log(
        self, question: Callable[[sqlite3.Connection], Answer], refusal: sqlite3.Error
    ) -> Answer:
        """Ask where no memory can be made for readers of the log to share; else refuse.

        A full disk has no room for it.  Where such a disk refused a change, it has left an
        empty log behind, though: all there is is in the file.
        """
        log, before = self.path + "-wal", _marks(self.path)
        if _has_content(log):
            raise refusal
        answer = self._ask(question, "immutable=1")
        if _marks(self.path) != before or _has_content(log):
            raise refusal
        return answer

    def _ask(self, question: Callable[[sqlite3.Connection], Answer], how: str) -> Answer:
        with closing(self._connect(how)) as connection:
            self._refuse_strangers(connection)
            version = _version(connection)
            if version < len(self._migrations):
                return self._ask_a_copy(connection, question, version=version)
            return _at_one_moment(connection, question)

    def _ask_a_copy(
        self,
        original: sqlite3.Connection,
        question: Callable[[sqlite3.Connection], Answer],
        *,
        version: int,
    ) -> Answer:
        """Answer from an older version as if it were converted, without touching it.

        Until a command that writes converts it for good, people want to look all the same.
        """
        if self._access is Access.WRITE:
            # Only its version is asked for, on the way to converting it.
            return _at_one_moment(original, question)
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as copy:
            copy.row_factory = sqlite3.Row
            original.backup(copy)
            _apply(copy, self._migrations, since=version)
            return question(copy)

    def _ask_nobody(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            _apply(connection, self._migrations, since=0)
            return question(connection)

    def _refuse_strangers(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        if application != APPLICATION_ID:
            raise StoreError(
                f"{self.path} is not a database of TinyScheduler",
                hint="move it away, or choose another base path; a new one is made by itself",
            )
        version, known = _version(connection), len(self._migrations)
        if version > known:
            raise StoreError(
                f"{self.path} was written by a newer TinyScheduler"
                f" (version {version} of its tables; this one knows {known}); it is left untouched",
                hint="install that newer version, or use another base path",
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._explain(error) from error
        except OSError as error:
            raise StoreError(
                f"{self.path} cannot be created or opened: {error.strerror or error}",
                hint=f"check that user {os.geteuid()} may write to {os.path.dirname(self.path)},"
                " and that its disk has room",
            ) from error

    def _explain(self, error: sqlite3.Error) -> TinySchedulerError:
        kind = _kind_of(error)
        if kind in _BUSY:
            return BusyError(
                f"the queue {self.path} is busy: others kept it locked for"
                f" {self._busy_timeout_s:g} seconds",
                hint="try again",
            )
        if kind in _DAMAGED:
            return StoreError(
                f"{self.path} is damaged, or no database at all ({error}); it is left untouched",
                hint="move it and the files named like it away, then put a copy in its place;"
                " without one, `sqlite3 FILE .recover` rescues what can still be read",
            )
        if kind in _REFUSED:
            return StoreError(
                f"{self.path} may not be opened or written ({error})",
                hint=f"check that user {os.geteuid()} may write to the file and to its folder",
            )
        if kind in _DISK:
            return StoreError(
                f"the disk refuses {self.path} ({error}); nothing was changed",
                hint="make room on that disk, and check its health and the limits on file sizes",
            )
        return StoreError(f"{self.path} did not answer ({error})")


def _at_one_moment(
    connection: sqlite3.Connection, question: Callable[[sqlite3.Connection], Answer]
) -> Answer:
    connection.execute("BEGIN")
    try:
        return question(connection)
    finally:
        if connection.in_transaction:
            connection.rollback()


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _apply(
    connection: sqlite3.Connection, migrations: Sequence[Sequence[str]], *, since: int
) -> None:
    for statements in migrations[since:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(migrations)}")


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _marks(path: str) -> _Marks | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return _Marks(
        device=status.st_dev,
        inode=status.st_ino,
        size=status.st_size,
        changed_ns=status.st_mtime_ns,
        has_log=os.path.exists(path + "-wal") or os.path.exists(path + "-journal"),
    )


def _kind_of(error: sqlite3.Error) -> int:
    # The low byte is the kind; errors of the Python module itself bear no code.
    return int(getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)) & 0xFF


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _claim_name(path: str) -> str:
    """Create an empty file of ours beside the database and return its path."""
    for number in range(_MAX_UNFINISHED):
        name = f"{path}.new{number}"
        try:
            descriptor = os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            continue
        try:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
        finally:
            os.close(descriptor)
        return name
    raise StoreError(
        f"{path} cannot be created: {_MAX_UNFINISHED} unfinished ones lie beside it",
        hint=f"remove {path}.new* while nothing else runs",
    )


def _sweep_unfinished(path: str) -> None:
    # Left behind by processes that died.  Safe also while others create theirs: once the
    # database exists, theirs come too late and are not needed.
    folder, prefix = os.path.dirname(path), os.path.basename(path) + ".new"
    for name in os.listdir(folder):
        if name.startswith(prefix):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(folder, name))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: str) -> None:
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
