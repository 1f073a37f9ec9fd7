# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034,SC2154
#
# baresip, a SIP phone. It takes its addresses from the list of the interfaces, where another session's IPv6 address may
# be the first, and binds them by number. A client asks what it can do (OPTIONS). The answer has the address of the
# client, that to which calls are to go, and that of the media.

needs=(baresip python3)
port=5060
variants=(udp tcp)

limit() {
    case "$1 $2" in
    *'loopback '* | *': remote VIP'*'media to @'*) ;;
    *localhost*@own* | *127.0.0.1*@own* | *::1*@own*) echo 'a server on the address of the host answers at 127.0.0.1, too' ;;
    *VIP*'@own hears '*' calls to @VIP'*' media to '*) echo 'a program lists the interfaces and announces an address that it finds there' ;;
    esac
}

# It binds no wildcard and no loopback.
targets() { echo VIP4 VIP6; }

server() {
    mkdir phone
    printf '%s\n' 'module_path /usr/lib/baresip/modules' 'module g711.so' 'module_app account.so' 'module_app menu.so' \
        "sip_listen 0.0.0.0:$port" >phone/config
    echo "<sip:$who@example.invalid>;regint=0" >phone/accounts
    touch phone/contacts
    HOME=$work exec baresip -f phone -v
}

ready() { grep -q 'baresip is ready' output; }

client() {
    python3 - "$variant" "$1" "$port" "$who" <<'END' 2>&1 | tail -n 1
import os, re, socket, sys
transport, host, port, who = sys.argv[1:]
kind = socket.SOCK_STREAM if transport == "tcp" else socket.SOCK_DGRAM
for family, _, _, _, address in socket.getaddrinfo(host, int(port), type=kind):
    phone = socket.socket(family, kind)
    phone.settimeout(3)
    try:
        phone.connect(address)
        own = phone.getsockname()
        url = f"[{address[0]}]" if ":" in address[0] else address[0]
        via = f"[{own[0]}]" if ":" in own[0] else own[0]
        phone.send("\r\n".join([
            f"OPTIONS sip:{who}@{url} SIP/2.0",
            f"Via: SIP/2.0/{transport.upper()} {via}:{own[1]};branch=z9hG4bK{os.getpid()};rport",
            "Max-Forwards: 70",
            "From: <sip:test@example.invalid>;tag=1",
            f"To: <sip:{who}@{url}>",
            f"Call-ID: {os.getpid()}",
            "CSeq: 1 OPTIONS",
            f"Contact: <sip:test@{via}:{own[1]}>",
            "Content-Length: 0\r\n\r\n",
        ]).encode())
        answer = phone.recv(9000).decode()
    except OSError as error:
        print(error)
        continue
    def found(pattern):
        match = re.search(pattern, answer)
        return match.group(1) if match else "nothing"
    print(found(r"Contact: <sip:(\w+)-"), "hears", found("received=([0-9a-f.:]+)"), end=" ")
    print("calls to", found(r"-\w+@\[?([0-9a-f.:]+?)\]?:5060[;>]"), "media to", found(r"c=IN IP. (\S+)"))
    break
END
}
