"""``service``: shown first, written with consent, removed without a trace, and it really ticks."""

from __future__ import annotations

import os
import pty
import pwd
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cli.place import Place, compare, settle_text

from tinyscheduler.cli.service_texts import (
    Installation,
    Kind,
    Scope,
    cron_block,
    names_of,
    text_of,
    with_block,
    without_block,
)
from tinyscheduler.errors import UsageError

if TYPE_CHECKING:
    from tests.cli.place import Answer

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
HAS_SYSTEMD = Path("/run/systemd/system").is_dir()
EXAMPLE = Installation(
    python="/opt/tinyscheduler/.venv/bin/python",
    base_path="/opt/tinyscheduler",
    env_file=None,
    user="tinyscheduler",
    group="tinyscheduler",
    search_path="/usr/local/bin:/usr/bin:/bin",
)
# A small crontab(1): lists and installs one file, and has its words.
CRONTAB = """\
#!/bin/sh
file=$(dirname "$0")/spool
case ${1-} in
-l) [ -f "$file" ] || { echo "no crontab for $(id -un)" >&2; exit 1; }; cat "$file" ;;
-r) rm "$file" ;;
-) cat > "$file.new" && mv "$file.new" "$file" ;;
*) echo "crontab: usage error" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def tools(place: Place) -> Path:
    """Return a folder of programs that comes first on PATH, with a crontab in it."""
    folder = place.base.parent / "tools"
    folder.mkdir()
    (folder / "crontab").write_text(CRONTAB)
    (folder / "crontab").chmod(0o755)
    return folder


def service(place: Place, tools: Path, *arguments: str) -> Answer:
    path = f"{tools}:{os.environ['PATH']}"
    home = str(place.base.parent)
    return place.run("service", *arguments, cwd=tools, PATH=path, HOME=home)


def units(place: Place) -> Path:
    return place.base.parent / ".config" / "systemd" / "user"


def cron_command(tools: Path) -> str:
    """Return what cron(8) would run: after five fields, and with \\% for %."""
    lines = (tools / "spool").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("* * * * * ")]
    return line.split(maxsplit=5)[5].replace("\\%", "%")


# -- texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in Kind if kind is not Kind.CRON])
def test_what_lies_in_deploy_is_what_this_version_writes(kind: Kind):
    for name in names_of(kind):
        path = DEPLOY / ("logrotate" if kind is Kind.LOGROTATE else name)
        text = text_of(name, EXAMPLE, Scope.SYSTEM)
        if os.environ.get("UPDATE_GOLDEN"):
            path.write_text(text)

        assert path.read_text() == text


def test_the_crontab_in_deploy_is_what_this_version_writes():
    path = DEPLOY / "tinyscheduler-cron.example"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(cron_block(EXAMPLE))

    assert path.read_text() == cron_block(EXAMPLE)


def test_a_crontab_gets_the_block_once_and_loses_nothing_else():
    for before in ("", "MAILTO=me\n* * * * * true\n", "# no end of line", "\n\n"):
        once = with_block(before, cron_block(EXAMPLE), EXAMPLE)

        assert once.startswith(before)
        assert with_block(once, cron_block(EXAMPLE), EXAMPLE) == once
        after = once + "0 0 * * * later\n"
        assert without_block(after, EXAMPLE).replace("0 0 * * * later\n", "").rstrip("\n") == (
            before.rstrip("\n")
        )


def test_two_base_paths_share_a_crontab():
    other = Installation(
        python=EXAMPLE.python,
        base_path="/srv/other",
        env_file="/srv/other.env",
        user="tinyscheduler",
        group="tinyscheduler",
        search_path=EXAMPLE.search_path,
    )
    both = with_block(cron_block(EXAMPLE), cron_block(other), other)

    assert without_block(both, EXAMPLE) == cron_block(other)
    assert without_block(both, other) == cron_block(EXAMPLE)
    assert "--env-file /srv/other.env" in both


def test_half_a_block_is_not_guessed_at():
    broken = cron_block(EXAMPLE).replace("# END", "# FIN")

    for change in (without_block, lambda text, one: with_block(text, "", one)):
        with pytest.raises(UsageError, match="without its end"):
            change(broken, EXAMPLE)


def test_a_line_too_long_for_cron_is_refused():
    long = Installation(
        python="/usr/bin/python3",
        base_path="/srv/" + "x" * 500,
        env_file=None,
        user="me",
        group="me",
        search_path="/usr/bin",
    )

    with pytest.raises(UsageError, match="cron takes 1000"):
        cron_block(long)


def test_odd_characters_survive_systemds_quoting():
    odd = Installation(
        python='/opt/a b/100%/$HOME/"q"/back\\slash/python',
        base_path="/srv/a b%c",
        env_file=None,
        user="me",
        group="me",
        search_path="/usr/bin:/opt/a b",
    )

    text = text_of("tinyscheduler.service", odd, Scope.SYSTEM)

    assert '"/opt/a b/100%%/$$HOME/\\"q\\"/back\\\\slash/python" -I -m' in text
    assert '--base-path "/srv/a b%%c" run --daemon' in text
    assert 'Environment="PATH=/usr/bin:/opt/a b"' in text


# The program lies where the system's own packages put it; scripts/test installs it as root.
@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze")
@pytest.mark.parametrize("scope", list(Scope))
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path, scope: Scope):
    (tmp_path / "a base").mkdir()
    real = Installation(
        python=sys.executable,
        base_path=str(tmp_path / "a base"),
        env_file=None,
        user="root",
        group="root",
        search_path="/usr/local/bin:/usr/bin:/bin",
    )
    paths = []
    for name in (*names_of(Kind.TIMER), *names_of(Kind.DAEMON)):
        path = tmp_path / name
        path.write_text(text_of(name, real, scope))
        paths.append(str(path))

    done = subprocess.run(
        ["systemd-analyze", f"--{scope}", "--man=no", "verify", *paths],
        env={"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stderr) == (0, "")


# -- cron --------------------------------------------------------------------------------


def test_cron_is_shown_then_written_then_left_alone_then_removed(place: Place, tools: Path):
    spool = tools / "spool"
    spool.write_text("MAILTO=me\n")

    refused = service(place, tools, "install", "cron")
    assert (refused.code, spool.read_text()) == (2, "MAILTO=me\n")
    assert "* * * * * umask 077; /usr/bin/env PATH=" in refused.out
    assert "error: nothing was written: nobody is here to agree\nhint: add --yes\n" in refused.err

    assert service(place, tools, "install", "cron", "--yes").code == 0
    written = spool.read_text()
    assert written.startswith("MAILTO=me\n# BEGIN tinyscheduler ")

    again = service(place, tools, "install", "cron", "--yes")
    assert (again.code, spool.read_text()) == (0, written)
    assert "nothing to do" in again.err

    removed = service(place, tools, "uninstall", "cron", "--yes")
    assert (removed.code, spool.read_text()) == (0, "MAILTO=me\n")
    assert "-* * * * * umask 077; /usr/bin/env" in removed.out


def test_a_crontab_that_held_nothing_else_is_gone_afterwards(place: Place, tools: Path):
    assert service(place, tools, "install", "cron", "--yes").code == 0
    assert service(place, tools, "uninstall", "--yes").code == 0

    assert not (tools / "spool").exists()
    assert service(place, tools, "uninstall", "--yes").err.startswith("nothing is installed")


def test_a_line_changed_by_hand_is_shown_as_a_difference(place: Place, tools: Path):
    spool = tools / "spool"
    service(place, tools, "install", "cron", "--yes")
    written = spool.read_text()
    spool.write_text(written.replace("* * * * *", "*/5 * * * *"))

    answer = service(place, tools, "install", "cron", "--yes")

    assert "    -*/5 * * * * " in answer.out
    assert "    +* * * * * " in answer.out
    assert spool.read_text() == written


@pytest.mark.parametrize("name", ["base", "it's 100% odd $HOME"])
def test_the_line_ticks_exactly_as_cron_would_run_it(tmp_path: Path, tools: Path, name: str):
    place = Place(tmp_path / name)
    try:
        place.add("--", "sh", "-c", "echo $TINYSCHEDULER_TASK_ID from cron")
        assert service(place, tools, "install", "cron", "--yes").code == 0
        command = cron_command(tools)

        done = subprocess.run(
            ["/bin/sh", "-c", command],
            env={
                "HOME": str(tmp_path),
                "LOGNAME": "me",
                "SHELL": "/bin/sh",
                "PATH": "/usr/bin:/bin",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            start_new_session=True,
            timeout=60,
            check=False,
            cwd="/",
        )

        log = (place.base / "tinyscheduler-cron.log").read_text()
        assert (done.returncode, done.stdout, done.stderr, log) == (0, b"", b"", "")
        assert place.run("wait", "1", "--timeout", "20s").code == 0
        assert place.run("logs", "1").out == "1 from cron\n"
    finally:
        place.clean_up()


def tick_as_cron_would(tools: Path) -> subprocess.CompletedProcess[bytes]:
    command = cron_command(tools)
    return subprocess.run(
        ["/bin/sh", "-c", command], env={}, cwd="/", capture_output=True, check=False, timeout=60
    )


def test_cron_before_the_first_task_makes_the_base_path_that_its_line_needs(
    place: Place, tools: Path
):
    place.base.rmdir()
    place.base = place.base / "not" / "there"

    shown = service(place, tools, "install", "cron")
    assert shown.out.startswith(f"make folder {place.base}\ncreate the crontab of ")
    assert not place.base.exists()

    assert service(place, tools, "install", "cron", "--yes").code == 0
    assert place.base.stat().st_mode & 0o777 == 0o700
    assert tick_as_cron_would(tools).returncode == 0

    shutil.rmtree(place.base)
    assert service(place, tools, "install", "cron", "--yes").code == 0
    assert tick_as_cron_would(tools).returncode == 0


def test_a_printed_line_that_cannot_tick_yet_comes_with_what_it_needs(place: Place, tools: Path):
    place.base.rmdir()

    printed = service(place, tools, "install", "cron", "--print")

    assert printed.err == f"it ticks once its folder is there: `mkdir -p -m 700 {place.base}`\n"
    assert not place.base.exists()


def test_what_a_cron_tick_complains_of_is_in_its_log_for_the_owner_alone(place: Place, tools: Path):
    service(place, tools, "install", "cron", "--yes")
    (place.base / "agents.yaml").write_text("agents: 7\n")

    done = tick_as_cron_would(tools)

    log = place.base / "tinyscheduler-cron.log"
    assert (done.returncode, done.stdout + done.stderr) == (4, b"")
    assert log.read_text().startswith("error: ")
    assert log.stat().st_mode & 0o777 == 0o600


def test_without_cron_the_way_that_works_here_is_named(place: Place, tools: Path):
    (tools / "crontab").unlink()

    answer = place.run("service", "install", "cron", "--yes", PATH=str(tools))

    assert (answer.code, answer.out) == (69, "")
    assert "there is no program `crontab` on PATH" in answer.err
    way = "use `service install timer`" if HAS_SYSTEMD else f"keep `{place.program} run --daemon`"
    assert f"hint: install cron, or {way}" in answer.err


def test_a_crontab_that_refuses_is_quoted(place: Place, tools: Path):
    (tools / "crontab").write_text(
        "#!/bin/sh\n[ $1 = -l ] && exit 0\necho 'you may not use crontab' >&2\nexit 1\n"
    )

    answer = service(place, tools, "install", "cron", "--yes")

    assert answer.code == 69
    assert "you may not use crontab" in answer.err


# -- systemd -----------------------------------------------------------------------------


@pytest.mark.skipif(HAS_SYSTEMD, reason="only where systemd does not run")
@pytest.mark.parametrize("kind", ["daemon", "timer"])
def test_where_systemd_does_not_run_it_is_said_before_anything_is_written(
    place: Place, tools: Path, kind: str
):
    asked = service(place, tools, "install", kind, "--user")
    done = service(place, tools, "install", kind, "--user", "--yes")

    assert (asked.code, done.code) == (2, 0)
    for answer in (asked, done):
        assert "warning: systemd does not run here" in answer.err
        assert f"keep `{place.program} run --daemon` running" in answer.err
    assert "once systemd runs, type:\n  systemctl --user daemon-reload\n" in done.err
    assert "loginctl" not in done.err


def test_units_of_a_user_are_written_and_removed_and_nothing_else_is(place: Place, tools: Path):
    units(place).mkdir(parents=True)
    (units(place) / "mine.service").write_text("[Service]\n")
    umask = os.umask(0o077)
    try:
        for kind in ("daemon", "timer"):
            answer = service(place, tools, "install", kind, "--user", "--yes")
            assert answer.code == 0, answer
    finally:
        os.umask(umask)
    names = {"tinyscheduler.service", "tinyscheduler.timer", "tinyscheduler-oneshot.service"}
    assert {path.name for path in units(place).iterdir()} == {*names, "mine.service"}
    assert {path.stat().st_mode & 0o777 for path in units(place).glob("tiny*")} == {0o644}
    assert "User=" not in (units(place) / "tinyscheduler.service").read_text()

    assert service(place, tools, "uninstall", "--user", "--yes").code == 0

    assert [path.name for path in units(place).iterdir()] == ["mine.service"]


@pytest.mark.parametrize("text", ["[Service]\nExecStart=/bin/true\n", "of another"])
def test_a_unit_that_is_not_ours_is_never_touched(place: Place, tools: Path, text: str):
    if text == "of another":
        text = text_of("tinyscheduler.service", EXAMPLE, Scope.USER)
    units(place).mkdir(parents=True)
    unit = units(place) / "tinyscheduler.service"
    unit.write_text(text)

    installed = service(place, tools, "install", "daemon", "--user", "--yes")
    removed = service(place, tools, "uninstall", "--user", "--yes")

    assert (installed.code, removed.code, unit.read_text()) == (2, 0, text)
    assert "it was left alone" in installed.err


def test_a_unit_changed_by_hand_is_shown_as_a_difference(place: Place, tools: Path):
    service(place, tools, "install", "daemon", "--user", "--yes")
    unit = units(place) / "tinyscheduler.service"
    unit.write_text(unit.read_text().replace("RestartSec=10", "RestartSec=99"))

    answer = service(place, tools, "install", "daemon", "--user", "--yes")

    assert answer.code == 0
    assert "    -RestartSec=99\n    +RestartSec=10\n" in answer.out
    assert "RestartSec=10" in unit.read_text()


def test_print_needs_neither_cron_nor_systemd_and_writes_nothing(place: Place, tools: Path):
    (tools / "crontab").unlink()
    for kind in Kind:
        for scope in [[], ["--user"], ["--system"]]:
            if kind is Kind.CRON and scope:
                continue
            answer = place.run("service", "install", kind, *scope, "--print", PATH=str(tools))
            assert (answer.code, answer.err) == (0, ""), (kind, scope)
            assert str(place.base) in answer.out
    assert "User=" in place.run("service", "install", "daemon", "--system", "--print").out
    assert sorted(path.name for path in place.base.rglob("*")) == []


def test_print_of_uninstall_shows_what_would_be_removed_and_removes_nothing(
    place: Place, tools: Path
):
    for kind in Kind:
        if kind is Kind.LOGROTATE:
            continue
        scope = [] if kind is Kind.CRON else ["--user"]
        before = service(place, tools, "uninstall", kind, *scope, "--print")
        assert (before.code, before.out) == (0, "")
        assert before.err == f"{kind} is not installed for this base path\n"
        service(place, tools, "install", kind, *scope, "--yes")
    written = {path: path.read_text() for path in units(place).iterdir()}
    crontab = (tools / "spool").read_text()

    answer = service(place, tools, "uninstall", "--user", "--print")

    assert answer.code == 0
    assert "\n    -# BEGIN tinyscheduler " in answer.out
    for path in written:
        assert f"\nremove {path}\n" in answer.out
    assert "\nrun    systemctl --user disable --now tinyscheduler.service\n" in answer.out
    assert "attempts that run" not in answer.err
    assert {path: path.read_text() for path in units(place).iterdir()} == written
    assert (tools / "spool").read_text() == crontab


def test_without_a_crontab_there_is_no_line_to_remove(place: Place, tools: Path):
    answer = place.run("service", "uninstall", "cron", "--print", PATH=str(tools.parent))

    assert (answer.code, answer.out) == (0, "")
    assert answer.err == "cron is not installed: there is no program `crontab` on PATH\n"


def test_settings_that_a_service_would_not_see_are_named(place: Place, tools: Path):
    answer = service(place, tools, "install", "cron", "--yes")

    assert "TINYSCHEDULER_HEARTBEAT_SEC" in answer.err
    assert ".env.tinyscheduler" in answer.err


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["install", "daemon", "--user", "--system"], "cannot be given together"),
        (["install", "cron", "--user"], "a crontab is always a user's"),
        (["setup"], "'setup' is not one of 'install', 'uninstall', 'status'"),
        (["install", "systemd"], "'systemd' is not one of"),
        ([], "error: an argument is missing: action, one of install, uninstall, status\n"),
    ],
)
def test_what_cannot_be_is_refused(place: Place, tools: Path, arguments: list[str], what: str):
    answer = service(place, tools, *arguments)

    assert (answer.code, answer.out) == (2, "")
    assert what in answer.err


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_unprivileged_user_is_told_that_the_machines_units_are_for_root():
    # The interpreter may lie where only root can go, so the process becomes another user.
    code = """if True:
        import os
        from tinyscheduler.cli.service_targets import FileTarget
        from tinyscheduler.errors import TinySchedulerError
        os.setgid(65534)
        os.setuid(65534)
        try:
            FileTarget(path="/etc/systemd/system/tinyscheduler.service").write("text")
        except TinySchedulerError as error:
            print(error.what, error.hint, sep="|")
    """

    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=False, timeout=60
    )

    what, hint = done.stdout.split("|")
    assert re.match("cannot write /etc/systemd/system/tinyscheduler.service: ", what)
    assert hint == "for the whole machine run it as root; for yourself add --user\n"


# -- sudo --------------------------------------------------------------------------------


SECURE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
NOBODY = pwd.getpwnam("nobody")


def printed_under_sudo(program: Path, *arguments: str, **environment: str) -> str:
    """Return what root is shown, whose home is beside the program, called by nobody's sudo."""
    home = str(program.parent.parent)
    done = subprocess.run(
        [program, *arguments, "--print"],
        env={"PATH": SECURE_PATH, "HOME": home, "SUDO_USER": NOBODY.pw_name, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be behind sudo")
@pytest.mark.parametrize("kind", ["daemon", "timer"])
def test_under_sudo_the_machines_units_are_for_the_queue_of_the_user_behind_it(
    installed: Path, kind: str
):
    text = printed_under_sudo(installed, "service", "install", kind, "--system")

    assert f" --base-path {NOBODY.pw_dir}/.local/state/tinyscheduler " in text
    assert f"\nUser={NOBODY.pw_name}\n" in text
    (path,) = re.findall(r"^Environment=PATH=(.*)$", text, re.MULTILINE)
    first, *others, last = path.split(":")
    assert (first, last) == (f"{NOBODY.pw_dir}/.local/bin", str(installed.parent))
    assert "/usr/bin" in others


def test_an_agent_whose_program_a_service_would_not_find_is_named(place: Place, tools: Path):
    (tools / "found").write_text("#!/bin/sh\n")
    (tools / "found").chmod(0o755)
    agents = "agents: {one: {command: [found]}, two: {command: [no-such-program]}}\n"
    (place.base / "agents.yaml").write_text(agents)

    answer = service(place, tools, "install", "daemon", "--user", "--print")

    assert answer.code == 0
    assert answer.err == (
        "warning: agent two: the service will not find no-such-program on its PATH;"
        f" name it by its whole path in {place.base}/agents.yaml\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be behind sudo")
def test_under_sudo_a_base_path_that_was_given_is_taken(installed: Path, tmp_path: Path):
    command = ("service", "install", "daemon", "--system")

    by_option = printed_under_sudo(installed, "--base-path", str(tmp_path / "one"), *command)
    by_variable = printed_under_sudo(
        installed, *command, TINYSCHEDULER_BASE_PATH=str(tmp_path / "two")
    )

    for text, name in ((by_option, "one"), (by_variable, "two")):
        assert f" --base-path {tmp_path / name} " in text
        assert f"\nUser={NOBODY.pw_name}\n" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be behind sudo")
def test_under_sudo_roots_own_crontab_and_a_queue_that_only_root_has_stay_roots(
    installed: Path, tmp_path: Path
):
    base = tmp_path / ".local" / "state" / "tinyscheduler"
    crontab = printed_under_sudo(installed, "service", "install", "cron")
    (base / "state").mkdir(parents=True)
    unit = printed_under_sudo(installed, "service", "install", "daemon", "--system")

    assert f" --base-path {base} " in crontab
    assert f" --base-path {base} " in unit
    assert "\nUser=root\n" in unit


# -- status ------------------------------------------------------------------------------


def test_status_says_what_is_installed_and_whether_anything_ticks(place: Place, tools: Path):
    nothing = service(place, tools, "status")
    service(place, tools, "install", "cron", "--yes")
    service(place, tools, "install", "daemon", "--user", "--yes")
    place.run("run")

    text = service(place, tools, "status")
    document = service(place, tools, "status", "--json").json

    assert (nothing.code, text.code) == (3, 0)
    assert "no service is installed for this base path" in nothing.out
    assert "last tick: none yet" in nothing.out
    by_kind = {one["kind"]: one for one in document["services"]}
    assert set(by_kind) == {"cron", "daemon"}
    assert by_kind["cron"]["is_current"] is by_kind["daemon"]["is_current"] is True
    assert by_kind["daemon"]["scope"] == "user"
    assert re.fullmatch(r"\d{4}-.*:00\.000Z", by_kind["cron"]["next_run"])
    assert document["last_tick_at"] is not None
    assert document["daemon"] is None


def test_status_names_the_daemon_that_serves_this_base_path(place: Place, tools: Path):
    with place.start("run", "--daemon") as daemon:
        deadline = time.monotonic() + 20
        while (
            service(place, tools, "status", "--json").json["daemon"] is None
            and time.monotonic() < deadline
        ):
            time.sleep(0.1)

        answer = service(place, tools, "status")
        overview = place.run("status")
        document = place.run("status", "--json").json
        daemon.terminate()
        daemon.communicate(timeout=20)

    assert answer.code == 0
    assert f"daemon: pid {daemon.pid} serves this base path" in answer.out
    assert f"a daemon ticks: pid {daemon.pid}, since 20" in overview.out
    assert document["daemon"]["pid"] == daemon.pid
    assert place.run("status", "--json").json["daemon"] is None


def test_at_a_terminal_it_asks_and_only_yes_is_yes(place: Place, tools: Path):
    for typed, code, is_written in ((b"\n", 130, False), (b"n\n", 130, False), (b"y\n", 0, True)):
        master, terminal = pty.openpty()
        os.write(master, typed)
        process = subprocess.Popen(
            place.argv("service", "install", "cron"),
            env=place.environment(PATH=f"{tools}:{os.environ['PATH']}", TERM="dumb"),
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = process.communicate(timeout=60)
        os.close(terminal)
        select.select([], [], [], 0)
        os.close(master)

        assert (process.returncode, (tools / "spool").exists()) == (code, is_written)
        assert b"Do this? [y/N] " in printed


def test_texts_for_people_look_as_agreed(place: Place, tools: Path):
    service(place, tools, "install", "cron", "--yes")
    place.run("run")

    text = service(place, tools, "status").out

    compare("service-status.txt", settle_text(text, place))
