"""What does the MCP server answer?  Each tool's work, and its result as tinytask words it."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from tinyscheduler.adapters.sqlite.database import BUSY_TIMEOUT_S
from tinyscheduler.adapters.sqlite.database import Access as DatabaseAccess
from tinyscheduler.adapters.sqlite.remarks import Remarks, insert_comment
from tinyscheduler.adapters.sqlite.shared_tasks import MOST_LISTED, Caller, SharedTasks
from tinyscheduler.app.kicks import kick
from tinyscheduler.app.queue import Queue, announce, open_queue, shared_tasks
from tinyscheduler.cli.mcp_shapes import (
    comment_json,
    deleted_json,
    is_told_by_title,
    labels_of,
    link_json,
    list_json,
    status_of,
    task_json,
)
from tinyscheduler.cli.mcp_tools import BY_NAME, Access, Tool, read_call
from tinyscheduler.cli.standing import ended_attempt_json, find_standing, find_standings
from tinyscheduler.cli.wish import Granter, Wish, fault_of
from tinyscheduler.config.problems import quote
from tinyscheduler.errors import BusyError, NotFoundError, TinySchedulerError, UsageError
from tinyscheduler.model.events import EventName
from tinyscheduler.model.shared_tasks import SharedTask, Status, TaskFilter
from tinyscheduler.model.tasks import TaskSpec, TaskState
from tinyscheduler.values import dataclass

if TYPE_CHECKING:
    from tinyscheduler.model.config import Config

_LISTED = 100
_WAIT_S = 30
_GLANCE_S = 0.2
# Each of them looks at the queue several times a second.
_MOST_WAITING = 20
_MOST_OUTPUT_BYTES = 4096
# Of each list of `status`: a model reads all of it.
_MOST_TOLD = 50
_MOST_RESULT_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What this server may do, and in whose name.

    ``agents`` may be given commands.  ``lease_id`` is the attempt around it, if it is part of one;
    ``folder`` is where it was started, or None where that is gone.
    """

    name: str
    may_write: bool
    agents: frozenset[str]
    lease_id: str | None
    folder: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a call comes to: a text, and whether that tells of a failure."""

    text: str
    is_error: bool = False


class Answers:
    """Answers calls, one at a time; whatever a caller sends, it is answered."""

    def __init__(
        self,
        config: Config,
        scope: Scope,
        sleep: Callable[[float], Awaitable[None]],
        *,
        patience_s: float = BUSY_TIMEOUT_S,
    ) -> None:
        """Take the settings, what is allowed, and who waits without keeping others waiting.

        A locked database is waited for so long, and nothing else is answered meanwhile.
        """
        self._patience_s = patience_s
        self._waiting = 0
        self._config = config
        self._scope = scope
        self._sleep = sleep
        self._opened: dict[DatabaseAccess, Queue] = {}
        self._tools: dict[str, Callable[..., Any]] = {
            "create_task": self._create_task,
            "update_task": self._update_task,
            "get_task": self._get_task,
            "delete_task": self._delete_task,
            "archive_task": self._archive_task,
            "list_tasks": self._list_tasks,
            "get_my_queue": self._get_my_queue,
            "signup_for_task": self._sign_up,
            "move_task": self._move_task,
            "create_subtask": self._create_task,
            "get_subtasks": self._get_subtasks,
            "get_task_with_subtasks": self._get_whole,
            "move_subtask": self._move_subtask,
            "list_queues": self._list_queues,
            "get_queue_stats": self._count_queue,
            "add_task_to_queue": self._queue_task,
            "remove_task_from_queue": self._queue_task,
            "move_task_to_queue": self._queue_task,
            "get_queue_tasks": self._list_queue,
            "clear_queue": self._clear_queue,
            "add_comment": self._add_comment,
            "update_comment": self._edit_comment,
            "delete_comment": self._delete_comment,
            "list_comments": self._list_comments,
            "get_comment": self._get_comment,
            "move_comment": self._move_comment,
            "add_link": self._add_link,
            "update_link": self._edit_link,
            "delete_link": self._delete_link,
            "list_links": self._list_links,
            "why": self._why,
            "status": self._status,
            "wait": self._wait,
            "enqueue_command": self._enqueue,
        }

    @property
    def tools(self) -> list[Tool]:
        """The tools that a call of may succeed."""
        return [tool for tool in BY_NAME.values() if self._refusal(tool) is None]

    async def answer(self, name: str, arguments: Mapping[str, Any]) -> Answer:
        """Answer one call.  What went wrong is told in words, and then nothing was changed."""
        tool = BY_NAME.get(name)
        if tool is None:
            return Answer(text=f"Unknown tool: {name[:80]}", is_error=True)
        try:
            text = await self._work(tool, arguments)
        except TinySchedulerError as error:
            hint = f" ({error.hint})" if error.hint else ""
            return Answer(text=f"Error {tool.doing}: {error.what}{hint}", is_error=True)
        except Exception as error:  # noqa: BLE001 - the outermost place: a bug costs one call, not the server
            words = f"Error {tool.doing}: internal error: {type(error).__name__}: {error}"
            return Answer(text=words[:_MOST_OUTPUT_BYTES], is_error=True)
        return Answer(text=text)

    async def _work(self, tool: Tool, arguments: Mapping[str, Any]) -> str:
        refusal = self._refusal(tool)
        if refusal is not None:
            raise refusal
        given = read_call(tool, arguments)
        if tool.access is Access.WRITES and tool.name not in ("create_task", "signup_for_task"):
            self._refuse_nowhere(tool)
        found = self._tools[tool.name](**given)
        if isinstance(found, Awaitable):
            found = await found
        return found if isinstance(found, str) else _written(found)

    def _refusal(self, tool: Tool) -> UsageError | None:
        if tool.access is not Access.READS and not self._scope.may_write:
            return UsageError(
                f"this server only reads, and {tool.name} changes something",
                hint="start it as `tinyscheduler mcp --allow-write`",
            )
        if tool.access is Access.COMMANDS and not self._scope.agents:
            return UsageError(
                "no agent may be given commands by this server",
                hint="start it with --allow-agent NAME, one for each",
            )
        return None

    def _refuse_nowhere(self, tool: Tool) -> None:
        """Refuse to change what is not there, where nothing was ever added: nothing is made."""
        if not os.path.lexists(self._config.paths.database):
            raise NotFoundError(
                f"{tool.name} changes what is there, and no task was ever added here",
                hint="create_task adds the first one",
            )

    # What the tools work on.

    def _queue(self, access: DatabaseAccess = DatabaseAccess.READ) -> Queue:
        if access not in self._opened:
            self._opened[access] = open_queue(self._config, access, patience_s=self._patience_s)
        return self._opened[access]

    def _tasks(self, access: DatabaseAccess = DatabaseAccess.READ) -> SharedTasks:
        caller = Caller(name=self._scope.name, lease_id=self._scope.lease_id)
        return shared_tasks(self._queue(access), caller)

    def _changed_tasks(self) -> SharedTasks:
        return self._tasks(DatabaseAccess.WRITE)

    def _remarks(self, access: DatabaseAccess = DatabaseAccess.READ) -> Remarks:
        queue = self._queue(access)
        return Remarks(queue.database, queue.clock)

    def _changed_remarks(self) -> Remarks:
        return self._remarks(DatabaseAccess.WRITE)

    def _find(self, task_id: int) -> SharedTask:
        task = self._tasks().task(task_id)
        if task is None:
            raise NotFoundError(f"Task not found: {task_id}", hint="list_tasks shows what there is")
        return task

    def _tell(self, name: EventName, task_id: int) -> None:
        """Let the log and whoever follows events know, and the next tick look."""
        announce(self._queue(DatabaseAccess.WRITE), name, [str(task_id)])
        kick(self._config)

    # Tasks.

    def _create_task(
        self,
        *,
        title: str,
        created_by: str | None = None,
        description: str = "",
        assigned_to: str = "",
        priority: int = 0,
        tags: tuple[str, ...] = (),
        parent_task_id: int | None = None,
        queue_name: str = "",
        blocked_by_task_id: int | None = None,
    ) -> dict[str, Any]:
        wish = Wish(
            agent=assigned_to.strip() or None,
            queue=queue_name.strip() or None,
            title=title.strip(),
            # Who has said no more than what it is called has said it all.
            prompt=description or title.strip(),
            priority=priority,
            after=() if blocked_by_task_id is None else (str(blocked_by_task_id),),
            labels=labels_of(tags),
        )
        task = self._changed_tasks().create(
            self._spec(wish), created_by=created_by or self._scope.name, parent=parent_task_id
        )
        self._tell(EventName.TASK_ADDED, task.task_id)
        return self._task_json(task)

    def _spec(self, wish: Wish) -> TaskSpec:
        """Return what is asked for: checked as `add` does, if anybody here may run it."""
        if self._is_served(wish.agent, wish.queue):
            return self._granter().grant(wish)
        return TaskSpec(
            agent=wish.agent,
            queue=wish.queue,
            title=wish.title,
            prompt=wish.prompt,
            priority=wish.priority or 0,
            after=wish.after,
            labels=wish.labels,
            cwd=self._scope.folder,
        )

    def _is_served(self, agent: str | None, queue: str | None) -> bool:
        if agent is not None:
            return self._config.agent(agent) is not None
        return any(one.queue == queue for one in self._config.agents)

    def _granter(self) -> Granter:
        return Granter(
            config=self._config,
            folder=self._scope.folder,
            now=self._queue().clock.now().wall,
            spell=lambda name: _SPELT.get(name, name),
        )

    def _vet(self, spec: TaskSpec) -> None:
        """Refuse what nobody could run, and commands for who may not be given any."""
        if spec.command and spec.agent not in self._scope.agents:
            raise UsageError(
                f"the task is a command ({quote(spec.title or spec.command[0])}), and agent"
                f" {spec.agent or 'nobody'} may not be given any here",
                hint="start the server with --allow-agent NAME, or use `tinyscheduler edit`",
            )
        agent = None if spec.agent is None else self._config.agent(spec.agent)
        fault = None if agent is None else fault_of(agent, spec)
        if fault is not None:
            raise fault

    def _update_task(self, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - read by now
        task_id = given.pop("id")
        changes: dict[str, Any] = {}
        for name, value in given.items():
            field, read = _FIELDS[name]
            changes[field] = read(value)
        if "title" in changes and not changes["title"]:
            raise UsageError("Task title cannot be empty", hint="leave it out to keep it")
        if "prompt" in changes and not changes["prompt"]:
            changes["prompt"] = changes.get("title") or self._find(task_id).title
        before = self._find(task_id)
        if "title" in changes and is_told_by_title(before) and before.lease_id is None:
            changes.setdefault("prompt", changes["title"])
        task = self._changed_tasks().update(task_id, changes, vet=self._vet)
        self._tell(_event_of(before, task), task_id)
        return self._task_json(task)

    def _get_task(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        task = self._find(id)
        remarks = self._remarks()
        queue = self._queue()
        standing = find_standing(queue, str(id))
        attempts = queue.ledger.attempts(str(id))
        last = attempts[-1] if attempts else None
        log = standing.lease.run.log if standing.lease is not None else last and last.log
        return {
            **self._task_json(task),
            "state": standing.state.value,
            "comments": [comment_json(one) for one in remarks.comments(id)],
            "links": [link_json(one) for one in remarks.links(id)],
            "last_attempt": None if last is None else ended_attempt_json(last),
            "output": None if not log else _end_of(log),
        }

    def _delete_task(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        self._changed_tasks().remove(id)
        self._tell(EventName.TASK_CANCELLED, id)
        return deleted_json("Task", id)

    def _archive_task(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        before = self._find(id)
        task = self._changed_tasks().archive(id)
        self._tell(_event_of(before, task), id)
        return self._task_json(task)

    def _list_tasks(self, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - read by now
        return list_json("tasks", self._selected(**given))

    def _selected(
        self,
        *,
        assigned_to: str | None = None,
        status: Status | tuple[Status, ...] = (),
        exclude_status: Status | tuple[Status, ...] = (),
        include_archived: bool = False,
        limit: int = _LISTED,
        offset: int = 0,
        queue_name: str | None = None,
        parent_task_id: int | None = None,
        exclude_subtasks: bool = False,
    ) -> list[dict[str, Any]]:
        # An empty list asks for all of them, as with tinytask.
        statuses = frozenset(_several(status) or Status) - frozenset(_several(exclude_status))
        asked = TaskFilter(
            agent=assigned_to,
            queue=None if queue_name is None else queue_name.strip(),
            parent_id=parent_task_id,
            statuses=None if statuses == frozenset(Status) else statuses,
            is_top_level=exclude_subtasks,
            has_archived=include_archived,
        )
        most = min(limit or MOST_LISTED, MOST_LISTED)
        found = self._tasks().tasks(asked, limit=most, offset=offset)
        return [self._task_json(one) for one in found]

    def _get_my_queue(self, *, agent_name: str) -> dict[str, Any]:
        open_ones = (Status.IDLE, Status.WORKING)
        found = self._selected(assigned_to=agent_name, status=open_ones, limit=MOST_LISTED)
        # What its own attempt has called complete is none of its work any more.
        tasks = [one for one in found if one["status"] != Status.COMPLETE]
        return {"agent": agent_name, **list_json("tasks", tasks)}

    def _sign_up(self, *, agent_name: str) -> str:
        task = self._own_task(agent_name) if self._scope.lease_id else self._next_for(agent_name)
        if task is None:
            return f"No idle tasks available in queue for agent: {agent_name}"
        whole = self._get_task(id=task.task_id)
        return f"Task #{task.task_id} claimed and set to working status\n\n{_written(whole)}"

    def _own_task(self, agent: str) -> SharedTask | None:
        """Return the task of the attempt around us, which has it already, until it is said done.

        Any other that it took would be held for ever by an agent that ends with its attempt.
        """
        row = self._tasks().own_task()
        task = None if row is None else self._tasks().task(row)
        return task if task is not None and task.agent == agent and task.said is None else None

    def _next_for(self, agent: str) -> SharedTask | None:
        if not os.path.lexists(self._config.paths.database):
            return None
        profile = self._config.agent(agent)
        queue = None if profile is None else profile.queue
        task = self._changed_tasks().take_next(agent, queue=queue)
        if task is not None:
            self._tell(EventName.TASK_HELD, task.task_id)
        return task

    def _move_task(
        self, *, task_id: int, current_agent: str, new_agent: str, comment: str
    ) -> dict[str, Any]:
        def note(connection: Any, row: int, *, by: str, now: int) -> int:  # noqa: ANN401 - sqlite's
            return insert_comment(connection, row, comment.strip(), by=by, now=now)

        task, comment_id = self._changed_tasks().move(
            task_id, current=current_agent, agent=new_agent.strip(), vet=self._vet, comment=note
        )
        self._tell(EventName.TASK_EDITED, task_id)
        written = self._remarks().comment(comment_id)
        return {
            "task": self._task_json(task),
            "comment": None if written is None else comment_json(written),
        }

    # Parts and queues.

    def _get_subtasks(
        self, *, parent_task_id: int, recursive: bool = False, include_archived: bool = False
    ) -> dict[str, Any]:
        found = self._parts(parent_task_id, recursive=recursive, has_archived=include_archived)
        return {
            "parent_task_id": parent_task_id,
            "recursive": recursive,
            **list_json("subtasks", found),
        }

    def _parts(self, row: int, *, recursive: bool, has_archived: bool) -> list[dict[str, Any]]:
        found = self._tasks().parts(row, has_archived=has_archived)
        return [self._task_json(one) for one in found if recursive or one.parent_id == row]

    def _get_whole(self, *, task_id: int, recursive: bool = False) -> dict[str, Any]:
        found = self._parts(task_id, recursive=recursive, has_archived=False)
        whole = self._task_json(self._find(task_id))
        return {**whole, "subtasks": found, "subtask_count": len(found)}

    def _move_subtask(self, *, subtask_id: int, new_parent_id: int | None = None) -> str:
        changes = {"parent": new_parent_id}
        task = self._changed_tasks().update(subtask_id, changes, vet=self._vet)
        self._tell(EventName.TASK_EDITED, subtask_id)
        where = "top-level (no parent)" if new_parent_id is None else f"parent #{new_parent_id}"
        return f"Task #{subtask_id} moved to {where}\n\n{_written(self._task_json(task))}"

    def _list_queues(self) -> dict[str, Any]:
        return list_json("queues", self._tasks().queues())

    def _count_queue(self, *, queue_name: str) -> dict[str, Any]:
        found = self._tasks().numbers(queue_name.strip())
        return {
            "queue_name": found.queue,
            "total_tasks": found.assigned + found.unassigned,
            "by_status": {
                "idle": found.idle,
                "working": found.working,
                "complete": found.complete,
            },
            "assigned": found.assigned,
            "unassigned": found.unassigned,
            "agents": list(found.agents),
        }

    def _queue_task(
        self, *, task_id: int, queue_name: str = "", new_queue_name: str = ""
    ) -> dict[str, Any]:
        changes = {"queue": (queue_name or new_queue_name).strip() or None}
        task = self._changed_tasks().update(task_id, changes, vet=self._vet)
        self._tell(EventName.TASK_EDITED, task_id)
        return self._task_json(task)

    def _list_queue(self, *, queue_name: str, **given: Any) -> dict[str, Any]:  # noqa: ANN401 - read by now
        tasks = list_json("tasks", self._selected(queue_name=queue_name, **given))
        count = {"count": tasks.pop("count")}
        asked = {"include_archived": False, **given}
        filters = {name: asked[name] for name in _FILTERS if name in asked}
        return {"queue_name": queue_name, **count, "filters": filters, **tasks}

    def _clear_queue(self, *, queue_name: str) -> dict[str, Any]:
        number = self._changed_tasks().clear(queue_name.strip(), vet=self._vet)
        kick(self._config)
        return {"queue_name": queue_name, "tasks_cleared": number}

    # Comments and links.

    def _add_comment(self, *, task_id: int, content: str, created_by: str = "") -> dict[str, Any]:
        by = created_by or self._scope.name
        return comment_json(self._changed_remarks().add_comment(task_id, content.strip(), by=by))

    def _edit_comment(self, *, id: int, content: str) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        return comment_json(self._changed_remarks().edit_comment(id, content.strip()))

    def _delete_comment(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        self._changed_remarks().remove_comment(id)
        return deleted_json("Comment", id)

    def _list_comments(self, *, task_id: int) -> dict[str, Any]:
        found = [comment_json(one) for one in self._remarks().comments(task_id)]
        return {"task_id": task_id, **list_json("comments", found)}

    def _get_comment(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        found = self._remarks().comment(id)
        if found is None:
            raise NotFoundError(f"Comment not found: {id}", hint="list_comments shows those there")
        return comment_json(found)

    def _move_comment(self, *, comment_id: int, to_task_id: int) -> dict[str, Any]:
        return comment_json(self._changed_remarks().move_comment(comment_id, to_task_id))

    def _add_link(
        self, *, task_id: int, url: str, description: str = "", created_by: str = ""
    ) -> dict[str, Any]:
        by = created_by or self._scope.name
        remarks = self._changed_remarks()
        return link_json(remarks.add_link(task_id, url.strip(), description or None, by=by))

    def _edit_link(
        self,
        *,
        id: int,  # noqa: A002 - as clients spell it
        url: str | None = None,
        description: str | None = None,
    ) -> dict[str, Any]:
        if url is not None and not url.strip():
            raise UsageError("Link URL cannot be empty", hint="leave it out to keep it")
        wished = None if url is None else url.strip()
        remarks = self._changed_remarks()
        return link_json(remarks.edit_link(id, url=wished, description=description))

    def _delete_link(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        self._changed_remarks().remove_link(id)
        return deleted_json("Link", id)

    def _list_links(self, *, task_id: int) -> dict[str, Any]:
        found = [link_json(one) for one in self._remarks().links(task_id)]
        return {"task_id": task_id, **list_json("links", found)}

    # Ours.

    def _why(self, *, id: int) -> dict[str, Any]:  # noqa: A002 - as clients spell it
        from tinyscheduler.cli.why import answer_json, find_answer

        self._find(id)
        return answer_json(find_answer(self._queue(), str(id)))

    def _status(self) -> dict[str, Any]:
        from tinyscheduler.cli.status import look, status_json

        return _shortened(status_json(look(self._config)))

    async def _wait(self, *, ids: tuple[int, ...], timeout_sec: int = _WAIT_S) -> dict[str, Any]:
        if self._waiting >= _MOST_WAITING:
            raise BusyError(
                f"{self._waiting} calls wait already", hint="wait for several tasks at once: ids"
            )
        if self._tasks().own_task() in ids:
            raise UsageError(
                "an attempt cannot wait for the end of its own task",
                hint="end it, and let a task that comes after it go on",
            )
        queue = self._queue()
        names = tuple(map(str, ids))
        clock = queue.clock
        deadline_ns = clock.now().monotonic_ns + timeout_sec * 10**9
        self._waiting += 1
        try:
            while left := _unfinished(queue, names):
                if clock.now().monotonic_ns >= deadline_ns:
                    break
                await self._sleep(_GLANCE_S)
        finally:
            self._waiting -= 1
        standings = find_standings(queue, [queue.tasks.task(name) for name in names])
        return {
            "tasks": [
                {
                    "id": int(one.record.task_id),
                    "state": one.state.value,
                    "status": status_of(one.record.state).value,
                    "failure_reason": one.record.failure_reason,
                }
                for one in standings
            ],
            "timed_out": bool(left),
        }

    def _enqueue(
        self,
        *,
        command: tuple[str, ...],
        agent: str = "shell",
        title: str | None = None,
        cwd: str | None = None,
        recipe: str | None = None,
        priority: int = 0,
        after: tuple[int, ...] = (),
        max_runtime: str | None = None,
        max_attempts: int | None = None,
        tags: tuple[str, ...] = (),
    ) -> dict[str, Any]:
        if agent not in self._scope.agents:
            raise UsageError(
                f"agent {quote(agent)} may not be given commands by this server",
                hint=f"these may: {', '.join(sorted(self._scope.agents))}",
            )
        if not command:
            raise UsageError("the command is empty", hint="name a program, then its arguments")
        spec = self._granter().grant(
            Wish(
                agent=agent,
                title=title,
                command=command,
                recipe=recipe,
                priority=priority,
                after=tuple(map(str, after)),
                max_runtime=max_runtime,
                max_attempts=max_attempts,
                cwd=self._confined(cwd),
                labels=labels_of(tags),
            )
        )
        task = self._changed_tasks().create(spec, created_by=self._scope.name, parent=None)
        self._tell(EventName.TASK_ADDED, task.task_id)
        return self._task_json(task)

    def _confined(self, cwd: str | None) -> str | None:
        """Return the folder that was asked for, if it lies in the server's own."""
        if cwd is None:
            return None
        if self._scope.folder is None:
            raise UsageError(
                "the server's folder does not exist any more", hint="start it in one that does"
            )
        home = os.path.realpath(self._scope.folder)
        path = os.path.realpath(os.path.join(home, cwd))
        if os.path.commonpath([home, path]) != home:
            raise UsageError(
                f"cwd {quote(cwd)} is not inside {home}", hint="name a folder below that one"
            )
        return path

    def _task_json(self, task: SharedTask) -> dict[str, Any]:
        return task_json(task, is_own=self._tasks().is_own(task))


# What the arguments of update_task change, and how they are meant.
_FIELDS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "title": ("title", str.strip),
    "description": ("prompt", str),
    "status": ("status", Status),
    "assigned_to": ("agent", lambda text: text.strip() or None),
    "priority": ("priority", int),
    "tags": ("labels", labels_of),
    "parent_task_id": ("parent", lambda row: row),
    "queue_name": ("queue", lambda text: text.strip() or None),
    "blocked_by_task_id": ("after", lambda row: () if row is None else (str(row),)),
}
_FILTERS = (
    *("assigned_to", "status", "exclude_status", "parent_task_id", "exclude_subtasks"),
    *("include_archived", "limit", "offset"),
)
_SPELT = {
    "agent": "assigned_to",
    "queue": "queue_name",
    "prompt": "description",
    "after": "blocked_by_task_id",
}


def _several(status: Status | tuple[Status, ...]) -> tuple[Status, ...]:
    return (status,) if isinstance(status, Status) else status


def _unfinished(queue: Queue, names: tuple[str, ...]) -> list[str]:
    states = queue.tasks.states(names)
    for name in names:
        if name not in states:
            raise NotFoundError(f"Task not found: {name}", hint="list_tasks shows what there is")
    return [name for name in names if not states[name].is_final]


def _event_of(before: SharedTask, after: SharedTask) -> EventName:
    """Return how the log tells of a change."""
    if before.state != after.state:
        return _EVENT_OF.get(after.state, EventName.TASK_EDITED)
    return EventName.TASK_EDITED


_EVENT_OF = {
    TaskState.WAITING: EventName.TASK_RELEASED,
    TaskState.HELD: EventName.TASK_HELD,
    TaskState.DONE: EventName.TASK_FINISHED,
    TaskState.CANCELLED: EventName.TASK_CANCELLED,
}


def _shortened(document: dict[str, Any]) -> dict[str, Any]:
    """Return it without the ends of long lists, and how many entries are left out of which."""
    long = {
        name: value
        for name, value in document.items()
        if isinstance(value, list) and len(value) > _MOST_TOLD
    }
    told = {name: value[:_MOST_TOLD] for name, value in long.items()}
    left_out = {name: len(value) - _MOST_TOLD for name, value in long.items()}
    return {**document, **told, "left_out": left_out}


def _end_of(log: str) -> str | None:
    """Return the end of what an attempt printed; None where nothing is left of it."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        size = os.fstat(fd).st_size
        content = os.pread(fd, _MOST_OUTPUT_BYTES, max(0, size - _MOST_OUTPUT_BYTES))
    except OSError:
        return None
    finally:
        os.close(fd)
    return content.decode(errors="replace")


def _written(document: object) -> str:
    text = json.dumps(document, indent=2, ensure_ascii=False)
    if len(text) > _MOST_RESULT_CHARACTERS:
        raise UsageError(
            f"the answer would have {len(text)} characters, more than {_MOST_RESULT_CHARACTERS}",
            hint="ask for fewer at a time: limit and offset",
        )
    return text
