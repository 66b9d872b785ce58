# bash completion for tinyscheduler; written by `tinyscheduler completion bash`.
# Load it with:  source <(tinyscheduler completion bash)

_tinyscheduler_ask() {
    "${COMP_WORDS[0]/#\~/$HOME}" "${globals[@]}" completion --words "$1" 2>/dev/null | cut -f1
}

_tinyscheduler() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
    local command= words= i ended=
    local -a globals=()
    # bash takes "--option=value" for three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]] && ((COMP_CWORD > 1)); then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            --base-path | --env-file)
                globals+=("${COMP_WORDS[i]}" "${COMP_WORDS[i + 1]}")
                ((i++))
                ;;
            --log-level | --color) ((i++)) ;;
            -*) ;;
            *)
                command=${COMP_WORDS[i]}
                break
                ;;
        esac
    done
    for ((; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] && ended=yes
    done
    COMPREPLY=()
    if [[ $ended && $command == add ]]; then
        mapfile -t COMPREPLY < <(compgen -c -f -- "$cur")
        return
    fi
    case $command:$prev in
        :--env-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        :--base-path)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        :--log-level)
            :
            return
            ;;
        :--color)
            mapfile -t COMPREPLY < <(compgen -W "auto always never" -- "$cur")
            return
            ;;
        run:--agent-limit)
            :
            return
            ;;
        run:--loop-interval)
            :
            return
            ;;
        run:--heartbeat-interval)
            :
            return
            ;;
        run:--max-runtime)
            :
            return
            ;;
        run:--running-dir)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        run:--log-dir)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        run:--recipes-dir)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        run:--goose-bin)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        run:--mcp-endpoint)
            :
            return
            ;;
        add:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        add:--queue)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask queues)" -- "$cur")
            return
            ;;
        add:--title)
            :
            return
            ;;
        add:--prompt)
            :
            return
            ;;
        add:--prompt-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        add:--recipe)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        add:--priority)
            :
            return
            ;;
        add:--class)
            mapfile -t COMPREPLY < <(compgen -W "interactive batch" -- "$cur")
            return
            ;;
        add:--gpus)
            :
            return
            ;;
        add:--vram)
            :
            return
            ;;
        add:--memory)
            :
            return
            ;;
        add:--model)
            :
            return
            ;;
        add:--seed)
            :
            return
            ;;
        add:--tenant)
            :
            return
            ;;
        add:--project)
            :
            return
            ;;
        add:--max-runtime)
            :
            return
            ;;
        add:--max-turns)
            :
            return
            ;;
        add:--max-tokens)
            :
            return
            ;;
        add:--max-cost)
            :
            return
            ;;
        add:--max-attempts)
            :
            return
            ;;
        add:--after)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur")
            return
            ;;
        add:--not-before)
            :
            return
            ;;
        add:--label)
            :
            return
            ;;
        add:--cwd)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        add:--env)
            :
            return
            ;;
        add:--from)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        status:--interval)
            :
            return
            ;;
        list:--state)
            mapfile -t COMPREPLY < <(compgen -W "waiting held working starting running settling done failed parked cancelled" -- "$cur")
            return
            ;;
        list:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        list:--limit)
            :
            return
            ;;
        logs:-n | logs:--lines)
            :
            return
            ;;
        logs:--attempt)
            :
            return
            ;;
        wait:--timeout)
            :
            return
            ;;
        parked:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        parked:--limit)
            :
            return
            ;;
        history:--by)
            :
            return
            ;;
        history:--since)
            :
            return
            ;;
        history:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        history:--state)
            mapfile -t COMPREPLY < <(compgen -W "done succeeded failed cancelled retry_later interrupted" -- "$cur")
            return
            ;;
        history:--limit)
            :
            return
            ;;
        report:--since)
            :
            return
            ;;
        report:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        report:--status)
            :
            return
            ;;
        report:--format)
            :
            return
            ;;
        report:-o | report:--output)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        top:--interval)
            :
            return
            ;;
        top:-n | top:--iterations)
            :
            return
            ;;
        events:-n | events:--lines)
            :
            return
            ;;
        events:--event)
            mapfile -t COMPREPLY < <(compgen -W "task.added task.claimed task.started task.finished task.failed task.requeued task.parked task.cancelled task.edited task.retried task.silent task.held task.released lease.reclaimed lease.corrupt slot.leak_repaired source.down source.up scheduler.paused scheduler.resumed scheduler.draining scheduler.undrained scheduler.reset agent.cooling backpressure memory-pressure health-changed slot-available work-claimed queue-empty stagger-wait gpu.misplaced schedule.fired schedule.deferred schedule.reported schedule.paused schedule.warning audit.force policy.fallback policy.deployed" -- "$cur")
            return
            ;;
        events:--task)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur")
            return
            ;;
        replay:--policy)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        replay:--limit)
            :
            return
            ;;
        pause:--reason)
            :
            return
            ;;
        drain:--reason)
            :
            return
            ;;
        drain:--timeout)
            :
            return
            ;;
        edit:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        edit:--queue)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask queues)" -- "$cur")
            return
            ;;
        edit:--title)
            :
            return
            ;;
        edit:--prompt)
            :
            return
            ;;
        edit:--prompt-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        edit:--recipe)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        edit:--priority)
            :
            return
            ;;
        edit:--class)
            mapfile -t COMPREPLY < <(compgen -W "interactive batch" -- "$cur")
            return
            ;;
        edit:--gpus)
            :
            return
            ;;
        edit:--vram)
            :
            return
            ;;
        edit:--memory)
            :
            return
            ;;
        edit:--model)
            :
            return
            ;;
        edit:--seed)
            :
            return
            ;;
        edit:--tenant)
            :
            return
            ;;
        edit:--project)
            :
            return
            ;;
        edit:--max-runtime)
            :
            return
            ;;
        edit:--max-turns)
            :
            return
            ;;
        edit:--max-tokens)
            :
            return
            ;;
        edit:--max-cost)
            :
            return
            ;;
        edit:--max-attempts)
            :
            return
            ;;
        edit:--after)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur")
            return
            ;;
        edit:--not-before)
            :
            return
            ;;
        edit:--label)
            :
            return
            ;;
        edit:--cwd)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        edit:--env)
            :
            return
            ;;
        edit:--unset)
            mapfile -t COMPREPLY < <(compgen -W "agent queue title prompt recipe priority class gpus vram memory model seed tenant project max-runtime max-turns max-tokens max-cost max-attempts after not-before label cwd env command" -- "$cur")
            return
            ;;
        prune:--older-than)
            :
            return
            ;;
        policy:--fixture)
            :
            return
            ;;
        policy:--case)
            :
            return
            ;;
        policy:--since)
            :
            return
            ;;
        policy:--snapshot)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        policy:--queue-depth)
            :
            return
            ;;
        policy:--pools)
            :
            return
            ;;
        policy:--workers-per-pool)
            :
            return
            ;;
        policy:--seed)
            :
            return
            ;;
        policy:--against)
            mapfile -t COMPREPLY < <(compgen -W "FILE V" -- "$cur")
            return
            ;;
        policy:--bound)
            :
            return
            ;;
        policy:--plot)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        policy:--limit)
            :
            return
            ;;
        schedule:--name)
            :
            return
            ;;
        schedule:--cron)
            :
            return
            ;;
        schedule:--every)
            :
            return
            ;;
        schedule:--at)
            :
            return
            ;;
        schedule:--tz)
            :
            return
            ;;
        schedule:--jitter)
            :
            return
            ;;
        schedule:--active-hours)
            :
            return
            ;;
        schedule:--overlap)
            mapfile -t COMPREPLY < <(compgen -W "skip queue_one queue_all replace allow" -- "$cur")
            return
            ;;
        schedule:--catch-up)
            mapfile -t COMPREPLY < <(compgen -W "none latest all" -- "$cur")
            return
            ;;
        schedule:--catch-up-window)
            :
            return
            ;;
        schedule:--max-firings)
            :
            return
            ;;
        schedule:--expires)
            :
            return
            ;;
        schedule:--max-run-duration)
            :
            return
            ;;
        schedule:--kind)
            mapfile -t COMPREPLY < <(compgen -W "job heartbeat" -- "$cur")
            return
            ;;
        schedule:--checklist)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        schedule:--max-per-day)
            :
            return
            ;;
        schedule:-n | schedule:--number)
            :
            return
            ;;
        schedule:--since)
            :
            return
            ;;
        schedule:-f | schedule:--file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        schedule:--days)
            :
            return
            ;;
        schedule:--plot)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        schedule:--unset)
            mapfile -t COMPREPLY < <(compgen -W "agent queue title prompt recipe priority class gpus vram memory model seed tenant project max-runtime max-turns max-tokens max-cost max-attempts after not-before label cwd env command" -- "$cur")
            return
            ;;
        schedule:--revision)
            :
            return
            ;;
        schedule:--agent)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask agents)" -- "$cur")
            return
            ;;
        schedule:--queue)
            mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask queues)" -- "$cur")
            return
            ;;
        schedule:--title)
            :
            return
            ;;
        schedule:--prompt)
            :
            return
            ;;
        schedule:--prompt-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        schedule:--recipe)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        schedule:--priority)
            :
            return
            ;;
        schedule:--class)
            mapfile -t COMPREPLY < <(compgen -W "interactive batch" -- "$cur")
            return
            ;;
        schedule:--gpus)
            :
            return
            ;;
        schedule:--vram)
            :
            return
            ;;
        schedule:--memory)
            :
            return
            ;;
        schedule:--model)
            :
            return
            ;;
        schedule:--seed)
            :
            return
            ;;
        schedule:--tenant)
            :
            return
            ;;
        schedule:--project)
            :
            return
            ;;
        schedule:--max-turns)
            :
            return
            ;;
        schedule:--max-tokens)
            :
            return
            ;;
        schedule:--max-cost)
            :
            return
            ;;
        schedule:--max-attempts)
            :
            return
            ;;
        schedule:--label)
            :
            return
            ;;
        schedule:--cwd)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        schedule:--env)
            :
            return
            ;;
        pressure:--id)
            :
            return
            ;;
        pressure:--ttl)
            :
            return
            ;;
        pressure:--pid)
            :
            return
            ;;
        agent:--sample)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        agent:--exit-code)
            :
            return
            ;;
        agent:--prompt)
            :
            return
            ;;
        agent:--prompt-file)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        agent:--recipe)
            mapfile -t COMPREPLY < <(compgen -f -- "$cur")
            return
            ;;
        agent:--cwd)
            :
            return
            ;;
        agent:--max-runtime)
            :
            return
            ;;
        agent:--max-turns)
            :
            return
            ;;
        init:--base-path)
            mapfile -t COMPREPLY < <(compgen -d -- "$cur")
            return
            ;;
        mcp:--allow-agent)
            :
            return
            ;;
        mcp:--as)
            :
            return
            ;;
        selftest:--rounds)
            :
            return
            ;;
        selftest:--seed)
            :
            return
            ;;
    esac
    case $command in
        "") words="--env-file --base-path --log-level --color -v --verbose -q --quiet --debug -V --version -h --help --help" ;;
        "run") words="--once --daemon --dry-run --fail-if-locked --agent-limit --loop-interval --heartbeat-interval --max-runtime --running-dir --log-dir --recipes-dir --goose-bin --mcp-endpoint --disable-blocking --json -h --help --help" ;;
        "add") words="--agent --queue --title --prompt --prompt-file --recipe --priority --class --gpus --vram --memory --model --seed --tenant --project --max-runtime --max-turns --max-tokens --max-cost --max-attempts --after --not-before --label --cwd --env --hold --from --start --json -h --help --help" ;;
        "status") words="--watch --interval --json -h --help --help" ;;
        "list") words="--state --agent --limit --json -h --help --help" ;;
        "show") words="--json -h --help --help" ;;
        "why") words="--json -h --help --help" ;;
        "ps") words="--json -h --help --help" ;;
        "logs") words="-f --follow -n --lines --attempt -h --help --help" ;;
        "wait") words="--timeout --json -h --help --help" ;;
        "parked") words="--agent --limit --json -h --help --help" ;;
        "history") words="--by --since --agent --state --limit --csv --json -h --help --help" ;;
        "report") words="--since --agent --status --format -o --output --no-color --json -h --help --help" ;;
        "top") words="--interval -n --iterations --json -h --help --help" ;;
        "health") words="--json -h --help --help" ;;
        "gpu") words="--json -h --help --help" ;;
        "events") words="-f --follow -n --lines --event --task --json -h --help --help" ;;
        "snapshot") words="--json -h --help --help" ;;
        "replay") words="--all --policy --list --limit --json -h --help --help" ;;
        "cancel") words="--json -h --help --help" ;;
        "retry") words="--json -h --help --help" ;;
        "hold") words="--json -h --help --help" ;;
        "release") words="--json -h --help --help" ;;
        "pause") words="--reason --json -h --help --help" ;;
        "resume") words="--json -h --help --help" ;;
        "drain") words="--reason --wait --timeout --json -h --help --help" ;;
        "undrain") words="--json -h --help --help" ;;
        "edit") words="--agent --queue --title --prompt --prompt-file --recipe --priority --class --gpus --vram --memory --model --seed --tenant --project --max-runtime --max-turns --max-tokens --max-cost --max-attempts --after --not-before --label --cwd --env --unset --json -h --help --help" ;;
        "prune") words="--older-than --dry-run --json -h --help --help" ;;
        "reset") words="-y --yes --json -h --help --help" ;;
        "config") words="--show --json -h --help --help" ;;
        "validate-config") words="--fix --json -h --help --help" ;;
        "policy") words="--fixture --case --since --snapshot --queue-depth --pools --workers-per-pool --seed --against --gate --bound --plot --limit --force --json -h --help --help" ;;
        "schedule") words="--name --cron --every --at --tz --jitter --active-hours --overlap --catch-up --catch-up-window --max-firings --expires --max-run-duration --kind --checklist --max-per-day -n --number --force --since --csv --advise -f --file --prune --dry-run --days --apply --plot --unset --revision --agent --queue --title --prompt --prompt-file --recipe --priority --class --gpus --vram --memory --model --seed --tenant --project --max-turns --max-tokens --max-cost --max-attempts --label --cwd --env --json -h --help --help" ;;
        "pressure") words="--id --ttl --pid --json -h --help --help" ;;
        "agent") words="--sample --exit-code --prompt --prompt-file --recipe --cwd --max-runtime --max-turns --json -h --help --help" ;;
        "init") words="--base-path -y --yes --json -h --help --help" ;;
        "doctor") words="--json -h --help --help" ;;
        "mcp") words="--allow-write --allow-agent --as -h --help --help" ;;
        "service") words="--user --system --print -y --yes --json -h --help --help" ;;
        "demo") words="--keep --json -h --help --help" ;;
        "selftest") words="--rounds --seed --json -h --help --help" ;;
        "completion") words="-h --help --help" ;;
        "help") words="-h --help --help" ;;
    esac
    if [[ $cur == -* && ! $ended ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
        return
    fi
    # bash takes "agent:name" for three words, too, and puts in what is behind the colon.
    local before=
    [[ $cur == : ]] && before=$prev: cur=
    [[ $prev == : ]] && before=${COMP_WORDS[COMP_CWORD - 2]}:
    cur=$before$cur
    case $command in
        "") mapfile -t COMPREPLY < <(compgen -W "run add status list show why ps logs wait parked history report top health gpu events snapshot replay cancel retry hold release pause resume drain undrain edit prune reset config validate-config policy schedule pressure agent init doctor mcp service demo selftest completion help" -- "$cur") ;;
        "show") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur") ;;
        "why") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur") ;;
        "logs") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks)" -- "$cur") ;;
        "wait") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:waiting,working,held)" -- "$cur") ;;
        "replay") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask ticks)" -- "$cur") ;;
        "cancel") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:waiting,held,working)" -- "$cur") ;;
        "retry") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:parked,failed,cancelled,waiting)" -- "$cur") ;;
        "hold") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:waiting)" -- "$cur") ;;
        "release") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:held)" -- "$cur") ;;
        "pause") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask targets)" -- "$cur") ;;
        "resume") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask paused)" -- "$cur") ;;
        "edit") mapfile -t COMPREPLY < <(compgen -W "$(_tinyscheduler_ask tasks:waiting,held)" -- "$cur") ;;
        "policy") mapfile -t COMPREPLY < <(compgen -W "show source check compile test simulate diff templates trace deploy rollback versions" -- "$cur") ;;
        "schedule") mapfile -t COMPREPLY < <(compgen -W "add list show edit check apply history plan rm pause resume run next metrics" -- "$cur") ;;
        "pressure") mapfile -t COMPREPLY < <(compgen -W "on off list" -- "$cur") ;;
        "agent") mapfile -t COMPREPLY < <(compgen -W "test try list" -- "$cur") ;;
        "service") mapfile -t COMPREPLY < <(compgen -W "install uninstall status cron timer daemon logrotate" -- "$cur") ;;
        "completion") mapfile -t COMPREPLY < <(compgen -W "bash zsh fish" -- "$cur") ;;
        "help") mapfile -t COMPREPLY < <(compgen -W "run add status list show why ps logs wait parked history report top health gpu events snapshot replay cancel retry hold release pause resume drain undrain edit prune reset config validate-config policy schedule pressure agent init doctor mcp service demo selftest completion help" -- "$cur") ;;
    esac
    COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -F _tinyscheduler tinyscheduler ./tinyscheduler
