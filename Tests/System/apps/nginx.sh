# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# nginx with a socket for each family, with one for both, on the loopback alone, and as a proxy to itself on 127.0.0.1,
# which is a proxy to itself on ::1.

needs=(nginx curl)
port=8080
variants=(separate dual loopback proxy)

server() {
    local listen content="return 200 '$who \$remote_addr at \$server_addr';" behind=''
    case $variant in
    dual) listen="listen [::]:$port ipv6only=off;" ;;
    loopback) listen="listen 127.0.0.1:$port; listen [::1]:$port;" ;;
    *) listen="listen $port; listen [::]:$port;" ;;
    esac
    if [ "$variant" = proxy ]; then
        behind="server { listen [::1]:8082; location / { return 200 '$who \$remote_addr for \$http_x_via'; } }
            server { listen 127.0.0.1:8081; location / {
                proxy_set_header X-Via '\$remote_addr for \$http_x_via'; proxy_pass http://[::1]:8082; } }"
        content="proxy_set_header X-Via \$remote_addr; proxy_pass http://127.0.0.1:8081;"
    fi
    cat >nginx.conf <<END
daemon off;
pid $work/pid;
error_log stderr;
worker_processes 2;
events {}
http {
    log_format address '\$server_port \$remote_addr';
    access_log $work/access.log address;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server { $listen location / { $content } }
    $behind
}
END
    exec nginx -p "$work" -c "$work/nginx.conf" -e stderr
}

client() { http "$1"; }
logged() { sed -n "s/^$port //p" access.log; }
