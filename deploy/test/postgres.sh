#!/bin/sh
# As the official image begins: a database of this user, name and password, once.
set -eu
data=/var/lib/postgresql/data
bin=$(echo /usr/lib/postgresql/*/bin)
install -d -o postgres -g postgres -m 700 "$data"
if ! [ -e "$data/PG_VERSION" ]; then
  install -o postgres -m 400 "$POSTGRES_PASSWORD_FILE" /tmp/password
  runuser -u postgres -- "$bin/initdb" --pgdata="$data" --username="$POSTGRES_USER" \
    --pwfile=/tmp/password --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  rm /tmp/password
  echo "host all all all scram-sha-256" >> "$data/pg_hba.conf"
  runuser -u postgres -- "$bin/pg_ctl" --pgdata="$data" --wait start -o "-c listen_addresses="
  runuser -u postgres -- createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
  runuser -u postgres -- "$bin/pg_ctl" --pgdata="$data" --wait stop
fi
exec runuser -u postgres -- "$bin/postgres" -D "$data" -c listen_addresses='*' -c unix_socket_directories=/tmp
