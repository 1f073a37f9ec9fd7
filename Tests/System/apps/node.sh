# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# Node's http, which listens on :: for both families if it gets no address. The client is Node as well.

needs=(node)
port=3000
variants=(any 127.0.0.1 localhost)

targets() {
    case $variant in
    any) echo localhost 127.0.0.1 ::1 VIP4 VIP6 ;;
    127.0.0.1) echo localhost 127.0.0.1 ;;
    # One address of the name, the resolver's first.
    localhost) echo localhost ::1 ;;
    esac
}

server() {
    # shellcheck disable=SC2016 # JavaScript's
    exec node -e '
        const [who, variant, port] = process.argv.slice(1)
        require("http").createServer((request, response) => {
            const { remoteAddress, localAddress } = request.socket
            console.log(`client ${remoteAddress}`)
            response.end(`${who} ${remoteAddress} at ${localAddress}`)
        }).listen({ port, host: variant == "any" ? undefined : variant })
    ' "$who" "$variant" "$port"
}

client() {
    # shellcheck disable=SC2016 # JavaScript's
    timeout 5 node -e '
        const [host, port] = process.argv.slice(1)
        require("http").get({ host, port, agent: false, timeout: 3000 }, async response => {
            let { localAddress, remoteAddress } = response.socket
            for await (const chunk of response) process.stdout.write(chunk)
            console.log(` client: from ${localAddress} to ${remoteAddress}`)
        }).on("error", error => console.log(String(error.errors ?? error))).on("timeout", () => process.exit(1))
    ' "$1" "$port"
}

logged() { sed -n 's/^client //p' output; }
