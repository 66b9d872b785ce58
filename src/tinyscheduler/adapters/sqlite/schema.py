"""What is in the database?  The tables, and how each version becomes the next.

Times are microseconds since 1970 in UTC.  ``agent`` and ``queue`` are empty where
nothing was said, so that an index finds them by plain equality.

Written for SQLite 3.26 and later: no STRICT, no RETURNING.
"""

from __future__ import annotations

# "TiSc", at byte 68 of the file: told apart from any other program's database.
APPLICATION_ID = 0x54695363

_TASKS = """
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: a number is never used again
    state TEXT NOT NULL CHECK (state IN
        ('waiting', 'held', 'working', 'done', 'failed', 'parked', 'cancelled')),
    lease_id TEXT UNIQUE,
    claimed_by TEXT,
    agent TEXT NOT NULL,
    queue TEXT NOT NULL,
    summary TEXT NOT NULL,
    priority INTEGER NOT NULL,
    memory_bytes INTEGER,
    max_attempts INTEGER,
    attempt INTEGER NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
    launches INTEGER NOT NULL DEFAULT 0 CHECK (launches >= 0),
    blockers_left INTEGER NOT NULL CHECK (blockers_left >= 0),  -- blockers that are not done
    blocks INTEGER NOT NULL CHECK (blocks >= 0),  -- dependents that have not ended
    not_before INTEGER,
    backing_off_until INTEGER,
    start_after INTEGER NOT NULL,  -- the later of these two, 0 where neither was still ahead
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    failure_reason TEXT,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    ended_at INTEGER,
    CHECK ((state = 'working') = (lease_id IS NOT NULL)),
    CHECK ((state = 'working') = (claimed_by IS NOT NULL)),
    CHECK (cancel_requested = 0 OR state = 'working')
)
"""

# Apart from `tasks`, so that looking for work never reads past a prompt of megabytes.
_SPECS = """
CREATE TABLE task_specs (
    task_id INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
    prompt TEXT,
    details TEXT NOT NULL  -- JSON: every other field that is not its default
)
"""

_DEPENDENCIES = """
CREATE TABLE dependencies (
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    blocker_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    PRIMARY KEY (task_id, blocker_id)
) WITHOUT ROWID
"""

# How many tasks stand in each line: counting a hundred thousand rows at each tick would
# cost more than all the rest of the tick, and this also names the lines to look at.
_COUNTS = """
CREATE TABLE counts (
    state TEXT NOT NULL,
    agent TEXT NOT NULL,
    queue TEXT NOT NULL,
    tasks INTEGER NOT NULL CHECK (tasks > 0),
    PRIMARY KEY (state, agent, queue)
) WITHOUT ROWID
"""

_ATTEMPTS = """
CREATE TABLE attempts (
    lease_id TEXT NOT NULL PRIMARY KEY,
    task_id TEXT NOT NULL,
    source TEXT NOT NULL,
    agent TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    failure_reason TEXT,
    reclaim_reason TEXT,
    exit_code INTEGER,
    signal INTEGER,
    message TEXT NOT NULL,
    turns INTEGER,
    peak_rss_mb REAL,
    log TEXT
)
"""

# Each index holds only the rows one question is about, in the order of its answer; so a
# question reads about as many rows as it returns, however many tasks wait.  It is
# `start_after <> 0`, not `> 0`, since SQLite takes one lower bound to begin at, and shall
# take the one in the question.
_INDEXES = (
    """
    CREATE INDEX ready_by_age ON tasks (agent, queue, blocks DESC, id)
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    """,
    """
    CREATE INDEX ready_by_priority ON tasks (agent, queue, blocks DESC, priority DESC, id)
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0
    """,
    """
    CREATE INDEX deferred ON tasks (agent, queue, start_after)
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after <> 0
    """,
    """
    CREATE INDEX deferred_anywhere ON tasks (start_after)
    WHERE state = 'waiting' AND blockers_left = 0 AND start_after <> 0
    """,
    """
    CREATE INDEX blocked ON tasks (agent, queue, id)
    WHERE state = 'waiting' AND blockers_left > 0
    """,
    """
    CREATE INDEX blocked_anywhere ON tasks (id)
    WHERE state = 'waiting' AND blockers_left > 0
    """,
    "CREATE INDEX tasks_by_state ON tasks (state, id)",
    "CREATE INDEX dependents ON dependencies (blocker_id)",
    "CREATE INDEX attempts_of_task ON attempts (task_id, attempt)",
)

_TRIGGERS = (
    """
    CREATE TRIGGER count_added AFTER INSERT ON tasks BEGIN
        INSERT INTO counts VALUES (NEW.state, NEW.agent, NEW.queue, 1)
        ON CONFLICT (state, agent, queue) DO UPDATE SET tasks = tasks + 1;
    END
    """,
    """
    CREATE TRIGGER count_moved AFTER UPDATE OF state, agent, queue ON tasks
    WHEN (OLD.state, OLD.agent, OLD.queue) <> (NEW.state, NEW.agent, NEW.queue) BEGIN
        DELETE FROM counts
        WHERE (state, agent, queue) = (OLD.state, OLD.agent, OLD.queue) AND tasks = 1;
        UPDATE counts SET tasks = tasks - 1
        WHERE (state, agent, queue) = (OLD.state, OLD.agent, OLD.queue);
        INSERT INTO counts VALUES (NEW.state, NEW.agent, NEW.queue, 1)
        ON CONFLICT (state, agent, queue) DO UPDATE SET tasks = tasks + 1;
    END
    """,
    """
    CREATE TRIGGER count_removed AFTER DELETE ON tasks BEGIN
        DELETE FROM counts
        WHERE (state, agent, queue) = (OLD.state, OLD.agent, OLD.queue) AND tasks = 1;
        UPDATE counts SET tasks = tasks - 1
        WHERE (state, agent, queue) = (OLD.state, OLD.agent, OLD.queue);
    END
    """,
)

# Pauses and the drain.  A target is `all`, or a kind and a name: `agent:coder`.
_SWITCHES = """
CREATE TABLE switches (
    kind TEXT NOT NULL CHECK (kind IN ('pause', 'drain')),
    target TEXT NOT NULL,
    since INTEGER NOT NULL,
    set_by TEXT NOT NULL,
    reason TEXT,
    PRIMARY KEY (kind, target)
) WITHOUT ROWID
"""
# Counts what its owner changed in a task that waits: who looked before must look again.
_REVISION = "ALTER TABLE tasks ADD COLUMN revision INTEGER NOT NULL DEFAULT 0"
# For what is told of, and removed from, the past: the oldest first.
_INDEXES_BY_END = (
    "CREATE INDEX tasks_by_end ON tasks (ended_at) WHERE ended_at IS NOT NULL",
    "CREATE INDEX attempts_by_end ON attempts (ended_at)",
)

# What a tick must know of a task to find it a place; until then only in its details.
_NEEDS = (
    "ALTER TABLE tasks ADD COLUMN priority_class TEXT NOT NULL DEFAULT 'batch'",
    "ALTER TABLE tasks ADD COLUMN gpus INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN vram_bytes INTEGER",
    "ALTER TABLE tasks ADD COLUMN model TEXT",
    "ALTER TABLE tasks ADD COLUMN tenant TEXT",
    "ALTER TABLE tasks ADD COLUMN project TEXT",
    "ALTER TABLE tasks ADD COLUMN max_runtime_s REAL",
    """
    UPDATE tasks SET
        (priority_class, gpus, vram_bytes, model, tenant, project, max_runtime_s) = (
            SELECT
                CASE json_extract(details, '$.priority_class')
                    WHEN 'interactive' THEN 'interactive' ELSE 'batch' END,
                CASE json_type(details, '$.gpus')
                    WHEN 'integer' THEN json_extract(details, '$.gpus') ELSE 0 END,
                CASE json_type(details, '$.vram_bytes')
                    WHEN 'integer' THEN json_extract(details, '$.vram_bytes') END,
                json_extract(details, '$.model'),
                json_extract(details, '$.tenant'),
                json_extract(details, '$.project'),
                CASE WHEN json_type(details, '$.max_runtime_s') IN ('integer', 'real')
                    THEN json_extract(details, '$.max_runtime_s') END
            FROM task_specs WHERE task_id = tasks.id
        )
    WHERE id IN (
        SELECT task_id FROM task_specs WHERE json_valid(details) AND details <> '{}'
    )
    """,
)

# What goes first for another reason than its age: few tasks, so these cost little.
_FIRST_FOR = """
CREATE INDEX {name} ON tasks ({columns})
WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0 AND {rare}
"""
_INDEXES_BY_TURN = tuple(
    _FIRST_FOR.format(name=name, columns=columns, rare=rare)
    for name, columns, rare in (
        (
            "interactive_by_age",
            "agent, queue, blocks DESC, id",
            "priority_class = 'interactive'",
        ),
        (
            "interactive_by_priority",
            "agent, queue, blocks DESC, priority DESC, id",
            "priority_class = 'interactive'",
        ),
        ("ready_by_tenant", "tenant, blocks DESC, id", "tenant IS NOT NULL"),
        ("ready_by_project", "project, blocks DESC, id", "project IS NOT NULL"),
    )
)
# Where higher priority goes first, it does so among the tasks of one owner too; and those
# without an owner have one turn together, so they are found like those of one without a name.
_INDEXES_BY_OWNER = (
    "DROP INDEX ready_by_tenant",
    "DROP INDEX ready_by_project",
    *(
        f"CREATE INDEX {name} ON tasks (ifnull({owner}, ''), blocks DESC, {order})"
        " WHERE state = 'waiting' AND blockers_left = 0 AND start_after = 0"
        for owner in ("tenant", "project")
        for name, order in (
            (f"ready_by_{owner}_and_age", "id"),
            (f"ready_by_{owner}_and_priority", "priority DESC, id"),
        )
    ),
)

# A firing is a task that names its schedule, and the time it fires for unless it was started by
# hand.  The definition is JSON; what ticks and statements decide by stands beside it.
_SCHEDULES = (
    """
    CREATE TABLE schedules (
        id TEXT NOT NULL PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'completed', 'expired')),
        definition TEXT NOT NULL,
        next_slot INTEGER,  -- the next time it is to fire for; NULL: none
        due_at INTEGER,  -- when that is, delayed as the schedule says
        anchor INTEGER NOT NULL,
        fired INTEGER NOT NULL DEFAULT 0 CHECK (fired >= 0),
        passed_over INTEGER NOT NULL DEFAULT 0 CHECK (passed_over >= 0),
        failure_streak INTEGER NOT NULL DEFAULT 0 CHECK (failure_streak >= 0),
        last_failure TEXT,
        why_paused TEXT,
        paused_after INTEGER,  -- the firing that paused it
        last_fired_at INTEGER,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    )
    """,
    """
    CREATE INDEX schedules_due ON schedules (due_at)
    WHERE state = 'active' AND due_at IS NOT NULL
    """,
    "ALTER TABLE tasks ADD COLUMN schedule_id TEXT",
    "ALTER TABLE tasks ADD COLUMN slot INTEGER",
    # Whether it may run beside another firing of its schedule, and beyond the bound on all.
    "ALTER TABLE tasks ADD COLUMN is_beside INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE tasks ADD COLUMN is_forced INTEGER NOT NULL DEFAULT 0",
    "CREATE UNIQUE INDEX firings_once ON tasks (schedule_id, slot) WHERE slot IS NOT NULL",
    """
    CREATE INDEX firings_at_work ON tasks (schedule_id)
    WHERE state = 'working' AND schedule_id IS NOT NULL
    """,
    """
    CREATE INDEX firings_that_wait ON tasks (schedule_id, id)
    WHERE state IN ('waiting', 'held') AND schedule_id IS NOT NULL
    """,
    # One row for each firing that was claimed: kept when the task is long gone.
    """
    CREATE TABLE schedule_firing_metrics (
        id INTEGER PRIMARY KEY,
        schedule_id TEXT NOT NULL,
        task_id INTEGER NOT NULL UNIQUE,
        fired_at INTEGER NOT NULL,
        slot_claimed_at INTEGER,
        completed_at INTEGER,  -- NULL: it is at work
        slot_wait_ms INTEGER,
        duration_ms INTEGER,
        turn_count INTEGER,
        max_turns_at_firing INTEGER,
        tick_lag_ms INTEGER,
        peak_rss_mb REAL,
        pressure INTEGER NOT NULL DEFAULT 0,
        concurrent_schedules INTEGER,
        failure_reason TEXT
    )
    """,
    """
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        by TEXT NOT NULL,
        activity TEXT NOT NULL,
        subject TEXT NOT NULL,
        task_id INTEGER
    )
    """,
    "CREATE INDEX firing_metrics_by_end ON schedule_firing_metrics (completed_at)",
    "CREATE INDEX firing_metrics_of ON schedule_firing_metrics (schedule_id, id)",
)

# What schedules learn from their firings, and what firings and attempts cost.
_COSTS = (
    # NULL: nobody has changed it since the schedule's beginning.
    "ALTER TABLE schedules ADD COLUMN max_turns_set_at INTEGER",
    "ALTER TABLE schedules ADD COLUMN average_turns INTEGER",
    "ALTER TABLE schedules ADD COLUMN last_turns INTEGER",
    "ALTER TABLE schedules ADD COLUMN breach_streak INTEGER NOT NULL DEFAULT 0",
    # How many in a row took most of their time.
    "ALTER TABLE schedules ADD COLUMN drift_streak INTEGER NOT NULL DEFAULT 0",
    # How often in a row it made way for somebody at work.
    "ALTER TABLE schedules ADD COLUMN deferrals INTEGER NOT NULL DEFAULT 0",
    # How often it found nothing to do.
    "ALTER TABLE schedules ADD COLUMN suppressed INTEGER NOT NULL DEFAULT 0",
    # The file that declares it, if one does.
    "ALTER TABLE schedules ADD COLUMN declared_in TEXT",
    # Counts what was edited: who looked before must look again.
    "ALTER TABLE schedules ADD COLUMN revision INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE attempts ADD COLUMN tokens INTEGER",
    "ALTER TABLE attempts ADD COLUMN cost_usd REAL",
    "ALTER TABLE attempts ADD COLUMN cpu_s REAL",
    "ALTER TABLE attempts ADD COLUMN gpu_s REAL",
    "ALTER TABLE attempts ADD COLUMN schedule_id TEXT",
    "CREATE INDEX attempts_by_agent_and_end ON attempts (agent, ended_at)",
    """
    CREATE INDEX attempts_by_schedule_and_end ON attempts (schedule_id, ended_at)
    WHERE schedule_id IS NOT NULL
    """,
    # From when on what was used counts against a budget: it was lifted then.
    """
    CREATE TABLE budget_starts (
        subject TEXT NOT NULL PRIMARY KEY,
        since INTEGER NOT NULL
    ) WITHOUT ROWID
    """,
    "CREATE INDEX audit_by_time ON audit (at)",
)

# What agents say of tasks, and only some tasks have: who asked for it and had it before, which
# task it is a part of, who works on it outside of attempts (it is held meanwhile), and what the
# attempt under way has said shall become of it.
_SHARED = (
    """
    CREATE TABLE shared_tasks (
        task_id INTEGER PRIMARY KEY REFERENCES tasks (id) ON DELETE CASCADE,
        created_by TEXT,
        previous_agent TEXT,
        parent_id INTEGER REFERENCES tasks (id) ON DELETE SET NULL,
        taken_by TEXT,
        taken_at INTEGER,
        said TEXT CHECK (said IN ('complete', 'move')),
        said_in TEXT,  -- the lease of the attempt that said so: of another, it says nothing
        moves_to TEXT,
        moves INTEGER NOT NULL DEFAULT 0,
        has_succeeded INTEGER NOT NULL DEFAULT 0,  -- it did, and waits for its parts alone
        archived_at INTEGER,
        CHECK ((taken_by IS NULL) = (taken_at IS NULL)),
        CHECK ((said IS NULL) = (said_in IS NULL))
    )
    """,
    "CREATE INDEX parts ON shared_tasks (parent_id)",
    # However it comes free: its owner may release, cancel or run it.
    """
    CREATE TRIGGER taken_no_more AFTER UPDATE OF state ON tasks
    WHEN OLD.state = 'held' AND NEW.state <> 'held' BEGIN
        UPDATE shared_tasks SET taken_by = NULL, taken_at = NULL
        WHERE task_id = NEW.id AND taken_by IS NOT NULL;
    END
    """,
    # What is revived is to run, whatever it did before, and stands alone if it was archived: what
    # it was a part of has gone on without it.
    """
    CREATE TRIGGER archived_no_more AFTER UPDATE OF state ON tasks
    WHEN OLD.state IN ('failed', 'parked', 'cancelled') AND NEW.state = 'waiting' BEGIN
        UPDATE shared_tasks SET has_succeeded = 0 WHERE task_id = NEW.id AND has_succeeded;
        UPDATE shared_tasks SET archived_at = NULL, parent_id = NULL
        WHERE task_id = NEW.id AND archived_at IS NOT NULL;
    END
    """,
    """
    CREATE TABLE comments (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        content TEXT NOT NULL,
        created_by TEXT,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL
    )
    """,
    "CREATE INDEX comments_of_task ON comments (task_id, id)",
    """
    CREATE TABLE links (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
        url TEXT NOT NULL,
        description TEXT,
        created_by TEXT,
        created_at INTEGER NOT NULL
    )
    """,
    "CREATE INDEX links_of_task ON links (task_id, id)",
)

# Accounts that their provider refused: kept until an attempt of them succeeds.
_PROVIDERS = (
    """
    CREATE TABLE coolings (
        account TEXT NOT NULL PRIMARY KEY,
        since INTEGER NOT NULL,
        until INTEGER NOT NULL,
        times INTEGER NOT NULL CHECK (times >= 1),
        agent TEXT NOT NULL,
        words TEXT NOT NULL,
        is_told INTEGER NOT NULL CHECK (is_told IN (0, 1))
    ) WITHOUT ROWID
    """,
)

# What a source cannot keep by itself of its tasks: attempts, backoff, who has claimed one, and
# that it was set aside; beside it the task as last seen, so that commands need not ask for it.
_SOURCE_TASKS = (
    """
    CREATE TABLE source_tasks (
        source TEXT NOT NULL,
        number INTEGER NOT NULL,  -- by which the source itself knows it
        state TEXT NOT NULL CHECK (state IN
            ('waiting', 'held', 'working', 'done', 'failed', 'parked', 'cancelled')),
        lease_id TEXT UNIQUE,
        claimed_by TEXT,
        agent TEXT NOT NULL,
        queue TEXT NOT NULL,
        summary TEXT NOT NULL,
        priority INTEGER NOT NULL,
        blocks INTEGER NOT NULL DEFAULT 0 CHECK (blocks >= 0),
        blocked_by TEXT NOT NULL DEFAULT '',  -- numbers, with commas between them
        impediment TEXT,
        attempt INTEGER NOT NULL DEFAULT 1 CHECK (attempt >= 1),
        failures INTEGER NOT NULL DEFAULT 0 CHECK (failures >= 0),
        launches INTEGER NOT NULL DEFAULT 0 CHECK (launches >= 0),
        backing_off_until INTEGER,
        cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
        failure_reason TEXT,
        lost_since INTEGER,  -- since when it is at work there, and nobody is here
        doubtful_for TEXT,  -- the agent of a claim that the source may or may not have noted
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        ended_at INTEGER,
        PRIMARY KEY (source, number),
        CHECK ((state = 'working') = (lease_id IS NOT NULL)),
        CHECK ((state = 'working') = (claimed_by IS NOT NULL)),
        CHECK (cancel_requested = 0 OR state = 'working')
    ) WITHOUT ROWID
    """,
    "CREATE INDEX source_tasks_by_state ON source_tasks (state, source, number)",
    "CREATE INDEX source_tasks_by_end ON source_tasks (ended_at) WHERE ended_at IS NOT NULL",
)

# The statements at place N make version N + 1 out of version N.  A released entry is
# never changed again: a new one is added behind it.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (_TASKS, _SPECS, _DEPENDENCIES, _COUNTS, _ATTEMPTS, *_INDEXES, *_TRIGGERS),
    (_SWITCHES, _REVISION, *_INDEXES_BY_END),
    _NEEDS,
    _INDEXES_BY_TURN,
    _INDEXES_BY_OWNER,
    _SCHEDULES,
    _COSTS,
    (*_PROVIDERS, *_SOURCE_TASKS, *_SHARED),
)
