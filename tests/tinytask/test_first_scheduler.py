"""Each way in which the first TinyScheduler failed has a test in which this one does right.

It was run against a real tinytask server and read; what went wrong, in its words, is on the left.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
# Each through commands, ticks and wrappers as a person starts them; of some more below.
FAILURES = {
    "a server that is down: leases deleted, tasks at work for ever, exit code 0": (
        "cli/test_tinytask.py::test_while_the_server_is_down_nothing_is_given_back_and_the_exit_code_says_so",
        "cli/test_tinytask.py::test_a_result_waits_for_its_server_and_is_told_once",
    ),
    "unassigned tasks of a queue were matched to nobody": (
        "cli/test_tinytask.py::test_unassigned_tasks_of_a_queue_go_to_its_agent_with_most_free_slots",
    ),
    "a client that waits for ever, holding the lock": (
        "cli/test_tinytask.py::test_a_server_that_never_ends_its_answer_is_cut_off_in_time",
        "cli/test_tinytask.py::test_a_server_of_version_1_is_served_by_its_tools",
    ),
    "a wrapper that is a zombie counted as alive": (
        "process/test_tick_lock.py::test_many_tasks_leave_a_daemon_no_zombie_and_no_descriptor",
        "process/test_trees.py::test_a_wrapper_that_is_a_zombie_is_dead",
    ),
    "a corrupt lease was no slot, and its task started again at every pass": (
        "process/test_bad_days.py::test_a_broken_lease_keeps_its_slot_and_its_wrapper_writes_it_again",
        "process/test_bad_days.py::test_a_broken_lease_of_a_dead_attempt_is_set_aside_and_its_task_runs_again",
    ),
    "a fast wrapper ended before its lease was written, and ran again": (
        "cli/test_tinytask.py::test_a_fast_attempt_is_not_run_again",
    ),
    "what a claim answered was ignored": (
        "cli/test_tinytask.py::test_a_claim_that_the_server_refuses_starts_nothing",
        "cli/test_tinytask.py::test_what_somebody_changes_between_looking_and_claiming_is_his",
    ),
    "a wrapper that hangs was seen after an hour": (
        "process/test_trees.py::test_a_stopped_wrapper_is_reclaimed_after_two_sightings_and_cannot_come_back",
    ),
    "past its time a task was given back, and its agent ran on": (
        "process/test_commands.py::test_past_its_maximum_runtime_the_whole_tree_is_ended",
    ),
    "the number of a dead process, borne by another": (
        "process/test_trees.py::test_a_live_stranger_with_the_recorded_pid_is_not_signalled",
    ),
    "two schedulers at once, because the lock was removed": (
        "process/test_tick_lock.py::test_a_tick_that_finds_the_lock_held_says_so_in_one_line_and_starts_nothing",
        "contract/test_tick_lock.py::test_the_file_of_the_lock_says_who_has_it_and_is_never_removed",
    ),
    "blocked tasks took the places of those that could run": (
        "cli/test_tinytask.py::test_a_hundred_blocked_tasks_keep_no_other_from_starting",
    ),
    "tasks at work that nobody runs were never found": (
        "cli/test_tinytask.py::test_a_task_at_work_that_nobody_runs_is_given_back_after_a_grace",
    ),
    "what fails was started at every pass for ever": (
        "cli/test_tinytask.py::test_a_task_that_fails_again_and_again_is_parked_with_a_comment",
    ),
    "a number that is none was an unexpected error": (
        "cli/test_running.py::test_wrong_limits_end_with_4_and_name_the_variable",
    ),
    "a missing recipe: a warning at each pass, or not even looked for": (
        "cli/test_tinytask.py::test_a_missing_recipe_is_a_reason_and_not_an_attempt",
    ),
    "a dry run that made folders, took the lock and wrote logs": (
        "cli/test_tinytask.py::test_a_dry_run_only_looks",
    ),
    "assigned tasks were not started in order": (
        "cli/test_tinytask.py::test_most_blockers_first_then_priority_then_age_whoever_it_is_for",
    ),
    "a limit on the command line without a number was ignored": (
        "cli/test_running.py::test_a_wrong_limit_on_the_command_line_starts_nothing",
    ),
    "a slow server stretched a pass beyond its minute": (
        "cli/test_tinytask.py::test_wherever_in_a_tick_the_server_fails_nothing_is_lost_or_done_twice",
    ),
    "the unit of systemd ended agents with the pass": (
        "cli/test_service.py::test_what_lies_in_deploy_is_what_this_version_writes",
    ),
    "names that lead out of a folder, and options in names": (
        "cli/test_tinytask.py::test_ids_and_names_of_a_hostile_server_lead_nowhere",
    ),
    "redirects, answers of any size": (
        "cli/test_tinytask.py::test_what_only_looks_like_an_answer_is_told_apart_and_not_asked_for_again",
    ),
    "a process of another user counted as dead": (
        "process/test_bad_days.py::test_the_state_of_another_user_is_refused",
    ),
    "a lease of another host was judged by the processes here": (
        "process/test_bad_days.py::test_a_dead_lease_of_another_boot_is_a_reboot_and_counts_as_no_attempt",
    ),
    "a lease that leads out of its folder": (
        "process/test_bad_days.py::test_a_lease_whose_names_lead_out_of_the_state_folder_is_set_aside_and_removes_nothing",
    ),
    "a lease of any size was read whole": (
        "cli/test_tinytask.py::test_a_lease_of_any_size_costs_no_other_task_its_turn",
    ),
    "files that others may read": (
        "process/test_lease_on_disk.py::test_whatever_the_umask_nobody_else_can_read_the_state",
    ),
}


@cache
def names_in(path: str) -> frozenset[str]:
    text = (TESTS / path).read_text()
    return frozenset(re.findall(r"^def (test_\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("failure", FAILURES)
def test_what_broke_the_first_one_has_its_tests(failure: str):
    for name in FAILURES[failure]:
        path, _, test = name.partition("::")
        assert test in names_in(path), name


def test_the_unit_of_one_tick_leaves_its_agents_alone():
    unit = (TESTS.parent / "deploy" / "tinyscheduler-oneshot.service").read_text()

    assert re.search(r"^KillMode=process$", unit, re.MULTILINE)
