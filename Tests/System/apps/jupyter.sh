# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Jupyter's server, on localhost as it is by default, and on all addresses.

needs=(jupyter-server curl)
port=8888
variants=(default any)

targets() {
    case $variant in
    default) echo localhost 127.0.0.1 ;;
    any) echo localhost 127.0.0.1 VIP4 ;;
    esac
}

server() {
    mkdir files
    printf %s "$who" >files/who.txt
    local options=()
    [ "$variant" = default ] || options=(--ServerApp.ip=0.0.0.0)
    HOME=$work exec jupyter-server --port="$port" --ServerApp.port_retries=0 --ServerApp.token='' --ServerApp.password='' \
        --ServerApp.root_dir="$work/files" --ServerApp.allow_remote_access=True --no-browser "${options[@]}"
}

client() { http "$1" files/who.txt; }
