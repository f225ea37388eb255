#!/bin/sh
# Mails the lines at ERROR and CRITICAL among those on standard input; without any, no mail.
#   journalctl -u goblin-assistant --since -5min --all -o cat | error-mail.sh on-call@example.com
#   docker logs --since 5m goblin-assistant | error-mail.sh on-call@example.com
# It needs jq and mail(1).
set -eu
errors=$(jq --raw-input --compact-output \
    'fromjson? | select(type == "object" and (.level == "ERROR" or .level == "CRITICAL"))')
[ -n "$errors" ] || exit 0
count=$(printf '%s\n' "$errors" | wc -l)
printf '%s\n' "$errors" | head -n 50 | mail -s "goblin-assistant: $count errors" "$1"
