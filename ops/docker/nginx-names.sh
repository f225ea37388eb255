#!/bin/sh
# Write nginx's configuration from ops/proxy/nginx with this deployment's names. nginx's image runs
# it before nginx starts. GOBLIN_DOMAIN is the name that callers use, GOBLIN_BACKENDS the addresses
# of the instances.
set -eu
source=${GOBLIN_NGINX_SOURCE:-/etc/goblin-assistant/nginx.conf}
target=${GOBLIN_NGINX_TARGET:-/etc/nginx/conf.d/goblin-assistant.conf}

servers=
for backend in $GOBLIN_BACKENDS; do
    servers="$servers    server $backend max_fails=2 fail_timeout=5s;\\
"
done
# One `server` line for each instance in place of those of the file. The log goes to the container's
# output: a file in the container would grow without end.
sed -e "s/api\.yourdomain\.com/$GOBLIN_DOMAIN/g" \
    -e "s#/var/log/nginx/goblin-assistant\.log#/dev/stdout#" \
    -e '/^ *server 127\.0\.0\.1:8002 /d' \
    -e "s#^ *server 127\.0\.0\.1:8001 .*#${servers%??}#" \
    "$source" > "$target"
