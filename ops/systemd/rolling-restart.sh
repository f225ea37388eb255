#!/bin/sh
# Restart the instances of goblin-assistant@.service one after another, without losing a request:
#
#   rolling-restart.sh          every instance that runs
#   rolling-restart.sh 1 2      these
#
# Each has to be ready again before the next is stopped. When one does not come back, or is not ready
# to begin with, the script ends with exit code 1, and the others go on as they are.
#
# READY_SECONDS   how long an instance may take to be ready (60)
# SETTLE_SECONDS  pause after it is ready: nginx leaves an instance alone for 5 s after it refused (6)
# BASE_PORT       the port of instance N is this and N (8000)
# SYSTEMCTL       the program that restarts (systemctl)
set -eu

unit=goblin-assistant@
systemctl=${SYSTEMCTL:-systemctl}
ready_seconds=${READY_SECONDS:-60}
settle_seconds=${SETTLE_SECONDS:-6}
base_port=${BASE_PORT:-8000}

say() {
    echo "rolling-restart: $*" >&2
}

is_ready() { # INSTANCE
    curl -sf -o /dev/null --noproxy '*' --max-time 5 \
        "http://127.0.0.1:$((base_port + $1))/health/ready"
}

wait_until_ready() { # INSTANCE
    end=$(($(date +%s) + ready_seconds))
    until is_ready "$1"; do
        if [ "$(date +%s)" -ge "$end" ]; then
            return 1
        fi
        sleep 0.2
    done
}

if [ $# -eq 0 ]; then
    # Units that run, "goblin-assistant@1.service ...", by number.
    numbers=$("$systemctl" list-units --plain --no-legend --state=active "$unit*.service" |
        sed -n "s/^$unit\([0-9][0-9]*\)\.service.*/\1/p" | sort -n)
    # shellcheck disable=SC2086  # a list of numbers
    set -- $numbers
fi
if [ $# -eq 0 ]; then
    say "no instance of ${unit}N.service runs"
    exit 1
fi
for instance in "$@"; do
    case $instance in
        '' | *[!0-9]*)
            say "instances are numbers: $instance"
            exit 2
            ;;
    esac
done
# With an instance that is down already, restarting another could leave none.
for instance in "$@"; do
    if ! is_ready "$instance"; then
        say "instance $instance is not ready; nothing was restarted"
        exit 1
    fi
done

left=$#
for instance in "$@"; do
    say "restarting instance $instance"
    if ! "$systemctl" restart "$unit$instance.service"; then
        say "instance $instance could not be restarted; stopped here"
        exit 1
    fi
    if ! wait_until_ready "$instance"; then
        say "instance $instance was not ready within $ready_seconds s; stopped here"
        say "see: journalctl -u $unit$instance.service"
        exit 1
    fi
    left=$((left - 1))
    if [ "$left" -gt 0 ]; then
        sleep "$settle_seconds"
    fi
done
say "$# instances restarted"
