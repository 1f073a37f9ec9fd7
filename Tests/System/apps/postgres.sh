# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# PostgreSQL, which allows clients by address: two lines for the loopback and no other. On the wildcards, and on
# localhost, its default.

needs=(initdb postgres psql)
port=5432
variants=(any localhost)

# For other targets, pg_hba.conf has no entry for the client. The refusal names the address that the server sees.
targets() { echo localhost 127.0.0.1 ::1; }

prepare() {
    initdb --no-sync --username=postgres --auth=reject --locale=C --encoding=UTF8 data
    printf 'host all all %s trust\n' 127.0.0.1/32 ::1/128 >data/pg_hba.conf
}

server() {
    cp -a "$shared/data" data
    local addresses=localhost
    [ "$variant" != any ] || addresses='*'
    exec postgres -D data -p "$port" -c listen_addresses="$addresses" -c unix_socket_directories= -c cluster_name="$who" \
        -c log_connections=on -c fsync=off -c dynamic_shared_memory_type=mmap -c shared_buffers=4MB -c max_connections=10 \
        -c autovacuum=off -c jit=off
}

client() {
    PGCONNECT_TIMEOUT=3 timeout 6 psql -XAtq -F ' ' -U postgres -h "$1" -p "$port" -d postgres -c \
        "select current_setting('cluster_name'), host(inet_client_addr()), 'at', host(inet_server_addr())"
}

logged() { sed -n 's/.*connection received: host=\(.*\) port=.*/\1/p' output; }
