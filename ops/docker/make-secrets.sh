#!/bin/sh
# Make the secrets of compose.yaml, new and random. A file that exists is kept, so that it can run
# again. Keep a copy of secret_key and postgres_password with the backups.
set -eu
umask 022
folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
# Only root, or who runs this, may enter the folder. The files themselves can be read by every user,
# because the users inside the containers are others, and a container is given single files.
chmod 700 "$folder"

write() { # NAME: standard input, unless the file exists
    [ -s "$folder/$1" ] || cat > "$folder/$1"
}
random() { # 24 bytes; letters and digits, so that they can stand in a URL
    od -An -N24 -tx1 /dev/urandom | tr -d ' \n'
}

for name in secret_key postgres_password redis_password grafana_password; do
    random | write "$name"
done
printf 'postgresql://goblin:%s@postgres:5432/goblin' "$(cat "$folder/postgres_password")" |
    write database_url
printf 'redis://:%s@redis:6379/0' "$(cat "$folder/redis_password")" | write redis_url
